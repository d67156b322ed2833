//! A machine becomes a node (docs/protocol.md, "Nodes"): token, grant, keys, record, hub.
//!
//! ```text
//!   token --> GET grant and law over pinned TLS --> check all of it against the token
//!         --> keys and record, kept (enrolment.json) --> POST record --> trust.json, hub.json, node.json
//! ```
//! The seed in the token signs the record here and goes nowhere; the hub sees the signature. Keys and record are
//! on disk before the hub hears of them, so a run that was cut off anywhere is simply run again: with the same
//! token it sends the same record, with another it starts clean.
//!
//! # Invariants
//! - `node.json` is written last. Without it there is no node, with it everything else is there.
//! - Nothing that the hub says is believed unless it follows from the token: org, oldest root and bundle, grant.

use std::path::Path;
use std::time::Duration;

use lictor_link::LinkError;
use lictor_link::http::{HttpClient, full};
use lictor_link::hyper;
use lictor_proto::agent::Wire;
use lictor_proto::api::{EnrollReply, EnrollRequest, TrustView};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{Grant, Token};
use lictor_proto::{Digest, Name, NodeId, Timestamp, limits};
use lictor_trust::enrol::{RecordOf, check_enrolment, join_key};
use lictor_trust::keyfile::KeyFileError;
use lictor_trust::keys::KeyError;
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeSecrets, OrgTrust, Verified};
use lictor_warden::node_dir::{NodeDir, NodeDirError, NodeFile};
use serde::{Deserialize, Serialize};
use tokio_util::task::TaskTracker;

use crate::hub::{self, HubFile};

const WITHIN: Duration = Duration::from_secs(30);
const PENDING: &str = "enrolment.json";
const KEYS: [&str; 4] = ["identity.key", "e2e.key", "seal.key", "link.key"];

/// What to enrol.
#[derive(Debug, Clone)]
pub struct Enrolment<'a> {
    /// The token, as it was handed over.
    pub token: &'a str,
    /// The node directory to make.
    pub dir: &'a Path,
    /// The name to take; needed only when the grant leaves a choice.
    pub name: Option<Name>,
}

/// A machine that is now a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolled {
    /// Its id.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// Its hub.
    pub hub_url: String,
}

/// Why a machine could not enrol.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The text is no token.
    #[error("the token cannot be read")]
    Token(#[from] lictor_proto::doc::TokenError),
    /// The directory holds another node.
    #[error("{path} already holds node {node}; enrol into another directory", path = .0.display(), node = .1)]
    AlreadyNode(std::path::PathBuf, NodeId),
    /// The grant leaves the name open, and none was given.
    #[error("the grant allows any name that starts with `{0}`; say which with --name")]
    NameNeeded(Name),
    /// The hub cannot be reached, or is not the one that the token names.
    #[error("the hub at {hub}")]
    Hub {
        /// Its address.
        hub: String,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// Something that the hub gave, or the hub itself, says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The directory cannot be used.
    #[error("the node directory cannot be used")]
    Dir(#[from] NodeDirError),
    /// A key cannot be kept.
    #[error("the node's keys cannot be kept")]
    KeyFile(#[from] KeyFileError),
    /// No key can be made.
    #[error("the node's keys cannot be made")]
    Key(#[from] KeyError),
}

impl EnrollError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Token(_) | Self::NameNeeded(_) => Code::BadRequest,
            Self::AlreadyNode(..) => Code::AlreadyExists,
            Self::Hub { source, .. } => source.code(),
            Self::Refused(r) => r.code,
            Self::Dir(_) | Self::KeyFile(_) | Self::Key(_) => Code::Internal,
        }
    }
}

/// An enrolment that may have reached the hub.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    grant_digest: Digest,
    name: Name,
    record: Wire,
}

/// Enrols this machine. Safe to run again after any interruption.
///
/// # Errors
/// [`EnrollError`]; nothing is a node then, and no use of the grant is lost that a second run doesn't take up.
pub async fn enroll(what: Enrolment<'_>) -> Result<Enrolled, EnrollError> {
    lictor_link::install_crypto_provider();
    let token = Token::decode(what.token)?;
    let dir = NodeDir::create(what.dir)?;
    if let Some(node) = dir.node()? {
        return already(&dir, &node, &token);
    }
    let pending: Option<Pending> = dir.read(PENDING)?;
    let pending = pending.filter(|p| p.grant_digest == token.grant_digest);
    let secrets = match &pending {
        Some(_) => NodeSecrets::load(dir.path())?,
        None => fresh_keys(&dir)?,
    };
    let hub = HubFile {
        url: token.hub_url.clone(),
        pins: vec![token.hub_spki],
    };
    let tasks = TaskTracker::new();
    let client = Client::new(&hub, &secrets, &tasks)?;

    let offer = client.grant(&token).await?;
    let now = Timestamp::now();
    let (trust, grant) = check_offer(&token, &offer, now)?;
    let pending = match pending {
        Some(pending) => pending,
        None => make_record(&dir, &secrets, &token, &grant, what.name, trust.now(now))?,
    };
    let record = trust.verify_node(&grant, &pending.record)?;
    client.enroll(&token, &pending.record).await?;

    dir.set_trust(&TrustView {
        org: token.org_id.clone(),
        docs: trust.docs(),
    })?;
    dir.write(hub::FILE, &hub)?;
    dir.set_node(&NodeFile {
        grant: offer.grant,
        record: pending.record,
    })?;
    dir.remove(PENDING)?;
    Ok(Enrolled {
        node_id: record.node_id.clone(),
        name: record.name.clone(),
        hub_url: hub.url,
    })
}

/// The directory is a node's. With the token that made it, that is success; with another, somebody errs.
fn already(dir: &NodeDir, node: &NodeFile, token: &Token) -> Result<Enrolled, EnrollError> {
    let held = dir
        .trust()?
        .map(|t| OrgTrust::restore(&t.org, &t.docs))
        .transpose()?;
    let trust = held.ok_or_else(|| Refusal::plain(Code::NoLaw))?;
    let grant = trust.verify_grant(&node.grant)?;
    let record = trust.verify_node(&grant, &node.record)?;
    if grant.digest() != token.grant_digest {
        return Err(EnrollError::AlreadyNode(
            dir.path().into(),
            record.node_id.clone(),
        ));
    }
    dir.remove(PENDING)?;
    Ok(Enrolled {
        node_id: record.node_id.clone(),
        name: record.name.clone(),
        hub_url: token.hub_url.clone(),
    })
}

/// New keys in place of whatever an enrolment left that never made a record, or made it for another grant.
fn fresh_keys(dir: &NodeDir) -> Result<NodeSecrets, EnrollError> {
    dir.remove(PENDING)?;
    for name in KEYS {
        dir.remove(name)?;
    }
    let secrets = NodeSecrets::generate()?;
    secrets.store(dir.path())?;
    Ok(secrets)
}

/// Law and grant as the hub gave them, checked against the token and each other.
fn check_offer(
    token: &Token,
    offer: &EnrollReply,
    now: Timestamp,
) -> Result<(OrgTrust, Verified<Grant>), EnrollError> {
    let first = offer.law.roots.first();
    let first = first.ok_or_else(|| Refusal::new(Code::NoLaw, "the hub gave no root for this org"))?;
    let mut trust = OrgTrust::pin(&token.org_id, first)?;
    let report = trust.accept(&offer.law, now);
    if let Some((kind, refusal)) = report.refused.into_iter().next() {
        let text = format!("the hub's {}: {}", kind.as_str(), refusal.message);
        return Err(Refusal::new(refusal.code, text).into());
    }
    trust.check_token(token)?;
    trust.law(now)?;
    let grant = trust.verify_grant(&offer.grant)?;
    join_key(token, &grant)?;
    Ok((trust, grant))
}

fn make_record(
    dir: &NodeDir,
    secrets: &NodeSecrets,
    token: &Token,
    grant: &Verified<Grant>,
    name: Option<Name>,
    now: Timestamp,
) -> Result<Pending, EnrollError> {
    // How often the grant has been used, the hub knows.
    check_enrolment(grant, 0, now)?;
    let name = match (name, &grant.name, &grant.name_prefix) {
        (Some(name), ..) => name,
        (None, Some(name), _) => name.clone(),
        (None, None, Some(prefix)) => return Err(EnrollError::NameNeeded(prefix.clone())),
        (None, None, None) => return Err(Refusal::plain(Code::PayloadMalformed).into()),
    };
    let stand = RecordOf {
        org: &token.org_id,
        grant: grant.digest(),
        name: &name,
        epoch: 1,
        issued_at: now,
    };
    let record = to_wire(&secrets.record(&stand, &join_key(token, grant)?));
    let pending = Pending {
        grant_digest: grant.digest(),
        name,
        record,
    };
    dir.write(PENDING, &pending)?;
    Ok(pending)
}

/// The hub, as a machine that enrols sees it.
struct Client(HttpClient);

impl Client {
    fn new(file: &HubFile, secrets: &NodeSecrets, tasks: &TaskTracker) -> Result<Self, EnrollError> {
        let hub = file.open(&secrets.link).map_err(|source| EnrollError::Hub {
            hub: file.url.clone(),
            source,
        })?;
        Ok(Self(HttpClient::new(hub.url, Some(hub.tls), tasks.clone())))
    }

    async fn grant(&self, token: &Token) -> Result<EnrollReply, EnrollError> {
        let path = format!("/api/v1/agent/grants/{}/{}", token.org_id, token.grant_digest);
        let request = hyper::Request::get(path).body(full("")).map_err(malformed)?;
        self.call(request).await
    }

    async fn enroll(&self, token: &Token, record: &str) -> Result<EnrollReply, EnrollError> {
        let body = EnrollRequest {
            org: token.org_id.clone(),
            grant_digest: token.grant_digest,
            record: record.to_owned(),
        };
        let body = lictor_proto::json::to_vec(&body).map_err(malformed)?;
        let request = hyper::Request::post("/api/v1/agent/enroll")
            .header("content-type", "application/json")
            .body(full(body))
            .map_err(malformed)?;
        self.call(request).await
    }

    async fn call(
        &self,
        request: hyper::Request<lictor_link::http::RequestBody>,
    ) -> Result<EnrollReply, EnrollError> {
        let answer = self.0.call(request, 2 * limits::ASK, WITHIN).await;
        let answer = answer.map_err(|source| EnrollError::Hub {
            hub: self.0.url().to_string(),
            source,
        })?;
        Ok(answer.json()?)
    }
}

fn malformed(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, e.to_string())
}
