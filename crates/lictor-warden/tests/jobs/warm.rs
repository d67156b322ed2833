//! Prepared sandboxes come and go with the law that asks for them.

use lictor_proto::agent::{LawDocs, OfferReply, Reply, Request};
use lictor_proto::doc::Outcome;
use lictor_warden::Warden;

use crate::support::*;

const READY: &str = "[profiles.ready]\nbackend = \"bubblewrap\"\nwarm = 2\n";

async fn take(warden: &Warden, law: LawDocs) {
    let reply = warden.ask(Request::Law(law)).await;
    assert!(matches!(reply, Reply::Law(_)), "{reply:?}");
}

#[test]
fn sandboxes_are_prepared_for_the_law_that_asks_for_them_and_gone_with_it_and_with_the_warden() {
    let mut world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let mut ready = world.host.warm_ready();
        take(&warden, world.next_profiles(READY)).await;
        ready.wait_for(|n| *n == 2).await.unwrap();
        let mut wanted = world.job("alice", &["true"]);
        wanted.profile = name("ready");
        let (job, o) = world.sign_job(&wanted);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(receipt.outcome, Outcome::Succeeded);
        ready.wait_for(|n| *n == 2).await.unwrap();
        take(&warden, world.next_law(POLICY)).await;
        ready.wait_for(|n| *n == 0).await.unwrap();
        take(&warden, world.next_profiles(READY)).await;
        ready.wait_for(|n| *n == 2).await.unwrap();
        warden.close().await;
        assert_eq!(*ready.borrow(), 0);
    });
}
