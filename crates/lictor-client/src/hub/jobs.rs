//! Jobs: to hand them in with all that is signed about them, and to follow what comes of them.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use lictor_link::http::streamed;
use lictor_proto::api::{
    ExecutionState, FollowJob, FollowNode, JobDocuments, JobView, NewRollout, Page, PendingApproval,
    RolloutView,
};
use lictor_proto::{Digest, JobId, NodeId};

use super::{ANSWER, CALL, FrameStream, Hub, SLOWEST, UPLOAD, page};
use crate::error::Error;

fn of_node(path: String, node: Option<&NodeId>) -> String {
    match node {
        Some(node) => format!("{path}&node={node}"),
        None => path,
    }
}

impl Hub {
    /// Submits a signed job and follows it on the same round trip.
    ///
    /// # Errors
    /// [`Error`]; the hub may have taken the job when the connection broke.
    pub async fn submit_attached(&self, job: &str) -> Result<FrameStream, Error> {
        let job = Bytes::copy_from_slice(job.as_bytes());
        self.open(Method::POST, "/api/v1/jobs", job).await
    }

    /// Submits a signed job; answered after the hub's synced commit.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn submit(&self, job: &str) -> Result<JobView, Error> {
        self.post("/api/v1/jobs", job).await
    }

    /// All events and output of a job on one node, from log position `from` on.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn follow(&self, job: &JobId, node: &NodeId, from: u64) -> Result<FrameStream, Error> {
        let path = format!("/api/v1/jobs/{job}/output?node={node}&from={from}&follow=true");
        self.open(Method::GET, &path, Bytes::new()).await
    }

    /// All events and output of a job on these nodes, each from a log position of its own; `follow` stays for what is
    /// to come.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn follow_each(
        &self,
        job: &JobId,
        nodes: Vec<FollowNode>,
        follow: bool,
    ) -> Result<FrameStream, Error> {
        let path = format!("/api/v1/jobs/{job}/follow");
        let body = serde_json::to_vec(&FollowJob { nodes, follow });
        let body = body.map_err(|e| Error::Malformed(e.to_string()))?;
        self.open(Method::POST, &path, Bytes::from(body)).await
    }

    /// The output of one node that the hub holds now.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn output(&self, job: &JobId, node: &NodeId) -> Result<FrameStream, Error> {
        let path = format!("/api/v1/jobs/{job}/output?node={node}&follow=false");
        self.open(Method::GET, &path, Bytes::new()).await
    }

    /// One page of jobs, newest first; with a state or a node, those with an execution in it or on it.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn jobs(
        &self,
        limit: u32,
        cursor: Option<&str>,
        state: Option<ExecutionState>,
        node: Option<&NodeId>,
    ) -> Result<Page<JobView>, Error> {
        let mut path = page("/api/v1/jobs", limit, cursor);
        if let Some(state) = state {
            path.push_str(&format!("&state={}", state.as_str()));
        }
        if let Some(node) = node {
            path.push_str(&format!("&node={node}"));
        }
        self.get(&path).await
    }

    /// Submits a signed schedule; answered after the hub's synced commit.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn submit_schedule(&self, schedule: &str) -> Result<JobView, Error> {
        self.post("/api/v1/schedules", schedule).await
    }

    /// All schedules, or those of one node.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn schedules(
        &self,
        limit: u32,
        cursor: Option<&str>,
        node: Option<&NodeId>,
    ) -> Result<Page<JobView>, Error> {
        self.get(&of_node(page("/api/v1/schedules", limit, cursor), node))
            .await
    }

    /// The newest that nodes have told of having fired of a schedule.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn firings(
        &self,
        schedule: &JobId,
        limit: u32,
        node: Option<&NodeId>,
    ) -> Result<Vec<JobView>, Error> {
        let path = page(&format!("/api/v1/schedules/{schedule}/firings"), limit, None);
        let found: Page<JobView> = self.get(&of_node(path, node)).await?;
        Ok(found.items)
    }

    /// One job.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn job(&self, job: &JobId) -> Result<JobView, Error> {
        self.get(&format!("/api/v1/jobs/{job}")).await
    }

    /// What a job brings besides its words, up to 1 MiB: to be held against the digest in the job.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn input(&self, job: &JobId) -> Result<Bytes, Error> {
        let path = format!("/api/v1/jobs/{job}/input");
        let answer = self.send(Method::GET, &path, Bytes::new(), CALL).await?;
        Ok(answer.body)
    }

    /// Every signed document about a job.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn documents(&self, job: &JobId) -> Result<JobDocuments, Error> {
        self.get(&format!("/api/v1/jobs/{job}/documents")).await
    }

    /// Hands in a signed cancel.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn cancel(&self, job: &JobId, cancel: &str) -> Result<JobView, Error> {
        self.post(&format!("/api/v1/jobs/{job}/cancel"), cancel).await
    }

    /// Jobs that wait for approval.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn approvals(&self) -> Result<Vec<PendingApproval>, Error> {
        self.all("/api/v1/approvals").await
    }

    /// Hands in a signed approval.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn approve(&self, job: &JobId, approval: &str) -> Result<JobView, Error> {
        self.post(&format!("/api/v1/jobs/{job}/approvals"), approval)
            .await
    }

    /// Hands in a signed release.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn release(&self, job: &JobId, release: &str) -> Result<JobView, Error> {
        self.post(&format!("/api/v1/jobs/{job}/releases"), release).await
    }

    /// Hands in a signed remark.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn remark(&self, job: &JobId, remark: &str) -> Result<JobView, Error> {
        self.post(&format!("/api/v1/jobs/{job}/remarks"), remark).await
    }

    /// Submits a signed job to be spread over its nodes; answered after the hub's synced commit.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn submit_rollout(&self, rollout: &NewRollout) -> Result<JobView, Error> {
        self.post_json("/api/v1/rollouts", rollout).await
    }

    /// How a rollout stands.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn rollout(&self, job: &JobId) -> Result<RolloutView, Error> {
        self.get(&format!("/api/v1/rollouts/{job}")).await
    }

    /// Lets a rollout go on.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn continue_rollout(&self, job: &JobId) -> Result<RolloutView, Error> {
        self.post(&format!("/api/v1/rollouts/{job}/continue"), "").await
    }

    /// Sends a job's standard input ahead of it.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put_blob(&self, digest: &Digest, content: Bytes) -> Result<(), Error> {
        let hex = digest.to_string();
        let path = format!("/api/v1/blobs/{}", hex.trim_start_matches("sha256:"));
        self.send(Method::PUT, &path, content, UPLOAD).await.map(drop)
    }

    /// Sends a file ahead of a job, piece by piece: `pieces` yields all of it.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put_file(
        &self,
        digest: &Digest,
        size: u64,
        pieces: impl Iterator<Item = std::io::Result<Bytes>> + Send + Sync + 'static,
    ) -> Result<(), Error> {
        let hex = digest.to_string();
        let path = format!("/api/v1/blobs/{}", hex.trim_start_matches("sha256:"));
        let mut request = self.request(Method::PUT, &path, Bytes::new())?;
        let pieces = futures_util::stream::iter(pieces.map(|p| p.map_err(Into::into)));
        *request.body_mut() = streamed(pieces);
        let within = UPLOAD + Duration::from_secs(size / SLOWEST);
        let answer = self.http.call(request, ANSWER, within).await?;
        if answer.status.is_success() {
            Ok(())
        } else {
            Err(Error::Refused(answer.refusal()))
        }
    }
}
