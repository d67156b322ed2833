//! Follows one job on several nodes to its end: their output side by side, each receipt held against its own.
//!
//! ```text
//! stream --> Fleet --> Row of web-1 --> its receipt --> Outcome --\
//!                  '-> Row of db-1  --> its receipt --> Outcome --+--> table, sum, exit status
//! ```
//!
//! Nodes are judged as soon as each has ended, and beside what goes on: none waits for another. What is left in the
//! end with nodes that are away is not waited for unless that was asked: it stays queued until the job expires.

mod ending;
mod harvest;
mod lines;
mod lost;
mod rows;
pub(crate) mod told;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lictor_client::follow::Item;
use lictor_client::{
    Error, Expected, Fleet, Follower, FrameStream, Happened, Hub, Outcome, ReceiptTracker, Stream,
};
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, JobId, Name, NodeId};
use lictor_trust::directory::Node;
use lictor_trust::{OrgTrust, SecretKey};
use serde_json::json;

pub(crate) use self::harvest::{Brought, Harvest, Harvested, read};
use self::lines::Lines;
use self::rows::Row;
use crate::commands::attempts;
use crate::commands::result::ResultLine;
use crate::commands::said::Said;
use crate::commands::screen::{Screen, Unwritten, piece};
use crate::commands::watch::{LEFT, READER_GONE};
use crate::escape::escape;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// Results that are judged at once: one of which not all was seen is read again.
const JUDGED: usize = 8;
/// How long a hub may take to end a stream that has come to its end.
const LINGER: Duration = Duration::from_secs(5);

/// One job on several nodes, being watched.
pub(crate) struct FleetWatch<'a> {
    pub(crate) session: &'a Session,
    pub(crate) hub: &'a Hub,
    pub(crate) trust: &'a OrgTrust,
    pub(crate) nodes: &'a [Node],
    pub(crate) job: Digest,
    /// Whose key cancels on Ctrl-C; nobody's for somebody who only looks.
    pub(crate) canceler: Option<(&'a Name, &'a SecretKey)>,
    pub(crate) until: FleetUntil,
    /// Where the nodes' standard output goes in place of the screen.
    pub(crate) into: Option<&'a dyn Harvest>,
}

/// How far several nodes are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FleetUntil {
    /// To the end of all.
    All,
    /// To the end of all but those that are away.
    Present,
    /// What is there now.
    Now,
}

/// Why watching stopped.
enum End {
    Over,
    Left,
    Unwritten(Unwritten),
}

type Stopped<T = ()> = std::result::Result<T, Halt>;

/// What ends it before its time.
enum Halt {
    Error(Error),
    Unwritten(Unwritten),
}

impl From<Unwritten> for Halt {
    fn from(e: Unwritten) -> Self {
        Self::Unwritten(e)
    }
}

/// What changes while it is watched.
struct Scene<'a> {
    rows: BTreeMap<NodeId, Row>,
    screen: Screen,
    fleet: Fleet,
    /// Those that have ended and wait to be judged.
    ended: VecDeque<(NodeId, Follower)>,
    judging: FuturesUnordered<BoxFuture<'a, (NodeId, Harvested)>>,
    told_of_approvals: bool,
    told_of_releases: bool,
    /// The last word about the rollout.
    rollout: String,
    lost_at: Option<Instant>,
    /// Nothing more comes, or is listened to.
    is_read: bool,
    /// Until when it is listened to after the last of them has ended.
    lingers_until: Option<tokio::time::Instant>,
}

impl<'a> FleetWatch<'a> {
    /// Watches to the end.
    pub(crate) async fn run(&self, stream: FrameStream) -> Result {
        let tracker = ReceiptTracker::below(&self.session.home.trust_dir());
        let mut scene = self.scene();
        let end = self.follow(stream, &tracker, &mut scene).await;
        let end = match end {
            Ok(end) => end,
            Err(Halt::Unwritten(e)) => End::Unwritten(e),
            // Nothing more is heard: what was not judged stays unproven.
            Err(Halt::Error(e)) => {
                let refusal = match e {
                    Error::Untrusted(refusal) => refusal,
                    e => Refusal::new(e.code(), e.to_string()),
                };
                self.give_up(&mut scene, &refusal);
                End::Over
            }
        };
        match end {
            End::Over => self.conclude(&mut scene).await,
            End::Left => {
                let left = format!("left; the job goes on: lictor logs -f {}", self.id());
                self.session.out.note(left);
                Ok(LEFT)
            }
            End::Unwritten(Unwritten::ReaderGone) => Ok(READER_GONE),
            End::Unwritten(Unwritten::Failed(e)) => {
                Err(Failure::new("could not write the output").because(&e))
            }
        }
    }

    fn scene(&self) -> Scene<'a> {
        let width = self.nodes.iter().map(|n| n.name().as_str().len()).max();
        let colour = self.session.out.colours_output();
        let row = |(number, node): (usize, &Node)| Row {
            lines: Lines::of(node.name().as_str(), number, width.unwrap_or_default(), colour),
            node: node.clone(),
            said: Said::default(),
            seen: (0, 0),
            end: None,
        };
        Scene {
            rows: self
                .nodes
                .iter()
                .enumerate()
                .map(|one| (one.1.id().clone(), row(one)))
                .collect(),
            screen: Screen::new(self.session.out.is_json()),
            fleet: Fleet::of(self.nodes.iter().map(|n| n.id().clone())),
            ended: VecDeque::new(),
            judging: FuturesUnordered::new(),
            told_of_approvals: false,
            told_of_releases: false,
            rollout: String::new(),
            lost_at: None,
            is_read: false,
            lingers_until: None,
        }
    }

    fn id(&self) -> JobId {
        JobId::from_digest(&self.job)
    }

    async fn follow(
        &self,
        mut stream: FrameStream,
        tracker: &ReceiptTracker,
        scene: &mut Scene<'a>,
    ) -> Stopped<End> {
        let mut interrupts = 0_u32;
        loop {
            self.judge(tracker, scene);
            if self.is_over(scene) {
                return Ok(End::Over);
            }
            let lingers_until = self.lingers_until(scene);
            let next = tokio::select! {
                next = scene.fleet.next(&mut stream), if !scene.is_read => next,
                Some((node, judged)) = scene.judging.next() => {
                    self.judged(node, judged, scene).await?;
                    continue;
                }
                () = tokio::time::sleep_until(lingers_until), if !scene.is_read => {
                    scene.is_read = true;
                    continue;
                }
                _ = tokio::signal::ctrl_c() => {
                    interrupts += 1;
                    if interrupts > 1 || self.canceler.is_none() {
                        return Ok(End::Left);
                    }
                    self.cancel().await;
                    continue;
                }
            };
            match next {
                Ok(Some(happened)) => self.take(happened, scene).await?,
                Ok(None) if self.until == FleetUntil::Now => self.give_up_silently(scene),
                // All have ended, and the hub has added nothing.
                Ok(None) | Err(Error::Link(_)) if scene.lingers_until.is_some() => scene.is_read = true,
                Ok(None) => stream = self.again(scene, None).await?,
                Err(e @ Error::Link(_)) if self.until != FleetUntil::Now => {
                    stream = self.again(scene, Some(e)).await?;
                }
                Err(e) => return Err(Halt::Error(e)),
            }
        }
    }

    /// Whether nothing is left that is worth waiting for.
    fn is_over(&self, scene: &Scene<'_>) -> bool {
        let is_left = |row: &Row| row.end.is_none();
        let leaves = |row: &Row| self.until == FleetUntil::Present && row.is_away() || row.is_stopped();
        let waits = |row: &Row| is_left(row) && !leaves(row);
        let judging = !scene.judging.is_empty() || !scene.ended.is_empty();
        let is_left_alone = scene.rows.values().any(is_left) && !scene.rows.values().any(waits);
        !judging && (scene.is_read || is_left_alone)
    }

    /// When listening ends, which is far away while one of them goes on. The stream is read to its end all the same: a
    /// hub that adds something to what has ended shows that it is not to be believed.
    fn lingers_until(&self, scene: &mut Scene<'_>) -> tokio::time::Instant {
        let now = tokio::time::Instant::now();
        if !scene.fleet.is_empty() {
            return now + Duration::from_secs(3600);
        }
        *scene.lingers_until.get_or_insert(now + LINGER)
    }

    async fn take(&self, happened: Happened, scene: &mut Scene<'a>) -> Stopped {
        match happened {
            Happened::Item(_, item) if self.into.is_some() && harvest::is_unasked(&item) => Ok(()),
            Happened::Item(node, item) => self.item(&node, item, scene).await,
            Happened::Broken(node, refusal) => {
                scene.ended.retain(|(ended, _)| *ended != node);
                self.unconfirmed(&node, &refusal.into(), scene).await
            }
            Happened::Stranger(node) => {
                let text = format!("warning: the hub sends output of {node}, which this job is not for");
                self.session.out.note(text);
                Ok(())
            }
        }
    }

    async fn item(&self, node: &NodeId, item: Item, scene: &mut Scene<'a>) -> Stopped {
        let Some(row) = scene.rows.get_mut(node) else {
            return Ok(());
        };
        if row.said.is_news(&item) {
            scene.lost_at = None;
        }
        match item {
            Item::Output {
                stream,
                time,
                at,
                bytes,
            } => {
                if scene.screen.is_json() {
                    let mut value = piece(stream, time, at, &bytes);
                    row.name_in(&mut value);
                    scene.screen.event(&value).await?;
                } else {
                    scene.screen.write(stream, row.lines.push(stream, &bytes)).await?;
                }
            }
            Item::Missing { stdout, stderr } => {
                let mut value = json!({ "event": "gap", "stdout_bytes": stdout, "stderr_bytes": stderr });
                row.name_in(&mut value);
                scene.screen.event(&value).await?;
                if !scene.screen.is_json() && stdout + stderr > 0 {
                    let text = format!("({} bytes are not shown: they were not kept)", stdout + stderr);
                    scene
                        .screen
                        .write(Stream::Stderr, row.lines.remark(&text))
                        .await?;
                }
            }
            Item::Egress(Some(record)) => {
                let mut value = attempts::line(&record);
                row.name_in(&mut value);
                scene.screen.event(&value).await?;
                if !scene.screen.is_json()
                    && self.until != FleetUntil::Now
                    && let Some(warning) = row.said.attempts.warning(&record)
                {
                    self.session.out.note(format!("{}: {warning}", row.node.name()));
                }
            }
            Item::Egress(None) => {}
            Item::Event(event) => self.event(node, event, scene).await?,
        }
        Ok(())
    }

    async fn event(&self, node: &NodeId, event: StreamEvent, scene: &mut Scene<'a>) -> Stopped {
        let Some(row) = scene.rows.get_mut(node) else {
            return Ok(());
        };
        row.said.hear(&event);
        let mut value = match &event {
            StreamEvent::Submitted { job_id } => {
                let value = json!({ "event": "submitted", "job_id": job_id, "nodes": self.nodes.len() });
                scene.screen.event(&value).await?;
                return Ok(());
            }
            StreamEvent::State {
                state,
                code,
                message,
                at,
                ..
            } => json!({ "event": "state", "state": state, "code": code, "message": message, "at": at }),
            StreamEvent::Ask { ask } => match self.trust.verify_ask(&row.node.keys, ask) {
                Ok(ask) => json!({ "event": "ask", "gates": ask.gates, "facts": ask.facts }),
                Err(refusal) => json!({ "event": "ask", "refused": refusal }),
            },
            StreamEvent::Receipt { .. } => {
                if let Some(follower) = scene.fleet.close(node) {
                    scene.ended.push_back((node.clone(), follower));
                }
                return Ok(());
            }
            StreamEvent::From { .. } => return Ok(()),
        };
        row.name_in(&mut value);
        scene.screen.event(&value).await?;
        if row.said.is_final() {
            // The hub's word that no receipt will come.
            let why = row.said.without_receipt();
            scene.fleet.close(node);
            return self.unconfirmed(node, &why.into(), scene).await;
        }
        let (state, reason) = (row.said.state, row.said.reason.clone());
        self.tell_of_waiting(state, reason, scene);
        Ok(())
    }

    /// What people have to do, or wait for: said once, not for each node.
    fn tell_of_waiting(&self, state: Option<ExecutionState>, reason: Option<Refusal>, scene: &mut Scene<'a>) {
        let (out, id) = (self.session.out, self.id());
        match state {
            Some(ExecutionState::AwaitingApproval) if !scene.told_of_approvals => {
                scene.told_of_approvals = true;
                out.note(format!("nodes wait for approval: lictor approve {id}"));
            }
            Some(ExecutionState::AwaitingRelease) if !scene.told_of_releases => {
                scene.told_of_releases = true;
                out.note(format!("nodes wait for a release: lictor release {id} --batch N"));
            }
            Some(ExecutionState::Held) => {
                let Some(reason) = reason.filter(|r| r.message != scene.rollout) else {
                    return;
                };
                let text = escape(&reason.message);
                match reason.code {
                    Code::RolloutStopped => {
                        out.note(format!("the hub says that the rollout stopped: {text}"))
                    }
                    _ => out.progress(text),
                }
                scene.rollout = reason.message;
            }
            _ => {}
        }
    }

    /// Lets some of those that have ended be judged, beside what goes on.
    fn judge(&self, tracker: &ReceiptTracker, scene: &mut Scene<'a>) {
        while scene.judging.len() < JUDGED {
            let Some((id, follower)) = scene.ended.pop_front() else {
                return;
            };
            let Some(node) = self.nodes.iter().find(|n| *n.id() == id) else {
                continue;
            };
            let expected = Expected {
                trust: self.trust,
                node,
                job: self.job,
            };
            let (hub, tracker, into) = (self.hub, tracker.clone(), self.into);
            scene.judging.push(Box::pin(async move {
                let judged = match into {
                    Some(into) => into.fetch(expected, hub, &tracker).await,
                    None => {
                        let outcome = expected.conclude(hub, &follower, &tracker).await;
                        Harvested::of(outcome, follower.seen())
                    }
                };
                (id, judged)
            }));
        }
    }

    async fn judged(&self, node: NodeId, judged: Harvested, scene: &mut Scene<'a>) -> Stopped {
        for item in judged.said {
            self.item(&node, item, scene).await?;
        }
        match judged.outcome {
            Outcome::Confirmed(confirmed) => {
                let line = ResultLine::confirmed(self.id(), &confirmed);
                let line = match &judged.lacks {
                    Some(failure) => line.not_brought(failure),
                    None => line,
                };
                self.ends(&node, line, scene).await?;
            }
            Outcome::Unconfirmed(why) => {
                if let Some(row) = scene.rows.get_mut(&node) {
                    row.seen = judged.seen;
                }
                self.unconfirmed(&node, &why, scene).await?;
            }
        }
        self.tell_brought(&node, judged.brought, scene).await
    }

    async fn unconfirmed(
        &self,
        node: &NodeId,
        why: &lictor_client::Unconfirmed,
        scene: &mut Scene<'a>,
    ) -> Stopped {
        let seen = scene.rows.get(node).map_or((0, 0), |r| r.seen);
        let line = ResultLine::unconfirmed(self.id(), why, seen);
        self.ends(node, line, scene).await
    }

    /// A node's last word. A later one only ever takes confidence away.
    async fn ends(&self, node: &NodeId, line: ResultLine, scene: &mut Scene<'a>) -> Stopped {
        let Some(row) = scene.rows.get_mut(node) else {
            return Ok(());
        };
        if row.end.as_ref().is_some_and(|before| !before.confirmed) {
            return Ok(());
        }
        for (stream, rest) in row.rest() {
            scene.screen.write(stream, rest).await?;
        }
        row.end = Some(line);
        let result = row.result(&self.id());
        scene.screen.event(&result).await?;
        Ok(())
    }
}
