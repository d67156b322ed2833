//! Who is calling: a token in `Authorization: Bearer`, or the link key that the connection proved.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use lictor_audit::{Event, EventType};
use lictor_proto::api::TokenScope;

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

/// A node that has enrolled.
pub(super) struct NodeAuth(pub KnownNode);

/// A connection that proved a link key, whoever's.
pub(super) struct AnyNode(pub LinkKey);

impl FromRequestParts<Arc<Api>> for Auth {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Trouble> {
        let word = parts.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
        let word = word.and_then(|v| v.strip_prefix("Bearer "));
        let outcome = match word {
            Some(word) => api.app.authenticate(word.trim()).await,
            None => Err(Error::Unauthenticated),
        };
        let caller = match outcome {
            Ok(caller) => caller,
            Err(e) => return Err(api.refused(parts, e).await),
        };
        // Everything that is no read needs more than `read`; `app` asks for what exactly.
        if !parts.method.is_safe() && caller.scope < TokenScope::Submit {
            let event = Event::new(EventType::RequestRefused)
                .with("code", lictor_proto::Code::ScopeMissing)
                .with("token_id", caller.token_id.as_str())
                .with("path", parts.uri.path());
            api.app.note(Some(&caller.org), event).await;
            return Err(Error::Scope(TokenScope::Submit).into());
        }
        Ok(Self(caller))
    }
}

impl FromRequestParts<Arc<Api>> for AnyNode {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Trouble> {
        match parts.extensions.get::<LinkKey>() {
            Some(key) => Ok(Self(*key)),
            None => Err(api.refused(parts, Error::Unauthenticated).await),
        }
    }
}

impl FromRequestParts<Arc<Api>> for NodeAuth {
    type Rejection = Trouble;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Trouble> {
        let AnyNode(key) = AnyNode::from_request_parts(parts, api).await?;
        match api.app.known_node(&key.0).await {
            Ok(node) => Ok(Self(node)),
            Err(e) => Err(api.refused(parts, e).await),
        }
    }
}

impl Api {
    /// Records that somebody unknown was refused, a few times a second at most: it is the only record that a
    /// stranger can cause.
    async fn refused(&self, parts: &Parts, e: Error) -> Trouble {
        if let Some(missed) = self.refusals.take() {
            let event = Event::new(EventType::RequestRefused)
                .with("code", lictor_proto::Code::Unauthenticated)
                .with("method", parts.method.as_str())
                .with("path", parts.uri.path())
                .with("not_recorded_before", missed);
            self.app.note(None, event).await;
        }
        e.into()
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
