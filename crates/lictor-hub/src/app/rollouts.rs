//! Rollouts: one task for each that goes on, which looks, steps, and waits for something to happen.
//!
//! What comes next is decided in [`step()`]; everything that has to outlive the hub is in the store, so a hub that comes
//! back goes on where it was. All of it is courtesy: nodes take the job from whoever offers it, unless the law demands
//! a signed release.

mod step;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lictor_proto::agent::Wire;
use lictor_proto::api::{
    ExecutionState, JobView, NewRollout, RolloutState, RolloutView, StreamEvent, TokenScope,
};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, JobId, NodeId, OrgId, Timestamp};
use tokio::sync::Notify;
use tokio::time::Instant;

use self::step::{Next, Sight, failures, step};
use super::submit::Along;
use super::{App, Caller, Error, views};
use crate::link::{Offered, Signed};
use crate::store::named::{approvals_for, releases_for};
use crate::store::{ExecutionKey, JobDocument, JobRow, RolloutRow, StoreError, Turn};

/// A rollout is looked at so often at the least, for what nobody tells: who is away.
const LOOK: Duration = Duration::from_secs(2);
/// After a start of the hub its nodes have so long to come back before they count as away.
const RETURN: Duration = Duration::from_secs(15);

/// What waits for something to happen.
#[derive(Debug)]
pub struct RolloutBook {
    awake: Mutex<HashMap<(OrgId, JobId), Arc<Notify>>>,
    started: Instant,
}

impl Default for RolloutBook {
    fn default() -> Self {
        Self {
            awake: Mutex::default(),
            started: Instant::now(),
        }
    }
}

impl RolloutBook {
    /// Something has happened to the job.
    pub fn poke(&self, org: &OrgId, job: &JobId) {
        let awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner);
        // Nearly all jobs are none, and then there is nothing to make a key for.
        if awake.is_empty() {
            return;
        }
        if let Some(notify) = awake.get(&(org.clone(), job.clone())) {
            notify.notify_one();
        }
    }

    /// The bell of a rollout, unless its task runs already.
    fn enter(&self, key: &(OrgId, JobId)) -> Option<Arc<Notify>> {
        let mut awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner);
        if awake.contains_key(key) {
            return None;
        }
        let bell = Arc::new(Notify::new());
        awake.insert(key.clone(), bell.clone());
        Some(bell)
    }

    fn leave(&self, key: &(OrgId, JobId)) {
        let mut awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner);
        awake.remove(key);
    }
}

/// What goes along with the offers of a stored job.
struct Papers {
    row: Arc<JobRow>,
    approvals: Arc<[Wire]>,
    releases: Vec<Wire>,
    along: Arc<Along>,
}

/// Why what is held waits.
fn why(row: &RolloutRow) -> Refusal {
    let (batch, of) = (row.batch + 1, row.plan.batches.len());
    match (row.state, row.resumes_at) {
        (RolloutState::Stopped, _) => Refusal::new(Code::RolloutStopped, row.message.clone()),
        (RolloutState::Pausing, Some(at)) => Refusal::new(
            Code::RolloutWaits,
            format!("batch {batch} of {of} is over; it pauses until {at}"),
        ),
        _ => Refusal::new(Code::RolloutWaits, format!("batch {batch} of {of} is at it")),
    }
}

impl App {
    /// Takes a job to be spread over its nodes; answers when both have survived a power loss.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] with the rule it breaks; [`Error::Store`].
    pub async fn submit_rollout(
        self: &Arc<Self>,
        caller: &Caller,
        new: NewRollout,
    ) -> Result<JobView, Error> {
        let (org, job) = self.admit_job(caller, new.job).await?;
        if let Err(what) = new.plan.check(&job.nodes) {
            return Err(Refusal::new(Code::BadRequest, format!("plan: {what}")).into());
        }
        let id = job.job_id.clone();
        let row = RolloutRow {
            plan: new.plan,
            state: RolloutState::Running,
            batch: 0,
            forgiven: 0,
            resumes_at: None,
            message: String::new(),
        };
        let why = why(&row);
        // A caller that goes away must not leave a rollout that nobody drives.
        let (app, org, known) = (self.clone(), org.id.clone(), id.clone());
        let handed_in = self.tasks.spawn(async move {
            let job = Arc::unwrap_or_clone(job);
            app.store.insert_rollout(&org, job, row, why).await?;
            // Also of one that was there: its task runs, or has nothing to do.
            app.drive(org, known);
            Ok::<_, Error>(())
        });
        handed_in.await.map_err(|_| StoreError::Closed)??;
        self.job(caller, &id).await
    }

    /// How a rollout stands.
    ///
    /// # Errors
    /// [`Error::NotFound`], also of a job that is none.
    pub async fn rollout(&self, caller: &Caller, id: &JobId) -> Result<RolloutView, Error> {
        let row = self
            .store
            .rollout(&caller.org, id)
            .await?
            .ok_or(Error::NotFound)?;
        let standing = self.standing(&caller.org, id).await?;
        Ok(RolloutView {
            job_id: id.clone(),
            state: row.state,
            batch: row.batch + 1,
            failed: failures(&standing),
            forgiven: row.forgiven,
            resumes_at: row.resumes_at,
            message: row.message,
            plan: row.plan,
        })
    }

    /// Lets a rollout go on that stopped or pauses. What has failed so far counts no more.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::NotFound`]; [`Error::Refused`] for one that needs nobody.
    pub async fn continue_rollout(
        self: &Arc<Self>,
        caller: &Caller,
        id: &JobId,
    ) -> Result<RolloutView, Error> {
        caller.need(TokenScope::Submit)?;
        let mut row = self
            .store
            .rollout(&caller.org, id)
            .await?
            .ok_or(Error::NotFound)?;
        match row.state {
            RolloutState::Stopped => {
                row.forgiven = failures(&self.standing(&caller.org, id).await?);
                row.state = RolloutState::Running;
                row.message.clear();
            }
            RolloutState::Pausing => row.resumes_at = Some(Timestamp::now()),
            RolloutState::Running | RolloutState::Ended => {
                let text = format!(
                    "the rollout is {}: only one that stopped or pauses is continued",
                    row.state.as_str()
                );
                return Err(Refusal::new(Code::BadRequest, text).into());
            }
        }
        // As when it was handed in: not the caller's to drop.
        let (app, org, job) = (self.clone(), caller.org.clone(), id.clone());
        let turned = self.tasks.spawn(async move {
            app.stand(&org, &job, row, Vec::new()).await?;
            app.drive(org.clone(), job.clone());
            app.rollouts.poke(&org, &job);
            Ok::<_, Error>(())
        });
        turned.await.map_err(|_| StoreError::Closed)??;
        self.rollout(caller, id).await
    }

    /// Somebody ends the job: nothing more of it begins, unless somebody goes on.
    pub(super) async fn halt_rollout(&self, org: &OrgId, id: &JobId) -> Result<(), Error> {
        let Some(mut row) = self.store.rollout(org, id).await? else {
            return Ok(());
        };
        if matches!(row.state, RolloutState::Running | RolloutState::Pausing) {
            row.state = RolloutState::Stopped;
            row.resumes_at = None;
            "a signed cancel of the job has come".clone_into(&mut row.message);
            self.stand(org, id, row, Vec::new()).await?;
        }
        Ok(())
    }

    /// At the start of the hub: those that go on by themselves.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn resume_rollouts(self: &Arc<Self>) -> Result<(), Error> {
        for (org, job) in self.store.open_rollouts().await? {
            self.drive(org, job);
        }
        Ok(())
    }

    async fn standing(&self, org: &OrgId, job: &JobId) -> Result<BTreeMap<NodeId, ExecutionState>, Error> {
        Ok(self.store.standing(org, job).await?.into_iter().collect())
    }

    /// Keeps that a rollout stands like this now, and tells whoever follows what is held.
    async fn stand(&self, org: &OrgId, job: &JobId, row: RolloutRow, hold: Vec<NodeId>) -> Result<(), Error> {
        let why = why(&row);
        let turn = Turn::Stands {
            row,
            hold,
            why: why.clone(),
        };
        for node in self.store.turn(org, job, turn).await? {
            self.tell(org, job, node, (ExecutionState::Held, Some(&why)))
                .await;
        }
        Ok(())
    }

    async fn tell(
        &self,
        org: &OrgId,
        job: &JobId,
        node_id: NodeId,
        said: (ExecutionState, Option<&Refusal>),
    ) {
        let key = ExecutionKey {
            org: org.clone(),
            job_id: job.clone(),
            node_id,
        };
        let Some(live) = self.live.get(&key) else { return };
        let (state, why) = said;
        live.event(StreamEvent::State {
            node_id: key.node_id,
            state,
            code: why.map(|w| w.code),
            message: why.map_or_else(String::new, |w| w.message.clone()),
            at: Timestamp::now(),
        })
        .await;
    }

    /// Starts the task of a rollout, unless it runs.
    fn drive(self: &Arc<Self>, org: OrgId, job: JobId) {
        let key = (org, job);
        let Some(mut bell) = self.rollouts.enter(&key) else {
            return;
        };
        let app = self.clone();
        self.tasks.spawn(async move {
            let stop = app.stop.clone();
            loop {
                let driven = stop.run_until_cancelled(app.go(&key, &bell)).await;
                if let Some(Err(e)) = &driven {
                    tracing::error!(job = %key.1, error = %e.chain(), "a rollout could not be looked at; it is tried again");
                    if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                        continue;
                    }
                }
                app.rollouts.leave(&key);
                // Who let it go on a moment ago found this task still here, and started none.
                match driven {
                    Some(Ok(())) if app.goes_on(&key).await => match app.rollouts.enter(&key) {
                        Some(again) => bell = again,
                        None => return,
                    },
                    _ => return,
                }
            }
        });
    }

    async fn goes_on(&self, (org, job): &(OrgId, JobId)) -> bool {
        match self.store.rollout(org, job).await {
            Ok(row) => row.is_some_and(|r| matches!(r.state, RolloutState::Running | RolloutState::Pausing)),
            // Looked at again, and said there.
            Err(_) => true,
        }
    }

    async fn go(self: &Arc<Self>, (org, job): &(OrgId, JobId), bell: &Notify) -> Result<(), Error> {
        loop {
            let Some(row) = self.store.rollout(org, job).await? else {
                return Ok(());
            };
            if matches!(row.state, RolloutState::Stopped | RolloutState::Ended) {
                return Ok(());
            }
            let standing = self.standing(org, job).await?;
            let returning = self.rollouts.started.elapsed() < RETURN;
            let is_away = |node: &NodeId| !returning && self.links.get(org, node).is_none();
            let now = Timestamp::now();
            let next = step(
                &row,
                &Sight {
                    standing: &standing,
                    is_away: &is_away,
                    now,
                },
            );
            match next {
                Next::Begin(nodes) => self.begin(org, job, nodes).await?,
                Next::Stand(row, back) => self.stand(org, job, row, back).await?,
                Next::Wait(until) => {
                    let pause = until.map_or(LOOK, |at| at.since(now).min(LOOK));
                    tokio::select! {
                        () = bell.notified() => {}
                        () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
                    }
                }
            }
        }
    }

    /// Lets nodes begin: what waits for them is queued, and offered where they are there.
    async fn begin(self: &Arc<Self>, org: &OrgId, job: &JobId, nodes: Vec<NodeId>) -> Result<(), Error> {
        // All that can fail is before the turn: what is queued is not begun again, so it has to be offered.
        let (row, _) = self.store.job(org, job).await?.ok_or(Error::NotFound)?;
        let papers = self.papers(org, &row).await?;
        let begun = self.store.turn(org, job, Turn::Begin(nodes)).await?;
        for node in &begun {
            let there = self.links.get(org, node).is_some();
            let away = (!there).then(views::offline);
            self.tell(org, job, node.clone(), (ExecutionState::Queued, away.as_ref()))
                .await;
        }
        self.offer_with(org, &papers, begun);
        Ok(())
    }

    /// Offers a stored job to those of these nodes that are there, with all that is signed about it.
    pub(super) async fn offer_to(&self, org: &OrgId, row: &JobRow, nodes: Vec<NodeId>) -> Result<(), Error> {
        let papers = self.papers(org, row).await?;
        self.offer_with(org, &papers, nodes);
        Ok(())
    }

    async fn papers(&self, org: &OrgId, row: &JobRow) -> Result<Papers, Error> {
        let docs = self.store.documents(org, &row.job_id).await?;
        let of = |kind| {
            let matching = docs.iter().filter(move |d| d.kind == kind);
            matching.map(|d| d.wire.clone()).collect::<Vec<_>>()
        };
        Ok(Papers {
            approvals: approvals_for(&of(JobDocument::Approval)).into(),
            releases: of(JobDocument::Release),
            along: Arc::new(Along::of(&views::read_job(&row.envelope)?)),
            row: Arc::new(row.clone()),
        })
    }

    fn offer_with(&self, org: &OrgId, papers: &Papers, nodes: Vec<NodeId>) {
        for node_id in nodes {
            let key = ExecutionKey {
                org: org.clone(),
                job_id: papers.row.job_id.clone(),
                node_id,
            };
            if let Some(link) = self.links.get(org, &key.node_id) {
                let live = self.live.enter(&key);
                let signed = Signed {
                    approvals: papers.approvals.clone(),
                    releases: releases_for(&papers.releases, &key.node_id),
                };
                link.offer(Offered::stored(&papers.row, &papers.along, signed, live));
            }
        }
    }
}
