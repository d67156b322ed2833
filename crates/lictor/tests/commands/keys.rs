//! `lictor keys`, end to end.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;

use crate::Home;

#[test]
fn a_key_is_made_listed_shown_and_exported() {
    let home = Home::new();
    let made = home.json(&["keys", "new", "alice"]);
    assert_eq!(made["name"], "alice");
    assert_eq!(made["encrypted"], false);
    let id = made["key_id"].as_str().expect("an id");
    assert_eq!(id.len(), 64);
    let listed = home.json(&["keys", "list"]);
    assert_eq!(listed[0]["key_id"], made["key_id"]);
    assert!(home.ok(&["keys", "show", "alice"]).contains(id));
    let line = home.ok(&["keys", "export-public", "alice"]);
    assert!(
        line.starts_with("lictor-ed25519 ") && line.trim_end().ends_with(" alice"),
        "{line}"
    );
}

#[test]
fn a_private_key_is_readable_by_its_owner_only() {
    let home = Home::new();
    home.ok(&["keys", "new", "alice"]);
    let mode = |path: &str| {
        std::fs::metadata(home.path(path))
            .expect("there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode("keys/alice.pem"), 0o600);
    assert_eq!(mode("keys"), 0o700);
}

#[test]
fn a_key_is_never_overwritten() {
    let home = Home::new();
    home.ok(&["keys", "new", "alice"]);
    let before = std::fs::read(home.path("keys/alice.pem")).expect("there");
    let again = home.run(&["keys", "new", "alice"]);
    assert_eq!(again.status, Some(125));
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    assert_eq!(std::fs::read(home.path("keys/alice.pem")).expect("there"), before);
}

#[test]
fn an_encrypted_key_is_encrypted_at_rest_and_still_shows_its_public_half() {
    let home = Home::new();
    let file = home.path("passphrase");
    std::fs::write(&file, "correct horse\n").expect("written");
    let path = file.to_str().expect("UTF-8");
    home.ok(&["keys", "new", "alice", "--passphrase-file", path]);
    let pem = std::fs::read_to_string(home.path("keys/alice.pem")).expect("there");
    assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{pem}");
    assert_eq!(home.json(&["keys", "show", "alice"])["encrypted"], true);
    home.ok(&["keys", "export-public", "alice"]);
}

#[test]
fn an_encrypted_key_signs_only_with_its_passphrase() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    let (good, bad) = (home.path("good"), home.path("bad"));
    std::fs::write(&good, "correct horse\n").expect("written");
    std::fs::write(&bad, "wrong horse\n").expect("written");
    for file in ["keys/bundle.pem", "keys/bundle.pub"] {
        std::fs::remove_file(home.path(file)).expect("removed");
    }
    home.ok(&[
        "keys",
        "new",
        "bundle",
        "--passphrase-file",
        good.to_str().expect("UTF-8"),
    ]);
    let sign = |file: &std::path::Path| {
        home.run_with(&["org", "sign"], &[("LICTOR_PASSPHRASE_FILE", file.as_os_str())])
    };
    let wrong = sign(&bad);
    assert_eq!(wrong.status, Some(125));
    assert!(wrong.stderr.contains("wrong passphrase"), "{}", wrong.stderr);
    // The right passphrase opens the key, which is not the one that the root names.
    let right = sign(&good);
    assert!(
        right.stderr.contains("[threshold_not_met]")
            || right.stderr.contains("[signer_unknown]")
            || right.stderr.contains("[signature_invalid]"),
        "{}",
        right.stderr
    );
    let none = home.run_with(
        &["org", "sign"],
        &[("LICTOR_PASSPHRASE_FILE", OsStr::new("/nonexistent"))],
    );
    assert_eq!(none.status, Some(125));
}
