//! Follows one execution to its end, shows its output, and says what of it may be believed.
//!
//! ```text
//! frames --> Follower --> Screen            lost connection: from the last log position again
//!                |                          Ctrl-C once: a signed cancel; twice: leave, the job goes on
//!                '--> receipt --> Outcome --> exit status
//! ```
//!
//! What is stored so far is read and judged in the same way, only that a job which goes on has no receipt yet.

mod inlet;

use std::time::{Duration, Instant};

use lictor_client::follow::Item;
use lictor_client::receipts::Noted;
use lictor_client::{
    Compared, Confirmed, Error, Expected, Follower, FrameStream, Hub, Outcome, ReceiptTracker, Signer, Stream,
};
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc;
use lictor_proto::egress::Record;
use lictor_proto::{JobId, Name};
use lictor_trust::SecretKey;
use serde_json::json;

use crate::commands::attempts;
use crate::commands::limits;
use crate::commands::result::{ResultLine, word};
use crate::commands::said::Said;
use crate::commands::screen::{Screen, Unwritten};
use crate::escape::escape;
use crate::exit::{self, Status};
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};
pub(crate) use inlet::{FileInlet, Inlet, fits};

/// How long a lost hub is waited for.
pub(crate) const LOST_FOR: Duration = Duration::from_secs(120);
/// 128 + SIGPIPE: what a shell sees of a program whose reader has gone.
pub(crate) const READER_GONE: Status = Status(141);
/// 128 + SIGINT.
pub(crate) const LEFT: Status = Status(130);

/// One execution being watched.
pub(crate) struct Watch<'a> {
    pub(crate) session: &'a Session,
    pub(crate) hub: &'a Hub,
    pub(crate) expected: Expected<'a>,
    /// Whose key cancels on Ctrl-C; nobody's for somebody who only looks.
    pub(crate) canceler: Option<(&'a Name, &'a SecretKey)>,
    pub(crate) until: Until,
    pub(crate) shows: Shows,
    /// Where standard output goes in place of the screen.
    pub(crate) into: Option<&'a dyn Inlet>,
}

/// What of an execution is shown. All of it is read and judged in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Its output; its exit status becomes ours.
    Output,
    /// What it tries to reach.
    WayOut,
}

/// How far an execution is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// To its end.
    End,
    /// What is there now. Without a receipt it is provisional, unless the hub has shown one before.
    Now { receipt_seen: bool },
}

impl Until {
    fn is_now(self) -> bool {
        self != Self::End
    }
}

/// Why watching stopped.
enum End {
    /// The stream is over.
    Over,
    /// The person left.
    Left,
    /// Nobody reads our output any more.
    ReaderGone,
    /// Our output cannot be written: a full disk, say.
    Unwritable(std::io::Error),
}

impl Watch<'_> {
    /// Watches to the end.
    pub(crate) async fn run(&self, stream: FrameStream) -> Result {
        let mut follower = Follower::new();
        let mut screen = Screen::new(self.session.out.is_json());
        let mut said = Said::default();
        let end = self.follow(stream, &mut follower, &mut screen, &mut said).await;
        let outcome = match end {
            Ok(End::Over) if follower.receipt().is_some() => {
                let tracker = ReceiptTracker::below(&self.session.home.trust_dir());
                if self.shows == Shows::WayOut {
                    self.last_words(&mut screen, &said).await?;
                }
                self.expected.conclude(self.hub, &follower, &tracker).await
            }
            Ok(End::Over) if self.until == (Until::Now { receipt_seen: false }) && !said.is_final() => {
                return self.provisional(&mut screen, follower.seen()).await;
            }
            Ok(End::Over) => Outcome::Unconfirmed(said.without_receipt().into()),
            Ok(End::Left) => {
                self.session
                    .out
                    .note(format!("left; the job goes on: lictor logs -f {}", self.id()));
                return Ok(LEFT);
            }
            Ok(End::ReaderGone) => return Ok(READER_GONE),
            Ok(End::Unwritable(e)) => return Err(Failure::new("could not write the output").because(&e)),
            Err(Error::Untrusted(refusal)) => Outcome::Unconfirmed(refusal.into()),
            Err(e) => return Err(failed(&format!("follow job {}", self.id()), &e)),
        };
        self.say(outcome, &mut screen, follower.seen()).await
    }

    fn id(&self) -> JobId {
        JobId::from_digest(&self.expected.job)
    }

    async fn follow(
        &self,
        mut stream: FrameStream,
        follower: &mut Follower,
        screen: &mut Screen,
        said: &mut Said,
    ) -> std::result::Result<End, Error> {
        let mut lost_at: Option<Instant> = None;
        let mut interrupts = 0_u32;
        loop {
            let next = tokio::select! {
                next = follower.next(&mut stream) => next,
                _ = tokio::signal::ctrl_c() => {
                    interrupts += 1;
                    if interrupts > 1 || self.canceler.is_none() {
                        return Ok(End::Left);
                    }
                    self.cancel().await;
                    continue;
                }
            };
            let shown = match next {
                Ok(Some(item)) => {
                    // A hub that says the same again and hangs up, again and again, is as good as none.
                    if said.is_news(&item) {
                        lost_at = None;
                    }
                    self.show(item, screen, said).await
                }
                Ok(None) if follower.receipt().is_some() || said.is_final() || self.until.is_now() => {
                    return match screen.finish().await {
                        Ok(()) => Ok(End::Over),
                        Err(Unwritten::ReaderGone) => Ok(End::ReaderGone),
                        Err(Unwritten::Failed(e)) => Ok(End::Unwritable(e)),
                    };
                }
                // The hub went away or is being restarted: what it had not sent is still there.
                Ok(None) | Err(Error::Link(_)) if !self.until.is_now() => {
                    let since = *lost_at.get_or_insert_with(Instant::now);
                    stream = self.again(follower, since, next.err()).await?;
                    continue;
                }
                Ok(None) => return Ok(End::Over),
                Err(e) => return Err(e),
            };
            match shown {
                Ok(()) => {}
                Err(Unwritten::ReaderGone) => return Ok(End::ReaderGone),
                Err(Unwritten::Failed(e)) => return Ok(End::Unwritable(e)),
            }
        }
    }

    /// A new connection, as soon as there is one.
    async fn again(
        &self,
        follower: &mut Follower,
        since: Instant,
        why: Option<Error>,
    ) -> std::result::Result<FrameStream, Error> {
        if since.elapsed() > LOST_FOR {
            let empty =
                || Error::Malformed("the hub ends the job's stream again and again without news".into());
            return Err(why.unwrap_or_else(empty));
        }
        let mut pause = Duration::from_millis(100);
        loop {
            self.session
                .out
                .progress("the connection to the hub was lost; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
            match self.reach(follower).await {
                Ok(stream) => {
                    follower.reconnected();
                    return Ok(stream);
                }
                Err(Error::Link(e)) if since.elapsed() > LOST_FOR => {
                    return Err(why.unwrap_or(Error::Link(e)));
                }
                Err(Error::Link(_)) => {}
                // A hub that was killed may have forgotten a job that it had only just handed on; the node's result
                // brings it back.
                Err(Error::Refused(r)) if r.code == Code::NotFound && since.elapsed() < LOST_FOR => {}
                Err(e) => return Err(e),
            }
        }
    }

    async fn reach(&self, follower: &Follower) -> std::result::Result<FrameStream, Error> {
        let node = self.expected.node.id();
        self.hub.follow(&self.id(), node, follower.log_position()).await
    }

    async fn show(
        &self,
        item: Item,
        screen: &mut Screen,
        said: &mut Said,
    ) -> std::result::Result<(), Unwritten> {
        if let Some(inlet) = self.into {
            match item {
                Item::Output {
                    stream: Stream::Stdout,
                    at,
                    bytes,
                    ..
                } => return inlet.take(at, bytes).map_err(Unwritten::Failed),
                // It is told at the end whether anything is.
                Item::Missing { .. } => return Ok(()),
                _ => {}
            }
        }
        match item {
            Item::Output { .. } if self.shows == Shows::WayOut => Ok(()),
            Item::Missing { stdout, stderr } if self.shows == Shows::WayOut => {
                screen.line(said.attempts.miss()).await?;
                screen.gap(stdout, stderr).await
            }
            Item::Egress(Some(record)) => self.attempt(&record, screen, said).await,
            Item::Egress(None) if self.shows == Shows::WayOut => screen.line(said.attempts.miss()).await,
            Item::Egress(None) => Ok(()),
            Item::Output {
                stream,
                time,
                at,
                bytes,
            } => screen.output(stream, time, at, bytes).await,
            Item::Missing { stdout, stderr } => screen.missing(stdout, stderr).await,
            Item::Event(event) => {
                if let StreamEvent::State { state, message, .. } = &event {
                    said.hear(&event);
                    self.progress(*state, message);
                }
                self.event(&event, screen).await
            }
        }
    }

    async fn attempt(
        &self,
        record: &Record,
        screen: &mut Screen,
        said: &mut Said,
    ) -> std::result::Result<(), Unwritten> {
        if screen.is_json() {
            return screen.event(&attempts::line(record)).await;
        }
        if self.shows == Shows::WayOut {
            return screen.line(&said.attempts.hear(record)).await;
        }
        if !self.until.is_now()
            && let Some(warning) = said.attempts.warning(record)
        {
            let out = self.session.out;
            out.note(format!(
                "{warning}; all attempts: lictor egress watch {}",
                self.id()
            ));
        }
        Ok(())
    }

    /// How many attempts there were.
    async fn last_words(&self, screen: &mut Screen, said: &Said) -> Result<()> {
        match screen.line(&said.attempts.summary()).await {
            Ok(()) | Err(Unwritten::ReaderGone) => Ok(()),
            Err(Unwritten::Failed(e)) => Err(Failure::new("could not write the attempts").because(&e)),
        }
    }

    fn progress(&self, state: ExecutionState, message: &str) {
        let out = self.session.out;
        match state {
            ExecutionState::AwaitingApproval => {
                out.note(format!("waits for approval: lictor approve {}", self.id()));
            }
            ExecutionState::AwaitingRelease => {
                let name = self.expected.node.name();
                out.note(format!(
                    "waits for a release: lictor release {} --node {name}",
                    self.id()
                ));
            }
            ExecutionState::Lost => out.note("the node has not been heard of for a while; still waiting"),
            ExecutionState::Queued if !message.is_empty() => out.progress(escape(message)),
            _ => {}
        }
    }

    async fn event(&self, event: &StreamEvent, screen: &mut Screen) -> std::result::Result<(), Unwritten> {
        let line = match event {
            StreamEvent::Submitted { job_id } => json!({ "event": "submitted", "job_id": job_id }),
            StreamEvent::State {
                state,
                code,
                message,
                at,
                node_id,
            } => json!({
                "event": "state", "state": state, "code": code, "message": message, "at": at, "node_id": node_id,
            }),
            StreamEvent::Ask { ask } => match self.expected.trust.verify_ask(&self.expected.node.keys, ask) {
                Ok(ask) => json!({ "event": "ask", "gates": ask.gates, "facts": ask.facts }),
                Err(refusal) => json!({ "event": "ask", "refused": refusal }),
            },
            // The receipt becomes the last line once it has been verified.
            StreamEvent::Receipt { .. } | StreamEvent::From { .. } => return Ok(()),
        };
        screen.event(&line).await
    }

    async fn cancel(&self) {
        let Some((operator, key)) = self.canceler else {
            return;
        };
        let out = self.session.out;
        let signer = Signer::new(self.expected.trust, operator, key);
        let sent = match signer.cancel(
            self.expected.job,
            "interrupted by the person who ran it",
            Vec::new(),
        ) {
            Ok(cancel) => self.hub.cancel(&self.id(), &cancel.wire).await.map(drop),
            Err(refusal) => Err(Error::Untrusted(refusal)),
        };
        match sent {
            Ok(()) => out.note("canceling; Ctrl-C again leaves the job alone"),
            Err(e) => out.failure(&failed("cancel", &e)),
        }
    }

    async fn say(&self, outcome: Outcome, screen: &mut Screen, seen: (u64, u64)) -> Result {
        match outcome {
            Outcome::Confirmed(confirmed) => {
                let line = ResultLine::confirmed(self.id(), &confirmed);
                self.last_line(screen, &line).await?;
                self.remarks(&confirmed);
                if let Some(inlet) = self.into {
                    inlet.judged(confirmed.output == Compared::Whole);
                }
                Ok(match (self.until, self.shows) {
                    (Until::End, Shows::Output) => Status::of(&confirmed.receipt),
                    (Until::Now { .. }, _) | (_, Shows::WayOut) => Status::OK,
                })
            }
            Outcome::Unconfirmed(why) => {
                let line = ResultLine::unconfirmed(self.id(), &why, seen);
                self.last_line(screen, &line).await?;
                let what = format!("the result of job {} is unconfirmed", self.id());
                let failure = Failure::refused(what, &why.refusal);
                Err(match why.doubt {
                    Some(_) if !self.until.is_now() => failure.hint(format!(
                        "`lictor logs {}` shows what the node kept, and verifies it.",
                        self.id()
                    )),
                    _ => failure,
                })
            }
        }
    }

    async fn last_line(&self, screen: &mut Screen, line: &ResultLine) -> Result<()> {
        let value =
            serde_json::to_value(line).map_err(|e| Failure::new("could not write JSON").because(&e))?;
        let written = async {
            screen.event(&value).await?;
            screen.finish().await
        };
        match written.await {
            Ok(()) | Err(Unwritten::ReaderGone) => Ok(()),
            Err(Unwritten::Failed(e)) => Err(Failure::new("could not write the result").because(&e)),
        }
    }

    /// A job that goes on: there is nothing yet to hold its output against.
    async fn provisional(&self, screen: &mut Screen, seen: (u64, u64)) -> Result {
        let why = Refusal::new(
            Code::Unconfirmed,
            "this output is provisional: the job has no receipt yet",
        );
        let note = why.message.clone();
        let line = ResultLine::unconfirmed(self.id(), &why.into(), seen);
        self.last_line(screen, &line).await?;
        self.session.out.note(note);
        Ok(Status::OK)
    }

    /// What a person should know besides the exit status.
    fn remarks(&self, confirmed: &Confirmed) {
        let out = self.session.out;
        let r = confirmed.receipt.doc();
        if out.is_json() {
            return;
        }
        let n = missing_receipts(confirmed.noted);
        if n > 0 {
            out.progress(missing_note(n));
        }
        if confirmed.output == Compared::Kept {
            out.note(format!(
                "{} bytes of output were not kept; what is shown is what the node signed",
                confirmed.unseen
            ));
        }
        if let Some(totals) = r.egress.filter(|t| t.allowed + t.denied > 0) {
            out.note(format!(
                "egress, as the node signed it: {}",
                attempts::totals(&totals)
            ));
        }
        for met in limits::worth_a_note(r) {
            out.note(format!("limit met: {met}"));
        }
        if r.break_glass {
            out.note("break-glass: this ran without the approvals that policy asks for");
        }
        if self.until.is_now() || self.shows == Shows::WayOut {
            return;
        }
        if !matches!(r.outcome, doc::Outcome::Succeeded | doc::Outcome::Failed) || r.code.is_some() {
            out.failure(&unhappy(r));
        }
    }
}

/// That, for people.
pub(crate) fn missing_note(n: u64) -> String {
    format!(
        "receipts of this node before this one that were not seen here: {n} (other clients' jobs, or withheld)"
    )
}

/// How many receipts of a node before the one just seen are not known here.
pub(crate) fn missing_receipts(noted: Noted) -> u64 {
    match noted {
        Noted::Missing(n) => n,
        Noted::InOrder | Noted::Known => 0,
    }
}

/// A confirmed end that is no plain exit status, in words.
fn unhappy(r: &doc::Receipt) -> Failure {
    let mut failure = Failure::new(word(r.outcome).replace('_', " "));
    if let Some(code) = r.code {
        let reason = if r.message.is_empty() {
            code.sentence()
        } else {
            r.message.as_str()
        };
        failure = failure.why(reason).code(code);
    }
    if r.outcome == doc::Outcome::Denied && !r.policy_ids.is_empty() {
        failure = failure.why(format!("decided by: {}", r.policy_ids.join(", ")));
    }
    failure.exit(exit::DENIED)
}
