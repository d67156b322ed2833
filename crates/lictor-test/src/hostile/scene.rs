//! A scene: an org, its one node, and the hub between them that is about to lie.
//!
//! Everything is set up honestly, over the real enrolment and the real link, and shown to work; what an attack then
//! changes is the one thing that is different.

use anyhow::{Context as _, Result, bail, ensure};
use lictor_agent::EnrollError;
use lictor_audit::EventType;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Ack, Event, Finished, LawDocs, Offer, OfferReply, Reply, Request};
use lictor_proto::api::EnrollReply;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Grant, Job, Outcome, Receipt};
use lictor_proto::{Code, Digest, NodeId};
use lictor_trust::{NodeKeys, OrgTrust, Verified};
use lictor_warden::Config;

use super::hub::{HostileHub, PATIENCE, Raised};
use super::node::Node;
use super::org::{NODE, Org, digest, signed};

/// What became of an attack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The code that it was refused with; `None` for those that are not refused but have no effect.
    pub code: Option<Code>,
    /// Where that was seen.
    pub at: Place,
}

/// Where the refusal was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the node's audit log.
    Node(EventType),
    /// The machine said so while it enrolled; it is no node and has no log yet.
    Enrolment,
    /// Where bytes are not yet documents: the link refuses them, and ends or goes on.
    Link,
    /// The person's program said so; with exit status 125, unless what it holds is enough to go on.
    Client,
}

impl Seen {
    /// Refused on the way to a node, or by a client.
    #[must_use]
    pub fn refused(code: Code, at: Place) -> Self {
        Self { code: Some(code), at }
    }

    /// Without effect.
    #[must_use]
    pub fn without_effect(event: EventType) -> Self {
        Self {
            code: None,
            at: Place::Node(event),
        }
    }
}

/// Org, hub and node.
pub struct Scene {
    /// The org, keys and all.
    pub org: Org,
    /// The hub.
    pub hub: Raised,
    /// The node.
    pub node: Node,
    /// The node's id.
    pub id: NodeId,
    /// Grant and record.
    pub papers: (String, String),
    known: usize,
}

impl Scene {
    /// An org of one enrolled, connected node.
    ///
    /// # Errors
    /// When anything of that doesn't work.
    pub async fn set() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// As [`Scene::set`], with other settings of the warden.
    ///
    /// # Errors
    /// As [`Scene::set`].
    pub async fn with(change: impl FnOnce(&mut Config)) -> Result<Self> {
        let org = Org::found("example")?;
        let hub = HostileHub::start().await?;
        let mut node = Node::fresh()?;
        let grant = signed(&org.grant(NODE, "join", &[("role", "web")]), &["alice"]);
        let token = org.token(&grant, "join", (&hub.url(), hub.link_spki()))?;
        hub.give(EnrollReply {
            grant: grant.clone(),
            law: org.docs(),
        });
        let enrolled = node.enroll(&token).await?;
        node.start(change).await?;
        hub.link().await?;
        let papers = (grant, hub.record()?);
        let mut scene = Self {
            org,
            hub,
            node,
            id: enrolled.node_id,
            papers,
            known: 0,
        };
        scene.mark()?;
        Ok(scene)
    }

    /// From here on audit events count.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn mark(&mut self) -> Result<()> {
        self.known = self.node.audit()?.len();
        Ok(())
    }

    /// The attack was refused with this code: the node's audit log says so since the mark.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn noted(&self, code: Code) -> Result<Seen> {
        let event = self.node.noted(self.known, code).await?;
        Ok(Seen::refused(code, Place::Node(event)))
    }

    /// The attack had no effect; an event of this type since the mark shows it.
    ///
    /// # Errors
    /// When there is none.
    pub async fn without_effect(&self, event: EventType) -> Result<Seen> {
        self.node.notes(self.known, event).await?;
        Ok(Seen::without_effect(event))
    }

    /// How many events of this type there are since the mark.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn count(&self, kind: EventType) -> Result<usize> {
        let log = self.node.audit()?;
        Ok(log.iter().skip(self.known).filter(|r| r.kind() == kind).count())
    }

    /// A job for this node, not signed yet.
    #[must_use]
    pub fn job(&self, operator: &str, argv: &[&str]) -> Job {
        self.org.job(&self.id, operator, argv)
    }

    /// A job of alice's, signed.
    #[must_use]
    pub fn signed(&self, argv: &[&str]) -> String {
        signed(&self.job("alice", argv), &["alice"])
    }

    /// Offers a job.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn offer(&self, job: &str, approvals: &[String]) -> Result<OfferReply> {
        self.offer_all(job, approvals, &[], &[]).await
    }

    /// Offers a job with these approvals and releases.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn offer_released(
        &self,
        job: &str,
        approvals: &[String],
        releases: &[String],
    ) -> Result<OfferReply> {
        self.offer_all(job, approvals, releases, &[]).await
    }

    /// Offers a job with these secrets.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn offer_with(&self, job: &str, secrets: &[String]) -> Result<OfferReply> {
        self.offer_all(job, &[], &[], secrets).await
    }

    /// Offers a job with these secrets, which must be refused with this code, and finds the code in the audit log or in the
    /// receipt of the refusal.
    ///
    /// # Errors
    /// When it is taken, or refused otherwise.
    pub async fn refuses_with(&self, job: &str, secrets: &[String], code: Code) -> Result<Seen> {
        let got = match self.offer_with(job, secrets).await? {
            OfferReply::Refused(r) | OfferReply::Later(r) | OfferReply::Denied(r) => r.code,
            other => bail!("IT GOT THROUGH: {other:?}"),
        };
        ensure!(got == code, "refused with {got}, not with {code}");
        self.noted(code).await
    }

    async fn offer_all(
        &self,
        job: &str,
        approvals: &[String],
        releases: &[String],
        secrets: &[String],
    ) -> Result<OfferReply> {
        let offer = Offer {
            job: job.to_owned(),
            approvals: approvals.to_vec(),
            releases: releases.to_vec(),
            secrets: secrets.to_vec(),
        };
        match self.hub.ask(&Request::Offer(offer)).await? {
            Reply::Offer(reply) => Ok(reply),
            other => bail!("an offer was answered by {other:?}"),
        }
    }

    /// Offers a job that must not be taken, and gives the code of the answer.
    ///
    /// # Errors
    /// When it is taken.
    pub async fn refused_offer(&self, job: &str) -> Result<Code> {
        match self.offer(job, &[]).await? {
            OfferReply::Refused(r) | OfferReply::Later(r) | OfferReply::Denied(r) => Ok(r.code),
            other => bail!("IT GOT THROUGH: {other:?}"),
        }
    }

    /// Offers a job that must be refused with this code, and finds the code in the audit log.
    ///
    /// # Errors
    /// When it is taken, or refused otherwise.
    pub async fn refuses(&self, job: &str, code: Code) -> Result<Seen> {
        let got = self.refused_offer(job).await?;
        ensure!(got == code, "refused with {got}, not with {code}");
        self.noted(code).await
    }

    /// Asks for something that must be refused with this code, and finds the code in the audit log.
    ///
    /// # Errors
    /// When it is done, or refused otherwise.
    pub async fn refuses_request(&self, request: &Request, code: Code) -> Result<Seen> {
        let got = self.refused_request(request).await?.code;
        ensure!(got == code, "refused with {got}, not with {code}");
        self.noted(code).await
    }

    /// Asks for something that must be refused, and gives the refusal.
    ///
    /// # Errors
    /// When it is done.
    pub async fn refused_request(&self, request: &Request) -> Result<Refusal> {
        match self.hub.ask(request).await? {
            Reply::Refused(refusal) => Ok(refusal),
            other => bail!("IT GOT THROUGH: {other:?}"),
        }
    }

    /// Runs a job as an honest hub would, to its verified end.
    ///
    /// # Errors
    /// When it doesn't succeed.
    pub async fn runs(&self, job: &str, approvals: &[String]) -> Result<Finished> {
        let reply = self.offer(job, approvals).await?;
        ensure!(
            reply == OfferReply::Accepted,
            "an honest job was answered by {reply:?}"
        );
        self.succeeded(job).await
    }

    /// Waits for a job's verified end, which must be a success.
    ///
    /// # Errors
    /// When it isn't.
    pub async fn succeeded(&self, job: &str) -> Result<Finished> {
        let finished = self.hub.finished(digest(job)?).await?;
        let receipt = self.receipt(&finished)?;
        ensure!(
            receipt.outcome == Outcome::Succeeded,
            "it ended as {:?}",
            receipt.doc()
        );
        Ok(finished)
    }

    /// Runs `true` for alice, honestly, and acknowledges its end.
    ///
    /// # Errors
    /// When that doesn't work.
    pub async fn honest(&self) -> Result<()> {
        let job = self.signed(&["true"]);
        let finished = self.runs(&job, &[]).await?;
        self.acknowledge(&finished).await
    }

    /// Acknowledges a result.
    ///
    /// # Errors
    /// When the node doesn't take that.
    pub async fn acknowledge(&self, finished: &Finished) -> Result<()> {
        let receipt = digest(&finished.receipt)?;
        let job = finished.job;
        let reply = self.hub.ask(&Request::Ack(Ack::Result { job, receipt })).await?;
        ensure!(
            reply == Reply::Done,
            "an acknowledgement was answered by {reply:?}"
        );
        Ok(())
    }

    /// Waits until a job has started.
    ///
    /// # Errors
    /// When it doesn't.
    pub async fn started(&self, job: &str) -> Result<Digest> {
        let wanted = digest(job)?;
        let started = |m: &Message| match m {
            Message::Event(Event::Started { job, .. }) if *job == wanted => Some(()),
            _ => None,
        };
        self.hub.hears("the start of a job", started).await?;
        Ok(wanted)
    }

    /// The org's trust, as an honest client has it.
    ///
    /// # Errors
    /// When the org's own documents don't hold.
    pub fn trust(&self) -> Result<OrgTrust> {
        self.org.trust()
    }

    /// The node's keys, as an honest client knows them.
    ///
    /// # Errors
    /// When its papers don't hold.
    pub fn keys(&self) -> Result<NodeKeys> {
        let trust = self.trust()?;
        let grant: Verified<Grant> = trust.verify_grant(&self.papers.0)?;
        Ok(NodeKeys::of(&trust.verify_node(&grant, &self.papers.1)?)?)
    }

    /// The receipt of a result, verified.
    ///
    /// # Errors
    /// When it doesn't hold.
    pub fn receipt(&self, finished: &Finished) -> Result<Verified<Receipt>> {
        let receipt = self.trust()?.verify_receipt(&self.keys()?, &finished.receipt)?;
        receipt.check_for(&finished.job)?;
        Ok(receipt)
    }

    /// Gives law to the node, as an honest hub would.
    ///
    /// # Errors
    /// When the node doesn't take all of it.
    pub async fn push(&self, docs: LawDocs) -> Result<()> {
        match self.hub.ask(&Request::Law(docs)).await? {
            Reply::Law(_) => Ok(()),
            other => bail!("honest law was answered by {other:?}"),
        }
    }

    /// A file whose lines count how often something has run, and the command that adds one.
    #[must_use]
    pub fn counter(&self) -> (std::path::PathBuf, String) {
        let path = self.node.dir().join("runs");
        let command = format!("echo x >> {}", path.display());
        (path, command)
    }
}

/// Enrols a fresh machine at a hub that answers with `reply`; it must refuse.
///
/// # Errors
/// When it enrols.
pub async fn refused_enrolment(hub: &HostileHub, token: &str, reply: EnrollReply) -> Result<Seen> {
    hub.give(reply);
    let node = Node::fresh()?;
    let refused: EnrollError = match tokio::time::timeout(PATIENCE, node.enroll(token)).await? {
        Ok(enrolled) => bail!("IT GOT THROUGH: {enrolled:?}"),
        Err(e) => e,
    };
    ensure!(!node.dir().join("node.json").exists(), "and yet there is a node");
    Ok(Seen::refused(refused.code(), Place::Enrolment))
}

/// The error of something that must not succeed.
///
/// # Errors
/// When it does.
pub fn must_fail<T, E>(result: std::result::Result<T, E>) -> Result<E> {
    result.err().context("IT GOT THROUGH")
}
