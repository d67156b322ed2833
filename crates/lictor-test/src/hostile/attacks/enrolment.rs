//! A hub between an operator's grant and a machine that enrols, and one that poses as the hub later.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_agent::{AgentConfig, link, run};
use lictor_link::LinkError;
use lictor_proto::api::EnrollReply;
use lictor_proto::{Code, Envelope, limits};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attacks;
use crate::hostile::hub::{HostileHub, Raised};
use crate::hostile::node::Node;
use crate::hostile::org::{NODE, Org, signed};
use crate::hostile::scene::{must_fail, refused_enrolment};
use crate::hostile::{Place, Seen};

attacks! {
    hub_swaps_the_grant_of_a_machine_that_enrols => Some(Code::NodeRecordInvalid),
    hub_forges_the_labels_of_a_machine_that_enrols => Some(Code::SignatureInvalid),
    hub_signs_a_grant_itself => Some(Code::SignerUnknown),
    hub_gives_older_law_to_a_machine_that_enrols => Some(Code::StaleBundle),
    hub_gives_the_law_of_another_org_to_a_machine_that_enrols => Some(Code::WrongOrg),
    hub_gives_unloadable_law_to_a_machine_that_enrols => Some(Code::BundleUnloadable),
    another_hub_answers_a_machine_that_enrols => Some(Code::HubPin),
    another_hub_answers_a_node => Some(Code::HubPin),
}

/// An org, its hub, a grant and the token that belongs to it. The honest answer has enrolled a machine.
struct Offered {
    org: Org,
    hub: Raised,
    grant: String,
    token: String,
}

impl Offered {
    async fn new() -> Result<Self> {
        let org = Org::found("example")?;
        let hub = HostileHub::start().await?;
        let grant = signed(&org.grant(NODE, "join", &[("role", "web")]), &["alice"]);
        let token = org.token(&grant, "join", (&hub.url(), hub.link_spki()))?;
        let this = Self {
            org,
            hub,
            grant,
            token,
        };
        this.hub.give(this.honest());
        Node::fresh()?.enroll(&this.token).await?;
        Ok(this)
    }

    fn honest(&self) -> EnrollReply {
        EnrollReply {
            grant: self.grant.clone(),
            law: self.org.docs(),
        }
    }

    async fn refused(&self, change: impl FnOnce(&mut EnrollReply) -> Result<()>) -> Result<Seen> {
        let mut reply = self.honest();
        change(&mut reply)?;
        refused_enrolment(&self.hub, &self.token, reply).await
    }
}

/// Another authentic grant, with labels that the operator gave to another machine.
async fn hub_swaps_the_grant_of_a_machine_that_enrols() -> Result<Seen> {
    let offered = Offered::new().await?;
    let other = offered.org.grant(NODE, "another join", &[("role", "vault")]);
    offered
        .refused(|reply| {
            reply.grant = signed(&other, &["alice"]);
            Ok(())
        })
        .await
}

async fn hub_forges_the_labels_of_a_machine_that_enrols() -> Result<Seen> {
    let offered = Offered::new().await?;
    offered
        .refused(|reply| {
            let mut envelope = Envelope::parse(reply.grant.as_bytes(), limits::ENVELOPE)?;
            let payload = String::from_utf8(envelope.payload)?;
            envelope.payload = payload.replace("\"web\"", "\"vault\"").into_bytes();
            reply.grant = String::from_utf8(envelope.to_bytes())?;
            Ok(())
        })
        .await
}

async fn hub_signs_a_grant_itself() -> Result<Seen> {
    let offered = Offered::new().await?;
    let own = offered.org.grant(NODE, "join", &[("role", "vault")]);
    offered
        .refused(|reply| {
            reply.grant = signed(&own, &["the hub"]);
            Ok(())
        })
        .await
}

async fn hub_gives_older_law_to_a_machine_that_enrols() -> Result<Seen> {
    let mut offered = Offered::new().await?;
    let old = offered.org.docs();
    offered.org.next_bundle(|_| {});
    // The token was made under the newer law, and says so.
    offered.token = offered.org.token(
        &offered.grant,
        "join",
        (&offered.hub.url(), offered.hub.link_spki()),
    )?;
    offered
        .refused(|reply| {
            reply.law = old;
            Ok(())
        })
        .await
}

async fn hub_gives_the_law_of_another_org_to_a_machine_that_enrols() -> Result<Seen> {
    let offered = Offered::new().await?;
    let other = Org::found("another")?;
    offered
        .refused(|reply| {
            reply.law = other.docs();
            Ok(())
        })
        .await
}

/// The machine must not fall back on anything: there is no law, so there is no node.
async fn hub_gives_unloadable_law_to_a_machine_that_enrols() -> Result<Seen> {
    let mut offered = Offered::new().await?;
    offered.org.next_bundle(|b| {
        b.files.insert("roster.toml".into(), "operators = 1".into());
    });
    offered.refused(|_| Ok(())).await
}

/// Somebody else's machine at the hub's address, with a key of its own.
async fn another_hub_answers_a_machine_that_enrols() -> Result<Seen> {
    let mut offered = Offered::new().await?;
    let pin = lictor_proto::Digest::of(b"the hub that the operator meant");
    offered.token = offered
        .org
        .token(&offered.grant, "join", (&offered.hub.url(), pin))?;
    offered.refused(|_| Ok(())).await
}

/// The same for a node that has long been enrolled: its hub's name now leads to another machine.
async fn another_hub_answers_a_node() -> Result<Seen> {
    let offered = Offered::new().await?;
    offered.hub.give(offered.honest());
    let node = Node::fresh()?;
    node.enroll(&offered.token).await?;
    let path = node.dir().join(lictor_agent::hub::FILE);
    let mut file: lictor_agent::HubFile = serde_json::from_slice(&std::fs::read(&path)?)?;
    file.pins = vec![lictor_proto::Digest::of(b"the hub that it knew")];
    std::fs::write(&path, serde_json::to_vec(&file)?)?;
    let hub = run::open_hub(&AgentConfig::new(node.dir()))?;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let held = link::hold(&hub, axum::Router::new(), &tasks, &stop);
    let held = tokio::time::timeout(Duration::from_secs(30), held).await;
    let refused: LinkError = must_fail(held.context("the link neither held nor failed")?)?;
    ensure!(offered.hub.links() == 0, "IT GOT THROUGH: a link came up");
    Ok(Seen::refused(refused.code(), Place::Link))
}
