//! What nodes sign: asks and receipts.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Ask, Document, NodeRecord, Receipt};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, Name, NodeId};

use crate::keys::{KeyError, VerifyKey};
use crate::org_trust::OrgTrust;
use crate::people::check_job;
use crate::verify::{Keyring, Rule, Verified, verify};

/// The keys of one node, out of a verified record. The only way to get them is through roster, grant and record.
#[derive(Debug, Clone)]
pub struct NodeKeys {
    /// The node.
    pub node_id: NodeId,
    /// Its name.
    pub name: Name,
    /// Pinned end-to-end TLS key.
    pub e2e: PublicKey,
    /// X25519 key that secrets are sealed to.
    pub seal: [u8; 32],
    /// Mutual TLS with the hub.
    pub link: PublicKey,
    identity: VerifyKey,
}

impl NodeKeys {
    /// The keys that a record states.
    ///
    /// # Errors
    /// When the identity key is weak, which a verified record's isn't.
    pub fn of(record: &Verified<NodeRecord>) -> Result<Self, KeyError> {
        Ok(Self {
            node_id: record.node_id.clone(),
            name: record.name.clone(),
            e2e: record.e2e_key,
            seal: record.seal_key,
            link: record.link_key,
            identity: VerifyKey::new(&record.identity_key)?,
        })
    }

    /// The identity key.
    #[must_use]
    pub fn identity(&self) -> &PublicKey {
        self.identity.public()
    }
}

impl OrgTrust {
    /// A node's question for approvals.
    ///
    /// # Errors
    /// When it is not signed by this node's identity key, or speaks of another.
    pub fn verify_ask(&self, node: &NodeKeys, wire: &str) -> Result<Verified<Ask>, Refusal> {
        let ask: Verified<Ask> = self.by_node(node, wire)?;
        check_node(node, &ask.node_id)?;
        Ok(ask)
    }

    /// A node's receipt.
    ///
    /// # Errors
    /// [`Code::ReceiptForged`] when it is not signed by this node's identity key; [`Code::WrongNode`].
    pub fn verify_receipt(&self, node: &NodeKeys, wire: &str) -> Result<Verified<Receipt>, Refusal> {
        let receipt: Verified<Receipt> = self.by_node(node, wire).map_err(|r| match r.code {
            Code::SignatureInvalid | Code::SignerUnknown => Refusal::new(Code::ReceiptForged, r.message),
            _ => r,
        })?;
        check_node(node, &receipt.node_id)?;
        Ok(receipt)
    }

    fn by_node<T: Document>(&self, node: &NodeKeys, wire: &str) -> Result<Verified<T>, Refusal> {
        let keyring = Keyring::one(node.identity.clone());
        verify(wire, &keyring, Rule::One, self.org())
    }
}

fn check_node(node: &NodeKeys, named: &NodeId) -> Result<(), Refusal> {
    if node.node_id == *named {
        return Ok(());
    }
    let text = format!("it speaks of {named}, not of {} ({})", node.node_id, node.name);
    Err(Refusal::new(Code::WrongNode, text))
}

impl Verified<Ask> {
    /// Refuses an ask about another job.
    ///
    /// # Errors
    /// [`Code::WrongJob`].
    pub fn check_for(&self, job: &Digest) -> Result<(), Refusal> {
        check_job(&self.job_digest, job)
    }
}

impl Verified<Receipt> {
    /// Refuses a receipt of another job.
    ///
    /// # Errors
    /// [`Code::WrongJob`].
    pub fn check_for(&self, job: &Digest) -> Result<(), Refusal> {
        check_job(&self.job_digest, job)
    }
}
