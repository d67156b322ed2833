//! Ranges of addresses, and which of them are not public.
//!
//! The table follows the IANA special-purpose registries (RFC 6890 and its updates), plus the addresses at which clouds
//! hand a machine its credentials. IPv6 is judged the other way round: only `2000::/3` is given out, so what is
//! outside it and not in the table is reserved.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::host::Host;

/// A range of addresses, `10.0.0.0/8` or `2001:db8::/32`; one address is a range too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Range {
    base: IpAddr,
    prefix: u8,
}

/// Why an address is not a public one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Special {
    /// Where a cloud keeps a machine's credentials.
    Metadata,
    /// The machine itself.
    Loopback,
    /// RFC 1918.
    Private,
    /// Behind a carrier's NAT (RFC 6598).
    Shared,
    /// The neighbours on the wire.
    LinkLocal,
    /// RFC 4193.
    UniqueLocal,
    /// Many receivers.
    Multicast,
    /// No address.
    Unspecified,
    /// For examples.
    Documentation,
    /// For measurements between networks (RFC 2544).
    Benchmark,
    /// Given to nobody, or to a protocol.
    Reserved,
    /// An IPv4 address inside an IPv6 address, in a form that nobody needs or around one that is not public.
    Embedded,
}

impl Special {
    /// In words, as in "an address of this machine itself".
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "a cloud metadata address",
            Self::Loopback => "a loopback address",
            Self::Private => "a private address",
            Self::Shared => "an address behind a carrier's NAT",
            Self::LinkLocal => "a link-local address",
            Self::UniqueLocal => "a unique local address",
            Self::Multicast => "a multicast address",
            Self::Unspecified => "an unspecified address",
            Self::Documentation => "a documentation address",
            Self::Benchmark => "a benchmarking address",
            Self::Reserved => "a reserved address",
            Self::Embedded => "an IPv4 address inside an IPv6 address",
        }
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Range {
    Range {
        base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        prefix,
    }
}

const fn v6(s: [u16; 8], prefix: u8) -> Range {
    Range {
        base: IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7])),
        prefix,
    }
}

/// What is not public, the narrowest first: an address is what the first range that holds it is.
const TABLE: &[(Special, Range)] = &[
    (Special::Metadata, v4(169, 254, 169, 254, 32)), // most clouds
    (Special::Metadata, v4(169, 254, 169, 253, 32)), // its name server
    (Special::Metadata, v4(169, 254, 169, 123, 32)), // its clock
    (Special::Metadata, v4(169, 254, 170, 2, 32)),   // credentials of containers
    (Special::Metadata, v4(169, 254, 170, 23, 32)),
    (Special::Metadata, v4(168, 63, 129, 16, 32)), // one cloud's host, at an address that looks public
    (Special::Metadata, v4(100, 100, 100, 200, 32)),
    (Special::Metadata, v4(192, 0, 0, 192, 32)),
    (Special::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128)),
    (Special::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253], 128)),
    (Special::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128)),
    (Special::Metadata, v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123], 128)),
    (Special::Metadata, v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128)),
    (Special::Unspecified, v4(0, 0, 0, 0, 8)),
    (Special::Private, v4(10, 0, 0, 0, 8)),
    (Special::Shared, v4(100, 64, 0, 0, 10)),
    (Special::Loopback, v4(127, 0, 0, 0, 8)),
    (Special::LinkLocal, v4(169, 254, 0, 0, 16)),
    (Special::Private, v4(172, 16, 0, 0, 12)),
    (Special::Reserved, v4(192, 0, 0, 0, 24)),
    (Special::Documentation, v4(192, 0, 2, 0, 24)),
    (Special::Reserved, v4(192, 88, 99, 0, 24)), // 6to4 relays
    (Special::Private, v4(192, 168, 0, 0, 16)),
    (Special::Benchmark, v4(198, 18, 0, 0, 15)),
    (Special::Documentation, v4(198, 51, 100, 0, 24)),
    (Special::Documentation, v4(203, 0, 113, 0, 24)),
    (Special::Multicast, v4(224, 0, 0, 0, 4)),
    (Special::Reserved, v4(240, 0, 0, 0, 4)), // broadcast too
    (Special::Unspecified, v6([0; 8], 128)),
    (Special::Loopback, v6([0, 0, 0, 0, 0, 0, 0, 1], 128)),
    (Special::Reserved, v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48)), // a site's own NAT64
    (Special::Reserved, v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23)),    // protocols
    (Special::Documentation, v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32)),
    (Special::Documentation, v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20)),
    (Special::UniqueLocal, v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
    (Special::LinkLocal, v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10)),
    (Special::Multicast, v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8)),
];

const GIVEN_OUT: Range = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What is special about an address, and the range that has to be named for it to be reached all the same; without one
/// nothing opens it.
#[must_use]
pub fn special(ip: IpAddr) -> Option<(Special, Option<Range>)> {
    if let IpAddr::V6(v6) = ip
        && let Some(judged) = embedded(v6)
    {
        return judged.then_some((Special::Embedded, None));
    }
    if let Some((kind, range)) = TABLE.iter().find(|(_, range)| range.contains(ip)) {
        return Some((*kind, Some(*range)));
    }
    let unknown = ip.is_ipv6() && !GIVEN_OUT.contains(ip);
    unknown.then_some((Special::Reserved, None))
}

/// Whether an IPv4 address inside this address makes it one to refuse; nothing when there is none.
fn embedded(ip: Ipv6Addr) -> Option<bool> {
    let s = ip.segments();
    let v4_at = |i: usize| Ipv4Addr::from((u32::from(s[i]) << 16) | u32::from(s[i + 1]));
    let is_special = |v4: Ipv4Addr| special(v4.into()).is_some();
    match s {
        // The two that the table knows by their IPv6 meaning.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        // Mapped and the old compatible form are IPv4 by another name. 6to4 and Teredo have no use any more.
        [0, 0, 0, 0, 0, 0 | 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x2002, ..] | [0x2001, 0, ..] => {
            Some(true)
        }
        // NAT64: how a network without IPv4 reaches public servers that have nothing else.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(is_special(v4_at(6))),
        // ISATAP.
        [.., 0 | 0x200, 0x5efe, _, _] if is_special(v4_at(6)) => Some(true),
        _ => None,
    }
}

impl Range {
    /// The range that is one address.
    #[must_use]
    pub const fn single(ip: IpAddr) -> Self {
        let prefix = if ip.is_ipv4() { 32 } else { 128 };
        Self { base: ip, prefix }
    }

    /// Its first address.
    #[must_use]
    pub const fn base(&self) -> IpAddr {
        self.base
    }

    /// How many leading bits all its addresses share.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv6.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.base.is_ipv6()
    }

    /// Whether it is one address.
    #[must_use]
    pub fn is_single(&self) -> bool {
        *self == Self::single(self.base)
    }

    /// Whether an address is in it. IPv4 and IPv6 have nothing in common.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.base.is_ipv4() == ip.is_ipv4() && masked(ip, self.prefix) == self.base
    }

    /// Whether all of it is in `outer`.
    #[must_use]
    pub fn is_within(&self, outer: &Self) -> bool {
        self.prefix >= outer.prefix && outer.contains(self.base)
    }
}

fn masked(ip: IpAddr, prefix: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(ip) & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX
                .checked_shl(128 - u32::from(prefix.min(128)))
                .unwrap_or(0);
            Ipv6Addr::from(u128::from(ip) & mask).into()
        }
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let bracketed = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        let host = Host::parse(&bracketed).map_err(|e| format!("{text:?}: {e}"))?;
        let Host::Ip(ip) = host else {
            return Err(format!(
                "{text:?} is no range of addresses; write 10.1.0.0/16 or fd00:1::/32"
            ));
        };
        let Some(prefix) = prefix else {
            return Ok(Self::single(ip));
        };
        let most = Self::single(ip).prefix;
        let strict = !prefix.is_empty()
            && prefix.bytes().all(|b| b.is_ascii_digit())
            && (prefix == "0" || !prefix.starts_with('0'));
        let length = if strict { prefix.parse::<u8>().ok() } else { None };
        let Some(prefix) = length.filter(|n| *n <= most) else {
            return Err(format!("{text:?}: the prefix is a number from 0 to {most}"));
        };
        let base = masked(ip, prefix);
        if base != ip {
            return Err(format!(
                "{text:?} has bits beyond its prefix; write {base}/{prefix}"
            ));
        }
        Ok(Self { base, prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            return self.base.fmt(f);
        }
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn what_is_not_public_is_known() {
        for (kind, addresses) in [
            (
                Special::Metadata,
                &[
                    "169.254.169.254",
                    "fd00:ec2::254",
                    "168.63.129.16",
                    "100.100.100.200",
                    "169.254.170.2",
                ][..],
            ),
            (Special::Loopback, &["127.0.0.1", "127.255.255.255", "::1"]),
            (
                Special::Private,
                &["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1"],
            ),
            (Special::Shared, &["100.64.0.1", "100.127.255.255"]),
            (Special::LinkLocal, &["169.254.0.1", "fe80::1", "febf::1"]),
            (Special::UniqueLocal, &["fc00::1", "fd12::1"]),
            (Special::Multicast, &["224.0.0.1", "239.255.255.255", "ff02::1"]),
            (Special::Unspecified, &["0.0.0.0", "0.1.2.3", "::"]),
            (
                Special::Documentation,
                &[
                    "192.0.2.1",
                    "198.51.100.1",
                    "203.0.113.1",
                    "2001:db8::1",
                    "3fff::1",
                ],
            ),
            (Special::Benchmark, &["198.18.0.1", "198.19.255.255"]),
            (
                Special::Reserved,
                &[
                    "240.0.0.1",
                    "255.255.255.255",
                    "192.0.0.1",
                    "2001:2::1",
                    "4000::1",
                    "fec0::1",
                    "100::1",
                    "5f00::1",
                    "64:ff9b:1::1",
                ],
            ),
            (
                Special::Embedded,
                &[
                    "::ffff:127.0.0.1",
                    "::ffff:8.8.8.8",
                    "::127.0.0.1",
                    "::8.8.8.8",
                    "2002:7f00:1::",
                    "2002:808:808::1",
                    "64:ff9b::127.0.0.1",
                    "64:ff9b::a9fe:a9fe",
                    "2001::1",
                    "2001:0:808:808::1",
                    "2600::5efe:10.0.0.1",
                    "2600::200:5efe:7f00:1",
                    "::ffff:0:127.0.0.1",
                ],
            ),
        ] {
            for address in addresses {
                assert_eq!(special(ip(address)).map(|(k, _)| k), Some(kind), "{address}");
            }
        }
        for public in [
            "8.8.8.8",
            "1.1.1.1",
            "100.63.255.255",
            "100.128.0.1",
            "172.32.0.1",
            "2600::1",
            "64:ff9b::808:808",
            "192.0.1.1",
        ] {
            assert_eq!(special(ip(public)), None, "{public}");
        }
    }

    #[test]
    fn a_range_has_one_spelling_and_no_bits_beyond_its_prefix() {
        for (text, one) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("10.0.0.1", "10.0.0.1"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("FD00:0::/8", "fd00::/8"),
        ] {
            assert_eq!(text.parse::<Range>().map(|r| r.to_string()).as_deref(), Ok(one));
        }
        for odd in [
            "10.0.0.1/8",
            "10/8",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "::ffff:10.0.0.0/104",
            "fd00::/129",
            "a.b/8",
            "",
            "[fd00::]/8",
        ] {
            assert!(odd.parse::<Range>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_range_is_within_wider_ones_of_its_kind() {
        let range = |t: &str| t.parse::<Range>().expect("a range");
        assert!(range("10.1.0.0/16").is_within(&range("10.0.0.0/8")));
        assert!(!range("0.0.0.0/0").is_within(&range("10.0.0.0/8")));
        assert!(!range("::/0").contains(ip("10.0.0.1")));
        assert!(range("0.0.0.0/0").contains(ip("10.0.0.1")));
    }
}
