//! What an org has on a hub besides jobs: nodes, law, secrets, tokens, the audit log.

use bytes::Bytes;
use hyper::Method;
use lictor_proto::agent::LawDocs;
use lictor_proto::api::{
    AuditLine, CreatedToken, NewToken, NodeView, Page, SecretDocument, SecretView, TokenView, TrustPushed,
    TrustView,
};
use lictor_proto::{Name, NodeId};

use super::{CALL, Hub, page};
use crate::error::Error;

impl Hub {
    /// All nodes of the org, with the documents that prove them.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn nodes(&self) -> Result<Vec<NodeView>, Error> {
        self.all("/api/v1/nodes").await
    }

    /// One node.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn node(&self, node: &NodeId) -> Result<NodeView, Error> {
        self.get(&format!("/api/v1/nodes/{node}")).await
    }

    /// Hands in a signed grant.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn push_grant(&self, grant: &str) -> Result<(), Error> {
        let body = Bytes::copy_from_slice(grant.as_bytes());
        self.send(Method::POST, "/api/v1/grants", body, CALL)
            .await
            .map(drop)
    }

    /// All law that the hub holds.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn trust(&self) -> Result<TrustView, Error> {
        self.get("/api/v1/trust").await
    }

    /// Hands in newer law.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn push_trust(&self, docs: &LawDocs) -> Result<TrustPushed, Error> {
        self.post_json("/api/v1/trust", docs).await
    }

    /// The org's API tokens.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn tokens(&self) -> Result<Vec<TokenView>, Error> {
        self.all("/api/v1/tokens").await
    }

    /// Makes an API token.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn new_token(&self, token: &NewToken) -> Result<CreatedToken, Error> {
        self.post_json("/api/v1/tokens", token).await
    }

    /// Makes an API token worthless.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn revoke_token(&self, id: &str) -> Result<(), Error> {
        // Ids are made of letters and digits; anything else would reach into other paths.
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(Error::Malformed(format!("{id:?} is no token id")));
        }
        let path = format!("/api/v1/tokens/{id}");
        self.send(Method::DELETE, &path, Bytes::new(), CALL)
            .await
            .map(drop)
    }

    /// Hands in a signed version of a secret.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn put_secret(&self, secret: &str) -> Result<SecretView, Error> {
        self.post("/api/v1/secrets", secret).await
    }

    /// What the hub calls the newest version of a secret.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn secret(&self, name: &Name) -> Result<SecretDocument, Error> {
        self.get(&format!("/api/v1/secrets/{name}")).await
    }

    /// The newest versions of all secrets, as the hub lists them.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn secrets(&self) -> Result<Vec<SecretView>, Error> {
        self.all("/api/v1/secrets").await
    }

    /// Has the hub delete all versions of a secret.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn remove_secret(&self, name: &Name) -> Result<(), Error> {
        let path = format!("/api/v1/secrets/{name}");
        self.send(Method::DELETE, &path, Bytes::new(), CALL)
            .await
            .map(drop)
    }

    /// One page of the hub's audit log, records after `after`, oldest first.
    ///
    /// # Errors
    /// [`Error`]
    pub async fn audit(&self, cursor: Option<&str>) -> Result<Page<AuditLine>, Error> {
        self.get(&page("/api/v1/audit", 1000, cursor)).await
    }
}
