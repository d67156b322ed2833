//! Who is taken for whom: pins, client certificates, versions. Each refusal first shows that its opposite works.
#![allow(clippy::unwrap_used)] // helpers of tests, where a panic is a failed test

use std::sync::Arc;
use std::time::Duration;

use lictor_link::cert::{Identity, WebPem, ed25519_spki_digest, generate_web};
use lictor_link::dial::{HubUrl, dial};
use lictor_link::tls::{Accepted, ClientTls, HubTls};
use lictor_link::{LinkError, install_crypto_provider};
use lictor_proto::{Code, Digest};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::TcpListener;

const WITHIN: Duration = Duration::from_secs(10);

struct Hub {
    tls: HubTls,
    link_pin: Digest,
    web_pin: Digest,
}

fn hub() -> Hub {
    install_crypto_provider();
    let link = Identity::link(&[1; 32]).unwrap();
    let web = Identity::from_pem(&generate_web(&["localhost".into()]).unwrap()).unwrap();
    let (link_pin, web_pin) = (link.spki().unwrap(), web.spki().unwrap());
    Hub {
        tls: HubTls::new(link, web).unwrap(),
        link_pin,
        web_pin,
    }
}

/// One connection over real TCP: what each side makes of it. The hub writes a byte, which the client reads, since
/// a client in TLS 1.3 learns only then whether its certificate was taken.
async fn meet(hub: &Hub, client: &ClientTls) -> (Result<Option<[u8; 32]>, LinkError>, Result<u8, LinkError>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (mut stream, key) = match hub.tls.accept(tcp, WITHIN).await? {
            Accepted::Node { stream, link_key } => (stream, Some(link_key)),
            Accepted::People(stream) => (stream, None),
        };
        stream.write_all(b"!").await.unwrap();
        stream.flush().await.unwrap();
        Ok(key)
    };
    let url: HubUrl = format!("https://127.0.0.1:{port}").parse().unwrap();
    let client = async {
        let mut io = dial(&url, Some(client), WITHIN).await?;
        io.read_u8().await.map_err(LinkError::Tls)
    };
    tokio::join!(server, client)
}

#[tokio::test]
async fn a_wrong_pin_is_refused_and_named() {
    let hub = hub();
    let node = |pin| ClientTls::node(Identity::link(&[2; 32]).unwrap(), vec![pin]).unwrap();
    let (server, client) = meet(&hub, &node(hub.link_pin)).await;
    assert!(server.is_ok() && client.is_ok());

    let (_, client) = meet(&hub, &node(Digest::of(b"somebody else"))).await;
    let refusal = client.unwrap_err();
    assert!(
        matches!(&refusal, LinkError::Pin { seen } if *seen == hub.link_pin),
        "{refusal}"
    );
    assert_eq!(refusal.code(), Code::HubPin);
}

#[tokio::test]
async fn the_hub_learns_the_key_that_the_node_proved() {
    let hub = hub();
    let id = Identity::link(&[2; 32]).unwrap();
    let pin = id.spki().unwrap();
    let node = ClientTls::node(id, vec![Digest::of(b"old"), hub.link_pin]).unwrap();
    let (server, _) = meet(&hub, &node).await;
    let key = server.unwrap().expect("a node");
    assert_eq!(ed25519_spki_digest(&key), pin);
}

#[tokio::test]
async fn people_get_the_other_key_and_are_asked_for_none() {
    let hub = hub();
    let (server, client) = meet(&hub, &ClientTls::person(vec![hub.web_pin]).unwrap()).await;
    assert_eq!(server.unwrap(), None);
    assert!(client.is_ok());
    let (_, client) = meet(&hub, &ClientTls::person(vec![hub.link_pin]).unwrap()).await;
    assert_eq!(client.unwrap_err().code(), Code::HubPin);
}

#[tokio::test]
async fn plain_http_is_for_loopback_only() {
    let url: HubUrl = "http://203.0.113.1:80".parse().unwrap();
    assert!(matches!(
        dial(&url, None, WITHIN).await,
        Err(LinkError::Address(_))
    ));
}

/// A client that shows what it likes: certificate, and the key that signs for it.
#[derive(Debug)]
struct Shows(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }
    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

#[derive(Debug)]
struct TrustsAnybody;

impl ServerCertVerifier for TrustsAnybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// What the hub says to a `lictor/1` client that shows this.
async fn hub_meets(shows: Shows) -> Result<(), LinkError> {
    let hub = hub();
    let mut config = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustsAnybody))
        .with_client_cert_resolver(Arc::new(shows));
    config.alpn_protocols = vec![b"lictor/1".to_vec()];
    let (near, far) = tokio::io::duplex(64 * 1024);
    let client = async {
        let name = ServerName::try_from("localhost").unwrap();
        let io = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, near)
            .await;
        // Stay until the hub has made up its mind.
        if let Ok(mut io) = io {
            let _ = io.read_u8().await;
        }
    };
    let server = async { hub.tls.accept(far, WITHIN).await.map(drop) };
    tokio::join!(server, client).0
}

/// Certificate and private key, made apart so that a test can mix them.
fn pair(seed: u8) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let name = format!("node{seed}.invalid");
    let cert = rcgen::CertificateParams::new(vec![name])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let pkcs8 = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    (cert.der().clone(), pkcs8)
}

fn shows(cert: CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Shows {
    Shows(Some(Arc::new(CertifiedKey::new(
        vec![cert],
        any_supported_type(key).unwrap(),
    ))))
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused() {
    let (cert, key) = pair(1);
    let (_, other_key) = pair(2);
    hub_meets(shows(cert.clone(), &key)).await.unwrap();
    let refused = hub_meets(shows(cert, &other_key)).await.unwrap_err();
    assert!(refused.chain().contains("BadSignature"), "{}", refused.chain());
}

#[tokio::test]
async fn a_node_without_certificate_or_with_another_kind_of_key_is_refused() {
    let refused = hub_meets(Shows(None)).await.unwrap_err();
    assert!(matches!(refused, LinkError::Tls(_)), "{refused}");
    let WebPem { certificate, key } = generate_web(&["node.invalid".into()]).unwrap();
    let cert = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let refused = hub_meets(shows(cert, &key)).await.unwrap_err();
    assert!(matches!(refused, LinkError::Tls(_)), "{refused}");
}

fn extension(id: u16, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap();
    [&id.to_be_bytes(), &len.to_be_bytes(), body].concat()
}

/// A ClientHello by hand (RFC 8446 section 4.1.2), since our TLS library was built without TLS 1.2.
fn client_hello(with_tls13: bool) -> Vec<u8> {
    let mut extensions = [
        extension(10, &[0, 2, 0, 0x1d]),                // groups: x25519
        extension(13, &[0, 4, 0x04, 0x03, 0x08, 0x07]), // signatures: ECDSA P-256, Ed25519
        extension(11, &[1, 0]),                         // uncompressed points
        extension(51, &[0, 0]),                         // no key share yet
    ]
    .concat();
    if with_tls13 {
        extensions.extend(extension(43, &[2, 0x03, 0x04]));
    }
    let suites = [0x13, 0x01, 0xc0, 0x2b]; // AES-128-GCM of 1.3, and ECDHE-ECDSA of 1.2
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 4]);
    body.extend(suites);
    body.extend([1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let len = u16::try_from(body.len()).unwrap();
    let mut record = vec![22, 3, 1];
    record.extend((len + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend(len.to_be_bytes());
    record.extend(body);
    record
}

async fn first_bytes_of_answer(hub: &Hub, hello: &[u8]) -> Vec<u8> {
    let (mut near, far): (DuplexStream, _) = tokio::io::duplex(64 * 1024);
    near.write_all(hello).await.unwrap();
    let server = hub.tls.accept(far, Duration::from_millis(500));
    let client = async {
        let mut first = [0; 7];
        near.read_exact(&mut first).await.map(|_| first.to_vec())
    };
    let (server, answer) = tokio::join!(server, client);
    assert!(server.is_err());
    answer.unwrap()
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let hub = hub();
    let answer = first_bytes_of_answer(&hub, &client_hello(true)).await;
    assert_eq!(answer[0], 22, "a handshake record: {answer:?}");
    let answer = first_bytes_of_answer(&hub, &client_hello(false)).await;
    assert_eq!(answer, [21, 3, 3, 0, 2, 2, 70], "a fatal alert, protocol_version");
}
