//! A program that is replaced between the decision and the start.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lictor_proto::Code;
use lictor_proto::agent::OfferReply;
use lictor_proto::doc::Outcome;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::support::*;

/// Does something when a span of this name is left, on the thread that leaves it. With it a test acts at one point of
/// the warden's work, which waits meanwhile.
struct AtTheEndOf<F> {
    name: &'static str,
    act: F,
    last: AtomicU64,
    /// The span of that name.
    watched: AtomicU64,
}

impl<F: Fn() + Send + Sync + 'static> AtTheEndOf<F> {
    fn new(name: &'static str, act: F) -> Arc<Self> {
        Arc::new(Self {
            name,
            act,
            last: AtomicU64::new(0),
            watched: AtomicU64::new(0),
        })
    }
}

impl<F: Fn() + Send + Sync + 'static> Subscriber for AtTheEndOf<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name() == self.name
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.watched.store(id, Ordering::Relaxed);
        Id::from_u64(id)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}

    fn exit(&self, id: &Id) {
        if id.into_u64() == self.watched.load(Ordering::Relaxed) {
            (self.act)();
        }
    }
}

/// A program that makes the file which it is told.
const PROGRAM: &str = "/usr/bin/touch";

/// Has the program run while `act` is done right after the decision; gives what its receipt says, and whether it ran.
fn receipt_when(act: impl Fn(&Path) + Send + Sync + 'static) -> (Outcome, Option<Code>, bool) {
    let world = World::new();
    let (judged, ran) = (world.dir.path().join("judged"), world.dir.path().join("ran"));
    fs::copy(PROGRAM, &judged).unwrap();
    let words = [&judged, &ran].map(|p| p.display().to_string());
    let path = judged.clone();
    let watching = AtTheEndOf::new("authorise", move || act(&path));
    // One thread for all of it, so that it is this subscriber that hears.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _heard = tracing::subscriber::set_default(watching);
    runtime.block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&words.each_ref().map(String::as_str));
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(receipt.started_at.is_some(), receipt.exit.is_some());
        assert_eq!(receipt.policy_ids, ["run"], "it was permitted");
        let kinds = world.audit();
        assert!(kinds.iter().any(|k| k == "job_finished"), "{kinds:?}");
        (receipt.outcome, receipt.code, ran.exists())
    })
}

#[test]
fn a_program_that_is_replaced_after_the_decision_does_not_start_and_the_receipt_says_so() {
    let untouched = receipt_when(|_| ());
    assert_eq!(untouched, (Outcome::Succeeded, None, true));

    let changed = (Outcome::Failed, Some(Code::ProgramChanged), false);
    let replaced = receipt_when(|judged| {
        let other = judged.with_extension("other");
        fs::copy(PROGRAM, &other).unwrap();
        fs::rename(&other, judged).unwrap();
    });
    assert_eq!(replaced, changed);
    let overwritten = receipt_when(|judged| fs::write(judged, fs::read(PROGRAM).unwrap()).unwrap());
    assert_eq!(overwritten, changed);
}
