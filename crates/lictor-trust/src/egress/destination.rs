//! One entry of an allowlist: what may be reached, at which ports, and whether it has to be TLS.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::host::{DnsName, Host, authority, port};
use super::range::Range;

/// `"host:443"`, `"*.host:443"`, `"10.0.0.0/8:443"`, `"[fd00::/8]:443"`, `"host:8000-8099"`, each with ` http` or ` plain`
/// behind it where something else than TLS is spoken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    target: Target,
    ports: (u16, u16),
    speech: Speech,
}

/// Whom an entry names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// This name.
    Name(DnsName),
    /// Every name below this one, at any depth; not the name itself.
    Below(DnsName),
    /// These addresses, where they are asked for as such.
    Range(Range),
}

/// What may be spoken to a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speech {
    /// TLS to the name that was asked for, through a tunnel.
    Tls,
    /// That, and plain HTTP requests that the proxy reads.
    Http,
    /// That, and anything at all through a tunnel.
    Plain,
}

impl Destination {
    /// Whom it names.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The first and the last of its ports.
    #[must_use]
    pub fn ports(&self) -> (u16, u16) {
        self.ports
    }

    /// What may be spoken.
    #[must_use]
    pub fn speech(&self) -> Speech {
        self.speech
    }

    /// Whether it names this host at this port. A name never matches an address, nor an address a name.
    #[must_use]
    pub fn matches(&self, host: &Host, port: u16) -> bool {
        (self.ports.0..=self.ports.1).contains(&port)
            && match (&self.target, host) {
                (Target::Name(name), Host::Name(asked)) => name == asked,
                (Target::Below(parent), Host::Name(asked)) => asked.is_below(parent),
                (Target::Range(range), Host::Ip(ip)) => range.contains(*ip),
                _ => false,
            }
    }

    /// Orders entries from narrow to wide, so that the narrowest that matches decides.
    pub(super) fn width(&self) -> (u8, usize, u16) {
        let (kind, narrowness) = match &self.target {
            Target::Name(_) => (0, 0),
            Target::Below(parent) => (1, parent.as_str().len()),
            Target::Range(range) => (0, usize::from(range.prefix())),
        };
        (kind, usize::MAX - narrowness, self.ports.1 - self.ports.0)
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, speech) = match text.split_once(' ') {
            None => (text, Speech::Tls),
            Some((place, "http")) => (place, Speech::Http),
            Some((place, "plain")) => (place, Speech::Plain),
            Some(_) => {
                return Err(format!(
                    "{text:?}: only the words `http` and `plain` may follow a destination"
                ));
            }
        };
        if place.contains("://") {
            return Err(format!("{text:?} is a URL; write host:port"));
        }
        let (host, ports) =
            split_ports(place).ok_or_else(|| format!("{text:?} names no port; write host:443"))?;
        let ports = read_ports(ports).map_err(|e| format!("{text:?}: {e}"))?;
        let target = read_target(host).map_err(|e| format!("{text:?}: {e}"))?;
        Ok(Self {
            target,
            ports,
            speech,
        })
    }
}

/// Host and ports, at the colon between them.
fn split_ports(place: &str) -> Option<(&str, &str)> {
    if place.starts_with('[') {
        let end = place.find(']')?;
        let (host, rest) = place.split_at(end + 1);
        return Some((host, rest.strip_prefix(':')?));
    }
    place.split_once(':')
}

fn read_ports(text: &str) -> Result<(u16, u16), String> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let low = port(low).map_err(|e| e.to_string())?;
    let high = port(high).map_err(|e| e.to_string())?;
    if low > high {
        return Err("a range of ports goes from the lower to the higher".into());
    }
    Ok((low, high))
}

fn read_target(host: &str) -> Result<Target, String> {
    if let Some(parent) = host.strip_prefix("*.") {
        let parent = DnsName::parse(parent).map_err(|e| e.to_string())?;
        // `*.com` is not what anybody means.
        if !parent.as_str().contains('.') {
            return Err("a wildcard stands before at least two parts, as in *.example.com".into());
        }
        return Ok(Target::Below(parent));
    }
    if host.contains('*') {
        return Err("a wildcard stands at the front, before a dot, and nowhere else".into());
    }
    if host.contains('/') {
        let inner = host
            .strip_prefix('[')
            .and_then(|h| h.strip_suffix(']'))
            .unwrap_or(host);
        return inner.parse().map(Target::Range);
    }
    match authority(host).map_err(|e| e.to_string())? {
        (Host::Name(name), None) => Ok(Target::Name(name)),
        (Host::Ip(ip), None) => Ok(Target::Range(Range::single(ip))),
        (_, Some(_)) => Err("there is one port, or one range of ports".into()),
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Name(name) => name.fmt(f)?,
            Target::Below(parent) => write!(f, "*.{parent}")?,
            Target::Range(range) if range.is_ipv6() => write!(f, "[{range}]")?,
            Target::Range(range) => range.fmt(f)?,
        }
        write!(f, ":{}", self.ports.0)?;
        if self.ports.0 != self.ports.1 {
            write!(f, "-{}", self.ports.1)?;
        }
        match self.speech {
            Speech::Tls => Ok(()),
            Speech::Http => f.write_str(" http"),
            Speech::Plain => f.write_str(" plain"),
        }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Destination {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(text: &str) -> Destination {
        text.parse().expect("a destination")
    }

    fn host(text: &str) -> Host {
        Host::parse(text).expect("a host")
    }

    #[test]
    fn an_entry_has_one_spelling() {
        for (text, one) in [
            ("Repo.Example.COM.:443", "repo.example.com:443"),
            ("*.Example.com:443", "*.example.com:443"),
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("10.0.0.1/32:443", "10.0.0.1:443"),
            ("[FD00::/8]:5432 plain", "[fd00::/8]:5432 plain"),
            ("[fd00::1]:22 plain", "[fd00::1]:22 plain"),
            ("a.b:8000-8099", "a.b:8000-8099"),
            ("a.b:80-80", "a.b:80"),
            ("a.b:80 http", "a.b:80 http"),
        ] {
            assert_eq!(entry(text).to_string(), one);
            assert_eq!(entry(one).to_string(), one);
        }
    }

    #[test]
    fn odd_entries_are_refused() {
        for odd in [
            "",
            "a.b",
            "a.b:",
            ":443",
            "a.b:*",
            "*:443",
            "*.com:443",
            "*.:443",
            "a.*.b:443",
            "*a.b.c:443",
            "*.*.b.c:443",
            "*.1.2:443",
            "*.10.0.0.1:443",
            "a.b:0",
            "a.b:443 ",
            " a.b:443",
            "a.b:443 tls",
            "a.b:443  plain",
            "https://a.b:443",
            "a.b:443/path",
            "u@a.b:443",
            "a.b:9-1",
            "a.b:1-2-3",
            "10.0.0.1/8:443",
            "fd00::/8:443",
            "[fd00::/8:443",
            "bücher.example:443",
            "127.1:80",
            "0x7f000001:80",
            "[::ffff:10.0.0.1]:80",
            "a.b:443,80",
            "[a.b]:443",
            "[10.0.0.0/8",
            "a.b:443:444",
            "[10.0.0.0]:443",
        ] {
            assert!(odd.parse::<Destination>().is_err(), "{odd:?}");
        }
    }

    #[test]
    fn a_wildcard_matches_neither_the_apex_nor_an_address_nor_a_lookalike() {
        let all = entry("*.example.com:443");
        assert!(all.matches(&host("a.example.com"), 443));
        assert!(all.matches(&host("a.b.EXAMPLE.com."), 443));
        for other in [
            "example.com",
            "badexample.com",
            "a.example.com.evil.org",
            "93.184.216.34",
            "[2600::1]",
        ] {
            assert!(!all.matches(&host(other), 443), "{other}");
        }
        assert!(!all.matches(&host("a.example.com"), 80));
    }

    #[test]
    fn a_range_matches_addresses_that_are_asked_for_as_such() {
        let range = entry("10.0.0.0/8:443");
        assert!(range.matches(&host("10.255.0.1"), 443));
        for other in ["11.0.0.1", "ten.example.com", "[fd00::1]"] {
            assert!(!range.matches(&host(other), 443), "{other}");
        }
    }
}
