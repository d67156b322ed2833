//! Grants, enrolment, and who a link key belongs to.

use lictor_audit::EventType;
use lictor_link::cert::ed25519_spki_digest;
use lictor_proto::agent::Wire;
use lictor_proto::api::{EnrollReply, EnrollRequest, NodeView, TokenScope};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Grant, NodeRecord, RevocationKind};
use lictor_proto::{Code, Digest, NodeId, OrgId, Timestamp};
use lictor_trust::enrol::check_enrolment;
use lictor_trust::{NodeKeys, Verified};

use super::{App, Caller, Error, Org, views};
use crate::store::{Enrolled, GrantRow, NewNode, NodeRow};

/// A node whose link key was proved and whose record holds.
#[derive(Debug, Clone)]
pub struct KnownNode {
    /// Its org.
    pub org: OrgId,
    /// It.
    pub node_id: NodeId,
    /// Verifies its asks and receipts.
    pub keys: NodeKeys,
}

impl App {
    /// Takes an operator's grant.
    ///
    /// # Errors
    /// [`Error::Scope`]; [`Error::Refused`] with the rule it breaks.
    pub async fn put_grant(&self, caller: &Caller, wire: &str) -> Result<Digest, Error> {
        caller.need(TokenScope::Submit)?;
        let org = self.org(&caller.org)?;
        let checked = org.with(|t| {
            let grant = t.verify_grant(wire)?;
            t.check_granter(&grant, Timestamp::now())?;
            Ok::<_, Refusal>(grant)
        });
        let grant = match checked {
            Ok(grant) => grant,
            Err(why) => return Err(self.refuse(Some(&org.id), EventType::EnrollRefused, why).await),
        };
        let row = GrantRow {
            digest: grant.digest(),
            max_uses: grant.max_uses,
            wire: wire.to_owned(),
        };
        self.store.put_grant(&org.id, row).await?;
        Ok(grant.digest())
    }

    /// Grants of the caller's org, in order of digest.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list_grants(
        &self,
        caller: &Caller,
        after: Option<Digest>,
        limit: u32,
    ) -> Result<Vec<(Digest, Wire)>, Error> {
        Ok(self.store.grants(&caller.org, after, limit).await?)
    }

    /// A grant and the law, for a node that is about to make its record.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn grant_for_node(&self, org: &OrgId, digest: &Digest) -> Result<EnrollReply, Error> {
        let org = self.org(org)?;
        let grant = self.store.grant(&org.id, digest).await?.ok_or(Error::NotFound)?;
        Ok(reply(&org, grant))
    }

    /// A node enrols over a connection that proved `link_key`.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown org or grant; [`Error::Refused`] with the rule it breaks.
    pub async fn enroll(&self, link_key: &[u8; 32], request: &EnrollRequest) -> Result<EnrollReply, Error> {
        let org = self.org(&request.org)?;
        let wire = self.store.grant(&org.id, &request.grant_digest).await?;
        let wire = wire.ok_or(Error::NotFound)?;
        let checked = org.with(|t| {
            let grant = t.verify_grant(&wire)?;
            let record = t.verify_node(&grant, &request.record)?;
            Ok::<_, Refusal>((grant, record))
        });
        let outcome = match checked {
            Ok((grant, record)) => self.check_and_store(&org, link_key, &grant, &record).await,
            Err(why) => Err(why.into()),
        };
        match outcome {
            Ok(()) => Ok(reply(&org, wire)),
            Err(Error::Refused(why)) => Err(self.refuse(Some(&org.id), EventType::EnrollRefused, why).await),
            Err(e) => Err(e),
        }
    }

    async fn check_and_store(
        &self,
        org: &Org,
        link_key: &[u8; 32],
        grant: &Verified<Grant>,
        record: &Verified<NodeRecord>,
    ) -> Result<(), Error> {
        if record.link_key.key != *link_key {
            let why = "the connection's certificate does not carry the record's link_key";
            return Err(Refusal::new(Code::NodeRecordInvalid, why).into());
        }
        let known = self.store.node(&org.id, &record.node_id).await?;
        if known.as_ref().is_none_or(|n| n.record != record.wire()) {
            // How often it was used is decided by the store, in the transaction that uses it.
            check_enrolment(grant, 0, Timestamp::now())?;
            org.with(|t| t.check_granter(grant, Timestamp::now()))?;
            self.check_name(org, grant, record).await?;
        }
        let node = NewNode {
            node_id: record.node_id.clone(),
            name: record.name.clone(),
            kind: grant.kind,
            grant: grant.digest(),
            link_spki: ed25519_spki_digest(link_key),
            record: record.wire().to_owned(),
        };
        match self.store.enroll(&org.id, node).await? {
            Enrolled::New | Enrolled::Same => Ok(()),
            Enrolled::GrantUsed => Err(Code::GrantUsed.into()),
        }
    }

    /// Two live records for a name are refused by everybody; better not to store the second.
    async fn check_name(&self, org: &Org, grant: &Grant, record: &NodeRecord) -> Result<(), Error> {
        let others = self.store.nodes_named(&org.id, &record.name).await?;
        let live = others.iter().find(|n| {
            n.node_id != record.node_id
                && grant.replaces.as_ref() != Some(&n.node_id)
                && !org.with(|t| t.is_revoked(RevocationKind::Node, n.node_id.as_str()))
        });
        match live {
            None => Ok(()),
            Some(n) => {
                let why = format!("{} is the name of {} already", n.name, n.node_id);
                Err(Refusal::new(Code::AmbiguousName, why).into())
            }
        }
    }

    /// The node that holds this link key.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`] when no node does; [`Error::Refused`] when its record no longer holds.
    pub async fn known_node(&self, link_key: &[u8; 32]) -> Result<KnownNode, Error> {
        let spki = ed25519_spki_digest(link_key);
        let (org_id, node_id) = self
            .store
            .node_by_link(&spki)
            .await?
            .ok_or(Error::Unauthenticated)?;
        let org = self.org(&org_id)?;
        let row = self
            .store
            .node(&org_id, &node_id)
            .await?
            .ok_or(Error::Unauthenticated)?;
        let keys = node_keys(&org, &row)?;
        Ok(KnownNode {
            org: org_id,
            node_id,
            keys,
        })
    }

    /// Whether a node's record still holds.
    ///
    /// # Errors
    /// [`Error::Refused`] when it does not; [`Error::Store`].
    pub async fn still_stands(&self, node: &KnownNode) -> Result<(), Error> {
        let org = self.org(&node.org)?;
        let row = self.store.node(&node.org, &node.node_id).await?;
        node_keys(&org, &row.ok_or(Error::NotFound)?).map(drop)
    }

    /// Nodes of the caller's org, in order of id.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn list_nodes(
        &self,
        caller: &Caller,
        after: Option<NodeId>,
        limit: u32,
    ) -> Result<Vec<NodeView>, Error> {
        let rows = self.store.nodes(&caller.org, after, limit).await?;
        let connected = |id: &NodeId| self.links.get(&caller.org, id).is_some();
        Ok(rows
            .into_iter()
            .map(|row| {
                let up = connected(&row.node_id);
                views::node(row, up)
            })
            .collect())
    }

    /// One node of the caller's org.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn node(&self, caller: &Caller, id: &NodeId) -> Result<NodeView, Error> {
        let row = self.store.node(&caller.org, id).await?.ok_or(Error::NotFound)?;
        let connected = self.links.get(&caller.org, id).is_some();
        Ok(views::node(row, connected))
    }
}

fn node_keys(org: &Org, row: &NodeRow) -> Result<NodeKeys, Error> {
    org.with(|t| {
        let grant = t.verify_grant(&row.grant)?;
        let record = t.verify_node(&grant, &row.record)?;
        NodeKeys::of(&record).map_err(|e| Refusal::new(Code::WeakKey, e.to_string()))
    })
    .map_err(Error::from)
}

fn reply(org: &Org, grant: Wire) -> EnrollReply {
    let law = org.watch_docs().borrow().clone();
    EnrollReply {
        grant,
        law: (*law).clone(),
    }
}
