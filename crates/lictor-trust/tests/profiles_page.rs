//! docs/profiles.md against what a profile may say.

#![allow(clippy::unwrap_used)]

use lictor_trust::profiles::{Limits, Persist, Profile};
use serde::de::DeserializeOwned;

/// The fields of a section, as its own refusal of another one names them.
fn fields_of<T: DeserializeOwned>() -> Vec<String> {
    let refused = toml::from_str::<T>("no_such_field = 1")
        .err()
        .unwrap()
        .to_string();
    let (_, expected) = refused.split_once("expected ").unwrap();
    let between = expected.split('`').skip(1).step_by(2);
    between.map(str::to_owned).collect()
}

#[test]
fn every_field_of_a_profile_is_on_its_page() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/profiles.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
    let in_a_row = |field: &String| rows.iter().any(|row| row.contains(&format!("`{field}`")));
    for (section, fields) in [
        ("a profile", fields_of::<Profile>()),
        ("limits", fields_of::<Limits>()),
        ("persist", fields_of::<Persist>()),
    ] {
        assert!(fields.len() > 3, "{section}: {fields:?}");
        for field in fields.iter().filter(|field| *field != "limits") {
            assert!(in_a_row(field), "{section}: {field}");
        }
    }
    assert!(!in_a_row(&"no_such_field".to_owned()));
}
