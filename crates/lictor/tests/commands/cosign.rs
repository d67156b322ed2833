//! `lictor org cosign` and `take`: nobody signs what they were not shown, nor what their home does not know.

use std::fs;
use std::path::Path;

use lictor_proto::doc::{Bundle, Document, Freshness, MinVersions};
use lictor_proto::{Digest, Envelope, limits};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;
use serde::de::DeserializeOwned;

use crate::Home;

fn org() -> Home {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice", "--freshness"]);
    home.ok(&["org", "sign"]);
    home
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Somebody changes the file on its way.
fn change<T: Document + DeserializeOwned>(file: &Path, change: impl FnOnce(&mut T)) {
    let wire = fs::read(file).expect("there");
    let envelope = Envelope::parse_draft(&wire, limits::BUNDLE_ENVELOPE).expect("an envelope");
    let mut doc: T = serde_json::from_slice(&envelope.payload).expect("a document");
    change(&mut doc);
    fs::write(file, to_wire(&sign(&doc, &[]))).expect("written");
}

/// What somebody is told who signs a file that was changed so.
fn said<T: Document + DeserializeOwned>(home: &Home, command: &str, spoil: impl FnOnce(&mut T)) -> String {
    let file = home.path("passed-on.json");
    home.ok(&["org", command, "--out", text(&file)]);
    change(&file, spoil);
    let key = if command == "sign" { "bundle" } else { "freshness" };
    let done = home.run(&["org", "cosign", "--yes", "--key", key, text(&file)]);
    fs::remove_file(&file).expect("removed");
    if done.status == Some(0) {
        return String::new();
    }
    assert_eq!(done.status, Some(125), "{done:?}");
    done.stderr
}

#[test]
fn nobody_cosigns_law_with_more_in_it_than_they_are_shown() {
    let home = org();
    let law = |spoil: fn(&mut Bundle)| said(&home, "sign", spoil);
    assert_eq!(law(|_| {}), "");
    assert_eq!(law(|b| b.max_staleness += 1), "", "that is shown");
    let revoked = law(|b| b.revocations = vec![Digest::of(b"made up")]);
    assert!(
        revoked.contains("other revocations than this home knows"),
        "{revoked}"
    );
    let newer = |b: &mut Bundle| {
        b.min_versions = MinVersions {
            agent: Some("99.0.0".to_owned()),
        };
    };
    assert!(law(newer).contains("ends the work of older agents"));
    let skipping = law(|b| b.version = 9);
    assert!(skipping.contains("version 9 is offered, 1 is held"), "{skipping}");
    let dated = law(|b| b.issued_at = b.issued_at.plus(std::time::Duration::from_secs(3600)));
    assert!(dated.contains("[issued_in_future]"), "{dated}");
}

#[test]
fn law_names_the_revocations_that_its_signers_know() {
    let home = org();
    let file = home.path("law.json");
    home.ok(&["org", "sign", "--out", text(&file)]);
    home.ok(&[
        "org",
        "revoke",
        "job",
        &format!("j_{}", "a".repeat(32)),
        "--reason",
        "test",
    ]);
    let done = home.run(&["org", "cosign", "--yes", "--key", "bundle", text(&file)]);
    assert!(
        done.stderr.contains("cannot vouch for its revocations"),
        "{done:?}"
    );
}

#[test]
fn nobody_cosigns_a_statement_of_another_version_or_dated_ahead() {
    let home = org();
    let fresh = |spoil: fn(&mut Freshness)| said(&home, "freshness", spoil);
    assert_eq!(fresh(|_| {}), "");
    assert!(fresh(|f| f.bundle_version = 7).contains("[freshness_mismatch]"));
    let dated = fresh(|f| f.issued_at = f.issued_at.plus(std::time::Duration::from_secs(3600)));
    assert!(dated.contains("[issued_in_future]"), "{dated}");
}

#[test]
fn an_older_statement_is_not_taken_in_place_of_a_newer_one() {
    let home = org();
    let old = home.path("old.json");
    home.ok(&["org", "freshness", "--out", text(&old)]);
    home.ok(&["org", "freshness"]);
    let kept = fs::read(home.path("org/signed/freshness.json")).expect("there");
    let done = home.run(&["org", "take", text(&old)]);
    assert_eq!(done.status, Some(125), "{done:?}");
    assert!(done.stderr.contains("holds a newer one already"), "{done:?}");
    assert_eq!(
        fs::read(home.path("org/signed/freshness.json")).expect("there"),
        kept
    );
}
