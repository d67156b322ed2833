//! Notifications: who is told of what, and how that goes out.
//!
//! ```text
//!   what happens --(same transaction)--> outbox --> courier --> webhook, e-mail
//!   clock: node lost, law ending --------^             '--> failed: later, all of that target's; given up after a day
//! ```
//!
//! All of it is the hub's word, and says so. It holds nothing that a job printed.
//!
//! # Invariants
//! - What is in the outbox survives a kill, and is tried until it was delivered or a day has passed: at least once, with one id.
//! - One target waits for itself only: no dead end delays another, and what is new does not overtake what waits.

mod courier;
mod mail;
mod watch;
mod webhook;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lictor_proto::api::{
    CreatedNotifyTarget, NewNotifyTarget, NoticeKind, NoticeWay, NotifyTargetView, TokenScope,
};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Timestamp};

pub use courier::Notifier;
pub(crate) use courier::deliver;
pub(crate) use watch::watch;

use super::{App, Caller, Error};
use crate::store::{Notice, NotifyTarget, Tested};

/// Bytes of an address.
const ADDRESS: usize = 1024;
/// Between two tests of one target.
const TEST_PAUSE: Duration = Duration::from_secs(10);

fn view(row: &NotifyTarget) -> NotifyTargetView {
    NotifyTargetView {
        target_id: row.target_id.clone(),
        way: row.way,
        address: row.address.clone(),
        on: row.on.clone(),
        created_at: row.created_at,
        delivered_at: row.delivered_at,
        waiting: row.waiting,
        last_error: row.last_error.clone(),
    }
}

impl App {
    /// Has somebody told from now on.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] for an address that may not be told, or one too many.
    pub async fn put_notify_target(
        &self,
        caller: &Caller,
        new: NewNotifyTarget,
    ) -> Result<CreatedNotifyTarget, Error> {
        caller.need(TokenScope::Admin)?;
        let refuse = |why: String| Error::from(Refusal::new(Code::BadRequest, why));
        if new.address.len() > ADDRESS || new.address.chars().any(char::is_control) {
            return Err(refuse(format!(
                "address: at most {ADDRESS} bytes, without control characters"
            )));
        }
        let mut on = new.on;
        on.sort_unstable();
        on.dedup();
        if on.is_empty() {
            return Err(refuse(
                "on: at least one of approval, failure, node, law".to_owned(),
            ));
        }
        let mut random = [0; 40];
        getrandom::fill(&mut random).map_err(|e| Error::Internal(format!("random bytes: {e}")))?;
        let secret = match new.way {
            NoticeWay::Webhook => {
                self.notifier.check_url(&new.address).map_err(refuse)?;
                random[8..].to_vec()
            }
            NoticeWay::Email => {
                self.notifier.check_email(&new.address).map_err(refuse)?;
                Vec::new()
            }
        };
        let row = NotifyTarget {
            target_id: data_encoding::HEXLOWER.encode(&random[..8]),
            org: caller.org.clone(),
            way: new.way,
            address: new.address,
            secret,
            on,
            created_at: Timestamp::now(),
            delivered_at: None,
            last_error: None,
            waiting: 0,
        };
        if !self.store.put_notify_target(row.clone()).await? {
            return Err(Refusal::new(Code::LimitExceeded, "an org has at most 50 of these").into());
        }
        let shown = format!("whsec_{}", STANDARD.encode(&row.secret));
        Ok(CreatedNotifyTarget {
            target: view(&row),
            secret: (!row.secret.is_empty()).then_some(shown),
        })
    }

    /// Who is told.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::Store`].
    pub async fn notify_targets(&self, caller: &Caller) -> Result<Vec<NotifyTargetView>, Error> {
        caller.need(TokenScope::Admin)?;
        let rows = self.store.notify_targets(&caller.org).await?;
        Ok(rows.iter().map(view).collect())
    }

    /// Has somebody told nothing any more, not even what waits.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::NotFound`], [`Error::Store`].
    pub async fn delete_notify_target(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        caller.need(TokenScope::Admin)?;
        match self.store.delete_notify_target(&caller.org, id).await? {
            true => Ok(()),
            false => Err(Error::NotFound),
        }
    }

    /// Has a test go to one target, and what waits for it before that.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::NotFound`], [`Error::Store`]; [`Error::Later`] when one was sent just now.
    pub async fn test_notify_target(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        caller.need(TokenScope::Admin)?;
        let now = Timestamp::now();
        let notice = Notice {
            kind: NoticeKind::Failure,
            event: "test",
            key: format!("test {now}"),
            says: vec![("org", caller.org.to_string())],
        };
        let tested = self.store.test_notify_target(&caller.org, id, notice, TEST_PAUSE);
        match tested.await? {
            Tested::Sent => self.notifier.wake(),
            Tested::Unknown => return Err(Error::NotFound),
            Tested::TooSoon(at) => {
                let why = format!("one test in {} s goes to one target", TEST_PAUSE.as_secs());
                let again_in = at.plus(TEST_PAUSE).since(now);
                return Err(Error::Later(Refusal::new(Code::RateLimited, why), again_in));
            }
        }
        Ok(())
    }
}
