//! How heads are read and written anew, without a connection: what tests from outside look at.

use lictor_trust::egress::Host;

use super::exchange::{Asked, write_request};
use super::head::{self, passed_on};
use super::target::{self, Target};

/// What the proxy makes of a request's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Understood {
    /// Whom it is for.
    pub host: Host,
    /// Which port there.
    pub port: u16,
    /// The head that goes on to the server; none for a tunnel.
    pub sent: Option<String>,
}

/// Reads the head that these bytes begin with, which come in pieces of `step` bytes; says how long it was, too.
///
/// # Errors
/// Why it is refused, or that it has not ended.
pub fn request(bytes: &[u8], step: usize) -> Result<(Understood, usize), String> {
    let head = first(bytes, step)?;
    let request = head::request(head)?;
    let understood = match target::of(&request).map_err(|denial| denial.detail.to_string())? {
        Target::Tunnel { host, port } => Understood {
            host,
            port,
            sent: None,
        },
        Target::Plain { host, port, path } => {
            let asked = Asked { host, port, path };
            let sent = write_request(&request, &asked)?;
            Understood {
                host: asked.host,
                port,
                sent: Some(sent),
            }
        }
    };
    Ok((understood, head.len()))
}

/// Whether an answer's head, which these bytes begin with, is passed on, and how long it is.
///
/// # Errors
/// Why it is refused, or that it has not ended.
pub fn answer(bytes: &[u8], step: usize) -> Result<usize, String> {
    let head = first(bytes, step)?;
    let answer = head::answer(head)?;
    passed_on(&answer.fields)?;
    Ok(head.len())
}

/// The bytes up to the empty line, looked at as they come.
fn first(bytes: &[u8], step: usize) -> Result<&[u8], String> {
    let (mut looked_at, mut come) = (0, 0);
    while come < bytes.len() {
        come = come.saturating_add(step.max(1)).min(bytes.len());
        if let Some(end) = head::scan(&bytes[..come], &mut looked_at)? {
            return Ok(&bytes[..end]);
        }
    }
    Err("the head has not ended".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_that_goes_on_is_what_was_understood() {
        let head = b"GET http://a.b:81/x HTTP/1.1\r\nHost: a.b:81\r\nX: y\r\nConnection: close\r\n\r\nbody";
        let (understood, length) = request(head, 3).expect("understood");
        assert_eq!(length, head.len() - 4);
        assert_eq!(
            understood.sent.as_deref(),
            Some(
                "GET /x HTTP/1.1\r\nHost: a.b:81\r\nx: y\r\nVia: 1.1 lictor-egress\r\nConnection: close\r\n\r\n"
            )
        );
        let (tunnel, _) = request(b"CONNECT a.b:443 HTTP/1.1\r\nHost: a.b\r\n\r\n", 1).expect("understood");
        assert_eq!((tunnel.port, tunnel.sent), (443, None));
        assert_eq!(answer(b"HTTP/1.1 200 OK\r\n\r\n", 7), Ok(19));
        assert!(request(b"GET http://a.b/ HTTP/1.1\r\n", 1).is_err());
    }
}
