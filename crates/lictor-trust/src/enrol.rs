//! How a machine joins: grant, token, node record, and the secrets behind the record.

use std::path::Path;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Grant, NodeRecord, RevocationKind, Token};
use lictor_proto::envelope::Envelope;
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, Name, NodeId, OrgId, Timestamp, limits};

use crate::keyfile::{self, KeyFileError};
use crate::keys::{KeyError, SecretKey, VerifyKey, is_weak_x25519};
use crate::law::root_keys;
use crate::org_trust::OrgTrust;
use crate::people::check_expiry;
use crate::sign::sign;
use crate::verify::{Keyring, Sealed, Verified};

impl OrgTrust {
    /// A grant whose operator may confer its labels and name, under the law held. It may have expired: a node that
    /// enrolled in time stands on it for good; see [`check_enrolment`].
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_grant(&self, wire: &str) -> Result<Verified<Grant>, Refusal> {
        let (grant, operator) = self.by_active::<Grant>(wire, |g| g.issued_at)?;
        if self.is_revoked(RevocationKind::Grant, &grant.digest().to_string()) {
            return Err(Code::GrantRevoked.into());
        }
        VerifyKey::new(&grant.join_key)?;
        self.check_unused(&grant.join_key, "join_key")?;
        self.held()?.fleet.may_grant(operator, &grant)?;
        Ok(grant)
    }

    /// Refuses a grant whose signer could not sign it now. For whoever meets a grant, or a node under it, for the
    /// first time: the grant's own date proves nothing, since an expired key can date back. What was met before the
    /// key expired stands.
    ///
    /// # Errors
    /// [`Code::KeyExpired`], [`Code::SignerUnknown`].
    pub fn check_granter(&self, grant: &Verified<Grant>, system: Timestamp) -> Result<(), Refusal> {
        self.check_granter_at(grant, self.now(system))
    }

    /// As [`OrgTrust::check_granter`], at a moment of the past. For whoever was shown all grants there were then, and
    /// meets this one later.
    ///
    /// # Errors
    /// [`Code::KeyExpired`], [`Code::SignerUnknown`].
    pub fn check_granter_at(&self, grant: &Verified<Grant>, at: Timestamp) -> Result<(), Refusal> {
        let signer = grant.signers().first().ok_or(Code::SignerUnknown)?;
        let roster = &self.held()?.roster;
        let (operator, key) = roster.holder(signer).ok_or(Code::SignerUnknown)?;
        check_expiry(operator, key, at)
    }

    /// A node record on its grant: signed by the join key and by the identity key, in the grant's time and name.
    ///
    /// # Errors
    /// The code of whichever rule it breaks.
    pub fn verify_node(&self, grant: &Verified<Grant>, wire: &str) -> Result<Verified<NodeRecord>, Refusal> {
        let sealed = Sealed::open(DocKind::Node, wire)?;
        let join = Keyring::one(VerifyKey::new(&grant.join_key)?);
        let mut signers = sealed.holding(&join);
        if signers.is_empty() {
            return Err(Code::JoinSignature.into());
        }
        let claimed: Verified<NodeRecord> = sealed.read(self.org(), Vec::new())?;
        let identity = Keyring::one(VerifyKey::new(&claimed.identity_key)?);
        let own = sealed.holding(&identity);
        if own.is_empty() {
            let text = "the record is not signed by the identity key that it names";
            return Err(Refusal::new(Code::SignatureInvalid, text));
        }
        signers.extend(own);
        let record = sealed.read(self.org(), signers)?;
        self.check_record(grant, &record)?;
        Ok(record)
    }

    fn check_record(&self, grant: &Verified<Grant>, record: &NodeRecord) -> Result<(), Refusal> {
        let invalid = |text: String| Err(Refusal::new(Code::NodeRecordInvalid, text));
        if record.grant_digest != grant.digest() {
            return invalid("the record stands on another grant".into());
        }
        if !grant.allows_name(&record.name) {
            return invalid(format!("the grant does not allow the name {}", record.name));
        }
        let from = grant
            .issued_at
            .as_millis()
            .saturating_sub(limits::CLOCK_AHEAD.as_millis() as u64);
        if record.issued_at.as_millis() < from || record.issued_at >= grant.expires_at {
            return invalid(format!(
                "the record was made at {}, outside the grant's time",
                record.issued_at
            ));
        }
        for (key, what) in [
            (&record.identity_key, "identity_key"),
            (&record.e2e_key, "e2e_key"),
            (&record.link_key, "link_key"),
        ] {
            VerifyKey::new(key)?;
            self.check_unused(key, what)?;
            if *key == grant.join_key {
                let text = format!("{what} is the grant's join key");
                return Err(Refusal::new(Code::DuplicateKey, text));
            }
        }
        if is_weak_x25519(&record.seal_key) {
            return Err(Refusal::new(Code::WeakKey, "seal_key is of small order"));
        }
        if self.is_revoked(RevocationKind::Node, record.node_id.as_str()) {
            let text = format!("{} ({}) has been revoked", record.name, record.node_id);
            return Err(Refusal::new(Code::NodeRevoked, text));
        }
        Ok(())
    }

    /// A key that has no holder in root or roster.
    fn check_unused(&self, key: &PublicKey, what: &str) -> Result<(), Refusal> {
        let in_roster = self.held()?.roster.holder(&key.id()).is_some();
        if in_roster || root_keys(self.root()).any(|k| k == key) {
            let text = format!("{what} is a key of the root or the roster");
            return Err(Refusal::new(Code::DuplicateKey, text));
        }
        Ok(())
    }

    /// Checks what a token demands of the law that came with it.
    ///
    /// # Errors
    /// [`Code::WrongOrg`], [`Code::RootOlder`], [`Code::StaleBundle`].
    pub fn check_token(&self, token: &Token) -> Result<(), Refusal> {
        if token.org_id != *self.org() {
            return Err(Code::WrongOrg.into());
        }
        let held = self.root().version;
        if held < token.min_root {
            let text = format!("the token asks for root {}, got {held}", token.min_root);
            return Err(Refusal::new(Code::RootOlder, text));
        }
        self.require(token.min_bundle)
    }
}

/// Whether another node may enrol under a grant that `used` nodes have enrolled under.
///
/// # Errors
/// [`Code::IssuedInFuture`], [`Code::GrantExpired`], [`Code::GrantUsed`].
pub fn check_enrolment(grant: &Grant, used: u64, now: Timestamp) -> Result<(), Refusal> {
    if grant.issued_at > now.plus(limits::CLOCK_AHEAD) {
        return Err(Code::IssuedInFuture.into());
    }
    if grant.expires_at <= now {
        let text = format!("the grant expired at {}", grant.expires_at);
        return Err(Refusal::new(Code::GrantExpired, text));
    }
    if used >= u64::from(grant.max_uses) {
        let text = format!("{used} of {} uses are taken", grant.max_uses);
        return Err(Refusal::new(Code::GrantUsed, text));
    }
    Ok(())
}

/// The join key of a token, if the grant is the one that the token speaks of.
///
/// # Errors
/// [`Code::NodeRecordInvalid`] for another grant, [`Code::JoinSignature`] for another seed.
pub fn join_key(token: &Token, grant: &Verified<Grant>) -> Result<SecretKey, Refusal> {
    if grant.digest() != token.grant_digest {
        let text = "the grant is not the one that the token was made for";
        return Err(Refusal::new(Code::NodeRecordInvalid, text));
    }
    let key = SecretKey::from_seed(&token.join_seed);
    if key.public() != grant.join_key {
        return Err(Refusal::new(
            Code::JoinSignature,
            "the token's seed does not belong to the grant",
        ));
    }
    Ok(key)
}

/// The secret halves of a node's keys. They never leave the machine.
#[derive(Debug, Clone)]
pub struct NodeSecrets {
    /// Signs asks and receipts.
    pub identity: SecretKey,
    /// End-to-end TLS.
    pub e2e: SecretKey,
    /// Seed of the X25519 key that secrets are sealed to.
    pub seal: SecretKey,
    /// Mutual TLS with the hub.
    pub link: SecretKey,
}

impl NodeSecrets {
    /// Four new keys.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self {
            identity: SecretKey::generate()?,
            e2e: SecretKey::generate()?,
            seal: SecretKey::generate()?,
            link: SecretKey::generate()?,
        })
    }

    /// Reads `identity.key`, `e2e.key`, `seal.key` and `link.key`.
    ///
    /// # Errors
    /// When one is missing, exposed or damaged.
    pub fn load(dir: &Path) -> Result<Self, KeyFileError> {
        let key = |name: &str| keyfile::load(&dir.join(name), None);
        Ok(Self {
            identity: key("identity.key")?,
            e2e: key("e2e.key")?,
            seal: key("seal.key")?,
            link: key("link.key")?,
        })
    }

    /// Writes the four files, each 0600.
    ///
    /// # Errors
    /// When one exists or cannot be written.
    pub fn store(&self, dir: &Path) -> Result<(), KeyFileError> {
        keyfile::store(&dir.join("identity.key"), &self.identity, None)?;
        keyfile::store(&dir.join("e2e.key"), &self.e2e, None)?;
        keyfile::store(&dir.join("seal.key"), &self.seal, None)?;
        keyfile::store(&dir.join("link.key"), &self.link, None)
    }

    /// The node id that these keys make in an org.
    #[must_use]
    pub fn node_id(&self, org: &OrgId) -> NodeId {
        NodeId::derive(org, &self.identity.public().key)
    }

    /// The node record, signed by identity key and join key.
    #[must_use]
    pub fn record(&self, stand: &RecordOf<'_>, join: &SecretKey) -> Envelope {
        let record = NodeRecord {
            tag: Default::default(),
            org: stand.org.clone(),
            grant_digest: stand.grant,
            node_id: self.node_id(stand.org),
            name: stand.name.clone(),
            identity_key: self.identity.public(),
            e2e_key: self.e2e.public(),
            seal_key: self.seal.x25519_public(),
            link_key: self.link.public(),
            epoch: stand.epoch,
            issued_at: stand.issued_at,
        };
        sign(&record, &[&self.identity, join])
    }
}

/// What a node record says besides keys.
#[derive(Debug, Clone, Copy)]
pub struct RecordOf<'a> {
    /// The org.
    pub org: &'a OrgId,
    /// Digest of the grant.
    pub grant: Digest,
    /// The name to take.
    pub name: &'a Name,
    /// 1, then one more for each re-keying.
    pub epoch: u64,
    /// Now.
    pub issued_at: Timestamp,
}
