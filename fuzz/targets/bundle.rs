//! Whatever the files of a bundle say, loading it answers, and what loads keeps its promises.
//!
//! The input is three TOML files and a Cedar file with a line `---` between them; one that is missing or empty is a
//! good one.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use lictor_policy::Law;
use lictor_proto::doc::{Bundle, Root};
use lictor_proto::{Digest, json, limits};
use lictor_trust::LawFiles;

const ROOT: &str = include_str!("../seeds/fixed/root.json");
const GOOD: [&str; 4] = [include_str!("../seeds/fixed/roster.toml"), "", "", POLICY];
const POLICY: &str = "@id(\"all\") permit(principal, action, resource);";

fuzz_target!(|text: &str| {
    let mut parts = text.split("\n---\n");
    let mut part = |good: &str| match parts.next() {
        None | Some("") => good.to_owned(),
        Some(text) => text.to_owned(),
    };
    let files = [
        ("roster.toml", part(GOOD[0])),
        ("fleet.toml", part(GOOD[1])),
        ("profiles.toml", part(GOOD[2])),
        ("policies/all.cedar", part(GOOD[3])),
    ];
    let root: Root = json::from_slice(ROOT.as_bytes()).expect("the root is a good one");
    let bundle = Bundle {
        tag: Default::default(),
        org: "a".repeat(32).parse().expect("an org id"),
        version: 1,
        min_root: 1,
        schema_version: 1,
        min_versions: Default::default(),
        issued_at: root.issued_at,
        expires_at: root.expires_at,
        max_staleness: 1,
        files: files
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect::<BTreeMap<_, _>>(),
        revocations: Vec::new(),
    };
    let Ok(law) = LawFiles::load(&bundle, Digest::of(b""), &root) else {
        return;
    };
    assert!(law.fleet.max_job_validity <= limits::VALIDITY);
    for key in law.roster.key_ids() {
        let (operator, held) = law.roster.holder(key).expect("every key has a holder");
        assert_eq!(held.key.id(), *key);
        assert!(operator.groups.iter().all(|g| law.roster.groups().contains(g)));
    }
    assert!(
        law.fleet
            .enrollers
            .keys()
            .all(|g| law.roster.groups().contains(g))
    );
    if let Err(e) = Law::load(&law) {
        assert!(!e.problems.is_empty(), "what does not load says why");
    }
});
