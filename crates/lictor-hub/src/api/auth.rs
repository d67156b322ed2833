//! Who is calling: a token in `Authorization: Bearer`, or the link key that the connection proved.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::Method;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use lictor_audit::{Event, EventType};
use lictor_proto::api::TokenScope;
use lictor_proto::{Code, OrgId};

use super::Api;
use super::problem::Trouble;
use crate::app::enrol::KnownNode;
use crate::app::{Caller, Error};

/// The Ed25519 key whose private half the peer of this connection has proved. Put into each request of a node's
/// connection by the listener, from the TLS session; a request cannot bring it.
#[derive(Debug, Clone, Copy)]
pub struct LinkKey(pub [u8; 32]);

/// A caller with a valid token.
pub(super) struct Auth(pub Caller);

/// A caller with a valid token who only reads, whatever the method: where what is read takes a body to say.
pub(super) struct ReadAuth(pub Caller);

/// A node that has enrolled.
pub(super) struct NodeAuth(pub KnownNode);

/// A connection that proved a link key, whoever's.
pub(super) struct AnyNode(pub LinkKey);

impl FromRequestParts<Arc<Api>> for Auth {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Trouble> {
        let ReadAuth(caller) = ReadAuth::from_request_parts(parts, api).await?;
        // Everything that is no read needs more than `read`; `app` asks for what exactly.
        if !parts.method.is_safe() && caller.scope < TokenScope::Submit {
            return Err(Error::Scope(TokenScope::Submit).into());
        }
        Ok(Self(caller))
    }
}

impl FromRequestParts<Arc<Api>> for ReadAuth {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Trouble> {
        let word = parts.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let word = word.and_then(|v| v.strip_prefix("Bearer "));
        let word = word.ok_or(Error::Unauthenticated)?;
        let caller = api.app.authenticate(word.trim()).await?;
        Subject::name(parts, &caller.org, "token_id", &caller.token_id);
        api.app.take_turn(&caller)?;
        Ok(Self(caller))
    }
}

impl FromRequestParts<Arc<Api>> for AnyNode {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Trouble> {
        match parts.extensions.get::<LinkKey>() {
            Some(key) => Ok(Self(*key)),
            None => Err(Error::Unauthenticated.into()),
        }
    }
}

impl FromRequestParts<Arc<Api>> for NodeAuth {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Trouble> {
        let AnyNode(key) = AnyNode::from_request_parts(parts, api).await?;
        let node = api.app.known_node(&key.0).await?;
        Subject::name(parts, &node.org, "node_id", node.node_id.as_str());
        Ok(Self(node))
    }
}

/// Who a request turned out to be from. The frame around each request puts an empty one in; the extractors above
/// fill it, so that a refusal is recorded in the log of its org.
#[derive(Debug, Clone, Default)]
pub(super) struct Subject(Arc<OnceLock<(OrgId, &'static str, String)>>);

impl Subject {
    fn name(parts: &Parts, org: &OrgId, field: &'static str, id: &str) {
        if let Some(subject) = parts.extensions.get::<Self>() {
            // A request has one caller; a second extractor finds the same.
            let _ = subject.0.set((org.clone(), field, id.to_owned()));
        }
    }
}

impl Api {
    /// Records a refusal: in the org's log when the caller is known; else in the hub's own, a few times a second
    /// at most, since it is the only record that a stranger can cause. The same bound holds for what is over a limit,
    /// which would otherwise make a busy hub busier.
    pub(super) async fn record(&self, subject: &Subject, method: &Method, path: &str, code: Code) {
        let event = Event::new(EventType::RequestRefused)
            .with("code", code)
            .with("method", method.as_str())
            .with("path", path);
        let (org, event) = match subject.0.get() {
            Some((org, field, id)) => (Some(org), event.with(field, id.as_str())),
            None => (None, event),
        };
        let is_load = matches!(
            code,
            Code::Busy | Code::RateLimited | Code::QueueFull | Code::JobsFull
        );
        if org.is_some() && !is_load {
            self.app.note(org, event).await;
        } else if let Some(missed) = self.refusals.take() {
            self.app
                .note(org, event.with("not_recorded_before", missed))
                .await;
        }
    }
}

/// How many refusals of strangers are recorded.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<Option<Window>>);

#[derive(Debug)]
struct Window {
    began: Instant,
    recorded: u32,
    missed: u64,
}

impl Refusals {
    const PER_SECOND: u32 = 5;

    /// The number of refusals that were not recorded since the last one that was; `None` when this one is not.
    fn take(&self) -> Option<u64> {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = guard.get_or_insert_with(|| Window {
            began: Instant::now(),
            recorded: 0,
            missed: 0,
        });
        if window.began.elapsed() >= Duration::from_secs(1) {
            window.began = Instant::now();
            window.recorded = 0;
        }
        if window.recorded >= Self::PER_SECOND {
            window.missed += 1;
            return None;
        }
        window.recorded += 1;
        Some(std::mem::take(&mut window.missed))
    }
}
