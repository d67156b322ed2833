//! The shipped organisations load, pass their own cases, and warn of nothing that matters.

mod common;

use common::{demo_files, files_of, full_files};
use lictor_policy::{Law, cases, lint, run_cases};
use lictor_trust::profiles::Profiles;

#[test]
fn starter_passes_its_own_cases() {
    let org = full_files();
    assert_passes(&org);
}

#[test]
fn demo_passes_its_own_cases() {
    let org = demo_files();
    assert_passes(&org);
}

fn assert_passes(org: &std::collections::BTreeMap<String, String>) {
    let files = files_of(org);
    let law = Law::load(&files).expect("loads");
    let mut all = Vec::new();
    for (path, text) in org.iter().filter(|(path, _)| path.starts_with("tests/")) {
        all.extend(cases::parse(path, text).expect("cases"));
    }
    assert!(all.len() >= 5);
    let report = run_cases(&law, &files, &all);
    let failures: Vec<_> = report
        .failures()
        .map(|f| format!("{}: {:?} {:?}", f.name, f.differences, f.verdict))
        .collect();
    assert!(report.passed(), "{failures:#?}");
}

#[test]
fn starter_warns_only_that_one_person_cannot_approve_alone() {
    let files = files_of(&full_files());
    let law = Law::load(&files).expect("loads");
    let warnings: Vec<_> = lint(&law, &files).iter().map(ToString::to_string).collect();
    assert!(
        warnings.iter().all(|w| w.contains("may approve")),
        "{warnings:#?}"
    );
}

#[test]
fn a_case_that_fails_says_what_differs() {
    let files = files_of(&full_files());
    let law = Law::load(&files).expect("loads");
    let text = r#"
        [[case]]
        name = "wrong on purpose"
        operator = "alice"
        profile = "host"
        argv = ["reboot"]
        expect = "permit"
        rules = ["ops-on-host"]
    "#;
    let report = run_cases(&law, &files, &cases::parse("x.toml", text).expect("cases"));
    assert!(!report.passed());
    let differences = &report.results[0].differences;
    assert_eq!(differences[0], "verdict: expected permit, got ask");
    assert!(differences[1].starts_with("rules: "), "{differences:?}");
}

#[test]
fn cases_with_unknown_fields_do_not_load() {
    let text = "[[case]]\nname='x'\noperator='a'\nargv=['x']\nprofile='host'\nexpect='deny'\nargs=[]\n";
    assert!(cases::parse("x.toml", text).is_err());
    let text = "[[case]]\nname='x'\noperator='a'\nexpect='deny'\n";
    assert!(cases::parse("x.toml", text).is_err());
}

#[test]
fn shipped_presets_settle_and_each_lets_a_profile_reach_what_it_lists() {
    for org in [full_files(), demo_files()] {
        let text = &org["profiles.toml"];
        let mut shipped: Profiles = toml::from_str(text).expect("profiles");
        shipped.settle().expect("profiles that fit");
        let presets = shipped.egress.presets;
        for name in [
            "crates-io",
            "rustup",
            "npm",
            "pypi",
            "go",
            "debian",
            "github",
            "gitlab",
        ] {
            let name: lictor_proto::Name = name.parse().expect("a name");
            assert!(presets.contains_key(&name), "{name} is shipped");
        }
        for (name, preset) in &presets {
            assert!(!preset.allow.is_empty(), "{name}");
            let user = format!(
                "{text}\n[profiles.user]\nbackend = \"bubblewrap\"\nnetwork = \"egress\"\n\
                 [profiles.user.egress]\nmode = \"allowlist\"\npresets = [\"{name}\"]\n"
            );
            let mut profiles: Profiles = toml::from_str(&user).expect("profiles");
            profiles.settle().expect("a profile that uses it");
            let user = &profiles.profiles[&"user".parse().expect("a name")];
            let egress = user.egress.as_ref().expect("an egress section");
            let rules = egress.rules(&presets).expect("rules");
            let listed = preset.allow.iter().map(ToString::to_string);
            for entry in listed {
                assert!(rules.allow.contains(&entry), "{name}: {entry}");
                // Every host is a name, written out: no pattern, no address, no range of ports.
                assert!(!entry.contains(['*', '/', '[']), "{name}: {entry}");
            }
        }
    }
}
