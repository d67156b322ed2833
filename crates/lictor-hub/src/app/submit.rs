//! A signed job comes in.
//!
//! ```text
//!   attached   shape --> dispatch --> check signature --> insert (relaxed) --> the answer is the stream
//!   detached   shape --> check signature --> insert (synced) --> dispatch --> 202
//! ```
//!
//! Dispatch beside the hub's own check saves a serial step; the node checks everything itself, and a job that
//! the hub refuses is never stored: what its node says about it is dropped.

use std::sync::Arc;

use lictor_audit::EventType;
use lictor_proto::api::{JobView, StreamEvent, TokenScope};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{self, Document as _, Job, Origin, Schedule};
use lictor_proto::{Code, Digest, Envelope, JobId, NodeId, Timestamp, limits};
use lictor_trust::Verified;
use tokio::sync::watch;

use super::{App, Caller, Error, Org, views};
use crate::link::input::PIECE;
use crate::link::{Offered, Signed};
use crate::relay::follower::Wish;
use crate::relay::{Follower, Live};
use crate::store::{Durability, ExecutionKey, Inserted, JobRow};

/// Whether the hub itself takes a job that is already on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Not decided.
    Open,
    /// It does, and is storing it.
    Taken,
    /// It has stored it: its documents can be read again.
    Stored,
    /// It is not.
    Refused,
}

/// A job that reads well; nothing about it is verified.
struct Shaped {
    row: Arc<JobRow>,
    along: Arc<Along>,
}

/// A job that is on its way to its nodes before it is stored.
struct Ahead {
    lives: Vec<Arc<Live>>,
    /// Those whose nodes were not there.
    away: Vec<Arc<Live>>,
    /// What the offers wait for.
    decide: watch::Sender<Admission>,
}

impl App {
    /// Takes a job and answers with its stream.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] with the rule it breaks.
    pub async fn submit_attached(
        self: &Arc<Self>,
        caller: &Caller,
        wire: String,
    ) -> Result<Vec<Follower>, Error> {
        let (org, shaped) = self.admit(caller, wire, Origin::Job).await?;
        let (decide, admission) = watch::channel(Admission::Open);
        let lives = self.lives(&org, &shaped.row);
        let followers = self.followers_of(&lives, &shaped.row);
        let mut away = Vec::new();
        for live in &lives {
            match self.links.get(&org.id, &live.key.node_id) {
                Some(link) => {
                    let admission = admission.clone();
                    link.offer(Offered::fresh(
                        &shaped.row,
                        &shaped.along,
                        admission,
                        live.clone(),
                    ));
                }
                None => away.push(live.clone()),
            }
        }
        // The offers go out before this thread is kept busy with a signature.
        tokio::task::yield_now().await;
        match self.check(&org, &shaped.row).await {
            Ok(job) => lives.iter().for_each(|l| l.admit(&job)),
            Err(e) => {
                decide.send_replace(Admission::Refused);
                return Err(e);
            }
        }
        decide.send_replace(Admission::Taken);
        let ahead = Ahead { lives, away, decide };
        self.store_beside(&org, shaped, ahead);
        Ok(followers)
    }

    /// Takes a job and answers when it has survived a power loss.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] with the rule it breaks; [`Error::Store`].
    pub async fn submit_detached(self: &Arc<Self>, caller: &Caller, wire: String) -> Result<JobView, Error> {
        self.submit_stored(caller, wire, Origin::Job).await
    }

    /// Takes a schedule and answers when it has survived a power loss. It goes to its nodes as a job does, and there
    /// the hub's part in it ends.
    ///
    /// # Errors
    /// As of [`App::submit_detached`].
    pub async fn submit_schedule(self: &Arc<Self>, caller: &Caller, wire: String) -> Result<JobView, Error> {
        self.submit_stored(caller, wire, Origin::Schedule).await
    }

    async fn submit_stored(
        self: &Arc<Self>,
        caller: &Caller,
        wire: String,
        origin: Origin,
    ) -> Result<JobView, Error> {
        let (org, shaped) = self.admit(caller, wire, origin).await?;
        self.check(&org, &shaped.row).await?;
        let Shaped { row, along } = shaped;
        let inserted = self
            .store
            .insert_job(&org.id, (*row).clone(), Durability::Synced)
            .await?;
        if inserted == Inserted::New {
            for live in self.lives(&org, &row) {
                if let Some(link) = self.links.get(&org.id, &live.key.node_id) {
                    link.offer(Offered::stored(&row, &along, Signed::default(), live));
                }
            }
        }
        self.job(caller, &row.job_id).await
    }

    /// A job that is to be stored: shape, org, nodes, standard input and signature hold.
    pub(super) async fn admit_job(
        &self,
        caller: &Caller,
        wire: String,
    ) -> Result<(Arc<Org>, Arc<JobRow>), Error> {
        let (org, shaped) = self.admit(caller, wire, Origin::Job).await?;
        self.check(&org, &shaped.row).await?;
        Ok((org, shaped.row))
    }

    /// Scope, shape, org, nodes, standard input: everything but the signature.
    async fn admit(
        &self,
        caller: &Caller,
        wire: String,
        origin: Origin,
    ) -> Result<(Arc<Org>, Shaped), Error> {
        caller.need(TokenScope::Submit)?;
        let org = self.org(&caller.org)?;
        match self.shape(&org, wire, origin).await {
            Ok(shaped) => Ok((org, shaped)),
            // Counted, not told one by one: see `api::Api::record`.
            Err(e @ Error::Later(..)) => Err(e),
            Err(Error::Refused(why)) if why.code == Code::JobsFull => Err(Error::Refused(why)),
            Err(Error::Refused(why)) => Err(self.refuse(Some(&org.id), EventType::JobRejected, why).await),
            Err(e) => Err(e),
        }
    }

    async fn shape(&self, org: &Org, wire: String, origin: Origin) -> Result<Shaped, Error> {
        let envelope = Envelope::parse(wire.as_bytes(), limits::JOB_ENVELOPE)
            .map_err(|e| Refusal::new(Code::EnvelopeMalformed, e.to_string()))?;
        let kind = match origin {
            Origin::Schedule => Schedule::KIND,
            Origin::Job | Origin::Firing(_) => Job::KIND,
        };
        if envelope.payload_type != kind.payload_type() {
            return Err(Code::WrongType.into());
        }
        let job: Job = match origin {
            Origin::Schedule => doc::read::<Schedule>(&envelope.payload)?.picture(),
            Origin::Job | Origin::Firing(_) => doc::read(&envelope.payload)?,
        };
        if job.org != org.id {
            return Err(Code::WrongOrg.into());
        }
        for node in &job.nodes {
            self.check_node(org, node).await?;
        }
        let along = Along::of(&job);
        if let Some((sha256, _)) = along.stdin {
            let size = self.store.blob(&org.id, &sha256).await?;
            size.ok_or(Code::StdinMissing).map_err(Error::from)?;
        }
        for digest in &along.secrets {
            let secret = self.store.secret_of(&org.id, digest).await?;
            secret.ok_or(Code::SecretMissing).map_err(Error::from)?;
        }
        self.queue.take(&org.id, &job.nodes)?;
        let digest = envelope.digest();
        let row = JobRow {
            job_id: JobId::from_digest(&digest),
            digest,
            operator: job.operator.clone(),
            profile: job.profile.clone(),
            expires_at: job.expires_at,
            created_at: Timestamp::now(),
            envelope: wire,
            nodes: job.nodes.clone(),
            stdin: along.stdin.map(|(sha256, _)| sha256),
            origin,
        };
        Ok(Shaped {
            row: Arc::new(row),
            along: Arc::new(along),
        })
    }

    async fn check_node(&self, org: &Org, node: &NodeId) -> Result<(), Error> {
        // A connected node is known without a query.
        if self.links.get(&org.id, node).is_some() || self.store.node(&org.id, node).await?.is_some() {
            return Ok(());
        }
        Err(Refusal::new(Code::NodeUnknown, format!("no node {node} has enrolled")).into())
    }

    async fn check(&self, org: &Org, row: &JobRow) -> Result<Arc<Verified<Job>>, Error> {
        match org.with(|t| t.verify_request(&row.envelope, Timestamp::now())) {
            Ok(job) => Ok(Arc::new(job)),
            Err(why) => {
                // Whoever signs nothing fills no queue.
                self.queue.give_back(&org.id, &row.nodes);
                Err(self.refuse(Some(&org.id), EventType::JobRejected, why).await)
            }
        }
    }

    fn lives(&self, org: &Org, row: &JobRow) -> Vec<Arc<Live>> {
        let key = |node: &NodeId| ExecutionKey {
            org: org.id.clone(),
            job_id: row.job_id.clone(),
            node_id: node.clone(),
        };
        row.nodes.iter().map(|n| self.live.enter(&key(n))).collect()
    }

    fn followers_of(self: &Arc<Self>, lives: &[Arc<Live>], row: &JobRow) -> Vec<Follower> {
        let wish = Wish {
            from: 0,
            output: true,
            follow: true,
            together: lives.len(),
        };
        let mut submitted = Some(StreamEvent::Submitted {
            job_id: row.job_id.clone(),
        });
        let follower = |live: &Arc<Live>| {
            let mut first: Vec<StreamEvent> = submitted.take().into_iter().collect();
            let key = &live.key;
            if self.links.get(&key.org, &key.node_id).is_none() {
                first.push(views::offline_event(&key.node_id));
            }
            Follower::fresh(self.clone(), live.clone(), wish, first)
        };
        lives.iter().map(follower).collect()
    }

    /// Stores a job that is on its way. Nodes that were `away` when it was offered may have come since, and asked for
    /// what waits for them before this job did.
    fn store_beside(self: &Arc<Self>, org: &Arc<Org>, shaped: Shaped, ahead: Ahead) {
        let (app, org) = (self.clone(), org.id.clone());
        self.tasks.spawn(async move {
            let Shaped { row, along } = shaped;
            let Ahead { lives, away, decide } = ahead;
            let stored = app
                .store
                .insert_job(&org, (*row).clone(), Durability::Relaxed)
                .await;
            if stored.is_ok() {
                decide.send_replace(Admission::Stored);
            }
            match stored {
                Ok(Inserted::New) => {
                    for live in away {
                        match app.links.get(&org, &live.key.node_id) {
                            Some(link) => {
                                link.offer(Offered::stored(&row, &along, Signed::default(), live));
                            }
                            // It waits for its node.
                            None => live.forget(),
                        }
                    }
                }
                // Submitted before: its followers read what has happened since.
                Ok(Inserted::Same) => lives.iter().for_each(|l| l.resync()),
                // The node has the job, and its result carries it: it will be inserted then.
                Err(e) => {
                    tracing::error!(error = %Error::from(e).chain(), job = %row.job_id, "a job was not stored")
                }
            }
        });
    }
}

/// What a node needs besides a job, and the hub has.
#[derive(Debug, Clone, Default)]
pub struct Along {
    /// Its standard input, or the file that it puts there, if that comes from the hub: digest and size.
    pub stdin: Option<(Digest, u64)>,
    /// The digests of the signed secrets that it uses.
    pub secrets: Vec<Digest>,
}

impl Along {
    /// Whether its input goes in more than one piece.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.stdin.is_some_and(|(_, size)| size > PIECE)
    }

    /// What this job needs.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        Self {
            stdin: job.input().map(|input| (input.sha256, input.size)),
            secrets: job.secrets.iter().map(|used| used.digest).collect(),
        }
    }
}
