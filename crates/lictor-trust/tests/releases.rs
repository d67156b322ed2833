//! Releases, and cancels for some of a job's nodes: the good ones pass, and each way to be wrong has its own code.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Cancel, Release};
use lictor_proto::{Code, Digest, NodeId};
use lictor_trust::Verified;
use support::{World, name, now, refused, seed, wire};

fn release(w: &World, change: impl FnOnce(&mut Release)) -> Result<Verified<Release>, Refusal> {
    let mut release = w.release();
    change(&mut release);
    w.trust.verify_release(&wire(&release, &[seed::ALICE]), now())
}

fn cancel(w: &World, nodes: Vec<NodeId>) -> Result<Verified<Cancel>, Refusal> {
    let cancel = Cancel { nodes, ..w.cancel() };
    w.trust.verify_cancel(&wire(&cancel, &[seed::ALICE]), now())
}

#[test]
fn a_release_passes_and_every_broken_rule_has_its_code() {
    let w = World::default();
    let good = release(&w, |_| {}).unwrap();
    type Spoil = fn(&mut Release);
    let spoilt: [(Code, &str, Spoil); 5] = [
        (Code::SignerMismatch, "in another's name", |r| {
            r.operator = name("bob")
        }),
        (Code::Expired, "expired", |r| r.expires_at = now()),
        (Code::StaleBundle, "asks for newer law", |r| r.min_bundle = 2),
        (Code::DocumentInvalid, "of no node", |r| r.nodes.clear()),
        (Code::DocumentInvalid, "of one node twice", |r| {
            r.nodes.push(r.nodes[0].clone())
        }),
    ];
    for (code, what, spoil) in spoilt {
        refused(what, release(&w, spoil), code);
    }
    let (job, own) = (w.job_digest(), &w.release().nodes[0]);
    good.check_for(&job, own).unwrap();
    let other = NodeId::derive(&w.org, &[9; 32]);
    refused("another node", good.check_for(&job, &other), Code::WrongNode);
    refused(
        "another job",
        good.check_for(&Digest::of(b""), own),
        Code::WrongJob,
    );
}

#[test]
fn a_cancel_of_some_nodes_is_for_these_and_of_none_named_for_all() {
    let w = World::default();
    let one = |n: u8| NodeId::derive(&w.org, &[n; 32]);
    cancel(&w, Vec::new()).unwrap().check_node(&one(1)).unwrap();
    let some = cancel(&w, vec![one(1)]).unwrap();
    some.check_node(&one(1)).unwrap();
    refused("another node", some.check_node(&one(2)), Code::WrongNode);
    refused(
        "one twice",
        cancel(&w, vec![one(1), one(1)]),
        Code::DocumentInvalid,
    );
}
