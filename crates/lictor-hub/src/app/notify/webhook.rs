//! One signed `POST`, in the form of Standard Webhooks: <https://github.com/standard-webhooks/standard-webhooks>
//!
//! Nothing is followed and little is read: a redirect is a failure, an address that is not public is refused before
//! anything is sent, and only the status of the answer counts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use lictor_trust::egress::special;
use rustls::pki_types::ServerName;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;
use url::{Host, Url};

/// How long a delivery may take in all.
const WITHIN: Duration = Duration::from_secs(10);

/// Addresses of one host that are tried.
const ADDRESSES: usize = 4;

/// Sends webhooks.
pub(super) struct Sender {
    pub(super) allow_private: bool,
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) tasks: TaskTracker,
}

/// What is sent.
pub(super) struct Post<'a> {
    pub(super) url: &'a str,
    pub(super) id: &'a str,
    /// Seconds since 1970.
    pub(super) at: u64,
    pub(super) body: &'a str,
    pub(super) secret: &'a [u8],
}

/// Whether an org's admin may name it: by the one table of what is not public, that jobs' ways out go by too.
fn is_public(ip: IpAddr) -> bool {
    // An address of version 4 that a resolver of version 6 gives is that address.
    special(ip.to_canonical()).is_none()
}

/// A URL that webhooks may go to, as far as that can be seen without looking names up.
///
/// # Errors
/// Why not.
pub(super) fn check(url: &str, allow_private: bool) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|e| format!("the address is no URL: {e}"))?;
    let is_http = url.scheme() == "http";
    if !is_http && url.scheme() != "https" {
        return Err("the address must begin with https://".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "the address carries a name or password, which everybody could read who lists it".to_owned(),
        );
    }
    let private =
        "it is not on the public internet; the hub's `[notify] allow_private` lets such addresses be told";
    let ip = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip)),
        Some(Host::Domain(_)) => None,
        None => return Err("the address has no host".to_owned()),
    };
    if is_http && !allow_private {
        return Err("the address must begin with https://".to_owned());
    }
    match ip {
        Some(ip) if !allow_private && !is_public(ip) => Err(private.to_owned()),
        _ => Ok(url),
    }
}

/// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`.
pub(super) fn sign(secret: &[u8], id: &str, at: u64, body: &str) -> Result<String, String> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).map_err(|e| e.to_string())?;
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body.as_bytes());
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

impl Sender {
    /// Sends it; any status from 200 to 299 is success.
    ///
    /// # Errors
    /// Why it did not arrive.
    pub(super) async fn send(&self, post: &Post<'_>) -> Result<(), String> {
        tokio::time::timeout(WITHIN, self.send_now(post))
            .await
            .map_err(|_| format!("no answer within {} s", WITHIN.as_secs()))?
    }

    async fn send_now(&self, post: &Post<'_>) -> Result<(), String> {
        let url = check(post.url, self.allow_private)?;
        let request = request(&url, post)?;
        let addresses = self.resolve(&url).await?;
        let tcp = TcpStream::connect(&addresses[..]).await;
        let tcp = tcp.map_err(|e| format!("cannot connect to {}: {e}", listed(&addresses)))?;
        let address = tcp.peer_addr().map_err(|e| e.to_string())?;
        let status = if url.scheme() == "https" {
            let tls = self
                .tls
                .clone()
                .ok_or("this machine has no certificates to trust")?;
            let host = url
                .host_str()
                .unwrap_or_default()
                .trim_matches(['[', ']'])
                .to_owned();
            let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
            let tls = TlsConnector::from(tls).connect(name, tcp).await;
            self.exchange(tls.map_err(|e| format!("TLS: {e}"))?, request)
                .await?
        } else if is_public(address.ip()) {
            return Err("plain http:// goes to no public address".to_owned());
        } else {
            self.exchange(tcp, request).await?
        };
        match status {
            s if s.is_success() => Ok(()),
            s if s.is_redirection() => Err(format!("answered {s}; redirects are not followed")),
            s => Err(format!("answered {s}")),
        }
    }

    /// The addresses of the host that may be told, each to be tried.
    async fn resolve(&self, url: &Url) -> Result<Vec<SocketAddr>, String> {
        let port = url.port_or_known_default().ok_or("the address has no port")?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(|e| format!("cannot find {host}: {e}"))?;
        let allowed = found.filter(|a| self.allow_private || is_public(a.ip()));
        let allowed: Vec<SocketAddr> = allowed.take(ADDRESSES).collect();
        match allowed.is_empty() {
            true => Err(format!(
                "{host} has no public address, and the hub's `[notify] allow_private` is off"
            )),
            false => Ok(allowed),
        }
    }

    async fn exchange<IO>(&self, io: IO, request: Request<Full<Bytes>>) -> Result<StatusCode, String>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(64 * 1024)
            .handshake(TokioIo::new(io))
            .await
            .map_err(|e| e.to_string())?;
        // Ends with the sender, at the end of this function.
        self.tasks.spawn(async move {
            if let Err(e) = connection.await {
                tracing::debug!(error = %e, "the connection of a webhook");
            }
        });
        let answer = sender.send_request(request).await;
        Ok(answer.map_err(|e| format!("no answer: {e}"))?.status())
    }
}

fn listed(addresses: &[SocketAddr]) -> String {
    let all: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    all.join(", ")
}

fn request(url: &Url, post: &Post<'_>) -> Result<Request<Full<Bytes>>, String> {
    let host = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let path = url
        .query()
        .map_or_else(|| url.path().to_owned(), |q| format!("{}?{q}", url.path()));
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, concat!("lictor-hub/", env!("CARGO_PKG_VERSION")))
        .header(CONTENT_TYPE, "application/json")
        .header("webhook-id", post.id)
        .header("webhook-timestamp", post.at)
        .header(
            "webhook-signature",
            sign(post.secret, post.id, post.at, post.body)?,
        )
        .body(Full::new(Bytes::copy_from_slice(post.body.as_bytes())))
        .map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn signs_as_the_standards_own_example_does() {
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = sign(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn an_address_is_a_public_https_url_without_a_password_unless_the_hub_allows_more() {
        for bad in [
            "ftp://example.com/x",
            "example.com",
            "http://example.com/x",
            "https://me:pw@example.com/",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "https://169.254.169.254/latest",
            "https://0x7f.1/",
            "https://168.63.129.16/",
            "https://[::ffff:10.0.0.1]/",
            "https://[2002:7f00:1::]/",
            "https://[64:ff9b::a9fe:a9fe]/",
        ] {
            assert!(check(bad, false).is_err(), "{bad}");
        }
        check("https://example.com/hook?x=1", false).unwrap();
        check("http://127.0.0.1:8080/x", true).unwrap();
        assert!(check("https://me:pw@example.com/", true).is_err());
    }
}
