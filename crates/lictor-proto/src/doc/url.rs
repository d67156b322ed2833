//! Where a node fetches a file from: a URL in one spelling, so that a rule about its text is a rule about what is asked for.
//!
//! It is RFC 3986 with one way to write everything: scheme and host in lower case, the usual port left out, an address in its
//! own one form, `%` before upper-case digits and only where it has to be, no `.` and `..`, and no `%2F` in the path,
//! which some servers take for the `/` that a rule did not see.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits;

/// `https://HOST[:PORT]/PATH[?QUERY]`, or `http://`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileUrl(String);

/// Why a text is no [`FileUrl`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoFileUrl(&'static str);

/// How it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Over TLS: the host proves who it is.
    Https,
    /// In the clear: what comes is held against its digest all the same, and whoever is on the way sees who asks for what.
    Http,
}

impl Scheme {
    /// The word before `://`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }

    /// The port that is not written.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

impl FileUrl {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// How it is asked for.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        match self.0.starts_with("https:") {
            true => Scheme::Https,
            false => Scheme::Http,
        }
    }

    /// Host, and port where it is written, as they stand there: what a request names as its `Host`.
    #[must_use]
    pub fn authority(&self) -> &str {
        let rest = self.after_scheme();
        &rest[..rest.find('/').unwrap_or(rest.len())]
    }

    /// A name in lower case, an IPv4 address, or an IPv6 address in brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        split_port(self.authority()).0
    }

    /// The port, also where it is not written.
    #[must_use]
    pub fn port(&self) -> u16 {
        let written = split_port(self.authority()).1;
        let port = written.and_then(|port| port.parse().ok());
        port.unwrap_or(self.scheme().port())
    }

    /// Path and query: what a request names.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.after_scheme()[self.authority().len()..]
    }

    /// The last part of the path, which a file may be called by; empty where that ends with `/`.
    #[must_use]
    pub fn name(&self) -> &str {
        let path = self.path().split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }

    fn after_scheme(&self) -> &str {
        self.0.split_once("://").map_or("", |(_, rest)| rest)
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    let from = authority.find(']').unwrap_or(0);
    match authority[from..].rfind(':') {
        Some(at) => (&authority[..from + at], Some(&authority[from + at + 1..])),
        None => (authority, None),
    }
}

impl FromStr for FileUrl {
    type Err = NoFileUrl;

    fn from_str(text: &str) -> Result<Self, NoFileUrl> {
        if text.len() > limits::URL {
            return Err(NoFileUrl("a URL has at most 2048 bytes"));
        }
        let (scheme, rest) = match text.split_once("://") {
            Some(("https", rest)) => (Scheme::Https, rest),
            Some(("http", rest)) => (Scheme::Http, rest),
            _ => return Err(NoFileUrl("a URL begins with https:// or http://, in lower case")),
        };
        let slash = rest
            .find('/')
            .ok_or(NoFileUrl("after the host of a URL comes a path, at least `/`"))?;
        check_authority(&rest[..slash], scheme)?;
        let (path, query) = match rest[slash..].split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&rest[slash..], None),
        };
        check_path(path)?;
        check_characters(query.unwrap_or_default(), b"?/")?;
        Ok(Self(text.to_owned()))
    }
}

fn check_authority(authority: &str, scheme: Scheme) -> Result<(), NoFileUrl> {
    if authority.contains('@') {
        return Err(NoFileUrl("a URL has no user and no password in it"));
    }
    let (host, port) = split_port(authority);
    check_host(host)?;
    let Some(written) = port else { return Ok(()) };
    let port: u16 = written.parse().map_err(|_| PORT)?;
    let plain = written.bytes().all(|b| b.is_ascii_digit()) && !written.starts_with('0');
    match plain && port != scheme.port() {
        true => Ok(()),
        false => Err(PORT),
    }
}

const PORT: NoFileUrl =
    NoFileUrl("a port is 1 to 65535 without zeros before it, and left out where it is the usual one");

fn check_host(host: &str) -> Result<(), NoFileUrl> {
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').unwrap_or_default();
        let address: Option<Ipv6Addr> = inner.parse().ok();
        let own = address.filter(|a| a.to_ipv4_mapped().is_none() && a.to_string() == inner);
        return own.map(drop).ok_or(NoFileUrl(
            "an IPv6 address is written in its shortest form, in lower case and in brackets",
        ));
    }
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
    let label = |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(plain) && !l.starts_with('-');
    if host.len() > 253 || !host.split('.').all(label) {
        return Err(NoFileUrl(
            "a host is a name of letters in lower case, digits, `-` and `.`, or an address",
        ));
    }
    // What resolvers could take for an IPv4 address is one, in its one form, or nothing.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    match numeric && host.parse::<Ipv4Addr>().is_err() {
        true => Err(NoFileUrl(
            "an IPv4 address is four decimal numbers without zeros before them",
        )),
        false => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), NoFileUrl> {
    check_characters(path, b"/")?;
    if path.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(NoFileUrl("the path of a URL has no `.` and no `..`"));
    }
    match ["%2F", "%5C", "%00"].iter().any(|odd| path.contains(odd)) {
        true => Err(NoFileUrl("the path of a URL has no encoded `/`, `\\` or zero")),
        false => Ok(()),
    }
}

fn is_unreserved(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"-._~".contains(&b)
}

/// RFC 3986 `pchar`, and `more`.
fn check_characters(text: &str, more: &[u8]) -> Result<(), NoFileUrl> {
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match *first {
            b'%' => {
                let (encoded, after) = after.split_at_checked(2).ok_or(PERCENT)?;
                rest = after;
                let upper = |b: &u8| b.is_ascii_digit() || (b'A'..=b'F').contains(b);
                let value = std::str::from_utf8(encoded).map(|hex| u8::from_str_radix(hex, 16));
                let needless = |b: &u8| !is_unreserved(*b);
                match value {
                    Ok(Ok(value)) if encoded.iter().all(upper) && needless(&value) => {}
                    _ => return Err(PERCENT),
                }
            }
            b if is_unreserved(b) || b"!$&'()*+,;=:@".contains(&b) || more.contains(&b) => {}
            b'#' => {
                return Err(NoFileUrl(
                    "a URL has no `#` and what follows it: no server is asked for that",
                ));
            }
            _ => return Err(NoFileUrl("a URL has a character that is written with `%`")),
        }
    }
    Ok(())
}

const PERCENT: NoFileUrl = NoFileUrl(
    "in a URL `%` stands before two digits, in upper case, of a character that cannot stand there by itself",
);

impl fmt::Display for FileUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FileUrl {
    type Error = NoFileUrl;

    fn try_from(text: String) -> Result<Self, NoFileUrl> {
        text.parse()
    }
}

impl From<FileUrl> for String {
    fn from(url: FileUrl) -> Self {
        url.0
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::{FileUrl, Scheme};

    #[test]
    fn a_url_is_read_in_its_parts() {
        for (text, scheme, authority, host, port, path, name) in [
            (
                "https://dl.example.org/a/b.tar?x=/?",
                Scheme::Https,
                "dl.example.org",
                "dl.example.org",
                443,
                "/a/b.tar?x=/?",
                "b.tar",
            ),
            ("http://h:8080/", Scheme::Http, "h:8080", "h", 8080, "/", ""),
            (
                "https://[2001:db8::1]:444/%20",
                Scheme::Https,
                "[2001:db8::1]:444",
                "[2001:db8::1]",
                444,
                "/%20",
                "%20",
            ),
            (
                "https://[2001:db8::1]/x",
                Scheme::Https,
                "[2001:db8::1]",
                "[2001:db8::1]",
                443,
                "/x",
                "x",
            ),
            (
                "http://192.0.2.1/x",
                Scheme::Http,
                "192.0.2.1",
                "192.0.2.1",
                80,
                "/x",
                "x",
            ),
        ] {
            let url: FileUrl = text.parse().expect(text);
            assert_eq!(
                (
                    url.scheme(),
                    url.authority(),
                    url.host(),
                    url.port(),
                    url.path(),
                    url.name()
                ),
                (scheme, authority, host, port, path, name)
            );
            assert_eq!(url.as_str(), text);
        }
    }

    #[test]
    fn a_url_has_one_spelling() {
        let long = format!("https://example.org/{}", "a".repeat(2048));
        for odd in [
            "",
            "example.org/x",
            "ftp://example.org/x",
            "HTTPS://example.org/x",
            "https:/example.org/x",
            "https://example.org",
            "https:///x",
            "https://Example.org/x",
            "https://example.org./x",
            "https://ex%61mple.org/x",
            "https://b\u{fc}cher.example/x",
            "https://user@example.org/x",
            "https://user:word@example.org/x",
            "https://example.org:443/x",
            "http://example.org:80/x",
            "https://example.org:0443/x",
            "https://example.org:+444/x",
            "https://example.org:/x",
            "https://example.org:0/x",
            "https://example.org:65536/x",
            "https://127.1/x",
            "https://0x7f.1/x",
            "https://0x7f000001/x",
            "https://2130706433/x",
            "https://127.0.0.01/x",
            "https://[2001:DB8::1]/x",
            "https://[2001:db8:0::1]/x",
            "https://[::ffff:127.0.0.1]/x",
            "https://[::ffff:7f00:1]/x",
            "https://[fe80::1%25eth0]/x",
            "https://[::1/x",
            "https://example.org/../x",
            "https://example.org/a/./x",
            "https://example.org/a/..",
            "https://example.org/%2e%2e/x",
            "https://example.org/%2E%2E/x",
            "https://example.org/..%2Fx",
            "https://example.org/a%5Cx",
            "https://example.org/a%00",
            "https://example.org/%7Ex",
            "https://example.org/%c3%bc",
            "https://example.org/%2",
            "https://example.org/%zz",
            "https://example.org/%+1",
            "https://example.org/a b",
            "https://example.org/a\\b",
            "https://example.org/a\"b",
            "https://example.org/\u{fc}",
            "https://example.org/a\n",
            "https://example.org/x#part",
            "https://example.org/x?a#part",
            &long,
        ] {
            assert!(odd.parse::<FileUrl>().is_err(), "{odd:?}");
        }
        for good in [
            "https://example.org/a//b",
            "https://example.org/%C3%BC?u=https%3A%2F%2Fx",
        ] {
            assert!(good.parse::<FileUrl>().is_ok(), "{good}");
        }
    }
}
