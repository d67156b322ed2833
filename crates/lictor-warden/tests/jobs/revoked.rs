//! A node that its org has revoked, as itself or with its grant, and a gate that was passed by breaking the glass.

use lictor_proto::Code;
use lictor_proto::agent::{OfferReply, Reply, Request};
use lictor_proto::doc::{Outcome, RevocationKind};

use crate::support::*;

/// The node says why it takes nothing, takes nothing, and has not forgotten it after a restart.
fn takes_nothing_any_more(kind: RevocationKind, target: impl Fn(&World) -> String, code: Code) {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (_, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let revoked = world.revocation(kind, &target(&world));
        let Reply::Law(held) = warden.ask(Request::Law(revoked)).await else {
            panic!("the revocation is taken");
        };
        assert_eq!(held.deny_all.map(|r| r.code), Some(code));
        let (_, o) = world.signed(&["true"]);
        assert!(matches!(offer(&warden, o.clone()).await, OfferReply::Later(r) if r.code == code));
        warden.close().await;
        drop(warden);
        let warden = world.warden().await;
        assert_eq!(warden.law_held().deny_all.map(|r| r.code), Some(code));
        assert!(matches!(offer(&warden, o).await, OfferReply::Later(r) if r.code == code));
    });
}

#[test]
fn a_revoked_node_takes_nothing_any_more_also_after_a_restart() {
    let own = |world: &World| world.node_id.to_string();
    takes_nothing_any_more(RevocationKind::Node, own, Code::NodeRevoked);
}

#[test]
fn the_node_of_a_revoked_grant_takes_nothing_any_more_also_after_a_restart() {
    let own = |world: &World| world.grant.to_string();
    takes_nothing_any_more(RevocationKind::Grant, own, Code::GrantRevoked);
}

#[test]
fn the_revocation_of_another_node_changes_nothing() {
    let (world, other) = (World::new(), World::new());
    runtime().block_on(async {
        let warden = world.warden().await;
        let revoked = world.revocation(RevocationKind::Node, other.node_id.as_str());
        let Reply::Law(held) = warden.ask(Request::Law(revoked)).await else {
            panic!("the revocation is taken");
        };
        assert_eq!((held.revocations, held.deny_all), (1, None));
        let (_, o) = world.signed(&["true"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
    });
}

#[test]
fn who_breaks_the_glass_is_named_so_in_the_receipt_and_nobody_else_is() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.sign_job(&world.job("erin", &["true"]));
        assert_eq!(
            offer(&warden, o).await,
            OfferReply::Accepted,
            "without an approval"
        );
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!((receipt.outcome, receipt.break_glass), (Outcome::Succeeded, true));
        assert!(receipt.approvals.is_empty());
        assert!(
            receipt.policy_ids.iter().any(|id| id == "erin-asks"),
            "{:?}",
            receipt.policy_ids
        );
        // The same gate, passed as it should be.
        let (job, o) = world.sign_job(&world.job("carol", &["true"]));
        assert!(matches!(offer(&warden, o).await, OfferReply::Ask(_)));
        let approval = Request::Approval(world.approval(job, "bob"));
        assert_eq!(warden.ask(approval).await, Reply::Done);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!((receipt.break_glass, receipt.approvals.len()), (false, 1));
    });
}
