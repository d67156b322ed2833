//! TLS 1.3 between machines that know each other by key, and for people.
//!
//! One port serves both, told apart by ALPN: `lictor/1` gets the hub's Ed25519 link key and must prove a link
//! key of its own; everybody else gets ECDSA P-256 and is asked for no certificate (a browser would put a
//! dialogue before its user). No tickets, no resumption, no 0-RTT: each connection proves the keys anew.
//!
//! # Invariants
//! - A connection that [`HubTls::accept`] calls [`Accepted::Node`] holds the private half of `link_key`.
//! - A client connection is to a key whose SPKI digest is among its pins. Names and CAs decide nothing.

mod verify;

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lictor_proto::Digest;
use lictor_proto::api::ALPN_NODE;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::LinkError;
use crate::cert::{Identity, ed25519_key};
use verify::{AnyEd25519, Pinned};

/// Makes aws-lc-rs the process's provider. Idempotent; call it first in every `main` and test harness.
pub fn install_crypto_provider() {
    // An error only says that there is one already, and only this one is compiled in.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clone()
}

/// The two faces of a hub's port.
#[derive(Clone)]
pub struct HubTls {
    node: Arc<ServerConfig>,
    people: Arc<ServerConfig>,
}

/// Who is there.
pub enum Accepted<IO> {
    /// A node, by its link key. HTTP/1.1 inside.
    Node {
        /// The connection.
        stream: TlsStream<IO>,
        /// The Ed25519 public key whose private half the peer has proved.
        link_key: [u8; 32],
    },
    /// Anybody. HTTP/2 or HTTP/1.1 inside.
    People(TlsStream<IO>),
}

impl HubTls {
    /// Configures both faces.
    ///
    /// # Errors
    /// [`LinkError::Certificate`] when a key does not fit its certificate.
    pub fn new(link: Identity, web: Identity) -> Result<Self, LinkError> {
        let (chain, key) = link.into_parts();
        let verifier = Arc::new(AnyEd25519::new(provider()));
        let node = server(ServerConfig::builder_with_provider(provider()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        let (chain, key) = web.into_parts();
        let people = server(ServerConfig::builder_with_provider(provider()))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(unusable)?;
        Ok(Self {
            node: finish(node, &[ALPN_NODE]),
            people: finish(people, &[b"h2", b"http/1.1"]),
        })
    }

    /// Runs the server's side of a handshake within `deadline`.
    ///
    /// # Errors
    /// [`LinkError::Timeout`], or [`LinkError::Tls`] when the peer offers no TLS 1.3, has no proper certificate
    /// where one must be, or cannot prove its key.
    pub async fn accept<IO>(&self, io: IO, deadline: Duration) -> Result<Accepted<IO>, LinkError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        tokio::time::timeout(deadline, self.handshake(io))
            .await
            .map_err(|_| LinkError::Timeout(deadline))?
    }

    async fn handshake<IO>(&self, io: IO) -> Result<Accepted<IO>, LinkError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io)
            .await
            .map_err(LinkError::Tls)?;
        let is_node = start
            .client_hello()
            .alpn()
            .is_some_and(|mut offers| offers.any(|p| p == ALPN_NODE));
        if !is_node {
            let stream = start.into_stream(self.people.clone()).await;
            return Ok(Accepted::People(stream.map_err(LinkError::Tls)?));
        }
        let stream = start
            .into_stream(self.node.clone())
            .await
            .map_err(LinkError::Tls)?;
        let certs = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let link_key = certs.first().map(ed25519_key).transpose()?.flatten();
        let link_key = link_key.ok_or_else(|| LinkError::Protocol("no client certificate".into()))?;
        Ok(Accepted::Node { stream, link_key })
    }
}

/// The client's side: which server keys it takes, and who it is.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl ClientTls {
    /// A node: proves its link key, speaks `lictor/1`, takes only a server with one of the pinned keys.
    ///
    /// # Errors
    /// [`LinkError::Certificate`] when the identity is unusable.
    pub fn node(link: Identity, pins: Vec<Digest>) -> Result<Self, LinkError> {
        let (chain, key) = link.into_parts();
        let config = client(pins)?
            .with_client_auth_cert(chain, key)
            .map_err(unusable)?;
        Ok(Self(finish_client(config, &[ALPN_NODE])))
    }

    /// A person's program: proves nothing here (it carries a token), takes only a pinned server key.
    ///
    /// # Errors
    /// [`LinkError::Certificate`] when the provider is unusable.
    pub fn person(pins: Vec<Digest>) -> Result<Self, LinkError> {
        let config = client(pins)?.with_no_client_auth();
        Ok(Self(finish_client(config, &[b"http/1.1"])))
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

type ServerWants<S> = rustls::ConfigBuilder<ServerConfig, S>;

fn server(
    builder: ServerWants<rustls::WantsVersions>,
) -> Result<ServerWants<rustls::WantsVerifier>, LinkError> {
    builder.with_protocol_versions(&[&TLS13]).map_err(unusable)
}

fn finish(mut config: ServerConfig, alpn: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Arc::new(config)
}

fn client(
    pins: Vec<Digest>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, LinkError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(unusable)?;
    let verifier = Arc::new(Pinned::new(pins, provider()));
    Ok(builder
        .dangerous() // it is: the verifier is ours, and tests hold what it refuses
        .with_custom_certificate_verifier(verifier))
}

fn finish_client(mut config: ClientConfig, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Arc::new(config)
}

fn unusable(e: rustls::Error) -> LinkError {
    LinkError::Certificate(e.to_string())
}

/// What a failed client handshake means: a key that is not pinned is its own case.
pub(crate) fn client_error(e: io::Error) -> LinkError {
    match e.get_ref().and_then(verify::unpinned) {
        Some(seen) => LinkError::Pin { seen },
        None => LinkError::Tls(e),
    }
}
