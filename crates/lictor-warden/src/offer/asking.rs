//! A job that policy would let run once people have signed for it: the node's signed question, and what it keeps
//! meanwhile.

use lictor_audit::{Event, EventType};
use lictor_policy::Asked;
use lictor_proto::agent::{OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Approval, Ask};
use lictor_proto::{Code, Digest};
use lictor_trust::Verified;
use lictor_trust::sign::{sign, to_wire};

use super::case::Case;
use super::{APPROVAL_BYTES, APPROVALS, later};
use crate::journal::Step;
use crate::journal::entry::Entry;
use crate::journal::state::Phase;

impl Case<'_> {
    /// Signs the ask and keeps the job waiting, with the approvals that hold.
    pub(super) async fn ask(&self, asked: Box<Asked>, counted: Vec<Verified<Approval>>) -> OfferReply {
        let asked = *asked;
        let core = self.core;
        let waiting = {
            let state = core.journal.state();
            state
                .jobs()
                .filter(|(_, j)| matches!(j.phase, Phase::Waiting { .. }))
                .count()
        };
        if waiting >= core.config.max_waiting {
            let refusal = Refusal::new(Code::TooManyJobs, "too many jobs wait for approvals");
            return later(core, &self.digest, refusal).await;
        }
        self.tell_idle(&asked).await;
        let code = match asked.gates.iter().all(|g| g.release) {
            true => Code::ReleaseNeeded,
            false => Code::ApprovalNeeded,
        };
        let facts = asked.facts.to_text();
        let gates: Vec<String> = asked.gates.iter().map(|g| g.policy_id.clone()).collect();
        let ask = Ask {
            tag: Default::default(),
            org: core.issuer.org.clone(),
            job_digest: self.digest,
            node_id: core.issuer.node_id.clone(),
            bundle_version: self.acting.law.version(),
            facts_digest: Digest::of(facts.as_bytes()),
            facts,
            gates: asked.gates,
            issued_at: self.acting.now,
        };
        let ask = to_wire(&sign(&ask, &[&core.identity]));
        let approvals = kept(counted, &asked.ineligible);
        let step = Step {
            entries: vec![Entry::Waiting {
                job: self.digest,
                envelope: self.job.wire().to_owned(),
                expires_at: self.job.expires_at,
                ask: ask.clone(),
                approvals,
            }],
            audit: vec![
                Event::new(EventType::JobAsked)
                    .with_id("job", &self.digest)
                    .with("operator", self.job.operator.as_str())
                    .with("gates", gates.as_slice())
                    .with("code", code),
            ],
            receipt: None,
        };
        match core.journal.commit(step).await {
            Ok(_) => OfferReply::Ask(ask),
            Err(e) => OfferReply::Later((&e).into()),
        }
    }

    /// What was signed for it and counts for none of its gates, in the audit log.
    async fn tell_idle(&self, asked: &Asked) {
        for approval in &asked.ineligible {
            let event = Event::new(EventType::ApprovalRefused)
                .with_id("job", &self.digest)
                .with_id("approval", approval);
            self.core
                .audit(event.refused(&Code::ApprovalIneligible.into()))
                .await;
        }
        let idle = asked.idle_releases.iter();
        for release in idle.filter(|_| asked.gates.iter().any(|g| g.release)) {
            let event = Event::new(EventType::ReleaseRefused).with_id("release", release);
            self.idle(event.refused(&Code::ReleaseIneligible.into())).await;
        }
    }
}

/// The approvals to keep with a waiting job: first those that some gate takes, and no more than an entry can hold.
/// Nothing that did not verify is among them, so a hub cannot fill the journal with texts of its own.
fn kept(mut counted: Vec<Verified<Approval>>, ineligible: &[Digest]) -> Vec<Wire> {
    counted.sort_by_key(|a| ineligible.contains(&a.digest()));
    let mut bytes = 0;
    counted.retain(|a| {
        let fits = bytes + a.wire().len() <= APPROVAL_BYTES;
        bytes += if fits { a.wire().len() } else { 0 };
        fits
    });
    counted
        .iter()
        .take(APPROVALS)
        .map(|a| a.wire().to_owned())
        .collect()
}
