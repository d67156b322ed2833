//! TCP and TLS connections to a hub, each with a deadline.

use std::fmt;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::LinkError;
use crate::tls::{ClientTls, client_error};

/// Where a hub is: `http://host:port` or `https://host:port`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubUrl {
    /// Whether TLS is spoken.
    pub tls: bool,
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for HubUrl {
    type Err = LinkError;

    fn from_str(s: &str) -> Result<Self, LinkError> {
        let bad = || LinkError::Address(s.chars().take(200).collect());
        let uri: hyper::Uri = s.parse().map_err(|_| bad())?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(bad()),
        };
        let plain = matches!(uri.path(), "" | "/") && uri.query().is_none();
        let authority = uri.authority().filter(|a| plain && !a.as_str().contains('@'));
        let host = authority.map(|a| a.host().trim_matches(['[', ']']).to_owned());
        Ok(Self {
            tls,
            host: host.filter(|h| !h.is_empty()).ok_or_else(bad)?,
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }
}

impl HubUrl {
    /// `host:port` as it stands in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Whether the host is a loopback address or `localhost`: the only place for plain HTTP.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

/// A connection, encrypted or (on loopback) not.
#[derive(Debug)]
pub enum Connection {
    /// TCP on this machine.
    Plain(TcpStream),
    /// TLS to a pinned key.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Connects, with TLS when the URL says so. Plain HTTP is refused for anything but loopback.
///
/// # Errors
/// [`LinkError::Connect`], [`LinkError::Pin`], [`LinkError::Tls`], [`LinkError::Timeout`];
/// [`LinkError::Address`] for plain HTTP to another machine, or `https` without pins.
pub async fn dial(
    url: &HubUrl,
    tls: Option<&ClientTls>,
    deadline: Duration,
) -> Result<Connection, LinkError> {
    tokio::time::timeout(deadline, connect(url, tls))
        .await
        .map_err(|_| LinkError::Timeout(deadline))?
}

async fn connect(url: &HubUrl, tls: Option<&ClientTls>) -> Result<Connection, LinkError> {
    let tls = match (url.tls, tls) {
        (true, Some(tls)) => Some(tls),
        (false, _) if url.is_loopback() => None,
        _ => return Err(LinkError::Address(url.to_string())),
    };
    let failed = |source| LinkError::Connect {
        to: url.authority(),
        source,
    };
    let tcp = TcpStream::connect((url.host.as_str(), url.port))
        .await
        .map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let Some(tls) = tls else {
        return Ok(Connection::Plain(tcp));
    };
    let name = ServerName::try_from(url.host.clone()).map_err(|_| LinkError::Address(url.to_string()))?;
    TlsConnector::from(tls.config())
        .connect(name, tcp)
        .await
        .map(|s| Connection::Tls(Box::new(s)))
        .map_err(client_error)
}

macro_rules! either {
    ($self:ident, $s:ident => $e:expr) => {
        match $self.get_mut() {
            Connection::Plain($s) => $e,
            Connection::Tls($s) => $e,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        either!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        either!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        either!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hub_urls_and_refuses_everything_else() {
        let url: HubUrl = "https://[::1]:8443".parse().unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "::1", 8443));
        assert_eq!(url.to_string(), "https://[::1]:8443");
        assert!(url.is_loopback());
        assert_eq!("https://hub.example/".parse::<HubUrl>().unwrap().port, 443);
        for bad in [
            "",
            "hub:1",
            "ftp://hub",
            "https://a@b",
            "https://hub/path",
            "https://hub?x",
            "https://",
        ] {
            assert!(bad.parse::<HubUrl>().is_err(), "{bad}");
        }
    }
}
