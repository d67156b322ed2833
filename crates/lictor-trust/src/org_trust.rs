//! What one party believes about one org: root chain, law, freshness, revocations, and the clock they prove.
//!
//! Nodes, clients and the hub hold one each. It is a plain value: no IO, no locks; [`OrgTrust::docs`] is what to
//! store and [`OrgTrust::restore`] reads it back, checking everything again.
//!
//! ```text
//! LawDocs --accept--> roots (old and new keys) -> bundle (newer, loadable or deny all) -> revocations -> freshness
//! law(now)            clock ok? loaded? agent new enough? not expired? fresh? -> the law to act by
//! held()              the same law for reading what was signed, also when it is too late to act by it
//! ```
//!
//! # Invariants
//! - Versions never go down, also over a restart; a revocation once taken is kept for good.
//! - A revocation counts whose signer may revoke under the law held, or which the bundle held names.
//! - An authentic newer bundle replaces the old one even if it cannot be loaded: then everything is denied.

mod acting;
mod bundle;
mod restore;

use std::sync::Arc;

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, DocKind, Document, Freshness, Revocation, RoleName, Root};
use lictor_proto::{Code, Digest, OrgId, Timestamp};

use crate::law::LawFiles;
use crate::revocation::Revocations;
use crate::root::{self, RootChain};
use crate::verify::{Sealed, Verified, verify};

/// The believed state of one org.
#[derive(Debug, Clone)]
pub struct OrgTrust {
    roots: RootChain,
    bundle: Option<HeldBundle>,
    freshness: Option<HeldFreshness>,
    revocations: Revocations,
}

#[derive(Debug, Clone)]
struct HeldBundle {
    doc: Verified<Bundle>,
    files: Result<Arc<LawFiles>, Refusal>,
    /// Set when the policies in it could not be loaded.
    marked: Option<Refusal>,
}

#[derive(Debug, Clone)]
struct HeldFreshness {
    doc: Verified<Freshness>,
    /// Whether all revocations it speaks of have been seen; once true, true for good.
    covered: bool,
}

/// What [`OrgTrust::accept`] did.
#[derive(Debug, Clone, Default)]
pub struct AcceptReport {
    /// The root version now held, if it is a new one.
    pub root: Option<u64>,
    /// The bundle version now held, if it is a new one (also when it cannot be loaded).
    pub bundle: Option<u64>,
    /// When the newly taken freshness statement was issued.
    pub freshness: Option<Timestamp>,
    /// New revocations: whatever they name must end.
    pub revocations: Vec<Revocation>,
    /// Why everything is denied from now on, if the new bundle cannot be loaded.
    pub unloadable: Option<Refusal>,
    /// What was not taken, and why.
    pub refused: Vec<(DocKind, Refusal)>,
}

impl AcceptReport {
    /// Whether anything is to be stored.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.law_changed() || self.freshness.is_some() || !self.revocations.is_empty()
    }

    /// Whether policies must be loaded anew.
    #[must_use]
    pub fn law_changed(&self) -> bool {
        self.root.is_some() || self.bundle.is_some()
    }
}

impl OrgTrust {
    /// Starts from nothing but an org id that came out of band, and its first root.
    ///
    /// # Errors
    /// [`Code::WrongOrg`] when the root is another's, or what is wrong with it.
    pub fn pin(org: &OrgId, root_v1: &str) -> Result<Self, Refusal> {
        Ok(Self {
            roots: RootChain::pin(org, root_v1)?,
            bundle: None,
            freshness: None,
            revocations: Revocations::default(),
        })
    }

    /// The org.
    #[must_use]
    pub fn org(&self) -> &OrgId {
        self.roots.org()
    }

    /// The newest root.
    #[must_use]
    pub fn root(&self) -> &Verified<Root> {
        self.roots.newest()
    }

    /// The bundle held, loadable or not. Of one whose payload this version cannot read there is only org, version,
    /// digest and wire, and times and revocations if they could be read; it has no files.
    #[must_use]
    pub fn bundle(&self) -> Option<&Verified<Bundle>> {
        self.bundle.as_ref().map(|b| &b.doc)
    }

    /// The freshness statement held.
    #[must_use]
    pub fn freshness(&self) -> Option<&Verified<Freshness>> {
        self.freshness.as_ref().map(|f| &f.doc)
    }

    /// All revocations.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// The time that signed documents prove has come.
    #[must_use]
    pub fn clock_floor(&self) -> Timestamp {
        let bundle = self.bundle().map(|b| b.issued_at);
        let freshness = self.freshness().map(|f| f.issued_at);
        let roots = self.roots.iter().map(|r| r.issued_at);
        roots.chain(bundle).chain(freshness).max().unwrap_or_default()
    }

    /// The time to judge by: the system clock, but never before [`OrgTrust::clock_floor`].
    #[must_use]
    pub fn now(&self, system: Timestamp) -> Timestamp {
        system.max(self.clock_floor())
    }

    /// Takes whatever is newer and authentic. Never fails as a whole: the report says what was refused.
    pub fn accept(&mut self, docs: &LawDocs, system: Timestamp) -> AcceptReport {
        let mut report = AcceptReport::default();
        // Whoever may revoke under the law held until now does so, though the newer law that comes along may not
        // know them any more. What fails here is tried again under the newer law.
        for wire in &docs.revocations {
            let _ = self.accept_revocation(wire, &mut report);
        }
        self.accept_roots(&docs.roots, &mut report);
        if let Some(wire) = &docs.bundle
            && let Err(refusal) = self.accept_bundle(wire, system, &mut report)
        {
            report.refused.push((DocKind::Bundle, refusal));
        }
        for wire in &docs.revocations {
            if let Err(refusal) = self.accept_revocation(wire, &mut report) {
                report.refused.push((DocKind::Revocation, refusal));
            }
        }
        if let Some(wire) = &docs.freshness
            && let Err(refusal) = self.accept_freshness(wire, &mut report)
        {
            report.refused.push((DocKind::Freshness, refusal));
        }
        self.look_at_cover();
        report
    }

    fn accept_roots(&mut self, wires: &[String], report: &mut AcceptReport) {
        for wire in wires {
            match self.roots.extend(wire) {
                Ok(true) => report.root = Some(self.root().version),
                Ok(false) => {}
                Err(refusal) => {
                    report.refused.push((DocKind::Root, refusal));
                    break;
                }
            }
        }
        if report.root.is_some() {
            self.follow_root(report);
        }
    }

    /// A new root may take keys away that signed what is held.
    fn follow_root(&mut self, report: &mut AcceptReport) {
        if let Some(held) = self.bundle.take() {
            let files = match self.authentic_bundle(held.doc.wire()) {
                Ok(found) => self.load(&found),
                Err(_) => Err(orphaned()),
            };
            report.unloadable = files.as_ref().err().cloned();
            self.bundle = Some(HeldBundle { files, ..held });
        }
        if let Some(held) = self.freshness.take() {
            let still = self.authentic::<Freshness>(held.doc.wire(), RoleName::Freshness);
            self.freshness = still.is_ok().then_some(held);
        }
    }

    fn authentic<T: Document>(&self, wire: &str, name: RoleName) -> Result<Verified<T>, Refusal> {
        match root::role(self.root(), name)? {
            Some((keys, rule)) => verify(wire, &keys, rule, self.org()),
            None => {
                let text = format!("the root names no keys for {}", T::KIND.as_str());
                Err(Refusal::new(Code::SignerUnknown, text))
            }
        }
    }

    fn accept_revocation(&mut self, wire: &str, report: &mut AcceptReport) -> Result<(), Refusal> {
        let sealed = Sealed::open(DocKind::Revocation, wire)?;
        let digest = sealed.digest();
        if self.revocations.knows(&digest) {
            return Ok(());
        }
        let revocation = match self.verify_revocation(wire) {
            Ok(verified) => verified,
            // The digest is over every byte that counts, so the bundle's word for it replaces the signature.
            Err(_) if self.vouches_for(&digest) => sealed.read(self.org(), Vec::new())?,
            Err(refusal) => return Err(refusal),
        };
        report.revocations.push(revocation.doc().clone());
        self.revocations.add(revocation);
        Ok(())
    }

    fn vouches_for(&self, revocation: &Digest) -> bool {
        self.bundle()
            .is_some_and(|b| b.revocations.binary_search(revocation).is_ok())
    }

    fn accept_freshness(&mut self, wire: &str, report: &mut AcceptReport) -> Result<(), Refusal> {
        let doc = self.authentic::<Freshness>(wire, RoleName::Freshness)?;
        // An older statement proves nothing that the newer one doesn't.
        if self.freshness().is_none_or(|held| held.issued_at < doc.issued_at) {
            report.freshness = Some(doc.issued_at);
            self.freshness = Some(HeldFreshness { doc, covered: false });
        }
        Ok(())
    }

    fn look_at_cover(&mut self) {
        if let Some(f) = &mut self.freshness {
            f.covered = f.covered || self.revocations.cover(&f.doc.revocations);
        }
    }

    /// Everything held, to be stored, or pushed to somebody who may hold less.
    #[must_use]
    pub fn docs(&self) -> LawDocs {
        LawDocs {
            roots: self.roots.iter().map(|r| r.wire().to_owned()).collect(),
            bundle: self.bundle().map(|b| b.wire().to_owned()),
            freshness: self.freshness().map(|f| f.wire().to_owned()),
            revocations: self.revocations.iter().map(|r| r.wire().to_owned()).collect(),
        }
    }
}

fn orphaned() -> Refusal {
    Refusal::new(
        Code::BundleUnloadable,
        "the newest root no longer names the keys that signed the bundle held",
    )
}
