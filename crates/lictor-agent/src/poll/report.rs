//! One execution towards the hub: started, its log piece by piece, its result until that is acknowledged.
//!
//! ```text
//!   Started --> log (read spool, post, acknowledge)* --log's end--> kept parts --> result --> acknowledge --> done
//! ```
//! The hub answers each piece with where the next one starts, so that a piece whose answer was lost is neither sent
//! twice nor missed, and with how far it has stored the log, which is what is acknowledged. Beyond what it stores as
//! it comes, the parts that are kept here are sent once more at the end, to be stored.

use std::time::Duration;

use bytes::Bytes;
use lictor_link::http::full;
use lictor_link::hyper::{self, StatusCode};
use lictor_proto::agent::{Ack, Finished, LogRange, OutputPart, ReadOutput, Reply, Request};
use lictor_proto::api::{FRAMES, LogStored, ResultStored, StartedReport};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, JobId};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{PollError, SMALL_ANSWER, Session, internal};
use crate::reconnect::{Backoff, chance};

/// Most bytes of log in one request.
const PIECE: u32 = 256 * 1024;
/// A running execution's lease is renewed this often.
const RENEW_EVERY: Duration = Duration::from_secs(10);

/// What the warden says about an execution.
pub(super) enum News {
    Started(StartedReport),
    Output,
    Finished(Box<Finished>),
}

/// An execution that is being reported.
pub(super) struct Report {
    session: Session,
    job: Digest,
    /// `/api/v1/agent/jobs/{id}`
    path: String,
    news: mpsc::Receiver<News>,
    /// The hub has stored everything before this log position.
    stored: u64,
    /// Where the log goes on.
    next: u64,
    log_ended: bool,
    renew: Interval,
    started: Option<StartedReport>,
    finished: Option<Box<Finished>>,
}

enum Step {
    News(Option<News>),
    Piece(Result<(OutputPart, Bytes), Refusal>),
    Renew,
}

impl Report {
    pub(super) fn new(session: Session, job: Digest, stored: u64, news: mpsc::Receiver<News>) -> Self {
        let mut renew = interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        renew.reset(); // the first tick would come at once
        Self {
            session,
            job,
            path: format!("/api/v1/agent/jobs/{}", JobId::from_digest(&job)),
            news,
            stored,
            next: stored,
            log_ended: false,
            renew,
            started: None,
            finished: None,
        }
    }

    /// Reports until the result is acknowledged. What the hub refuses is tried again after a while, so that one
    /// execution that it doesn't take never holds up the others; a lost connection ends the session.
    pub(super) async fn run(mut self) -> Result<Digest, PollError> {
        let mut backoff = Backoff::default();
        loop {
            match self.report().await {
                Ok(()) => return Ok(self.job),
                Err(PollError::Refused(refusal)) => {
                    tracing::warn!(job = %self.job, error = %refusal, "the hub did not take a report");
                    tokio::time::sleep(backoff.next(Duration::ZERO, chance())).await;
                }
                Err(lost) => return Err(lost),
            }
        }
    }

    async fn report(&mut self) -> Result<(), PollError> {
        while self.finished.is_none() {
            if let Some(report) = &self.started {
                self.say_started(report).await?;
                self.started = None;
            }
            let read = self.read(true);
            let port = self.session.port.clone();
            let step = tokio::select! {
                news = self.news.recv() => Step::News(news),
                piece = port.read_output(read), if !self.log_ended => Step::Piece(piece),
                _ = self.renew.tick() => Step::Renew,
            };
            match step {
                Step::News(Some(News::Started(report))) => self.started = Some(report),
                Step::News(Some(News::Output)) => {}
                Step::News(Some(News::Finished(finished))) => self.finished = Some(finished),
                Step::News(None) => return Ok(()),
                Step::Piece(piece) => self.piece(piece).await?,
                Step::Renew => self.renew_lease().await?,
            }
        }
        let Some(mut finished) = self.finished.clone() else {
            return Ok(());
        };
        self.rest_of_log(finished.log_end).await?;
        let mut kept = Vec::with_capacity(finished.kept.len());
        for range in std::mem::take(&mut finished.kept) {
            if range.to <= self.stored || self.send_kept(&range).await? {
                kept.push(range);
            }
        }
        finished.kept = kept;
        self.result(&finished).await
    }

    /// Sends what the hub has not stored of a kept part; `false` when it is here no more.
    async fn send_kept(&self, range: &LogRange) -> Result<bool, PollError> {
        let mut at = range.from.max(self.stored);
        while at < range.to {
            let read = ReadOutput {
                from: at,
                ..self.read(false)
            };
            let (_, bytes) = match self.session.port.read_output(read).await {
                Ok(piece) => piece,
                Err(refusal) if refusal.code == Code::NotFound => return Ok(false),
                Err(refusal) => return Err(refusal.into()),
            };
            if bytes.is_empty() {
                return Ok(false);
            }
            let LogRange {
                stdout_at, stderr_at, ..
            } = range;
            let place = format!("at={at}&stdout_at={stdout_at}&stderr_at={stderr_at}");
            let next = self.post_log(&place, bytes).await?.next;
            if next <= at {
                return Err(Refusal::new(Code::Unavailable, "the hub stored nothing of a kept part").into());
            }
            at = next;
        }
        Ok(true)
    }

    fn read(&self, wait: bool) -> ReadOutput {
        ReadOutput {
            job: self.job,
            from: self.next,
            max: PIECE,
            wait,
        }
    }

    async fn say_started(&self, report: &StartedReport) -> Result<(), PollError> {
        let path = format!("{}/started", self.path);
        match self.session.post(&path, report).await {
            // A hub of before has no word for firings, and learns of this one at its end.
            Err(PollError::Refused(_)) if report.firing.is_some() => {
                let plain = StartedReport {
                    at: report.at,
                    firing: None,
                };
                self.session.post(&path, &plain).await.map(drop)
            }
            told => told.map(drop),
        }
    }

    async fn renew_lease(&self) -> Result<(), PollError> {
        let request = hyper::Request::post(format!("{}/heartbeat", self.path))
            .body(full(""))
            .map_err(internal)?;
        let answer = self.session.call(request, SMALL_ANSWER).await?;
        // A lease that lapsed is the hub's affair; the execution goes on and so does its report.
        if !answer.status.is_success() {
            tracing::debug!(job = %self.job, status = %answer.status, "the lease was not renewed");
        }
        Ok(())
    }

    /// Sends what is left of a log that has ended.
    async fn rest_of_log(&mut self, end: u64) -> Result<(), PollError> {
        while !self.log_ended && self.next < end {
            let read = self.read(false);
            let piece = self.session.port.read_output(read).await;
            self.piece(piece).await?;
        }
        Ok(())
    }

    async fn piece(&mut self, piece: Result<(OutputPart, Bytes), Refusal>) -> Result<(), PollError> {
        let (part, bytes) = match piece {
            Ok(piece) => piece,
            // Nothing was ever printed, or the hub has it all and the spool is gone.
            Err(refusal) if refusal.code == Code::NotFound => {
                self.log_ended = true;
                return Ok(());
            }
            Err(refusal) => return Err(refusal.into()),
        };
        if !bytes.is_empty() {
            self.send(part, bytes).await?;
        }
        self.log_ended = part.end && self.next >= part.to;
        Ok(())
    }

    async fn post_log(&self, place: &str, bytes: Bytes) -> Result<LogStored, PollError> {
        let turn = self.session.sending.acquire().await;
        let _turn = turn.map_err(internal)?;
        let request = hyper::Request::post(format!("{}/log?{place}", self.path))
            .header("content-type", FRAMES)
            .body(full(bytes))
            .map_err(internal)?;
        Ok(self.session.call(request, SMALL_ANSWER).await?.json()?)
    }

    async fn send(&mut self, part: OutputPart, bytes: Bytes) -> Result<(), PollError> {
        let LogStored { upto, next } = self.post_log(&format!("at={}", part.from), bytes).await?;
        if next <= self.next {
            let text = format!(
                "the hub took nothing beyond {} of a log sent to {}",
                self.next, part.to
            );
            return Err(Refusal::new(Code::Unavailable, text).into());
        }
        // What the hub claims beyond our log is not believed: there is nothing to acknowledge there.
        self.next = next.min(part.to);
        let upto = upto.min(part.to);
        if upto <= self.stored {
            return Ok(());
        }
        self.stored = upto;
        let ack = Ack::Output {
            job: self.job,
            upto: self.stored,
        };
        self.acknowledge(ack).await
    }

    async fn result(&self, finished: &Finished) -> Result<(), PollError> {
        let path = format!("{}/result", self.path);
        let bytes = lictor_proto::json::to_vec(finished).map_err(internal)?;
        let request = hyper::Request::post(path)
            .header("content-type", "application/json")
            .body(full(bytes))
            .map_err(internal)?;
        let answer = self.session.call(request, SMALL_ANSWER).await?;
        if answer.status == StatusCode::CONFLICT {
            // Kept here as it is: the hub holds another receipt for this execution, and somebody must look.
            tracing::error!(job = %self.job, "the hub holds a different result for this job");
            return Ok(());
        }
        let ResultStored { receipt } = answer.json()?;
        let ack = Ack::Result {
            job: self.job,
            receipt,
        };
        self.acknowledge(ack).await
    }

    async fn acknowledge(&self, ack: Ack) -> Result<(), PollError> {
        match self.session.port.ask(Request::Ack(ack)).await {
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Ok(()),
        }
    }
}
