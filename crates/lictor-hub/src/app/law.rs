//! Orgs are made, law is pushed and shown, the audit log is read.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::{LawDocs, Wire};
use lictor_proto::api::{AuditLine, NewToken, TokenScope, TrustPushed, TrustView};
use lictor_proto::{Digest, Envelope, Name, OrgId, limits};
use lictor_trust::{OrgTrust, Verified};

use super::orgs::Org;
use super::{App, Caller, Error, access};
use crate::store::LawRow;

impl App {
    /// A new org from its first root, with an admin token; the token's secret is shown once. For an org that is
    /// there already, only the token is new.
    ///
    /// # Errors
    /// [`Error::Refused`] when the root does not verify.
    pub async fn create_org(&self, root: &str, label: &str) -> Result<(OrgId, String), Error> {
        let envelope = Envelope::parse(root.as_bytes(), limits::ENVELOPE).map_err(|e| {
            lictor_proto::code::Refusal::new(lictor_proto::Code::EnvelopeMalformed, e.to_string())
        })?;
        let id = OrgId::from_root(&envelope.digest());
        let trust = OrgTrust::pin(&id, root)?;
        let name: Name = trust.root().name.clone();
        let new = NewToken {
            label: label.to_owned(),
            scope: TokenScope::Admin,
            expires_at: None,
            requests_per_second: None,
        };
        let (token, secret) = access::make_token(&id, &new)?;
        let row = root_row(trust.root());
        self.store.create_org(&id, &name, row, token).await?;
        if self.orgs.get(&id).is_none() {
            self.orgs.insert(Org::restore(&id, &self.store.law(&id).await?)?);
        }
        Ok((id, secret))
    }

    /// Reads all orgs from the store.
    ///
    /// # Errors
    /// [`Error::Store`]; [`Error::Refused`] when stored law no longer verifies, which only tampering does.
    pub async fn load_orgs(&self) -> Result<(), Error> {
        for id in self.store.orgs().await? {
            let docs = self.store.law(&id).await?;
            self.orgs.insert(Org::restore(&id, &docs)?);
        }
        Ok(())
    }

    /// Takes whatever of `docs` is newer and authentic, stores it, then believes it and passes it on.
    ///
    /// # Errors
    /// [`Error::Scope`], [`Error::Store`]; what was refused is in the answer.
    pub async fn push_law(&self, caller: &Caller, docs: &LawDocs) -> Result<TrustPushed, Error> {
        caller.need(TokenScope::Submit)?;
        let org = self.org(&caller.org)?;
        let _one_at_a_time = org.pushing.lock().await;
        let before = org.with(OrgTrust::docs);
        let (trust, report) = org.try_accept(docs);
        if report.changed() {
            self.store.put_law(&org.id, new_rows(&before, &trust)).await?;
            org.believe(trust);
        }
        for (kind, refusal) in &report.refused {
            let event = Event::new(EventType::LawRejected)
                .with("kind", kind.as_str())
                .refused(refusal);
            self.note(Some(&org.id), event).await;
        }
        Ok(org.with(|t| TrustPushed {
            root: t.root().version,
            bundle: t.bundle().map_or(0, |b| b.version),
            changed: report.changed(),
            refused: report.refused.iter().map(|(_, r)| r.clone()).collect(),
        }))
    }

    /// All law of the caller's org.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn law(&self, caller: &Caller) -> Result<TrustView, Error> {
        let org = self.org(&caller.org)?;
        let docs: Arc<LawDocs> = org.watch_docs().borrow().clone();
        Ok(TrustView {
            org: org.id.clone(),
            docs: (*docs).clone(),
        })
    }

    /// Lines of the org's audit log.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn audit(&self, caller: &Caller, after: u64, limit: u32) -> Result<Vec<AuditLine>, Error> {
        let rows = self.store.trail(&caller.org, after, limit).await?;
        Ok(rows
            .into_iter()
            .map(|(seq, line)| AuditLine { seq, line })
            .collect())
    }
}

fn root_row(root: &Verified<lictor_proto::doc::Root>) -> LawRow {
    LawRow {
        kind: "root",
        digest: root.digest(),
        version: root.version,
        wire: root.wire().to_owned(),
    }
}

/// What `trust` holds and `before` did not.
fn new_rows(before: &LawDocs, trust: &OrgTrust) -> Vec<LawRow> {
    let after = trust.docs();
    let mut rows = Vec::new();
    for (i, wire) in after.roots.iter().enumerate() {
        if !before.roots.contains(wire) {
            rows.push(row("root", i as u64 + 1, wire));
        }
    }
    if let Some(bundle) = trust
        .bundle()
        .filter(|b| before.bundle.as_deref() != Some(b.wire()))
    {
        rows.push(row("bundle", bundle.version, &bundle.wire().to_owned()));
    }
    if let Some(freshness) = after
        .freshness
        .as_ref()
        .filter(|f| before.freshness.as_ref() != Some(*f))
    {
        let issued = trust.freshness().map_or(0, |f| f.issued_at.as_millis());
        rows.push(row("freshness", issued, freshness));
    }
    for wire in after
        .revocations
        .iter()
        .filter(|r| !before.revocations.contains(r))
    {
        rows.push(row("revocation", 0, wire));
    }
    rows
}

fn row(kind: &'static str, version: u64, wire: &Wire) -> LawRow {
    // It was parsed a moment ago; an envelope that cannot be read again has the digest of its text.
    let digest = Envelope::parse(wire.as_bytes(), limits::BUNDLE_ENVELOPE)
        .map_or_else(|_| Digest::of(wire.as_bytes()), |e| e.digest());
    LawRow {
        kind,
        digest,
        version,
        wire: wire.clone(),
    }
}
