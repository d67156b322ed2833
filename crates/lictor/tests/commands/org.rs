//! `lictor org`, end to end on one machine, without a hub.

use std::fs;

use crate::Home;

fn org() -> Home {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    home
}

#[test]
fn a_new_org_checks_passes_its_own_tests_and_signs() {
    let home = org();
    let check = home.json(&["org", "check"]);
    assert_eq!(check["loads"], true);
    let warnings = check["warnings"].to_string();
    assert!(warnings.contains("no freshness keys"), "{warnings}");
    let test = home.json(&["org", "test"]);
    assert_eq!(test["failures"], serde_json::json!([]));
    assert!(test["cases"].as_u64() > Some(3), "{test}");
    assert_eq!(home.json(&["org", "sign"])["version"], 1);
    assert_eq!(home.json(&["org", "sign"])["version"], 2);
    let show = home.json(&["org", "show"]);
    assert_eq!((&show["root"], &show["bundle"]), (&1.into(), &2.into()));
    assert_eq!(show["deny_all"], serde_json::Value::Null);
    assert_eq!(show["operators"]["alice"][0], "admins");
}

#[test]
fn a_home_acts_for_one_org() {
    let home = org();
    let again = home.run(&["org", "init", "other"]);
    assert_eq!(again.status, Some(125));
    assert!(
        again.stderr.contains("acts for an org already"),
        "{}",
        again.stderr
    );
}

#[test]
fn a_directory_that_does_not_load_is_not_signed() {
    let home = org();
    home.ok(&["org", "sign"]);
    fs::write(
        home.path("org/policies/broken.cedar"),
        "permit (principal, action, resource);",
    )
    .expect("written");
    for command in ["check", "sign"] {
        let done = home.run(&["org", command]);
        assert_eq!(done.status, Some(125), "{done:?}");
        assert!(done.stderr.contains("[bundle_unloadable]"), "{}", done.stderr);
        assert!(done.stderr.contains("broken.cedar"), "{}", done.stderr);
    }
    assert_eq!(home.json(&["org", "show"])["bundle"], 1);
}

#[test]
fn unknown_fields_do_not_load() {
    let home = org();
    let path = home.path("org/fleet.toml");
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, format!("surprise = 1\n{text}")).expect("written");
    let done = home.run(&["org", "check"]);
    assert_eq!(done.status, Some(125));
    assert!(done.stderr.contains("surprise"), "{}", done.stderr);
}

#[test]
fn a_case_that_comes_out_otherwise_fails_the_test() {
    let home = org();
    let case = "[[case]]\nname = \"anything goes\"\noperator = \"alice\"\nprofile = \"host\"\n\
                argv = [\"sh\", \"-c\", \"eval $x\"]\nexpect = \"permit\"\n";
    fs::write(home.path("org/tests/wrong.toml"), case).expect("written");
    let done = home.run(&["org", "test"]);
    assert_eq!(done.status, Some(125));
    assert!(
        done.stdout.contains("FAIL  wrong.toml: anything goes"),
        "{}",
        done.stdout
    );
}

#[test]
fn the_difference_to_the_signed_law_is_shown() {
    let home = org();
    home.ok(&["org", "sign"]);
    assert_eq!(
        home.ok(&["org", "diff"]),
        "the directory is what was signed last\n"
    );
    let path = home.path("org/fleet.toml");
    let text = fs::read_to_string(&path).expect("there");
    fs::write(&path, text.replace("24h", "12h")).expect("written");
    let diff = home.ok(&["org", "diff"]);
    assert!(
        diff.contains("- max_job_validity = \"24h\"\n  + max_job_validity = \"12h\""),
        "{diff}"
    );
}

#[test]
fn a_revocation_and_a_freshness_statement_are_believed_here_first() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice", "--freshness"]);
    home.ok(&["org", "sign"]);
    let stale = home.json(&["org", "show"]);
    assert_eq!(stale["deny_all"]["code"], "stale", "{stale}");
    home.ok(&["org", "freshness"]);
    assert_eq!(home.json(&["org", "show"])["deny_all"], serde_json::Value::Null);
    home.ok(&["org", "revoke", "operator", "mallory", "--reason", "left"]);
    let show = home.json(&["org", "show"]);
    assert_eq!(show["revocations"], 1);
    let bad = home.run(&["org", "revoke", "node", "web-1"]);
    assert_eq!(bad.status, Some(125));
    assert!(bad.stderr.contains("[document_invalid]"), "{}", bad.stderr);
}
