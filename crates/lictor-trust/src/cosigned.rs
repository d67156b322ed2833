//! A bundle or a freshness statement whose role takes several keys, while their holders sign it one after the other.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, Document, Freshness, Role, RoleName};
use lictor_proto::{Code, Digest, Envelope, Timestamp, json};

use crate::gather::{self, Gathering, Quorum};
use crate::keys::SecretKey;
use crate::org_trust::OrgTrust;
use crate::sign::sign;

/// A document that a role of the root signs.
pub trait OfRole: Document {
    /// The role.
    const ROLE: RoleName;

    /// When it was made.
    fn issued_at(&self) -> Timestamp;
}

impl OfRole for Bundle {
    const ROLE: RoleName = RoleName::Bundle;

    fn issued_at(&self) -> Timestamp {
        self.issued_at
    }
}

impl OfRole for Freshness {
    const ROLE: RoleName = RoleName::Freshness;

    fn issued_at(&self) -> Timestamp {
        self.issued_at
    }
}

/// Such a document, perhaps not signed by enough yet.
#[derive(Debug, Clone)]
pub struct Cosigned<T> {
    doc: T,
    role: Role,
    gathering: Gathering,
}

impl<T: OfRole> Cosigned<T> {
    /// A document that nobody has signed yet.
    ///
    /// # Errors
    /// [`Code::WrongOrg`], [`Code::IssuedInFuture`], [`Code::SignerUnknown`] when the root names no keys for it, or what is wrong with it.
    pub fn draft(trust: &OrgTrust, doc: T, now: Timestamp) -> Result<Self, Refusal> {
        let envelope = sign(&doc, &[]);
        Self::checked(trust, doc, envelope, now)
    }

    /// Reads one with the signatures that it has so far.
    ///
    /// # Errors
    /// As [`Cosigned::draft`]; [`Code::EnvelopeMalformed`], [`Code::WrongType`], [`Code::PayloadMalformed`].
    pub fn read(trust: &OrgTrust, text: &str, now: Timestamp) -> Result<Self, Refusal> {
        let envelope = gather::open(T::KIND, text)?;
        let doc: T = json::from_slice(&envelope.payload)
            .map_err(|e| Refusal::new(Code::PayloadMalformed, e.to_string()))?;
        Self::checked(trust, doc, envelope, now)
    }

    fn checked(trust: &OrgTrust, doc: T, envelope: Envelope, now: Timestamp) -> Result<Self, Refusal> {
        doc.validate().map_err(|e| Refusal::new(e.code, e.to_string()))?;
        gather::check_date(doc.issued_at(), now)?;
        if doc.org() != Some(trust.org()) {
            let text = format!("it is not bound to {}", trust.org());
            return Err(Refusal::new(Code::WrongOrg, text));
        }
        let role = trust.root().roles.get(T::ROLE).clone();
        if role.keys.is_empty() {
            let text = format!("the root names no keys for {}", T::KIND.as_str());
            return Err(Refusal::new(Code::SignerUnknown, text));
        }
        Ok(Self {
            gathering: Gathering::new(envelope, &role.keys),
            doc,
            role,
        })
    }

    /// The document.
    #[must_use]
    pub fn doc(&self) -> &T {
        &self.doc
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.gathering.digest()
    }

    /// Who has signed, and who may still.
    #[must_use]
    pub fn quorum(&self) -> Quorum {
        self.gathering.quorum(&self.role)
    }

    /// How many signatures of the file were left out, since they do not hold or are of nobody who counts.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.gathering.left_out()
    }

    /// Adds one holder's signature.
    ///
    /// # Errors
    /// [`Code::SignerUnknown`] when the key is not one of the role, [`Code::SignatureCount`].
    pub fn sign(&mut self, key: &SecretKey) -> Result<(), Refusal> {
        self.gathering.sign(key)
    }

    /// The file to pass on; complete, it is the document as everybody takes it.
    #[must_use]
    pub fn wire(&self) -> String {
        self.gathering.wire()
    }
}
