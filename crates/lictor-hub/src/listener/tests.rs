//! Connections that do nothing are closed, whatever they speak.

use std::net::SocketAddr;

use axum::routing::get;
use lictor_link::cert::{Identity, generate_web};
use lictor_link::dial::dial;
use lictor_link::h2;
use lictor_link::tls::ClientTls;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;

use super::*;

const WITHIN: Duration = Duration::from_secs(20);

/// A listener of little patience.
struct Port {
    addr: SocketAddr,
    spki: lictor_proto::Digest,
    roots: rustls::RootCertStore,
    tasks: TaskTracker,
}

impl Port {
    async fn open() -> Self {
        lictor_link::install_crypto_provider();
        let link = Identity::link(&[9; 32]).expect("an identity");
        let spki = link.spki().expect("a key");
        let pem = generate_web(&["localhost".to_owned()]).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(pem.certificate.as_bytes()).expect("PEM");
        roots.add(der).expect("a root");
        let web = Identity::from_pem(&pem).expect("an identity");
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (addr, tasks) = (tcp.local_addr().expect("an address"), TaskTracker::new());
        let listener = Listener {
            tls: HubTls::new(link, web).expect("both faces"),
            plain: Plain::Taken,
            router: Router::new().route("/", get(|| async { "here" })),
            tasks: tasks.clone(),
            stop: CancellationToken::new(),
            patience: Patience {
                head: Duration::from_millis(200),
                idle: Duration::from_millis(200),
            },
        };
        tasks.spawn(listener.serve(tcp, 16));
        Self {
            addr,
            spki,
            roots,
            tasks,
        }
    }

    /// As somebody's program, which offers this protocol.
    async fn people(&self, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let tcp = TcpStream::connect(self.addr).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        tls.expect("a handshake")
    }
}

/// Reads until the hub closes the connection.
async fn closed(mut io: impl AsyncRead + Unpin) {
    let mut rest = Vec::new();
    // However it is closed; a reset is as good as an end.
    let _ = tokio::time::timeout(WITHIN, io.read_to_end(&mut rest))
        .await
        .expect("the hub closes the connection");
}

#[tokio::test]
async fn a_connection_that_sends_nothing_after_its_handshake_is_closed() {
    let port = Port::open().await;
    closed(port.people(b"h2").await).await;
    closed(port.people(b"http/1.1").await).await;
    let identity = Identity::link(&[7; 32]).expect("an identity");
    let tls = ClientTls::node(identity, vec![port.spki]).expect("pins");
    let url = format!("https://{}", port.addr).parse().expect("a URL");
    closed(dial(&url, Some(&tls), WITHIN).await.expect("dials")).await;
    let mut plain = TcpStream::connect(port.addr).await.expect("connects");
    plain.write_all(b"G").await.expect("writes");
    closed(plain).await;
}

#[tokio::test]
async fn an_http2_connection_without_a_request_is_closed_before_and_after_its_first() {
    let port = Port::open().await;
    let empty = http_body_util::Empty::<Bytes>::new;
    let io = TokioIo::new(port.people(b"h2").await);
    let (_sender, silent) = h2::client(&port.tasks)
        .handshake::<_, http_body_util::Empty<Bytes>>(io)
        .await
        .expect("speaks HTTP/2");
    let _ = tokio::time::timeout(WITHIN, silent).await.expect("closed");
    let io = TokioIo::new(port.people(b"h2").await);
    let (mut sender, driver) = h2::client(&port.tasks)
        .handshake(io)
        .await
        .expect("speaks HTTP/2");
    let driver = port.tasks.spawn(driver);
    let request = hyper::Request::get("https://localhost/")
        .body(empty())
        .expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    drop(answer);
    let _ = tokio::time::timeout(WITHIN, driver)
        .await
        .expect("closed when idle");
}
