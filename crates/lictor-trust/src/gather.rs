//! Signatures of several people under one document, which travels as a file from machine to machine until enough
//! have signed. What comes of it is believed by nobody because of anything here: it is verified like any other.
//!
//! # Invariants
//! - Only signatures that hold, by keys that count, are kept; one for each key, and 16 at most.

use std::collections::BTreeSet;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Role};
use lictor_proto::envelope::Envelope;
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, KeyId, Timestamp, limits};

use crate::keys::{SecretKey, VerifyKey};
use crate::sign::{cosign, to_wire};

/// An envelope that gathers signatures.
#[derive(Debug, Clone)]
pub(crate) struct Gathering {
    envelope: Envelope,
    holders: Vec<VerifyKey>,
    left_out: usize,
}

/// A threshold, and how far it has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    /// How many distinct keys it takes.
    pub needed: u32,
    /// Whose signatures hold.
    pub signed: Vec<KeyId>,
    /// Who may still sign.
    pub missing: Vec<KeyId>,
}

impl Quorum {
    /// Whether enough have signed.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.signed.len() >= self.needed.max(1) as usize
    }
}

/// Refuses what is dated further ahead than clocks may differ: once taken, it would hold every clock of the org up to it.
pub(crate) fn check_date(issued_at: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if issued_at > now.plus(limits::CLOCK_AHEAD) {
        let text = format!("it is dated {issued_at}, and it is {now}");
        return Err(Refusal::new(Code::IssuedInFuture, text));
    }
    Ok(())
}

/// Reads an envelope of this kind that perhaps nobody has signed yet.
pub(crate) fn open(kind: DocKind, text: &str) -> Result<Envelope, Refusal> {
    let envelope = Envelope::parse_draft(text.as_bytes(), kind.limit())
        .map_err(|e| Refusal::new(e.code(), e.to_string()))?;
    if envelope.payload_type != kind.payload_type() {
        let text = format!("this is no {}", kind.as_str());
        return Err(Refusal::new(Code::WrongType, text));
    }
    Ok(envelope)
}

impl Gathering {
    /// Goes on with an envelope; only these keys count.
    pub(crate) fn new<'a>(mut envelope: Envelope, keys: impl IntoIterator<Item = &'a PublicKey>) -> Self {
        let holders: Vec<_> = keys.into_iter().filter_map(|k| VerifyKey::new(k).ok()).collect();
        let (pae, before) = (envelope.pae(), envelope.signatures.len());
        let mut seen = BTreeSet::new();
        envelope.signatures.retain(|s| {
            let mut own = holders.iter().filter(|k| k.id() == s.keyid);
            let holds = s.assertion.is_none() && own.any(|k| k.verifies(&pae, &s.sig));
            holds && seen.insert(s.keyid)
        });
        Self {
            left_out: before - envelope.signatures.len(),
            envelope,
            holders,
        }
    }

    pub(crate) fn quorum(&self, role: &Role) -> Quorum {
        // What is there holds: nothing else was kept.
        let signed: BTreeSet<KeyId> = self.envelope.signatures.iter().map(|s| s.keyid).collect();
        let ids = role.keys.iter().map(PublicKey::id);
        let (signed, missing) = ids.partition(|id| signed.contains(id));
        Quorum {
            needed: role.threshold,
            signed,
            missing,
        }
    }

    pub(crate) fn sign(&mut self, key: &SecretKey) -> Result<(), Refusal> {
        if !self.holders.iter().any(|k| k.id() == key.id()) {
            let text = format!("key {} has no part in this", key.id());
            return Err(Refusal::new(Code::SignerUnknown, text));
        }
        let others = self.envelope.signatures.iter().filter(|s| s.keyid != key.id());
        check_count(others.count() + 1)?;
        cosign(&mut self.envelope, key);
        Ok(())
    }

    pub(crate) fn merge(&mut self, other: &Self) -> Result<(), Refusal> {
        if other.digest() != self.digest() {
            let text = format!("{} is another document than {}", other.digest(), self.digest());
            return Err(Refusal::new(Code::DocumentInvalid, text));
        }
        let own: BTreeSet<KeyId> = self.envelope.signatures.iter().map(|s| s.keyid).collect();
        let new = other
            .envelope
            .signatures
            .iter()
            .filter(|s| !own.contains(&s.keyid));
        let new: Vec<_> = new.cloned().collect();
        check_count(own.len() + new.len())?;
        self.envelope.signatures.extend(new);
        Ok(())
    }

    pub(crate) fn digest(&self) -> Digest {
        self.envelope.digest()
    }

    pub(crate) fn wire(&self) -> String {
        to_wire(&self.envelope)
    }

    /// How many signatures were not kept.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }
}

fn check_count(signatures: usize) -> Result<(), Refusal> {
    if signatures <= limits::SIGNATURES {
        return Ok(());
    }
    let text = "an envelope carries at most 16 signatures";
    Err(Refusal::new(Code::SignatureCount, text))
}
