//! `lictor org root`: the org's own keys change hands, over several homes and without a hub.

use std::fs;

use serde_json::{Value, json};

use crate::{Done, Home};

fn org() -> Home {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    home.ok(&["org", "sign"]);
    home
}

/// The home of somebody else who holds the same law.
fn colleague(home: &Home, key: &str) -> Home {
    let other = Home::new();
    fs::create_dir(other.path("trust")).expect("made");
    for file in ["trust/law.json", "config.toml"] {
        fs::copy(home.path(file), other.path(file)).expect("copied");
    }
    other.ok(&["keys", "new", key]);
    other
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field]
        .as_str()
        .unwrap_or_else(|| panic!("{field} of {value}"))
}

fn refusal(done: &Done) -> &str {
    assert_eq!(done.status, Some(125), "{done:?}");
    assert!(done.stdout.is_empty(), "{done:?}");
    &done.stderr
}

#[test]
fn a_root_passes_from_holder_to_holder_until_both_thresholds_are_met() {
    let alice = org();
    let bob = colleague(&alice, "bob-root");
    let line = bob.ok(&["keys", "export-public", "bob-root"]);
    alice.ok(&["keys", "new", "bundle-2"]);
    let file = alice.path("org/root.2.json");
    let file = file.to_str().expect("UTF-8");
    let drafted = alice.json(&[
        "org",
        "root",
        "new",
        "--add",
        &format!("root={}", line.trim()),
        "--threshold",
        "root=2",
        "--remove",
        "bundle=bundle",
        "--add",
        "bundle=bundle-2",
    ]);
    assert_eq!(
        (&drafted["version"], &drafted["complete"]),
        (&json!(2), &json!(false))
    );
    assert_eq!(drafted["changes"].as_array().map(Vec::len), Some(4), "{drafted}");
    assert_eq!(drafted["new"]["needed"], 2);

    let alone = alice.json(&["org", "root", "sign", "--yes", file]);
    assert_eq!(alone["old"]["missing"], json!([]));
    assert_eq!(
        alone["new"]["missing"].as_array().map(Vec::len),
        Some(1),
        "{alone}"
    );
    let early = alice.run(&["org", "root", "take", file]);
    assert!(refusal(&early).contains("[threshold_not_met]"), "{early:?}");

    let both = bob.json(&["org", "root", "sign", "--yes", "--key", "bob-root", file]);
    assert_eq!(both["complete"], true, "{both}");
    let taken = alice.json(&["org", "root", "take", file]);
    assert_eq!(taken["root"], 2);
    assert!(taken["next"].to_string().contains("org sign --key"), "{taken}");
    assert_eq!(
        alice.json(&["org", "show"])["deny_all"]["code"],
        "bundle_unloadable"
    );

    let stolen = alice.run(&["org", "sign"]);
    assert!(refusal(&stolen).contains("[signer_unknown]"), "{stolen:?}");
    alice.ok(&["org", "sign", "--key", "bundle-2"]);
    let show = alice.json(&["org", "show"]);
    assert_eq!(
        (&show["root"], &show["bundle"], &show["deny_all"]),
        (&json!(2), &json!(2), &Value::Null)
    );
    let held = alice.json(&["org", "root", "show"]);
    assert_eq!(held["roles"]["root"]["threshold"], 2, "{held}");
    let again = alice.run(&["org", "root", "take", file]);
    assert!(refusal(&again).contains("[root_older]"), "{again:?}");
}

#[test]
fn copies_that_were_signed_apart_are_merged() {
    let alice = org();
    let bob = colleague(&alice, "bob-root");
    let line = bob.ok(&["keys", "export-public", "bob-root"]);
    let (mine, his) = (alice.path("mine.json"), alice.path("his.json"));
    let (mine, his) = (mine.to_str().expect("UTF-8"), his.to_str().expect("UTF-8"));
    let add = format!("root={}", line.trim());
    alice.ok(&[
        "org",
        "root",
        "new",
        "--add",
        &add,
        "--threshold",
        "root=2",
        "--out",
        mine,
    ]);
    fs::copy(mine, his).expect("copied");
    alice.ok(&["org", "root", "sign", "--yes", mine]);
    bob.ok(&["org", "root", "sign", "--yes", "--key", "bob-root", his]);
    assert_eq!(alice.json(&["org", "root", "show", mine])["complete"], false);
    assert_eq!(alice.json(&["org", "root", "merge", mine, his])["complete"], true);
    alice.ok(&["org", "root", "take", mine]);
}

#[test]
fn an_org_founded_without_freshness_gets_it() {
    let home = org();
    home.ok(&["keys", "new", "freshness"]);
    home.ok(&["org", "root", "new", "--add", "freshness=freshness"]);
    let file = home.path("org/root.2.json");
    let file = file.to_str().expect("UTF-8");
    home.ok(&["org", "root", "sign", "--yes", file]);
    let taken = home.json(&["org", "root", "take", file]);
    assert!(taken["next"].to_string().contains("org freshness"), "{taken}");
    assert_eq!(home.json(&["org", "show"])["deny_all"]["code"], "stale");
    home.ok(&["org", "freshness"]);
    assert_eq!(home.json(&["org", "show"])["deny_all"], Value::Null);
    let warnings = home.json(&["org", "check"])["warnings"].to_string();
    assert!(!warnings.contains("freshness"), "{warnings}");
}

/// Law and statements that alice and bob must both sign, each in a home of their own.
#[test]
fn law_of_several_keys_is_signed_in_several_homes() {
    let alice = org();
    let bob = colleague(&alice, "bob-law");
    bob.ok(&["keys", "new", "bob-fresh"]);
    alice.ok(&["keys", "new", "freshness"]);
    let public = |name: &str| bob.ok(&["keys", "export-public", name]).trim().to_owned();
    let (law, fresh) = (
        format!("bundle={}", public("bob-law")),
        format!("freshness={}", public("bob-fresh")),
    );
    let change = [
        "--add",
        &law,
        "--threshold",
        "bundle=2",
        "--add",
        "freshness=freshness",
        "--add",
        &fresh,
        "--threshold",
        "freshness=2",
    ];
    alice.ok(&[&["org", "root", "new"], &change[..]].concat());
    let path = |home: &Home, name: &str| home.path(name).to_str().expect("UTF-8").to_owned();
    let root = path(&alice, "org/root.2.json");
    alice.ok(&["org", "root", "sign", "--yes", &root]);
    for home in [&alice, &bob] {
        home.ok(&["org", "root", "take", &root]);
    }

    let file = path(&alice, "law.json");
    let alone = alice.run(&["org", "sign"]);
    assert!(refusal(&alone).contains("[threshold_not_met]"), "{alone:?}");
    let begun = alice.json(&["org", "sign", "--out", &file]);
    assert_eq!((&begun["needed"], &begun["complete"]), (&json!(2), &json!(false)));
    let early = bob.run(&["org", "take", &file]);
    assert!(refusal(&early).contains("[threshold_not_met]"), "{early:?}");
    let unseen = bob.run(&["org", "cosign", "--key", "bob-law", &file]);
    assert!(
        unseen.stdout.contains("against law 1:\n  no file differs"),
        "{unseen:?}"
    );
    assert!(unseen.stderr.contains("there is nobody to ask"), "{unseen:?}");
    let wrong = bob.run(&["org", "cosign", "--yes", "--key", "bob-fresh", &file]);
    assert!(refusal(&wrong).contains("[signer_unknown]"), "{wrong:?}");
    assert_eq!(
        bob.json(&["org", "cosign", "--yes", "--key", "bob-law", &file])["complete"],
        true
    );
    for home in [&alice, &bob] {
        home.ok(&["org", "take", &file]);
        assert_eq!(home.json(&["org", "show"])["bundle"], 2);
    }
    let again = bob.run(&["org", "take", &file]);
    assert!(refusal(&again).contains("[bundle_older]"), "{again:?}");

    let file = path(&alice, "fresh.json");
    alice.ok(&["org", "freshness", "--out", &file]);
    bob.ok(&["org", "cosign", "--yes", "--key", "bob-fresh", &file]);
    alice.ok(&["org", "take", &file]);
    assert_eq!(alice.json(&["org", "show"])["deny_all"], Value::Null);
    assert_eq!(bob.json(&["org", "show"])["deny_all"]["code"], "stale");
    let root = bob.run(&["org", "take", &root]);
    assert!(refusal(&root).contains("this is a root"), "{root:?}");
}

#[test]
fn nobody_says_what_is_fresh_of_law_that_they_do_not_hold() {
    let alice = org();
    let bob = colleague(&alice, "bob-fresh");
    alice.ok(&["keys", "new", "freshness"]);
    alice.ok(&["org", "root", "new", "--add", "freshness=freshness"]);
    let root = alice.path("org/root.2.json");
    let root = root.to_str().expect("UTF-8");
    alice.ok(&["org", "root", "sign", "--yes", root]);
    for home in [&alice, &bob] {
        home.ok(&["org", "root", "take", root]);
    }
    alice.ok(&["org", "sign"]);
    let file = alice.path("fresh.json");
    let file = file.to_str().expect("UTF-8");
    alice.ok(&["org", "freshness", "--out", file]);
    let older = bob.run(&["org", "take", file]);
    assert!(refusal(&older).contains("[freshness_mismatch]"), "{older:?}");
    alice.ok(&["org", "take", file]);
}

#[test]
fn a_statement_takes_as_many_keys_as_the_root_says() {
    let home = org();
    home.ok(&["keys", "new", "freshness"]);
    home.ok(&["keys", "new", "second"]);
    let add = [
        "--add",
        "freshness=freshness",
        "--add",
        "freshness=second",
        "--threshold",
        "freshness=2",
    ];
    home.ok(&[&["org", "root", "new"], &add[..]].concat());
    let file = home.path("org/root.2.json");
    let file = file.to_str().expect("UTF-8");
    home.ok(&["org", "root", "sign", "--yes", file]);
    home.ok(&["org", "root", "take", file]);
    let alone = home.run(&["org", "freshness"]);
    assert!(refusal(&alone).contains("[threshold_not_met]"), "{alone:?}");
    home.ok(&["org", "freshness", "--key", "freshness", "--key", "second"]);
    assert_eq!(home.json(&["org", "show"])["deny_all"], Value::Null);
}

#[test]
fn nobody_signs_a_root_that_they_were_not_shown() {
    let home = org();
    home.ok(&["org", "root", "new", "--valid", "365d"]);
    let file = home.path("org/root.2.json");
    let file = file.to_str().expect("UTF-8");
    let before = fs::read(file).expect("there");
    let unseen = home.run(&["--json", "org", "root", "sign", file]);
    assert!(refusal(&unseen).contains("nobody is shown"), "{unseen:?}");
    let nobody = home.run(&["org", "root", "sign", file]);
    assert_eq!(nobody.status, Some(125));
    assert!(nobody.stderr.contains("there is nobody to ask"), "{nobody:?}");
    assert!(
        nobody.stdout.contains("nothing changes but its dates"),
        "{nobody:?}"
    );
    assert_eq!(fs::read(file).expect("there"), before, "nothing was signed");
    let stranger = home.run(&["org", "root", "sign", "--yes", "--key", "bundle", file]);
    assert!(refusal(&stranger).contains("[signer_unknown]"), "{stranger:?}");
}

#[test]
fn what_makes_no_root_is_said_before_anybody_signs() {
    let home = org();
    let new = |arguments: &[&str]| {
        let done = home.run(&[&["org", "root", "new"], arguments].concat());
        refusal(&done).to_owned()
    };
    assert!(new(&["--threshold", "bundle=2"]).contains("[document_invalid]"));
    assert!(new(&["--add", "bundle=alice"]).contains("[duplicate_key]"));
    assert!(new(&["--remove", "freshness=bundle"]).contains("has no key"));
    assert!(new(&["--add", "bundle=nobody"]).contains("there is no key nobody"));
    assert!(new(&["--add", "captain=alice"]).contains("the roles are"));
    assert!(!home.path("org/root.2.json").exists());
    home.ok(&["org", "root", "new"]);
    assert!(new(&[]).contains("exists already"));
    let shown = home.json(&["org", "root", "show"]);
    assert_eq!(text(&shown, "name"), "acme");
}
