//! Who calls: API tokens, `lictor_pat_<id>_<secret>`.
//!
//! # Invariants
//! - Only SHA-256 of a secret is kept, in memory too; secrets have 256 random bits, so a plain hash is enough.
//! - Hashes are compared in constant time. A wrong id costs the same as a wrong secret.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lictor_proto::api::{CreatedToken, NewToken, TokenScope, TokenView};
use lictor_proto::{Code, Digest, OrgId, Timestamp};
use subtle::ConstantTimeEq as _;

use super::{App, Error};
use crate::store::TokenRow;

const PREFIX: &str = "lictor_pat_";
/// `last_used_at` is a hint for people; writing it at every call would cost more than it tells.
const USED_EVERY: Duration = Duration::from_secs(60);
/// Tokens kept in memory.
const BOOK: usize = 10_000;

/// Somebody whose token held.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Their org: the only one they can see.
    pub org: OrgId,
    /// What they may do.
    pub scope: TokenScope,
    /// Which token.
    pub token_id: String,
}

impl Caller {
    /// Refuses a caller whose scope is lower.
    ///
    /// # Errors
    /// [`Error::Scope`].
    pub fn need(&self, scope: TokenScope) -> Result<(), Error> {
        if self.scope >= scope {
            Ok(())
        } else {
            Err(Error::Scope(scope))
        }
    }
}

/// Tokens that were checked lately, so that a call costs no query.
#[derive(Debug, Default)]
pub struct TokenBook(Mutex<HashMap<String, TokenRow>>);

impl TokenBook {
    fn get(&self, id: &str) -> Option<TokenRow> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    fn put(&self, row: TokenRow) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if book.len() >= BOOK {
            book.clear();
        }
        book.insert(row.token_id.clone(), row);
    }

    fn remove(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// A new token: the row to store and the word to show once.
///
/// # Errors
/// [`Error::Internal`] when the system gives no random bytes.
pub fn make_token(org: &OrgId, new: &NewToken) -> Result<(TokenRow, String), Error> {
    let mut random = [0; 40];
    getrandom::fill(&mut random).map_err(|e| Error::Internal(format!("random bytes: {e}")))?;
    let token_id = data_encoding::HEXLOWER.encode(&random[..8]);
    let secret = data_encoding::HEXLOWER.encode(&random[8..]);
    let row = TokenRow {
        token_id: token_id.clone(),
        org: org.clone(),
        label: new.label.clone(),
        scope: new.scope,
        secret_hash: Digest::of(secret.as_bytes()),
        created_at: Timestamp::now(),
        expires_at: new.expires_at,
        last_used_at: None,
        requests_per_second: new.requests_per_second,
    };
    Ok((row, format!("{PREFIX}{token_id}_{secret}")))
}

fn view(row: TokenRow) -> TokenView {
    TokenView {
        token_id: row.token_id,
        label: row.label,
        scope: row.scope,
        created_at: row.created_at,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
        requests_per_second: row.requests_per_second,
    }
}

impl App {
    /// Whose token this is.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`], whatever is wrong with it.
    pub async fn authenticate(&self, word: &str) -> Result<Caller, Error> {
        let parts = word.strip_prefix(PREFIX).and_then(|w| w.split_once('_'));
        let (id, secret) = parts.ok_or(Error::Unauthenticated)?;
        if id.len() != 16 || secret.len() != 64 {
            return Err(Error::Unauthenticated);
        }
        let row = match self.tokens.get(id) {
            Some(row) => row,
            None => {
                let row = self.store.token(id).await?.ok_or(Error::Unauthenticated)?;
                self.tokens.put(row.clone());
                row
            }
        };
        let hash = Digest::of(secret.as_bytes());
        let now = Timestamp::now();
        let holds: bool = row.secret_hash.0.ct_eq(&hash.0).into();
        if !holds || row.expires_at.is_some_and(|t| t <= now) {
            return Err(Error::Unauthenticated);
        }
        self.mark_used(&row, now);
        Ok(Caller {
            org: row.org,
            scope: row.scope,
            token_id: row.token_id,
        })
    }

    /// Counts a request of the caller's token.
    ///
    /// # Errors
    /// [`Error::Later`] when it makes more than it may.
    pub fn take_turn(&self, caller: &Caller) -> Result<(), Error> {
        let own = self
            .tokens
            .get(&caller.token_id)
            .and_then(|t| t.requests_per_second);
        self.rates.take(&caller.token_id, own)
    }

    fn mark_used(&self, row: &TokenRow, now: Timestamp) {
        if row.last_used_at.is_some_and(|t| now.since(t) < USED_EVERY) {
            return;
        }
        let mut used = row.clone();
        used.last_used_at = Some(now);
        self.tokens.put(used);
        let (store, id) = (self.store.clone(), row.token_id.clone());
        self.tasks.spawn(async move {
            if let Err(e) = store.token_used(&id, now).await {
                tracing::debug!(error = %Error::from(e).chain(), "token use not recorded");
            }
        });
    }

    /// Tokens in order of id, after that one.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::Store`].
    pub async fn list_tokens(
        &self,
        caller: &Caller,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<TokenView>, Error> {
        caller.need(TokenScope::Admin)?;
        let rows = self.store.tokens(&caller.org, after, limit).await?;
        Ok(rows.into_iter().map(view).collect())
    }

    /// Makes a token of the caller's org.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::Refused`] for a label that is too long, [`Error::Store`].
    pub async fn new_token(&self, caller: &Caller, new: &NewToken) -> Result<CreatedToken, Error> {
        caller.need(TokenScope::Admin)?;
        if new.label.len() > 128 || new.label.chars().any(char::is_control) {
            let why = "label: at most 128 bytes, without control characters";
            return Err(lictor_proto::code::Refusal::new(Code::BadRequest, why).into());
        }
        let most = self.rates.most();
        if new.requests_per_second.is_some_and(|n| n == 0 || n > most) {
            let why = format!("requests_per_second: from 1 to {most}, which is what this hub lets any token");
            return Err(lictor_proto::code::Refusal::new(Code::BadRequest, why).into());
        }
        let (row, secret) = make_token(&caller.org, new)?;
        self.store.put_token(row.clone()).await?;
        Ok(CreatedToken {
            token: view(row),
            secret,
        })
    }

    /// Deletes a token of the caller's org; it is worthless when this returns.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::NotFound`], [`Error::Store`].
    pub async fn delete_token(&self, caller: &Caller, id: &str) -> Result<(), Error> {
        caller.need(TokenScope::Admin)?;
        let deleted = self.store.delete_token(&caller.org, id).await?;
        if !deleted {
            return Err(Error::NotFound);
        }
        self.tokens.remove(id);
        self.rates.forget(id);
        Ok(())
    }
}
