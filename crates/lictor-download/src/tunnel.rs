//! Through the proxy by CONNECT, and TLS inside of that.

use std::sync::Arc;

use lictor_proto::download::{CERTIFICATES, Failed, Order, Why};
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::again;

/// The most that the proxy's own answer has.
const ANSWER: usize = 4 * 1024;

/// A connection with the server that the URL names, who has proved to be it.
pub(crate) async fn open(order: &Order, mut stream: UnixStream) -> Result<TlsStream<UnixStream>, Failed> {
    let config = config(order.certificates.as_deref())?;
    let host = order.url.host();
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name);
    let name = name.map_err(|e| Failed::new(Why::Final, format!("{host} has no certificate: {e}")))?;
    connect(&format!("{host}:{}", order.url.port()), &mut stream)
        .await
        .map_err(|e| again(format!("the egress proxy let nothing through: {e}")))?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await;
    stream.map_err(|e| again(format!("no TLS with {host}: {e}")))
}

/// Asks for the tunnel; returns when the proxy has opened it.
async fn connect(target: &str, stream: &mut UnixStream) -> std::io::Result<()> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    // A server of TLS does not speak first, so what comes is the proxy's to its end; byte by byte, to read no further.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= ANSWER {
            return Err(std::io::Error::other("its answer does not end"));
        }
        head.push(stream.read_u8().await?);
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    match line.strip_prefix("HTTP/1.1 200") {
        Some(_) => Ok(()),
        None => Err(std::io::Error::other(line.into_owned())),
    }
}

/// Whom to trust: what this machine trusts, and what the order has besides.
fn config(more: Option<&str>) -> Result<ClientConfig, Failed> {
    let finally = |text: String| Failed::new(Why::Final, text);
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let more = more.unwrap_or_default();
    if more.len() > CERTIFICATES {
        return Err(finally(format!(
            "there are more than {CERTIFICATES} bytes of certificates"
        )));
    }
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(more.as_bytes()).collect();
    let certificates = certificates.map_err(|e| finally(format!("the node's own certificates: {e}")))?;
    roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        let text = "this machine trusts nobody: it has no certificates, such as those of the package ca-certificates";
        return Err(finally(text.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|e| finally(format!("no TLS can be spoken: {e}")))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
