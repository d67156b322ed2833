//! What a database has to do for the hub, part by part.

use std::collections::BTreeMap;

use async_trait::async_trait;
use lictor_audit::Event;
use lictor_proto::agent::{Heartbeat, LawDocs, Wire};
use lictor_proto::{Digest, JobId, Name, NodeId, OrgId, Timestamp};

use super::{
    Begun, DocumentRow, Durability, Enrolled, ExecutionKey, ExecutionRow, Followed, GrantRow, Inserted,
    JobFilter, JobPage, JobPapers, JobRow, LawRow, NewNode, NodeRow, Notices, Paper, Pending, Recorded,
    Result, ResultRow, Retained, Rollouts, SecretRow, SegmentRow, Step, Stored, TokenRow,
};

/// Everything that the hub keeps in its database.
pub trait Store:
    Orgs
    + Grants
    + Nodes
    + Jobs
    + Executions
    + Leases
    + Logs
    + Secrets
    + Tokens
    + Trail
    + Retained
    + Rollouts
    + Notices
{
}
impl<T> Store for T where
    T: Orgs
        + Grants
        + Nodes
        + Jobs
        + Executions
        + Leases
        + Logs
        + Secrets
        + Tokens
        + Trail
        + Retained
        + Rollouts
        + Notices
{
}

/// Orgs and their law.
#[async_trait]
pub trait Orgs: Send + Sync {
    /// A new org with its first root and its first token.
    async fn create_org(&self, org: &OrgId, name: &Name, root: LawRow, token: TokenRow) -> Result<Inserted>;
    /// All orgs.
    async fn orgs(&self) -> Result<Vec<OrgId>>;
    /// The law of an org: roots in order, the newest bundle and freshness, all revocations.
    async fn law(&self, org: &OrgId) -> Result<LawDocs>;
    /// Newer documents of law.
    async fn put_law(&self, org: &OrgId, rows: Vec<LawRow>) -> Result<()>;
}

/// Leave to enrol.
#[async_trait]
pub trait Grants: Send + Sync {
    /// A grant.
    async fn put_grant(&self, org: &OrgId, grant: GrantRow) -> Result<Inserted>;
    /// One grant.
    async fn grant(&self, org: &OrgId, digest: &Digest) -> Result<Option<Wire>>;
    /// Grants in order of digest, after that one.
    async fn grants(&self, org: &OrgId, after: Option<Digest>, limit: u32) -> Result<Vec<(Digest, Wire)>>;
}

/// Nodes.
#[async_trait]
pub trait Nodes: Send + Sync {
    /// A node enrols.
    async fn enroll(&self, org: &OrgId, node: NewNode) -> Result<Enrolled>;
    /// One node.
    async fn node(&self, org: &OrgId, node: &NodeId) -> Result<Option<NodeRow>>;
    /// Nodes in order of id, after that one.
    async fn nodes(&self, org: &OrgId, after: Option<NodeId>, limit: u32) -> Result<Vec<NodeRow>>;
    /// Nodes of that name.
    async fn nodes_named(&self, org: &OrgId, name: &Name) -> Result<Vec<NodeRow>>;
    /// Whose link key this is.
    async fn node_by_link(&self, spki: &Digest) -> Result<Option<(OrgId, NodeId)>>;
    /// The node was heard of: keeps the heartbeat, and renews the leases of what it works on.
    async fn seen(&self, org: &OrgId, node: &NodeId, beat: Option<Heartbeat>, lease: Timestamp)
    -> Result<()>;
}

/// Jobs and what is signed about them.
#[async_trait]
pub trait Jobs: Send + Sync {
    /// A job and one queued execution per node.
    async fn insert_job(&self, org: &OrgId, job: JobRow, durability: Durability) -> Result<Inserted>;
    /// One job.
    async fn job(&self, org: &OrgId, job: &JobId) -> Result<Option<(JobRow, Vec<ExecutionRow>)>>;
    /// A page of jobs, newest first. It ends behind the job with which it is larger than [`PAGE_BYTES`](super::PAGE_BYTES).
    async fn jobs(&self, org: &OrgId, filter: JobFilter) -> Result<JobPage>;
    /// Every signed document about a job, oldest first.
    async fn documents(&self, org: &OrgId, job: &JobId) -> Result<Vec<DocumentRow>>;
    /// What a person has signed about a job, unless that has as many of them as it may. Of approvals, releases and remarks
    /// the newest of each person stay: an older one goes for a newer, and nobody's for anybody else's.
    async fn put_paper(&self, org: &OrgId, job: &JobId, paper: Paper) -> Result<Stored>;
}

/// Jobs, each on one node.
#[async_trait]
pub trait Executions: Send + Sync {
    /// One execution, as who follows it needs it.
    async fn followed(&self, key: &ExecutionKey) -> Result<Option<Followed>>;
    /// Whether it waits for its rollout, after every step before.
    async fn is_held(&self, key: &ExecutionKey) -> Result<bool>;
    /// Of each queued execution of a job: how many of the same node came before it and are queued too.
    async fn ahead(&self, org: &OrgId, job: &JobId) -> Result<BTreeMap<NodeId, u64>>;
    /// A firing that a node has begun, on that node, unless it is there.
    async fn put_firing(&self, org: &OrgId, firing: JobRow) -> Result<()>;
    /// An execution goes on; `false` when it was beyond that already.
    async fn advance(&self, key: &ExecutionKey, step: Step) -> Result<bool>;
    /// An execution ends.
    async fn record_result(&self, org: &OrgId, result: ResultRow) -> Result<Recorded>;
    /// What the node should be offered, or told to cancel, in order and without any document.
    async fn pending(&self, org: &OrgId, node: &NodeId) -> Result<Vec<Pending>>;
    /// One job with what of its documents goes to this node.
    async fn papers(&self, key: &ExecutionKey) -> Result<Option<JobPapers>>;
}

/// What happens to executions by the clock.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Executions whose lease is over become `lost`.
    async fn lapse(&self, now: Timestamp) -> Result<Vec<ExecutionKey>>;
    /// Executions that were not taken in time become `expired`.
    async fn expire(&self, now: Timestamp) -> Result<Vec<ExecutionKey>>;
    /// At start: nobody could renew a lease while the hub was away.
    async fn renew_all(&self, until: Timestamp) -> Result<()>;
}

/// The index of logs and standard input.
#[async_trait]
pub trait Logs: Send + Sync {
    /// A piece of a log.
    async fn put_segment(&self, key: &ExecutionKey, segment: SegmentRow) -> Result<()>;
    /// The pieces that end after `from`, in order.
    async fn segments(&self, key: &ExecutionKey, from: u64, limit: u32) -> Result<Vec<SegmentRow>>;
    /// Standard input is about to be there: what is not stored soon after is idle.
    async fn blob_coming(&self, org: &OrgId, sha256: &Digest) -> Result<()>;
    /// Standard input was stored, and is kept until then at least.
    async fn put_blob(
        &self,
        org: &OrgId,
        sha256: &Digest,
        size: u64,
        keep_until: Timestamp,
    ) -> Result<Inserted>;
    /// Its size, if it is there and will be for a while.
    async fn blob(&self, org: &OrgId, sha256: &Digest) -> Result<Option<u64>>;
    /// Bytes of all that is stored for an org but this one.
    async fn blob_bytes(&self, org: &OrgId, but: &Digest) -> Result<u64>;
    /// An upload has begun; synced, so that it is known whatever comes.
    async fn upload_began(&self, upload: Begun) -> Result<()>;
    /// It is completed, or aborted.
    async fn upload_over(&self, upload: Begun) -> Result<()>;
    /// Those that have begun and are not over.
    async fn uploads(&self) -> Result<Vec<Begun>>;
}

/// Secrets: ciphertext, and who may have it.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// A new version of a secret.
    async fn put_secret(&self, org: &OrgId, secret: SecretRow) -> Result<Stored>;
    /// The document of that digest.
    async fn secret_of(&self, org: &OrgId, digest: &Digest) -> Result<Option<Wire>>;
    /// The newest version of a secret; its document is empty when it was removed.
    async fn newest_secret(&self, org: &OrgId, name: &Name) -> Result<Option<SecretRow>>;
    /// The newest version of each secret that was not removed, in order of name, after that one; without the documents.
    async fn secrets(&self, org: &OrgId, after: Option<String>, limit: u32) -> Result<Vec<SecretRow>>;
    /// Deletes all versions; their highest number stays known. `false` when there is none.
    async fn remove_secret(&self, org: &OrgId, name: &Name) -> Result<bool>;
}

/// API tokens.
#[async_trait]
pub trait Tokens: Send + Sync {
    /// A new token.
    async fn put_token(&self, token: TokenRow) -> Result<()>;
    /// The token of that id, of any org: who asks is not known before.
    async fn token(&self, token_id: &str) -> Result<Option<TokenRow>>;
    /// Tokens in order of id, after that one.
    async fn tokens(&self, org: &OrgId, after: Option<String>, limit: u32) -> Result<Vec<TokenRow>>;
    /// Deletes one; `false` when there is none.
    async fn delete_token(&self, org: &OrgId, token_id: &str) -> Result<bool>;
    /// It was used.
    async fn token_used(&self, token_id: &str, at: Timestamp) -> Result<()>;
}

/// The audit log.
#[async_trait]
pub trait Trail: Send + Sync {
    /// Records an event that changes no row: a refusal, a connection. `None` is the hub's own log.
    async fn note(&self, org: Option<&OrgId>, event: Event) -> Result<()>;
    /// Lines in order, after that number.
    async fn trail(&self, org: &OrgId, after: u64, limit: u32) -> Result<Vec<(u64, String)>>;
    /// Whether the database answers.
    async fn ping(&self) -> Result<()>;
    /// Takes no more steps; returns when all that were taken are committed.
    async fn close(&self);
}
