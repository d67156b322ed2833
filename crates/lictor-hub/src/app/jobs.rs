//! Jobs as people see them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use lictor_proto::agent::Wire;
use lictor_proto::api::{ExecutionView, FollowNode, JobDocuments, JobView, PendingApproval};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, JobId, NodeId, limits};

use super::{App, Caller, Error};
use crate::relay::Follower;
use crate::relay::follower::Wish;
use crate::store::{ExecutionKey, ExecutionRow, JobCursor, JobDocument, JobFilter, JobRow, PAGE_BYTES};
use lictor_proto::api::ExecutionState;

fn bytes_of(documents: &JobDocuments) -> usize {
    let d = documents;
    let all = [
        &d.receipts,
        &d.asks,
        &d.approvals,
        &d.releases,
        &d.cancels,
        &d.remarks,
    ];
    d.job.len() + all.into_iter().flatten().map(String::len).sum::<usize>()
}

impl App {
    /// One job.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn job(&self, caller: &Caller, id: &JobId) -> Result<JobView, Error> {
        let (row, executions) = self.store.job(&caller.org, id).await?.ok_or(Error::NotFound)?;
        let mut view = self.view(&caller.org, &row, executions)?;
        let waits = |e: &ExecutionView| e.state == ExecutionState::Queued;
        if view.executions.iter().any(waits) {
            let ahead = self.store.ahead(&caller.org, id).await?;
            for execution in view.executions.iter_mut().filter(|e| waits(e)) {
                execution.ahead = ahead.get(&execution.node_id).copied();
            }
        }
        Ok(view)
    }

    /// A page of jobs, newest first, and where the next one starts: also one of fewer jobs than asked for may have one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn jobs(
        &self,
        caller: &Caller,
        filter: JobFilter,
    ) -> Result<(Vec<JobView>, Option<JobCursor>), Error> {
        let page = self.store.jobs(&caller.org, filter).await?;
        let jobs = page.jobs.into_iter();
        let views = jobs.map(|(row, ex)| self.view(&caller.org, &row, ex));
        Ok((views.collect::<Result<_, _>>()?, page.next))
    }

    /// Every signed document about a job.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn documents(&self, caller: &Caller, id: &JobId) -> Result<JobDocuments, Error> {
        let (row, executions) = self.store.job(&caller.org, id).await?.ok_or(Error::NotFound)?;
        self.documents_of(caller, row, &executions).await
    }

    /// What a job brings besides its words (standard input, or the file that it puts), for people to look at before
    /// they sign for it.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown job, for one that brings nothing, and when it is no longer stored;
    /// [`Error::Refused`] when it is larger than what is shown.
    pub async fn input(&self, caller: &Caller, id: &JobId) -> Result<Bytes, Error> {
        let org = self.org(&caller.org)?;
        let (row, _) = self.store.job(&org.id, id).await?.ok_or(Error::NotFound)?;
        let job = org.with(|t| t.historic_job(&row.envelope))?;
        let input = job.input().ok_or(Error::NotFound)?;
        if input.size > limits::INPUT_SHOWN {
            let why = format!(
                "it has {} bytes, and at most {} are shown",
                input.size,
                limits::INPUT_SHOWN
            );
            return Err(Refusal::new(Code::LimitExceeded, why).into());
        }
        if input.size == 0 {
            return Ok(Bytes::new());
        }
        match self.objects.stdin(&org.id, &input.sha256, 0..input.size).await {
            Err(Error::Objects(object_store::Error::NotFound { .. })) => Err(Error::NotFound),
            read => read,
        }
    }

    async fn documents_of(
        &self,
        caller: &Caller,
        row: JobRow,
        ex: &[ExecutionRow],
    ) -> Result<JobDocuments, Error> {
        let docs = self.store.documents(&caller.org, &row.job_id).await?;
        let of = |kind| -> Vec<Wire> {
            let matching = docs.iter().filter(|d| d.kind == kind);
            matching.map(|d| d.wire.clone()).collect()
        };
        // Of each node, the newest ask counts. One that runs has asked as well: who approves sees that it has.
        let open = ex.iter().filter(|e| !e.state.is_final());
        let open: BTreeSet<&NodeId> = open.map(|e| &e.node_id).collect();
        let asks = docs.iter().filter(|d| d.kind == JobDocument::Ask);
        let asks: BTreeMap<&NodeId, &Wire> = asks
            .filter_map(|d| Some((d.node_id.as_ref()?, &d.wire)))
            .filter(|(node, _)| open.contains(node))
            .collect();
        Ok(JobDocuments {
            job: row.envelope,
            receipts: of(JobDocument::Receipt),
            asks: asks.into_values().cloned().collect(),
            approvals: of(JobDocument::Approval),
            releases: of(JobDocument::Release),
            cancels: of(JobDocument::Cancel),
            remarks: of(JobDocument::Remark),
        })
    }

    /// Jobs that wait for approval, with everything to check before signing, and where the next page starts: also one of
    /// fewer jobs than asked for may have one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn pending_approvals(
        &self,
        caller: &Caller,
        after: Option<JobCursor>,
        limit: u32,
    ) -> Result<(Vec<PendingApproval>, Option<JobCursor>), Error> {
        let filter = JobFilter {
            state: Some(ExecutionState::AwaitingApproval),
            after,
            limit,
            ..JobFilter::default()
        };
        let page = self.store.jobs(&caller.org, filter).await?;
        let (mut pending, mut last, mut bytes) = (Vec::with_capacity(page.jobs.len()), None, 0);
        for (row, executions) in page.jobs {
            if bytes > PAGE_BYTES {
                return Ok((pending, last));
            }
            last = Some(JobCursor::behind(&row));
            let view = self.view(&caller.org, &row, executions.clone())?;
            let documents = self.documents_of(caller, row, &executions).await?;
            bytes += bytes_of(&documents);
            pending.push(PendingApproval { job: view, documents });
        }
        Ok((pending, page.next))
    }

    /// Followers of a job: of one node, or of all.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Refused`] with a position in the logs of several nodes.
    pub async fn follow(
        self: &Arc<Self>,
        caller: &Caller,
        id: &JobId,
        node: Option<&NodeId>,
        (from, follow): (u64, bool),
    ) -> Result<Vec<Follower>, Error> {
        let (_, executions) = self.store.job(&caller.org, id).await?.ok_or(Error::NotFound)?;
        let all = executions.into_iter().map(|e| e.node_id);
        let wanted: Vec<FollowNode> = all
            .filter(|n| node.is_none_or(|want| want == n))
            .map(|node_id| FollowNode { node_id, from })
            .collect();
        if wanted.len() > 1 && from > 0 {
            let why = "a position is one node's: name it, or POST /api/v1/jobs/{id}/follow";
            return Err(Refusal::new(Code::BadRequest, why).into());
        }
        self.followers(caller, id, wanted, follow)
    }

    /// Followers of some of a job's nodes, each from a place of its own.
    ///
    /// # Errors
    /// [`Error::NotFound`], also where the job has not one of them.
    pub async fn follow_each(
        self: &Arc<Self>,
        caller: &Caller,
        id: &JobId,
        mut wanted: Vec<FollowNode>,
        follow: bool,
    ) -> Result<Vec<Follower>, Error> {
        let (row, _) = self.store.job(&caller.org, id).await?.ok_or(Error::NotFound)?;
        wanted.sort_by(|a, b| a.node_id.cmp(&b.node_id));
        wanted.dedup_by(|a, b| a.node_id == b.node_id);
        if wanted.iter().any(|n| !row.nodes.contains(&n.node_id)) {
            return Err(Error::NotFound);
        }
        self.followers(caller, id, wanted, follow)
    }

    fn followers(
        self: &Arc<Self>,
        caller: &Caller,
        id: &JobId,
        wanted: Vec<FollowNode>,
        follow: bool,
    ) -> Result<Vec<Follower>, Error> {
        if wanted.is_empty() {
            return Err(Error::NotFound);
        }
        let together = wanted.len();
        let follower = |one: FollowNode| {
            let live = self.live.enter(&ExecutionKey {
                org: caller.org.clone(),
                job_id: id.clone(),
                node_id: one.node_id,
            });
            let wish = Wish {
                from: one.from,
                output: true,
                follow,
                together,
            };
            Follower::new(self.clone(), live, wish)
        };
        Ok(wanted.into_iter().map(follower).collect())
    }
}
