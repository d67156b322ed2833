//! The one way from bytes to a believed document.
//!
//! ```text
//! wire --size, envelope, media type--> Sealed --signatures over exact bytes--> signers
//!                                        '--read: strict JSON, org, validate--> Verified<T>
//! ```
//!
//! # Invariants
//! - The payload is not parsed before a signature by an accepted key holds over it.
//! - Which key and which algorithm counts comes from the keyring; the envelope's key id only says where to look.
//! - The media type is a constant of `T`, so a signature of one kind of document never serves as another.
//! - [`Verified`] has no public constructor and no `Deserialize`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::Arc;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{self, Bundle, DocKind, Document, MinVersions};
use lictor_proto::envelope::{Envelope, Signature};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, KeyId, OrgId, json, limits};

use crate::keys::{KeyError, VerifyKey};
use crate::passkey::Passkey;

/// A document whose signatures, org and shape hold, and which may be acted on as of the moment it was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    doc: T,
    digest: Digest,
    wire: Arc<str>,
    signers: Vec<KeyId>,
}

impl<T> Verified<T> {
    /// The document.
    #[must_use]
    pub fn doc(&self) -> &T {
        &self.doc
    }

    /// SHA-256 of its PAE.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The exact envelope as it came.
    #[must_use]
    pub fn wire(&self) -> &str {
        &self.wire
    }

    /// The distinct keys whose signatures hold.
    #[must_use]
    pub fn signers(&self) -> &[KeyId] {
        &self.signers
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.doc
    }
}

/// A document that somebody in the roster did sign, once: no word about whether it is valid now. For showing and
/// for checking receipts of the past; nothing that acts takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Historic<T>(Verified<T>);

impl<T> Historic<T> {
    pub(crate) fn new(verified: Verified<T>) -> Self {
        Self(verified)
    }

    /// SHA-256 of its PAE.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.0.digest
    }

    /// The exact envelope as it came.
    #[must_use]
    pub fn wire(&self) -> &str {
        &self.0.wire
    }
}

impl<T> Deref for Historic<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.doc
    }
}

/// What somebody signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// An Ed25519 key.
    Key(VerifyKey),
    /// A passkey.
    Passkey(Passkey),
}

impl Credential {
    /// Its id, computed here.
    #[must_use]
    pub fn id(&self) -> KeyId {
        match self {
            Self::Key(key) => key.id(),
            Self::Passkey(passkey) => passkey.id(),
        }
    }

    /// Whether `signature` is this one's, over that PAE; a passkey's comes with an assertion, and no other does.
    fn check(&self, pae: &[u8], signature: &Signature) -> Result<(), Refusal> {
        match (self, &signature.assertion) {
            (Self::Key(key), None) if key.verifies(pae, &signature.sig) => Ok(()),
            (Self::Passkey(passkey), Some(assertion)) => {
                passkey.check(&Digest::of(pae), assertion, &signature.sig)
            }
            _ => Err(Code::SignatureInvalid.into()),
        }
    }
}

/// The keys that may sign a kind of document, by the id that was computed here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keyring(BTreeMap<KeyId, Credential>);

impl Keyring {
    /// A ring of these keys; equal keys are one.
    pub(crate) fn new<'a>(keys: impl IntoIterator<Item = &'a PublicKey>) -> Result<Self, KeyError> {
        let keys = keys.into_iter().map(|k| VerifyKey::new(k).map(Credential::Key));
        let pairs = keys.map(|key| key.map(|k| (k.id(), k)));
        pairs.collect::<Result<_, _>>().map(Self)
    }

    /// A ring of one key.
    pub(crate) fn one(key: VerifyKey) -> Self {
        Self(BTreeMap::from([(key.id(), Credential::Key(key))]))
    }

    pub(crate) fn insert(&mut self, key: Credential) {
        self.0.insert(key.id(), key);
    }

    pub(crate) fn get(&self, id: &KeyId) -> Option<&Credential> {
        self.0.get(id)
    }
}

/// How many signatures it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Exactly one signature on the envelope, and it holds.
    One,
    /// At least this many distinct keys, and at least one.
    Threshold(u32),
}

/// A bounded, well-formed envelope of the right kind; nothing of its payload has been read.
#[derive(Debug)]
pub(crate) struct Sealed<'a> {
    envelope: Envelope,
    pae: Vec<u8>,
    wire: &'a str,
}

impl<'a> Sealed<'a> {
    /// Checks size, envelope and media type.
    pub(crate) fn open(kind: DocKind, wire: &'a str) -> Result<Self, Refusal> {
        let envelope =
            Envelope::parse(wire.as_bytes(), kind.limit()).map_err(|e| Refusal::new(e.code(), chain(&e)))?;
        if envelope.payload_type != kind.payload_type() {
            let got: String = envelope.payload_type.chars().take(80).collect();
            return Err(Refusal::new(
                Code::WrongType,
                format!("expected a {} document, got {got:?}", kind.as_str()),
            ));
        }
        // Passkeys approve; an envelope of another kind with an assertion is not half believed.
        if kind != DocKind::Approval && envelope.signatures.iter().any(|s| s.assertion.is_some()) {
            return Err(Code::AssertionUnsupported.into());
        }
        let pae = envelope.pae();
        Ok(Self { envelope, pae, wire })
    }

    /// Its bytes, for who has checked the signatures.
    pub(crate) fn payload(&self) -> &[u8] {
        &self.envelope.payload
    }

    /// SHA-256 of the PAE.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.pae)
    }

    /// The distinct keys of `keys` whose signatures hold, in order of their ids.
    pub(crate) fn holding(&self, keys: &Keyring) -> Vec<KeyId> {
        let good = self.envelope.signatures.iter().filter_map(|s| {
            let key = keys.get(&s.keyid)?;
            key.check(&self.pae, s).is_ok().then(|| key.id())
        });
        good.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Checks the signatures against a keyring and a rule; gives the keys that count.
    pub(crate) fn check(&self, keys: &Keyring, rule: Rule) -> Result<Vec<KeyId>, Refusal> {
        let signatures = &self.envelope.signatures;
        if rule == Rule::One && signatures.len() != 1 {
            let n = signatures.len();
            let text = format!("exactly one signature is needed, there are {n}");
            return Err(Refusal::new(Code::SignatureCount, text));
        }
        let good = self.holding(keys);
        let needed = match rule {
            Rule::One => 1,
            Rule::Threshold(n) => n.max(1) as usize,
        };
        if good.len() >= needed {
            return Ok(good);
        }
        if !good.is_empty() {
            let text = format!("{} of {needed} distinct keys have signed", good.len());
            return Err(Refusal::new(Code::ThresholdNotMet, text));
        }
        let mut known = signatures.iter().filter_map(|s| Some((keys.get(&s.keyid)?, s)));
        if let Some((key, signature)) = known.next() {
            key.check(&self.pae, signature)?;
            return Err(Code::SignatureInvalid.into());
        }
        let hint = signatures
            .first()
            .map(|s| s.keyid.to_string())
            .unwrap_or_default();
        let text = format!("no accepted key has signed; the envelope names {hint}");
        Err(Refusal::new(Code::SignerUnknown, text))
    }

    /// Reads the payload: strict JSON of `T`, bound to `org`, valid in itself.
    pub(crate) fn read<T: Document>(&self, org: &OrgId, signers: Vec<KeyId>) -> Result<Verified<T>, Refusal> {
        let verified = self.read_unbound::<T>(signers)?;
        if verified.doc.org() == Some(org) {
            return Ok(verified);
        }
        let other = verified.doc.org().map_or("no org", OrgId::as_str);
        Err(Refusal::new(
            Code::WrongOrg,
            format!("the document is bound to {other}, not to {org}"),
        ))
    }

    /// As [`Sealed::read`], without the org: only for a root, whose first version *makes* the org.
    pub(crate) fn read_unbound<T: Document>(&self, signers: Vec<KeyId>) -> Result<Verified<T>, Refusal> {
        let doc: T = doc::read(&self.envelope.payload)?;
        Ok(Verified {
            doc,
            digest: self.digest(),
            wire: self.wire.into(),
            signers,
        })
    }
}

impl Sealed<'_> {
    /// What can be read of a bundle whose signatures hold and whose payload this version does not understand: org and
    /// version must be there, times and revocations may, everything else is left empty. It is law that exists and
    /// cannot be loaded.
    pub(crate) fn read_bundle_head(
        &self,
        org: &OrgId,
        signers: Vec<KeyId>,
    ) -> Result<Verified<Bundle>, Refusal> {
        let malformed = |text: &str| Refusal::new(Code::PayloadMalformed, text);
        let head: serde_json::Value = json::from_slice(&self.envelope.payload)
            .map_err(|e| Refusal::new(Code::PayloadMalformed, e.to_string()))?;
        if head["type"] != DocKind::Bundle.as_str() {
            return Err(malformed("its type is not bundle"));
        }
        if head["org"] != org.as_str() {
            return Err(Refusal::new(
                Code::WrongOrg,
                format!("the document is not bound to {org}"),
            ));
        }
        let version = head["version"].as_u64().filter(|v| *v >= 1);
        let time = |name: &str| serde_json::from_value(head[name].clone()).unwrap_or_default();
        let mut revocations: Vec<Digest> =
            serde_json::from_value(head["revocations"].clone()).unwrap_or_default();
        revocations.truncate(limits::REVOCATIONS);
        revocations.sort_unstable();
        revocations.dedup();
        let doc = Bundle {
            tag: Default::default(),
            org: org.clone(),
            version: version.ok_or_else(|| malformed("it has no version"))?,
            min_root: 0,
            schema_version: 0,
            min_versions: MinVersions::default(),
            issued_at: time("issued_at"),
            expires_at: time("expires_at"),
            max_staleness: 0,
            files: BTreeMap::new(),
            revocations,
        };
        Ok(Verified {
            doc,
            digest: self.digest(),
            wire: self.wire.into(),
            signers,
        })
    }
}

/// Verifies a document: the whole path, for kinds that need nothing more.
pub(crate) fn verify<T: Document>(
    wire: &str,
    keys: &Keyring,
    rule: Rule,
    org: &OrgId,
) -> Result<Verified<T>, Refusal> {
    let sealed = Sealed::open(T::KIND, wire)?;
    let signers = sealed.check(keys, rule)?;
    sealed.read(org, signers)
}

/// An error with its sources, in one line.
fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}
