//! Several processes on one home: nothing that one of them learned is forgotten by another.

use std::fs;
use std::path::Path;
use std::process::Command;

use lictor_client::{Home as ClientHome, TrustStore};
use lictor_proto::OrgId;
use lictor_proto::agent::LawDocs;

use crate::Home;

fn founded() -> Home {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    home.ok(&["org", "sign"]);
    home
}

fn open(home: &Home) -> TrustStore {
    let org = home.json(&["org", "show"])["org"].clone();
    let org: OrgId = serde_json::from_value(org).expect("an org");
    TrustStore::open(&ClientHome::at(home.path("")), &org).expect("the pinned trust")
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status();
    assert!(copied.expect("cp").success());
}

fn revocation(home: &Home) -> String {
    let signed = fs::read_dir(home.path("org/signed")).expect("there");
    let path = signed.map(|e| e.expect("an entry").path()).find(|p| {
        let name = p.file_name().expect("a name").to_string_lossy();
        name.starts_with("revocation.")
    });
    fs::read_to_string(path.expect("a revocation")).expect("text")
}

#[test]
fn a_store_that_was_opened_before_takes_nothing_back() {
    let home = founded();
    let elsewhere = Home::new();
    copy(&home.path(""), &elsewhere.path(""));
    elsewhere.ok(&["org", "revoke", "operator", "mallory"]);

    let mut early = open(&home);
    home.ok(&["org", "sign"]);
    home.ok(&["org", "revoke", "operator", "eve"]);
    let news = LawDocs {
        revocations: vec![revocation(&elsewhere)],
        ..LawDocs::default()
    };
    let report = early.accept(&news).expect("kept");
    assert!(report.refused.is_empty(), "{report:?}");
    assert_eq!(early.trust().bundle().map(|b| b.version), Some(2));

    let show = home.json(&["org", "show"]);
    assert_eq!(show["bundle"], 2, "{show}");
    assert_eq!(show["revocations"], 2, "{show}");
}

#[test]
fn law_that_was_put_back_from_a_copy_does_not_take_back_what_a_process_knows() {
    let home = founded();
    let copied = fs::read(home.path("trust/law.json")).expect("there");
    home.ok(&["org", "sign"]);
    let mut late = open(&home);
    fs::write(home.path("trust/law.json"), copied).expect("written");
    late.accept(&LawDocs::default()).expect("kept");
    assert_eq!(home.json(&["org", "show"])["bundle"], 2);
}

#[test]
fn whoever_signs_at_once_signs_versions_of_their_own() {
    let home = founded();
    let mut versions: Vec<u64> = std::thread::scope(|scope| {
        let signers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    home.json(&["org", "sign"])["version"]
                        .as_u64()
                        .expect("a version")
                })
            })
            .collect();
        signers.into_iter().map(|s| s.join().expect("signed")).collect()
    });
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5]);
    assert_eq!(home.json(&["org", "show"])["bundle"], 5);
}
