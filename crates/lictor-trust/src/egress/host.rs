//! The host of a destination, in exactly one spelling.
//!
//! A name that two programs read differently is how proxies are passed by: one of them judges, the other resolves. So
//! there is one reader for rules, requests and TLS server names, and whatever it does not know is refused. In
//! particular a name that ends in a number is an IPv4 address or nothing, since resolvers take `0x7f.1`, `127.1`
//! and `2130706433` for addresses too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why something is no host, or no host and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(&'static str);

/// A host name: lower case, ASCII, no trailing dot, labels of letters, digits, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DnsName(String);

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name.
    Name(DnsName),
    /// An address. Never IPv4 inside IPv6.
    Ip(IpAddr),
}

impl DnsName {
    /// Reads a name. Upper case and one trailing dot are taken away; a name that ends in a number is none.
    ///
    /// # Errors
    /// Says what is odd about it.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err(HostError("a host name is missing"));
        }
        if !name.is_ascii() {
            return Err(HostError(
                "a host name with other than ASCII letters is written in its xn-- form",
            ));
        }
        if name.len() > 253 {
            return Err(HostError("a host name has at most 253 characters"));
        }
        name.split('.').try_for_each(check_label)?;
        if ends_in_number(name) {
            return Err(HostError("a host name that ends in a number is no name"));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a name below `parent`, and not `parent` itself.
    #[must_use]
    pub fn is_below(&self, parent: &Self) -> bool {
        let rest = self.0.strip_suffix(parent.as_str());
        rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
    }
}

fn check_label(label: &str) -> Result<(), HostError> {
    let bytes = label.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 {
        return Err(HostError("each part of a host name has 1 to 63 characters"));
    }
    if bytes.contains(&b'%') {
        return Err(HostError("a host is not percent-encoded"));
    }
    let known = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    if !bytes.iter().all(known) {
        return Err(HostError(
            "a host name has letters, digits, `-`, `_` and `.` only",
        ));
    }
    if bytes[0] == b'-' || bytes[bytes.len() - 1] == b'-' {
        return Err(HostError("no part of a host name starts or ends with `-`"));
    }
    // Names with hyphens in both these places are reserved but for A-labels (RFC 5890 section 2.3.1).
    if bytes.len() >= 4 && &bytes[2..4] == b"--" && !label[..2].eq_ignore_ascii_case("xn") {
        return Err(HostError(
            "a part of a host name with `--` at its third place starts with `xn--`",
        ));
    }
    Ok(())
}

/// Whether resolvers could take the name for an IPv4 address (WHATWG URL, "ends in a number").
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default().as_bytes();
    let hex = last.len() >= 2
        && last[..2].eq_ignore_ascii_case(b"0x")
        && last[2..].iter().all(u8::is_ascii_hexdigit);
    hex || last.iter().all(u8::is_ascii_digit)
}

impl Host {
    /// Reads a host as it stands in an authority: a name, `192.0.2.1`, or `[2001:db8::1]`.
    ///
    /// # Errors
    /// Says what is odd about it.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        if let Some(rest) = text.strip_prefix('[') {
            let inner = rest.strip_suffix(']');
            return Self::v6(inner.ok_or(HostError("an IPv6 address stands in brackets"))?);
        }
        if text.contains(':') {
            return Err(HostError("an IPv6 address stands in brackets"));
        }
        if text.is_ascii() && ends_in_number(text.strip_suffix('.').unwrap_or(text)) && !text.is_empty() {
            // The standard library's reader takes four decimal numbers without leading zeros and nothing else.
            let ip: Result<Ipv4Addr, _> = text.parse();
            let odd = HostError("an IPv4 address is four decimal numbers without leading zeros");
            return ip.map(|ip| Self::Ip(ip.into())).map_err(|_| odd);
        }
        DnsName::parse(text).map(Self::Name)
    }

    fn v6(text: &str) -> Result<Self, HostError> {
        if text.contains('%') {
            return Err(HostError("an IPv6 address has no zone"));
        }
        if text.contains('.') {
            return Err(HostError("an IPv6 address has no IPv4 part"));
        }
        let ip: Ipv6Addr = text.parse().map_err(|_| HostError("this is no IPv6 address"))?;
        Self::of_ip(ip.into())
    }

    /// The host that is this address.
    ///
    /// # Errors
    /// When it is an IPv4 address inside an IPv6 address.
    pub fn of_ip(ip: IpAddr) -> Result<Self, HostError> {
        match ip {
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Err(HostError("an IPv4 address is not written as an IPv6 address"))
            }
            ip => Ok(Self::Ip(ip)),
        }
    }

    /// The name, if it is one.
    #[must_use]
    pub fn name(&self) -> Option<&DnsName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

/// Reads `host:port`, or `host` alone.
///
/// # Errors
/// Says what is odd about it.
pub fn authority(text: &str) -> Result<(Host, Option<u16>), HostError> {
    if text.contains('@') {
        return Err(HostError("a destination has no user part"));
    }
    let at = match text.rfind(']') {
        Some(bracket) => text[bracket + 1..].find(':').map(|i| bracket + 1 + i),
        None => text.find(':'),
    };
    match at {
        None => Ok((Host::parse(text)?, None)),
        Some(at) => Ok((Host::parse(&text[..at])?, Some(port(&text[at + 1..])?))),
    }
}

/// Reads a port: 1 to 65535, decimal, no sign, no leading zeros.
///
/// # Errors
/// When it is none.
pub fn port(text: &str) -> Result<u16, HostError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    let port = if digits { text.parse().ok() } else { None };
    port.ok_or(HostError("a port is a number from 1 to 65535"))
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As in an authority: IPv6 in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (text, one) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("a_b.example", "a_b.example"),
            ("XN--Bcher-KVA.example", "xn--bcher-kva.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("[2001:DB8:0::1]", "[2001:db8::1]"),
            ("1.example", "1.example"),
            ("0x7f.example", "0x7f.example"),
        ] {
            assert_eq!(
                Host::parse(text).map(|h| h.to_string()).as_deref(),
                Ok(one),
                "{text}"
            );
        }
    }

    #[test]
    fn what_two_programs_could_read_differently_is_no_host() {
        let long = format!("{}.example", "a".repeat(64));
        let longer = ["a".repeat(60).as_str(); 5].join(".");
        for odd in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "0x7f.1",
            "127.1",
            "127.0.1",
            "017700000001",
            "2130706433",
            "0x7f000001",
            "127.0.0.01",
            "127.0.0.1.",
            "1.2.3.4.5",
            "256.0.0.1",
            "a.0x",
            "a.1",
            "1",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[127.0.0.1]",
            "%31.example",
            "exam%70le.com",
            "bücher.example",
            "a b",
            "a\0.example",
            "evil.com\0.example.com",
            "a\r\n",
            "a\t",
            "a/b",
            "a\\b",
            "a@b",
            "a#b",
            "a?b",
            "-a.b",
            "a-.b",
            "ab--c.example",
            "\u{ff11}27.0.0.1",
            "a,b",
            "*",
            "*.a.b",
            &long,
            &longer,
        ] {
            assert!(Host::parse(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_a_port_and_nothing_else() {
        let read = |t| authority(t).map(|(h, p)| (h.to_string(), p));
        assert_eq!(read("a.b:443"), Ok(("a.b".into(), Some(443))));
        assert_eq!(read("a.b"), Ok(("a.b".into(), None)));
        assert_eq!(read("[2001:db8::1]:1"), Ok(("[2001:db8::1]".into(), Some(1))));
        assert_eq!(read("[2001:db8::1]"), Ok(("[2001:db8::1]".into(), None)));
        for odd in [
            "a.b:",
            "a.b:0",
            "a.b:0443",
            "a.b:+1",
            "a.b:65536",
            "a.b:44 3",
            "a.b:443:443",
            "u@a.b:443",
            "u:p@a.b:443",
            ":443",
            "[::1]443",
            "[::1]x:443",
            "a.b:443/",
            "a]b:1",
            "a.b:-1",
            "a.b:٤٤٣",
        ] {
            assert!(authority(odd).is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_name_is_below_its_parents_only() {
        let name = |t| DnsName::parse(t).expect("a name");
        assert!(name("a.example.com").is_below(&name("example.com")));
        assert!(name("a.b.example.com").is_below(&name("example.com")));
        for other in ["example.com", "badexample.com", "example.com.evil.org", "com"] {
            assert!(!name(other).is_below(&name("example.com")), "{other}");
        }
    }
}
