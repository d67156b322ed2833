//! What several nodes have written for one command, fetched node by node once each has ended, some at a time.
//!
//! Followed beside each other all of them would be on their way at once: as many streams to unpack, and files open, as there
//! are nodes. So a watch that harvests listens to what happens only, and reads from the hub what those have written that
//! have ended, which is stored there by then.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use lictor_client::files::Unpacked;
use lictor_client::{Error, Expected, Follower, Hub, Item, Outcome, ReceiptTracker};
use lictor_proto::{Code, JobId, NodeId};

use super::{FleetWatch, Scene, Stopped, told};
use crate::commands::watch::LOST_FOR;
use crate::failure::Failure;

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(300);

/// Takes what nodes have written.
pub(crate) trait Harvest: Sync {
    /// Fetches it of a node that has ended, and judges it.
    fn fetch<'a>(
        &'a self,
        expected: Expected<'a>,
        hub: &'a Hub,
        tracker: &'a ReceiptTracker,
    ) -> BoxFuture<'a, Harvested>;
}

/// How a node ended, and what of it is here.
pub(crate) struct Harvested {
    pub(crate) outcome: Outcome,
    /// Bytes of both streams.
    pub(crate) seen: (u64, u64),
    /// What it said on standard error.
    pub(crate) said: Vec<Item>,
    pub(crate) brought: Option<Brought>,
    /// Why nothing is here though the node did its part.
    pub(crate) lacks: Option<Failure>,
}

/// Files of a node, at their place.
pub(crate) struct Brought {
    pub(crate) to: PathBuf,
    pub(crate) unpacked: Unpacked,
}

impl Harvested {
    /// Of a node of which nothing more is wanted.
    pub(crate) fn of(outcome: Outcome, seen: (u64, u64)) -> Self {
        Self {
            outcome,
            seen,
            said: Vec::new(),
            brought: None,
            lacks: None,
        }
    }
}

/// Whether it is output, or words about it. A watch that harvests has asked for none beside what it fetches: what a hub sends of
/// it all the same goes nowhere, since nobody would judge it.
pub(super) fn is_unasked(item: &Item) -> bool {
    matches!(item, Item::Output { .. } | Item::Missing { .. })
}

impl<'a> FleetWatch<'a> {
    /// Says what of a node is here.
    pub(super) async fn tell_brought(
        &self,
        node: &NodeId,
        brought: Option<Brought>,
        scene: &mut Scene<'a>,
    ) -> Stopped {
        let (Some(brought), Some(row)) = (brought, scene.rows.get(node)) else {
            return Ok(());
        };
        // Something came to light while it was fetched. It was verified, and stays, but is no part of what this job brought.
        if !row.end.as_ref().is_some_and(|end| end.confirmed) {
            let (name, to) = (row.node.name(), brought.to.display());
            let text = format!("{name}: what came before that was verified, and is left at {to}");
            self.session.out.note(text);
            return Ok(());
        }
        if self.session.out.is_json() {
            let mut event = told::event(&brought);
            row.name_in(&mut event);
            scene.screen.event(&event).await?;
        } else {
            told::note(self.session.out, Some(row.node.name()), &brought);
        }
        Ok(())
    }
}

/// All that the hub has stored of one node, over as many connections as it takes.
///
/// # Errors
/// [`Error`], when the hub is lost for too long or sends what makes no sense.
pub(crate) async fn read(
    hub: &Hub,
    (job, node): (&JobId, &NodeId),
    mut take: impl FnMut(Item) + Send,
) -> Result<Follower, Error> {
    let mut follower = Follower::new();
    let (mut since, mut before) = (Instant::now(), 0);
    loop {
        follower.reconnected();
        let ended = drain(hub, (job, node), &mut follower, &mut take).await;
        let why = match ended {
            Ok(()) if follower.receipt().is_some() => return Ok(follower),
            Ok(()) => Error::Malformed(
                "the hub ends the stream of a node that has ended without its receipt".into(),
            ),
            Err(e @ Error::Link(_)) => e,
            // A hub that was killed may have forgotten a job that it had only just handed on.
            Err(Error::Refused(r)) if r.code == Code::NotFound => Error::Refused(r),
            Err(e) => return Err(e),
        };
        if follower.log_position() > before {
            (since, before) = (Instant::now(), follower.log_position());
        }
        if since.elapsed() > LOST_FOR {
            return Err(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn drain(
    hub: &Hub,
    (job, node): (&JobId, &NodeId),
    follower: &mut Follower,
    take: &mut (impl FnMut(Item) + Send),
) -> Result<(), Error> {
    let mut stream = hub.follow(job, node, follower.log_position()).await?;
    while let Some(item) = follower.next(&mut stream).await? {
        take(item);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use lictor_client::Stream;
    use lictor_proto::api::StreamEvent;
    use lictor_proto::{Digest, Timestamp};

    use super::*;

    #[test]
    fn of_what_a_hub_sends_unasked_nothing_is_shown_but_what_happens() {
        let output = |stream| Item::Output {
            stream,
            time: Timestamp::from_millis(0),
            at: 0,
            bytes: Bytes::from_static(b"\x1b[2J made up"),
        };
        let (stdout, stderr) = (1, 0);
        for unasked in [
            output(Stream::Stdout),
            output(Stream::Stderr),
            Item::Missing { stdout, stderr },
        ] {
            assert!(is_unasked(&unasked), "{unasked:?}");
        }
        let job_id = JobId::from_digest(&Digest::of(b"job"));
        for happens in [Item::Event(StreamEvent::Submitted { job_id }), Item::Egress(None)] {
            assert!(!is_unasked(&happens), "{happens:?}");
        }
    }
}
