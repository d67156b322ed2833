//! One job: what it may reach, its listener, its limits, its records.
//!
//! ```text
//! serve: accept ─▶ connection (a task of the job's own) ─▶ Attempt ─┬─ deny ─▶ record
//!    ▲      │                                                       └─ allow ─▶ record ─▶ Passage ─ end ─▶ record
//!    └──────┴─ until the job's token is cancelled, or all attempts are made
//! ```
//!
//! # Invariants
//! - Every attempt has exactly one decision, and every one that was allowed exactly one end.
//! - The end of a job waits for its connections, which do nothing more than write down that they ended.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lictor_proto::egress::{
    Decision, End, Ended, Event, IN_HAND, Limits, Protocol, Reason, Rules, Totals, Verdict,
};
use lictor_proto::{JobId, Timestamp};
use lictor_trust::egress::{DnsName, Host, Reach};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::connection;
use crate::denial::Denial;
use crate::listener::Listener;
use crate::meter::{Ledger, Meter};
use crate::resolve::{Lookups, Resolve, Turns};
use crate::room::Room;
use crate::stream::Stream;

/// What all jobs of a proxy use.
#[derive(Clone)]
pub struct Shared {
    /// Who knows the addresses of names.
    pub resolver: Arc<dyn Resolve>,
    /// Where records go.
    pub events: mpsc::Sender<Event>,
    /// Memory for what is on its way.
    pub room: Room,
    /// Name lookups that jobs have besides their own.
    pub lookups: Lookups,
}

/// One job.
pub struct Job {
    id: JobId,
    pub(crate) reach: Reach,
    pub(crate) limits: Limits,
    pub(crate) shared: Shared,
    pub(crate) lookups: Turns,
    pub(crate) ledger: Ledger,
    /// Records that may be handed over before the ones before them are taken.
    credit: Semaphore,
    ended: CancellationToken,
}

impl Job {
    /// A job with these rules. Cancelling `ended` ends it.
    ///
    /// # Errors
    /// When the rules cannot be read.
    pub fn new(id: JobId, rules: &Rules, shared: Shared, ended: CancellationToken) -> Result<Self, String> {
        Ok(Self {
            id,
            reach: Reach::read(rules)?,
            limits: rules.limits,
            lookups: Turns::new(shared.lookups.clone()),
            ledger: Ledger::new(rules.limits, shared.room.clone()),
            credit: Semaphore::new(IN_HAND as usize),
            shared,
            ended,
        })
    }

    /// So many of its records have been taken.
    pub fn taken(&self, records: u32) {
        // Never more than were handed over, whatever is said: nobody may make the credit grow.
        let room = (IN_HAND as usize).saturating_sub(self.credit.available_permits());
        self.credit.add_permits((records as usize).min(room));
    }

    /// Serves the listener until the job ends.
    pub async fn serve(self: Arc<Self>, listener: Listener) -> Totals {
        let mut connections = JoinSet::new();
        self.accept_all(listener, &mut connections).await;
        self.ended.cancelled().await;
        while connections.join_next().await.is_some() {}
        self.ledger.totals()
    }

    async fn accept_all(self: &Arc<Self>, listener: Listener, connections: &mut JoinSet<()>) {
        while !self.ledger.is_spent() {
            let accepted = tokio::select! {
                () = self.ended.cancelled() => return,
                Some(_) = connections.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            while connections.try_join_next().is_some() {}
            match accepted {
                Ok(stream) if connections.len() < self.limits.connections as usize => {
                    let job = Arc::clone(self);
                    connections.spawn(async move { connection::serve(&job, &stream).await });
                }
                Ok(_) => {
                    let denial = Denial::new(
                        Reason::ConnectionsLimit,
                        "the job has as many connections as it may",
                    );
                    self.attempt(Protocol::Unknown).deny(&denial).await;
                }
                Err(e) => {
                    // A connection that broke while it waited, or no descriptors left: the next may do better.
                    tracing::debug!(job = %self.id, error = %e, "accept failed");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        let denial = Denial::new(
            Reason::ConnectionsLimit,
            "the job has made as many attempts as it may",
        );
        self.attempt(Protocol::Unknown).deny(&denial).await;
    }

    /// A new attempt.
    pub(crate) fn attempt(&self, protocol: Protocol) -> Attempt<'_> {
        Attempt {
            job: self,
            number: self.ledger.attempt(),
            protocol,
            host: None,
            port: None,
            answers: Vec::new(),
            dialled: None,
            sni: None,
            rule: None,
        }
    }

    /// The time that one step of asking may take.
    pub(crate) fn handshake(&self) -> Duration {
        Duration::from_millis(self.limits.handshake_ms)
    }

    /// How long a connection may be silent.
    pub(crate) fn idle(&self) -> Duration {
        Duration::from_millis(self.limits.idle_ms)
    }

    /// Waits for the job's end.
    pub(crate) async fn has_ended(&self) {
        self.ended.cancelled().await;
    }

    /// One step of asking: it is done in time and before the job ends, or there is a denial.
    pub(crate) async fn step<T>(
        &self,
        what: &'static str,
        work: impl Future<Output = T>,
    ) -> Result<T, Denial> {
        tokio::select! {
            biased;
            () = self.ended.cancelled() => Err(Denial::job_ended()),
            done = tokio::time::timeout(self.handshake(), work) => done.map_err(|_| Denial::new(Reason::Timeout, what)),
        }
    }

    async fn record(&self, event: Event) -> Result<(), Denial> {
        tokio::select! {
            biased;
            // Never closed, so it can only be had or waited for.
            turn = self.credit.acquire() => turn.into_iter().for_each(|turn| turn.forget()),
            // What is left to say is bounded by the connections that there are.
            () = self.ended.cancelled() => {}
        }
        let sent = self.shared.events.send(event).await;
        sent.map_err(|_| Denial::job_ended())
    }
}

/// One attempt to get out, as far as it has come.
pub(crate) struct Attempt<'j> {
    pub(crate) job: &'j Job,
    number: u64,
    pub(crate) protocol: Protocol,
    host: Option<String>,
    port: Option<u16>,
    pub(crate) answers: Vec<IpAddr>,
    pub(crate) dialled: Option<SocketAddr>,
    pub(crate) sni: Option<DnsName>,
    /// The entry that names what is asked for.
    pub(crate) rule: Option<String>,
}

/// The most addresses of a name that a record holds.
const ANSWERS: usize = 32;

impl<'j> Attempt<'j> {
    /// What is asked for is known now.
    pub(crate) fn asks_for(&mut self, host: &Host, port: u16) {
        self.host = Some(host.to_string());
        self.port = Some(port);
    }

    /// Whether all attempts that the job may make were made before this one.
    pub(crate) fn is_one_too_many(&self) -> bool {
        self.number > self.job.limits.attempts
    }

    /// It goes no further. What cannot be recorded has no one left to read it: it is denied all the same.
    pub(crate) async fn deny(self, denial: &Denial) {
        self.job.ledger.count_denied();
        let verdict = Verdict::Denied {
            reason: denial.reason,
            rule: self.rule.clone(),
            detail: denial.detail.clone().into_owned(),
        };
        let job = self.job;
        let _: Result<(), Denial> = job
            .record(Event::Decision(Box::new(self.decision(verdict))))
            .await;
    }

    /// It goes out, as soon as that is recorded.
    pub(crate) async fn allow(self, rule: String) -> Result<Passage<'j>, Denial> {
        let (job, number) = (self.job, self.number);
        let decision = self.decision(Verdict::Allowed { rule });
        job.record(Event::Decision(Box::new(decision))).await?;
        job.ledger.count_allowed();
        Ok(Passage {
            job,
            number,
            meter: Meter::new(&job.ledger),
        })
    }

    fn decision(self, verdict: Verdict) -> Decision {
        let mut answers = self.answers;
        answers.truncate(ANSWERS);
        Decision {
            job: self.job.id.clone(),
            attempt: self.number,
            at: Timestamp::now(),
            protocol: self.protocol,
            host: self.host,
            port: self.port,
            answers,
            dialled: self.dialled,
            sni: self.sni.map(|name| name.to_string()),
            verdict,
        }
    }
}

/// An attempt that was allowed.
pub(crate) struct Passage<'j> {
    pub(crate) job: &'j Job,
    number: u64,
    pub(crate) meter: Meter<'j>,
}

impl Passage<'_> {
    /// Does the work of this passage until it is done, idle, or the job has ended, and records that.
    pub(crate) async fn through<T>(&self, work: impl Future<Output = (End, T)>) -> Option<T> {
        let (how, left) = tokio::select! {
            biased;
            () = self.job.has_ended() => (End::JobEnded, None),
            (how, left) = work => (how, Some(left)),
            () = self.meter.idle(self.job.idle()) => (End::Idle, None),
        };
        let ended = Ended {
            job: self.job.id.clone(),
            attempt: self.number,
            at: Timestamp::now(),
            up: self.meter.up(),
            down: self.meter.down(),
            how,
        };
        let recorded = self.job.record(Event::Ended(ended)).await;
        left.filter(|_| recorded.is_ok())
    }
}

/// Reads and drops what a client still sends after it was refused, for a little while: closing over unread bytes would
/// reset the connection and take the answer back.
pub(crate) async fn linger(job: &Job, stream: &Stream) {
    stream.end_writing();
    let mut scratch = [0; 4096];
    let drain = async {
        for _ in 0..64 {
            if !matches!(stream.read(&mut scratch).await, Ok(1..)) {
                return;
            }
        }
    };
    let most = Duration::from_secs(1).min(job.handshake());
    tokio::select! {
        () = job.has_ended() => {}
        _ = tokio::time::timeout(most, drain) => {}
    }
}
