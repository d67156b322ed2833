//! What people sign about jobs: approvals, releases, remarks, cancels. All of them come in by one way.
//!
//! ```text
//! bytes --verify (roster, window)--> of this job? --> stored, so many of each person --> what follows from its kind
//!              '------------------------'--------------'--> refused, in the audit log
//! ```
//!
//! The hub decides nothing by them: nodes verify each again, and count.

use std::collections::BTreeSet;
use std::sync::Arc;

use lictor_audit::EventType;
use lictor_proto::agent::CancelJob;
use lictor_proto::api::{ExecutionState, JobView, TokenScope};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Approval, Cancel, Document, Release, Remark};
use lictor_proto::{Code, Digest, JobId, Name, NodeId, Timestamp};
use lictor_trust::{OrgTrust, Verified};

use super::views::read_job;
use super::{App, Caller, Error, Org};
use crate::store::{ExecutionRow, JobDocument, JobRow, Paper, Stored};

/// A signed document of a person about a job.
trait OfJob: Document {
    const IS: JobDocument;
    const REJECTED: EventType;

    fn verify(trust: &OrgTrust, wire: &str, now: Timestamp) -> Result<Verified<Self>, Refusal>;
    fn job(&self) -> &Digest;
    fn signer(&self) -> &Name;
    fn issued_at(&self) -> Timestamp;
    /// The nodes that it names.
    fn nodes(&self) -> Vec<&NodeId>;
}

macro_rules! of_job {
    ($($doc:ident: $rejected:ident, $verify:ident, $signer:ident, $nodes:expr;)*) => {$(
        impl OfJob for $doc {
            const IS: JobDocument = JobDocument::$doc;
            const REJECTED: EventType = EventType::$rejected;

            fn verify(trust: &OrgTrust, wire: &str, now: Timestamp) -> Result<Verified<Self>, Refusal> {
                trust.$verify(wire, now)
            }
            fn job(&self) -> &Digest {
                &self.job_digest
            }
            fn signer(&self) -> &Name {
                &self.$signer
            }
            fn issued_at(&self) -> Timestamp {
                self.issued_at
            }
            fn nodes(&self) -> Vec<&NodeId> {
                let nodes: fn(&Self) -> Vec<&NodeId> = $nodes;
                nodes(self)
            }
        }
    )*};
}

of_job! {
    Approval: ApprovalRejected, verify_approval, approver, |a| a.facts.iter().map(|f| &f.node_id).collect();
    Release: ReleaseRejected, verify_release, operator, |r| r.nodes.iter().collect();
    Remark: RemarkRejected, verify_remark, operator, |_| Vec::new();
    Cancel: CancelRejected, verify_cancel, operator, |c| c.nodes.iter().collect();
}

/// The first of these nodes that the job does not name. Of a firing its schedule says that, and not its executions: those
/// are of the nodes alone that have told of it.
fn stranger<'a>(named: &[&'a NodeId], row: &JobRow) -> Result<Option<&'a NodeId>, Error> {
    if named.is_empty() {
        return Ok(None);
    }
    let job = read_job(&row.envelope)?;
    let own: BTreeSet<&NodeId> = job.nodes.iter().collect();
    Ok(named.iter().copied().find(|node| !own.contains(node)))
}

/// A document that is stored, with its job as that stands since.
struct Taken<T> {
    org: Arc<Org>,
    doc: Verified<T>,
    id: JobId,
    row: JobRow,
    executions: Vec<ExecutionRow>,
}

impl App {
    /// Verifies and stores a document; with `expected`, only of that job. It names nodes of the job and no others: what
    /// is stored and passed on of a small job is small.
    async fn take<T: OfJob>(
        &self,
        caller: &Caller,
        expected: Option<&JobId>,
        wire: &str,
    ) -> Result<Taken<T>, Error> {
        caller.need(TokenScope::Submit)?;
        let org = self.org(&caller.org)?;
        let verified = org.with(|trust| T::verify(trust, wire, Timestamp::now()));
        let of_it = verified.and_then(|doc| {
            let id = JobId::from_digest(doc.job());
            match expected.is_none_or(|e| *e == id) {
                true => Ok((doc, id)),
                false => Err(Code::WrongJob.into()),
            }
        });
        let (doc, id) = match of_it {
            Ok(of_it) => of_it,
            Err(why) => return Err(self.refuse(Some(&org.id), T::REJECTED, why).await),
        };
        let (row, _) = self.store.job(&org.id, &id).await?.ok_or(Error::NotFound)?;
        if let Some(other) = stranger(&doc.nodes(), &row)? {
            let why = Refusal::new(Code::WrongNode, format!("the job is not for {other}"));
            return Err(self.refuse(Some(&org.id), T::REJECTED, why).await);
        }
        let paper = Paper {
            kind: T::IS,
            digest: doc.digest(),
            wire: wire.to_owned(),
            signer: doc.signer().clone(),
            issued_at: doc.issued_at(),
        };
        if self.store.put_paper(&org.id, &id, paper).await? == Stored::Full {
            let why = format!(
                "{} has signed as many {}s about this job as one person may, or newer ones",
                doc.signer(),
                T::IS.as_str()
            );
            let why = Refusal::new(Code::LimitExceeded, why);
            return Err(self.refuse(Some(&org.id), T::REJECTED, why).await);
        }
        // Read after it is there: an ask that comes later finds it.
        let (row, executions) = self.store.job(&org.id, &id).await?.ok_or(Error::NotFound)?;
        Ok(Taken {
            org,
            doc,
            id,
            row,
            executions,
        })
    }

    /// Takes a signed approval and offers the job again where it waits. With `expected`, only of that job.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::NotFound`] for an unknown job; [`Error::Refused`] with the rule it breaks.
    pub async fn approve(
        self: &Arc<Self>,
        caller: &Caller,
        expected: Option<&JobId>,
        wire: &str,
    ) -> Result<JobView, Error> {
        let taken = self.take::<Approval>(caller, expected, wire).await?;
        self.offer_again(&taken, |_| true).await?;
        self.job(caller, &taken.id).await
    }

    /// Takes a signed release and offers the job again on the nodes that it names and that wait.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::NotFound`] for an unknown job; [`Error::Refused`] with the rule it breaks.
    pub async fn release(
        self: &Arc<Self>,
        caller: &Caller,
        expected: &JobId,
        wire: &str,
    ) -> Result<JobView, Error> {
        let taken = self.take::<Release>(caller, Some(expected), wire).await?;
        self.offer_again(&taken, |node| taken.doc.nodes.contains(node))
            .await?;
        self.job(caller, expected).await
    }

    /// Keeps a signed remark for whoever looks at the job. No node hears of it.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::NotFound`] for an unknown job; [`Error::Refused`] with the rule it breaks.
    pub async fn remark(&self, caller: &Caller, expected: &JobId, wire: &str) -> Result<JobView, Error> {
        self.take::<Remark>(caller, Some(expected), wire).await?;
        self.job(caller, expected).await
    }

    /// Takes a signed cancel and passes it to every node of the job that is connected; the others get it when
    /// they come.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::NotFound`] for an unknown job; [`Error::Refused`] with the rule it breaks.
    pub async fn cancel(
        self: &Arc<Self>,
        caller: &Caller,
        expected: &JobId,
        wire: &str,
    ) -> Result<JobView, Error> {
        let taken = self.take::<Cancel>(caller, Some(expected), wire).await?;
        if taken.doc.nodes.is_empty() {
            self.halt_rollout(&taken.org.id, expected).await?;
        }
        let open = taken.executions.iter();
        let open = open.filter(|e| !e.state.is_final() && taken.doc.is_for(&e.node_id));
        for link in open.filter_map(|e| self.links.get(&taken.org.id, &e.node_id)) {
            // With the job: an offer may still be on its way, or wait for its turn.
            link.cancel(CancelJob {
                cancel: wire.to_owned(),
                job: taken.row.envelope.clone(),
            });
        }
        self.job(caller, expected).await
    }

    async fn offer_again<T>(
        &self,
        taken: &Taken<T>,
        is_meant: impl Fn(&NodeId) -> bool,
    ) -> Result<(), Error> {
        let states = [ExecutionState::AwaitingApproval, ExecutionState::AwaitingRelease];
        let waiting = taken
            .executions
            .iter()
            .filter(|e| states.contains(&e.state) && is_meant(&e.node_id));
        let nodes = waiting.map(|e| e.node_id.clone()).collect();
        self.offer_to(&taken.org.id, &taken.row, nodes).await
    }
}
