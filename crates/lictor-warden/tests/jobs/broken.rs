//! A journal that cannot be relied on any more: the warden says so, takes nothing, and recovers when it is started
//! again.

use lictor_proto::Code;
use lictor_proto::agent::{OfferReply, Reply, Request};
use lictor_proto::doc::Outcome;
use lictor_warden::JournalError;

use crate::sleeper::Sleeper;
use crate::support::*;

#[test]
fn a_broken_journal_is_told_ends_what_runs_and_is_recovered_from_by_a_new_start() {
    let world = World::new();
    let journal = world.dir.path().join("journal.log");
    let aside = world.dir.path().join("aside");
    let sleeper = Sleeper::new(&world, |pid| format!("echo before; echo $$ > {pid}; sleep 600"));
    runtime().block_on(async {
        // Rotated at every chance.
        let warden = world.warden_with(|c| c.rotate_after = 1).await;
        sleeper.start(&warden).await;
        // Nothing can take the journal's place, and whether it is still in its place is unsure.
        std::fs::rename(&journal, &aside).unwrap();
        std::fs::create_dir(&journal).unwrap();
        let broken = async {
            loop {
                let reply = offer(&warden, world.signed(&["true"]).1).await;
                if matches!(reply, OfferReply::Later(r) if r.code == Code::JournalFailed) {
                    return warden.broken().await;
                }
            }
        };
        let why = tokio::time::timeout(MINUTE, broken).await.expect("it is told");
        assert!(matches!(why, JournalError::Broken(_)), "{why}");
        // Whatever grace there is, it is no use to wait.
        let drain = warden.ask(Request::Drain { grace_ms: 600_000 });
        let drained = tokio::time::timeout(MINUTE, drain).await.expect("at once");
        assert!(matches!(drained, Reply::Refused(r) if r.code == Code::JournalFailed));
        assert!(!sleeper.is_there());
        warden.close().await;
    });
    std::fs::remove_dir(&journal).unwrap();
    std::fs::rename(&aside, &journal).unwrap();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (heard, done) = finished(&mut warden.events(), sleeper.job).await;
        assert_eq!(heard.stdout, b"before\n");
        assert_eq!(world.receipt(&done).outcome, Outcome::Interrupted);
        assert_eq!(offer(&warden, sleeper.offer.clone()).await, OfferReply::Known);
        let (_, o) = world.signed(&["true"]);
        assert_eq!(
            offer(&warden, o).await,
            OfferReply::Accepted,
            "and it works again"
        );
    });
}
