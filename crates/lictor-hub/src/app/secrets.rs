//! Secrets: the hub keeps their documents and hands them along with the jobs that name them. It can open none.

use lictor_audit::EventType;
use lictor_proto::api::{SecretDocument, SecretView, TokenScope};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Name, Timestamp};

use super::{App, Caller, Error};
use crate::store::{SecretRow, Stored};

impl App {
    /// Keeps a new version of a secret.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] when its signature or shape does not hold; [`Error::Conflict`] for a version that is not
    /// above the newest.
    pub async fn put_secret(&self, caller: &Caller, wire: String) -> Result<SecretView, Error> {
        caller.need(TokenScope::Submit)?;
        let org = self.org(&caller.org)?;
        let secret = match org.with(|t| t.verify_secret(&wire, Timestamp::now())) {
            Ok(secret) => secret,
            Err(why) => return Err(self.refuse(Some(&org.id), EventType::RequestRefused, why).await),
        };
        let row = SecretRow {
            name: secret.name.clone(),
            version: secret.version,
            digest: secret.digest(),
            operator: secret.operator.clone(),
            nodes: u32::try_from(secret.sealed.keys.len()).unwrap_or(u32::MAX),
            issued_at: secret.issued_at,
            wire,
        };
        match self.store.put_secret(&org.id, row.clone()).await? {
            Stored::New | Stored::Same => Ok(view(&row)),
            Stored::Behind(newest) => {
                let text = format!("secret {} is at version {newest} already", row.name);
                Err(Error::Conflict(Refusal::new(Code::SecretConflict, text)))
            }
            Stored::Full => Err(Refusal::new(Code::LimitExceeded, "an org has at most 1000 secrets").into()),
        }
    }

    /// The newest version of each secret, in order of name, after that one.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list_secrets(
        &self,
        caller: &Caller,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<SecretView>, Error> {
        let rows = self.store.secrets(&caller.org, after, limit).await?;
        Ok(rows.iter().map(view).collect())
    }

    /// The newest version of one secret; without its document when it was removed.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a name that never was one, [`Error::Store`].
    pub async fn secret(&self, caller: &Caller, name: &Name) -> Result<SecretDocument, Error> {
        let row = self.store.newest_secret(&caller.org, name).await?;
        let row = row.ok_or(Error::NotFound)?;
        Ok(SecretDocument {
            secret: view(&row),
            envelope: Some(row.wire).filter(|w| !w.is_empty()),
        })
    }

    /// Deletes all versions of a secret that the hub has.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::NotFound`], [`Error::Store`].
    pub async fn remove_secret(&self, caller: &Caller, name: &Name) -> Result<(), Error> {
        // Nothing is signed, and all versions go.
        caller.need(TokenScope::Admin)?;
        let removed = self.store.remove_secret(&caller.org, name).await?;
        removed.then_some(()).ok_or(Error::NotFound)
    }
}

fn view(row: &SecretRow) -> SecretView {
    SecretView {
        name: row.name.clone(),
        version: row.version,
        digest: row.digest,
        operator: row.operator.clone(),
        nodes: row.nodes,
        issued_at: row.issued_at,
    }
}
