//! Hard limits: what is exactly at one passes, what is one beyond is refused by its code.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::doc::{Document, Exec, Job, Spec, Stdin, StdinBytes};
use lictor_proto::{Code, Digest, NodeId, OrgId, limits};
use support::{World, law_docs, now, refused, seed, wire};

fn exec(job: &mut Job) -> &mut Exec {
    let Spec::Exec(exec) = &mut job.spec else {
        panic!("not a command")
    };
    exec
}

/// That many bytes of argv, as they are counted: each word and a byte for its end.
fn argv_of(bytes: usize) -> Vec<String> {
    vec!["true".into(), "x".repeat(bytes - "true".len() - 2)]
}

fn nodes(org: &OrgId, count: usize) -> Vec<NodeId> {
    let id = |n: usize| {
        let digest = Digest::of(&n.to_be_bytes());
        NodeId::derive(org, &digest.0)
    };
    let mut ids: Vec<_> = (0..count).map(id).collect();
    ids.sort_unstable();
    ids
}

fn stdin(size: u64) -> Stdin {
    Stdin::Bytes(StdinBytes {
        sha256: Digest::of(b""),
        size,
    })
}

#[test]
fn a_job_is_limited_in_words_variables_nodes_input_and_reason() {
    let w = World::default();
    type Change = fn(&mut Job, usize);
    let cases: [(&str, usize, Change); 6] = [
        ("bytes of argv", limits::ARGV_ENV, |j, n| {
            exec(j).argv = argv_of(n);
        }),
        ("bytes of argv and environment", limits::ARGV_ENV, |j, n| {
            // `A=` and the byte at its end count as well.
            exec(j).argv = vec!["true".into()];
            exec(j).env = [("A".to_owned(), "x".repeat(n - 5 - 3))].into();
        }),
        ("variables", limits::ENV_VARS, |j, n| {
            exec(j).env = (0..n).map(|i| (format!("V{i}"), String::new())).collect();
        }),
        ("nodes", limits::NODES, |j, n| j.nodes = nodes(&j.org, n)),
        ("bytes of standard input", limits::STDIN as usize, |j, n| {
            j.stdin = stdin(n as u64);
        }),
        ("bytes of reason", limits::REASON, |j, n| j.reason = "x".repeat(n)),
    ];
    for (what, limit, change) in cases {
        let verify = |n| {
            let mut job = w.job();
            change(&mut job, n);
            w.trust.verify_job(&wire(&job, &[seed::ALICE]), now())
        };
        verify(limit).unwrap_or_else(|r| panic!("{limit} {what}: {r:?}"));
        refused(what, verify(limit + 1), Code::LimitExceeded);
    }
}

#[test]
fn an_envelope_has_at_most_sixteen_signatures() {
    let mut w = World::default();
    let mut newer = w.bundle();
    newer.version = 2;
    let signed_by = |n: u8| {
        let seeds: Vec<u8> = std::iter::once(seed::BUNDLE).chain(100..100 + n - 1).collect();
        let mut docs = law_docs(&newer);
        docs.bundle = Some(wire(&newer, &seeds));
        docs
    };
    let report = w.trust.accept(&signed_by(17), now());
    assert_eq!(report.refused[0].1.code, Code::SignatureCount);
    assert_eq!(w.trust.accept(&signed_by(16), now()).bundle, Some(2));
}

#[test]
fn an_envelope_is_limited_and_a_bundles_is_larger() {
    let mut w = World::default();
    let mut newer = w.bundle();
    newer.version = 2;
    let padded = |bytes: usize, text: String| format!("{text}{}", " ".repeat(bytes - text.len()));
    let docs = |bytes| {
        let mut docs = law_docs(&newer);
        docs.bundle = docs.bundle.map(|text| padded(bytes, text));
        docs
    };
    let report = w.trust.accept(&docs(limits::BUNDLE_ENVELOPE + 1), now());
    assert_eq!(report.refused[0].1.code, Code::LimitExceeded);
    let report = w.trust.accept(&docs(limits::BUNDLE_ENVELOPE), now());
    assert_eq!(report.bundle, Some(2), "{report:?}");

    let job = |bytes| padded(bytes, wire(&w.job(), &[seed::ALICE]));
    let verify = |bytes| w.trust.verify_job(&job(bytes), now());
    verify(limits::JOB_ENVELOPE).unwrap();
    refused("a job", verify(limits::JOB_ENVELOPE + 1), Code::LimitExceeded);
}

#[test]
fn nothing_is_valid_for_more_than_thirty_days() {
    let w = World::default();
    let mut job = w.job();
    job.expires_at = job.issued_at.plus(limits::VALIDITY);
    job.validate().unwrap();
    job.expires_at = support::at(limits::VALIDITY.as_millis() as u64 + 1);
    assert_eq!(job.validate().unwrap_err().code, Code::LimitExceeded);
}
