//! Whom a request is for: in its target and in its Host field, which have to agree.

use lictor_proto::egress::Reason;
use lictor_trust::egress::{Host, authority};

use super::head::{Framing, Request, once};
use crate::denial::Denial;

/// Whom a request is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// CONNECT.
    Tunnel { host: Host, port: u16 },
    /// A plain request; the path with its query.
    Plain { host: Host, port: u16, path: String },
}

/// The port that goes without saying.
const HTTP: u16 = 80;

/// Reads a request's target.
pub(super) fn of(request: &Request) -> Result<Target, Denial> {
    if !request.target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Denial::bad("the target is not plain ASCII"));
    }
    match request.method.as_str() {
        "CONNECT" => tunnel(request),
        _ => plain(request),
    }
}

fn tunnel(request: &Request) -> Result<Target, Denial> {
    if !matches!(request.framing, Framing::Unsaid | Framing::Length(0)) {
        return Err(Denial::bad("CONNECT has no body"));
    }
    let (host, port) = read_authority(&request.target)?;
    let port = port.ok_or_else(|| Denial::bad("CONNECT names no port"))?;
    // Some clients leave the port out of Host.
    check_host(request, &host, |said| said.is_none_or(|p| p == port))?;
    Ok(Target::Tunnel { host, port })
}

fn plain(request: &Request) -> Result<Target, Denial> {
    let target = request.target.as_str();
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(Denial::bad("this is a proxy: a request names its whole URL"));
    };
    if scheme.eq_ignore_ascii_case("https") {
        let detail = "https goes through CONNECT, so that the proxy does not see inside";
        return Err(Denial::new(Reason::Unsupported, detail));
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(Denial::new(
            Reason::Unsupported,
            "only http and CONNECT are served",
        ));
    }
    if target.contains(['#', '\\']) {
        return Err(Denial::bad("the URL has a fragment or a backslash"));
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (place, path) = rest.split_at(end);
    let (host, port) = read_authority(place)?;
    let port = port.unwrap_or(HTTP);
    check_host(request, &host, |said| said.unwrap_or(HTTP) == port)?;
    let path = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    };
    Ok(Target::Plain { host, port, path })
}

fn read_authority(text: &str) -> Result<(Host, Option<u16>), Denial> {
    authority(text).map_err(|e| Denial::bad(e.to_string()))
}

/// The Host field says the same as the target; HTTP/1.0 may do without.
fn check_host(request: &Request, host: &Host, port_fits: impl Fn(Option<u16>) -> bool) -> Result<(), Denial> {
    let field = once(&request.fields, "host").map_err(|_| Denial::bad("there are two Host fields"))?;
    let Some(field) = field else {
        return match request.version {
            0 => Ok(()),
            _ => Err(Denial::bad("the Host field is missing")),
        };
    };
    let text = std::str::from_utf8(field).map_err(|_| Denial::bad("the Host field is not ASCII"))?;
    let (said, port) = read_authority(text)?;
    match said == *host && port_fits(port) {
        true => Ok(()),
        false => Err(Denial::bad("the Host field names somebody else than the target")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head;

    fn read(head: &str) -> Result<Target, Denial> {
        of(&head::request(head.as_bytes()).map_err(Denial::bad)?)
    }

    #[test]
    fn a_target_is_read() {
        let host = |t| Host::parse(t).expect("a host");
        for (head, target) in [
            (
                "CONNECT A.b.:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n",
                Target::Tunnel {
                    host: host("a.b"),
                    port: 443,
                },
            ),
            (
                "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
                Target::Tunnel {
                    host: host("a.b"),
                    port: 443,
                },
            ),
            (
                "CONNECT a.b:443 HTTP/1.0\r\n\r\n",
                Target::Tunnel {
                    host: host("a.b"),
                    port: 443,
                },
            ),
            (
                "GET http://a.b HTTP/1.1\r\nHost: a.b\r\n\r\n",
                Target::Plain {
                    host: host("a.b"),
                    port: 80,
                    path: "/".into(),
                },
            ),
            (
                "GET HTTP://a.b:80/x?y HTTP/1.1\r\nHost: A.B\r\n\r\n",
                Target::Plain {
                    host: host("a.b"),
                    port: 80,
                    path: "/x?y".into(),
                },
            ),
            (
                "GET http://a.b:81?y HTTP/1.1\r\nHost: a.b:81\r\n\r\n",
                Target::Plain {
                    host: host("a.b"),
                    port: 81,
                    path: "/?y".into(),
                },
            ),
        ] {
            assert_eq!(read(head).ok(), Some(target), "{head}");
        }
    }

    #[test]
    fn a_target_that_says_two_things_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\nHost: c.d\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\nHost: a.b:81\r\n\r\n",
            "GET http://a.b:81/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\nHost: a.b\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ HTTP/1.1\r\nHost: a.b, c.d\r\n\r\n",
            "GET http://a.b@c.d/ HTTP/1.1\r\nHost: c.d\r\n\r\n",
            "GET http://a.b\\@c.d/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b#@c.d/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a%2eb/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http:///x HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http:a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET //a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET https://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET ftp://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://[::1%25lo]/ HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            "CONNECT a.b HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT http://a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT a.b:443/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: c.d:443\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:80\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\nContent-Length: 5\r\n\r\n",
            "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n",
            "CONNECT x@a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "connect a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ü HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET  http://a.b/ HTTP/1.1\r\nHost: a.b\r\n\r\n",
            "GET http://a.b/ HTTP/2.0\r\nHost: a.b\r\n\r\n",
        ] {
            assert!(read(head).is_err(), "{head}");
        }
    }
}
