//! Standard input: changed, short, or more than anybody needs.

use anyhow::{Result, ensure};
use lictor_proto::agent::{OfferReply, Reply, Request, StdinPiece};
use lictor_proto::doc::Stdin;
use lictor_proto::{Code, Digest};

use super::attacks;
use crate::hostile::org::signed;
use crate::hostile::{Scene, Seen};

attacks! {
    hub_changes_standard_input => Some(Code::StdinMismatch),
    hub_leaves_standard_input_out => Some(Code::StdinMissing),
    hub_floods_a_node_with_standard_input => Some(Code::LimitExceeded),
}

const INPUT: &[u8] = b"the numbers to add up\n";

/// A job that reads its input, and the message that brings `bytes` as that input.
fn job(scene: &Scene) -> String {
    let mut job = scene.job("alice", &["cat"]);
    job.stdin = Stdin::bytes(INPUT);
    signed(&job, &["alice"])
}

fn piece(bytes: &[u8]) -> Request {
    Request::Stdin(StdinPiece {
        sha256: Digest::of(INPUT),
        at: 0,
        last: true,
        bytes: bytes.to_vec(),
    })
}

/// The honest version: input, then the job, which succeeds.
async fn honestly(scene: &Scene, job: &str) -> Result<()> {
    ensure!(
        scene.hub.ask(&piece(INPUT)).await? == Reply::Done,
        "honest input was refused"
    );
    scene.runs(job, &[]).await?;
    Ok(())
}

async fn hub_changes_standard_input() -> Result<Seen> {
    let scene = Scene::set().await?;
    let job = job(&scene);
    let changed = piece(b"the numbers to take off\n");
    let seen = scene.refuses_request(&changed, Code::StdinMismatch).await?;
    let late = scene.refused_offer(&job).await?;
    ensure!(late == Code::StdinMissing, "{late}");
    honestly(&scene, &job).await?;
    Ok(seen)
}

async fn hub_leaves_standard_input_out() -> Result<Seen> {
    let scene = Scene::set().await?;
    let job = job(&scene);
    let seen = scene.refuses(&job, Code::StdinMissing).await?;
    honestly(&scene, &job).await?;
    Ok(seen)
}

/// First pieces of many inputs that nobody signed: their number is bounded, and true input still has its way once
/// they are gone.
async fn hub_floods_a_node_with_standard_input() -> Result<Seen> {
    let scene = Scene::set().await?;
    let mut refused = None;
    for n in 0..2000_u32 {
        let first = Request::Stdin(StdinPiece {
            sha256: Digest::of(&n.to_le_bytes()),
            at: 0,
            last: false,
            bytes: vec![0; 16],
        });
        if let Reply::Refused(refusal) = scene.hub.ask(&first).await? {
            refused = Some((n, refusal.code));
            break;
        }
    }
    ensure!(
        refused.is_some_and(|(n, _)| n <= 256),
        "IT GOT THROUGH: {refused:?}"
    );
    let seen = scene.noted(Code::LimitExceeded).await?;
    // Jobs that need none are not held up.
    let plain = scene.signed(&["true"]);
    ensure!(
        scene.offer(&plain, &[]).await? == OfferReply::Accepted,
        "a job without input"
    );
    scene.succeeded(&plain).await?;
    Ok(seen)
}
