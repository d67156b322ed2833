//! Revocations: a set that only grows, and only takes away.

use std::collections::BTreeSet;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Revocation, RevocationKind, RevocationSet};
use lictor_proto::{Code, Digest, KeyId, Name};

use crate::verify::Verified;

/// All revocations known, in the order in which they were learned.
#[derive(Debug, Clone, Default)]
pub struct Revocations {
    kept: Vec<Verified<Revocation>>,
    digests: BTreeSet<Digest>,
    targets: BTreeSet<(RevocationKind, String)>,
}

impl Revocations {
    /// Whether this has been revoked.
    #[must_use]
    pub fn contains(&self, kind: RevocationKind, target: &str) -> bool {
        self.targets.contains(&(kind, target.to_owned()))
    }

    /// Refuses a key or its operator if either has been revoked.
    pub(crate) fn check_signer(&self, operator: &Name, key: &KeyId) -> Result<(), Refusal> {
        if self.contains(RevocationKind::Key, &key.to_string()) {
            let text = format!("key {key} of {operator} has been revoked");
            return Err(Refusal::new(Code::KeyRevoked, text));
        }
        if self.contains(RevocationKind::Operator, operator.as_str()) {
            let text = format!("{operator} has been revoked");
            return Err(Refusal::new(Code::OperatorRevoked, text));
        }
        Ok(())
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Verified<Revocation>> {
        self.kept.iter()
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// What a freshness statement says about exactly this set.
    #[must_use]
    pub fn summary(&self) -> RevocationSet {
        RevocationSet::of(self.digests.iter().copied())
    }

    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.digests.contains(digest)
    }

    pub(crate) fn add(&mut self, revocation: Verified<Revocation>) {
        if self.digests.insert(revocation.digest()) {
            self.targets.insert((revocation.kind, revocation.target.clone()));
            self.kept.push(revocation);
        }
    }

    /// Whether all revocations that `named` speaks of are here. More may be: they were made after it.
    ///
    /// The summary names a set only by its digest, so it is compared with the whole, with the first ones
    /// learned, and with the first ones by date. Any match proves that the named ones are all here.
    pub(crate) fn cover(&self, named: &RevocationSet) -> bool {
        let Ok(count) = usize::try_from(named.count) else {
            return false;
        };
        if count > self.kept.len() {
            return false;
        }
        let learned = self.kept.iter().take(count).map(Verified::digest);
        if RevocationSet::of(learned) == *named {
            return true;
        }
        let mut dated: Vec<_> = self.kept.iter().map(|r| (r.issued_at, r.digest())).collect();
        dated.sort_unstable();
        RevocationSet::of(dated.into_iter().take(count).map(|(_, d)| d)) == *named
    }
}
