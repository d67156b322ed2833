//! Reading back what was stored.

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::DocKind;
use lictor_proto::{Code, OrgId};

use super::bundle::Authentic;
use super::{AcceptReport, HeldBundle, OrgTrust, orphaned};
use crate::verify::Sealed;

impl OrgTrust {
    /// Reads back what [`OrgTrust::docs`] gave, from storage that only this party writes. All signatures are
    /// checked again, and the clock floor and the versions come back with the documents.
    ///
    /// # Errors
    /// When there is no root, or a root or the bundle does not verify.
    pub fn restore(org: &OrgId, docs: &LawDocs) -> Result<Self, Refusal> {
        let first = docs.roots.first().ok_or(Code::NoLaw)?;
        let mut trust = Self::pin(org, first)?;
        let mut bundle = None;
        for wire in &docs.roots {
            trust.roots.extend(wire)?;
            // The bundle may stand on an older root; it then keeps its version and denies everything.
            bundle = match &docs.bundle {
                Some(b) => trust
                    .authentic_bundle(b)
                    .ok()
                    .map(|d| (d, true))
                    .or(bundle.map(|(d, _)| (d, false))),
                None => None,
            };
        }
        trust.restore_bundle(bundle, docs.bundle.as_deref())?;
        for wire in &docs.revocations {
            trust.restore_revocation(wire)?;
        }
        if let Some(wire) = &docs.freshness {
            // A role that the newest root has taken away leaves no statement behind.
            let _ = trust.accept_freshness(wire, &mut AcceptReport::default());
        }
        trust.look_at_cover();
        Ok(trust)
    }

    fn restore_bundle(
        &mut self,
        found: Option<(Authentic, bool)>,
        wire: Option<&str>,
    ) -> Result<(), Refusal> {
        match (found, wire) {
            (None, None) => Ok(()),
            // Nothing in the chain signed it: say why, by the newest root.
            (None, Some(wire)) => self.authentic_bundle(wire).map(|_| ()),
            (Some((found, current)), _) => {
                let files = if current {
                    self.load(&found)
                } else {
                    Err(orphaned())
                };
                self.bundle = Some(HeldBundle {
                    doc: found.doc,
                    files,
                    marked: None,
                });
                Ok(())
            }
        }
    }

    /// A revocation is kept for good, also when whoever signed it has left the roster since.
    fn restore_revocation(&mut self, wire: &str) -> Result<(), Refusal> {
        let revocation = match self.verify_revocation(wire) {
            Ok(r) => r,
            Err(_) => Sealed::open(DocKind::Revocation, wire)?.read(self.org(), Vec::new())?,
        };
        self.revocations.add(revocation);
        Ok(())
    }
}
