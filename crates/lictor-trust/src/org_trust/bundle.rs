//! How a bundle comes to be held: authentic, newer, and then loaded or the reason why everything is denied.
//!
//! ```text
//! signatures, org, version   --fail--> refused, the law held stays
//! older, or its equal        --------> refused, the law held stays
//! the root has expired       --------> refused: nothing new is authentic under it
//! payload, files, min_root   --fail--> held, and denies everything
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, DocKind, RoleName};
use lictor_proto::{Code, Digest, Timestamp};

use super::{AcceptReport, HeldBundle, OrgTrust};
use crate::law::LawFiles;
use crate::root;
use crate::verify::{Sealed, Verified};

/// A bundle whose signatures, org and version hold.
pub(super) struct Authentic {
    pub(super) doc: Verified<Bundle>,
    /// What is wrong with the rest of its payload; `doc` then is only its head.
    pub(super) unreadable: Option<Refusal>,
}

impl OrgTrust {
    /// What the next bundle's `revocations` should be: all that are known here, and all that the bundle held names,
    /// also those that never came here. Who joins later takes them by this list.
    #[must_use]
    pub fn to_vouch_for(&self) -> Vec<Digest> {
        let known = self.revocations().iter().map(Verified::digest);
        let before = self
            .bundle()
            .into_iter()
            .flat_map(|b| b.revocations.iter().copied());
        let all: BTreeSet<Digest> = known.chain(before).collect();
        all.into_iter().collect()
    }

    /// Checks signatures, org and version by the newest root.
    pub(super) fn authentic_bundle(&self, wire: &str) -> Result<Authentic, Refusal> {
        let Some((keys, rule)) = root::role(self.root(), RoleName::Bundle)? else {
            return Err(Refusal::new(
                Code::SignerUnknown,
                "the root names no keys for bundle",
            ));
        };
        let sealed = Sealed::open(DocKind::Bundle, wire)?;
        let signers = sealed.check(&keys, rule)?;
        match sealed.read(self.org(), signers.clone()) {
            Ok(doc) => Ok(Authentic {
                doc,
                unreadable: None,
            }),
            // Signed by those who make the law, for a version that understands it. To stay with the old law would
            // let whoever keeps a node from its update choose the law.
            Err(why) => Ok(Authentic {
                doc: sealed.read_bundle_head(self.org(), signers)?,
                unreadable: Some(Refusal::new(Code::BundleUnloadable, why.message)),
            }),
        }
    }

    pub(super) fn load(&self, bundle: &Authentic) -> Result<Arc<LawFiles>, Refusal> {
        match &bundle.unreadable {
            Some(why) => Err(why.clone()),
            None => LawFiles::load(&bundle.doc, bundle.doc.digest(), self.root()).map(Arc::new),
        }
    }

    pub(super) fn accept_bundle(
        &mut self,
        wire: &str,
        system: Timestamp,
        report: &mut AcceptReport,
    ) -> Result<(), Refusal> {
        let found = self.authentic_bundle(wire)?;
        if self.is_held(&found.doc)? {
            return Ok(());
        }
        let root = self.root();
        if root.expires_at <= self.now(system) {
            let text = format!("root {} expired at {}", root.version, root.expires_at);
            return Err(Refusal::new(Code::RootExpired, text));
        }
        let files = self.load(&found);
        report.bundle = Some(found.doc.version);
        report.unloadable = files.as_ref().err().cloned();
        self.bundle = Some(HeldBundle {
            doc: found.doc,
            files,
            marked: None,
        });
        Ok(())
    }

    /// Whether it is the one held; refuses what is not newer.
    fn is_held(&self, doc: &Verified<Bundle>) -> Result<bool, Refusal> {
        let Some(held) = self.bundle() else {
            return Ok(false);
        };
        if held.digest() == doc.digest() {
            return Ok(true);
        }
        let (offered, version) = (doc.version, held.version);
        if offered == version {
            let (here, there) = (held.digest(), doc.digest());
            let text = format!("version {offered} is {here} here and {there} there");
            return Err(Refusal::new(Code::BundleConflict, text));
        }
        if offered < version {
            let text = format!("version {offered} is offered, {version} is held");
            return Err(Refusal::new(Code::BundleOlder, text));
        }
        Ok(false)
    }
}
