//! What a sandbox may reach: the part of a profile that the egress proxy enforces.
//!
//! ```toml
//! mode = "allowlist"                                      # or "none" (the default), or "open"
//! allow = ["repo.example.com:443", "*.cdn.example.com:443", "mirror.example.com:80 http", "git.example.com:22 plain"]
//! presets = ["rust"]                                      # lists that the org defines: [egress.presets.rust]
//! private = ["10.1.0.0/16"]                               # ranges that are not public and may be reached all the same
//! tls = { no_sni = "deny", ech = "deny", not_tls = "deny" }     # these are the defaults
//! limits = { connections = 64, attempts = 10000, bytes_up = "1GiB", bytes_down = "16GiB" }
//! ```
//!
//! ```text
//! Egress (law) --rules(presets)--> proto::egress::Rules (frozen, travels) --read--> Reach (what the proxy asks)
//! ```
//!
//! # Invariants
//! - An empty allowlist allows nothing and is refused as a mistake; there is no value that means "no restriction" but
//!   the word `open`, and that means public addresses only.
//! - An address that is not public is reached only when a range *inside its special range* is named: `0.0.0.0/0`
//!   opens no private range, `169.254.0.0/16` opens no metadata address.

mod destination;
mod host;
mod range;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lictor_proto::Name;
use lictor_proto::egress::{self as wire, Mode, TlsPolicy};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::profiles::{parse_duration, parse_size};

pub use destination::{Destination, Speech, Target};
pub use host::{DnsName, Host, HostError, authority, port};
pub use range::{Range, Special, special};

/// Where the proxy is found inside a sandbox, on its own loopback address.
pub const PROXY_PORT: u16 = 3128;
/// What tells programs of it, unless profile or job set it themselves. A sandbox's own loopback needs no proxy.
pub const PROXY_VARIABLES: [(&str, &str); 8] = [
    ("ALL_PROXY", "socks5h://127.0.0.1:3128"),
    ("HTTPS_PROXY", "http://127.0.0.1:3128"),
    ("HTTP_PROXY", "http://127.0.0.1:3128"),
    ("NO_PROXY", "localhost,127.0.0.1,::1"),
    ("all_proxy", "socks5h://127.0.0.1:3128"),
    ("http_proxy", "http://127.0.0.1:3128"),
    ("https_proxy", "http://127.0.0.1:3128"),
    ("no_proxy", "localhost,127.0.0.1,::1"),
];

/// The most entries of one job's rules, presets written out.
const MAX_ENTRIES: usize = 2_000;
/// The most bytes that their text may have, so that a message to the proxy holds them.
const MAX_TEXT: usize = 64 * 1024;

/// The egress section of one profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Egress {
    /// What applies to destinations that are not listed.
    pub mode: Mode,
    /// Listed destinations.
    pub allow: Vec<Destination>,
    /// Lists of the org's that are added.
    pub presets: Vec<Name>,
    /// Ranges that are not public and that listed names may have addresses in.
    pub private: Vec<Range>,
    /// What happens to TLS that cannot be held against the name asked for.
    pub tls: TlsPolicy,
    /// Limits of one job.
    pub limits: Limits,
}

/// Lists of destinations that profiles refer to by name; the org defines them, none is built in.
pub type Presets = BTreeMap<Name, Preset>;

/// One such list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The destinations.
    pub allow: Vec<Destination>,
}

/// Limits of one job's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at once.
    pub connections: u32,
    /// Attempts altogether.
    pub attempts: u64,
    /// Bytes out of the sandbox.
    #[serde(serialize_with = "write_size", deserialize_with = "read_size")]
    pub bytes_up: u64,
    /// Bytes into it.
    #[serde(serialize_with = "write_size", deserialize_with = "read_size")]
    pub bytes_down: u64,
    /// The longest head of a plain request or answer.
    #[serde(serialize_with = "write_size", deserialize_with = "read_size")]
    pub head: u64,
    /// How long a connection may be silent.
    #[serde(serialize_with = "write_duration", deserialize_with = "read_duration")]
    pub idle: Duration,
    /// How long each step of asking may take.
    #[serde(serialize_with = "write_duration", deserialize_with = "read_duration")]
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            attempts: 10_000,
            bytes_up: 1 << 30,
            bytes_down: 16 << 30,
            head: 16 * 1024,
            idle: Duration::from_secs(300),
            handshake: Duration::from_secs(10),
        }
    }
}

impl Limits {
    fn validate(&self) -> Result<(), String> {
        let second = Duration::from_secs(1);
        let most = lictor_proto::limits::MAX_INTEGER;
        let checks = [
            ((1..=1024).contains(&self.connections), "connections is 1 to 1024"),
            (
                (1..=1_000_000).contains(&self.attempts),
                "attempts is 1 to 1000000",
            ),
            ((1..=most).contains(&self.bytes_up), "bytes_up is 1 to 2^53"),
            ((1..=most).contains(&self.bytes_down), "bytes_down is 1 to 2^53"),
            ((1024..=65_536).contains(&self.head), "head is 1KiB to 64KiB"),
            (
                (second..=second * 86_400).contains(&self.idle),
                "idle is 1s to 1d",
            ),
            (
                (second..=second * 60).contains(&self.handshake),
                "handshake is 1s to 60s",
            ),
        ];
        checks.iter().try_for_each(|(good, rule)| match good {
            true => Ok(()),
            false => Err(format!("limits.{rule}")),
        })
    }

    fn wire(&self) -> wire::Limits {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        wire::Limits {
            connections: self.connections,
            attempts: self.attempts,
            bytes_up: self.bytes_up,
            bytes_down: self.bytes_down,
            head_bytes: u32::try_from(self.head).unwrap_or(u32::MAX),
            idle_ms: ms(self.idle),
            handshake_ms: ms(self.handshake),
        }
    }
}

impl Egress {
    /// Writes the presets out and checks the whole.
    ///
    /// # Errors
    /// As [`rules`](Self::rules).
    pub(crate) fn settle(&mut self, presets: &Presets) -> Result<(), String> {
        self.rules(presets)?;
        let listed = self.presets.iter().filter_map(|name| presets.get(name));
        let more: Vec<_> = listed.flat_map(|p| p.allow.iter().cloned()).collect();
        self.allow.extend(more);
        self.presets.clear();
        Ok(())
    }

    /// Checks what serde cannot see, and writes the presets out: what travels to the proxy.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn rules(&self, presets: &Presets) -> Result<wire::Rules, String> {
        let mut allow: Vec<&Destination> = self.allow.iter().collect();
        for name in &self.presets {
            let preset = presets.get(name).ok_or_else(|| {
                format!("presets: {name} is not defined; write [egress.presets.{name}] with the hosts that it stands for")
            })?;
            allow.extend(&preset.allow);
        }
        match self.mode {
            Mode::None if !allow.is_empty() || !self.private.is_empty() => {
                return Err(
                    "mode = \"none\" allows nothing; write mode = \"allowlist\" for the list to count".into(),
                );
            }
            Mode::Allowlist if allow.is_empty() => {
                return Err(
                    "mode = \"allowlist\" with nothing on the list allows nothing; write mode = \"none\""
                        .into(),
                );
            }
            _ => {}
        }
        self.limits.validate()?;
        let rules = wire::Rules {
            mode: self.mode,
            allow: allow.iter().map(ToString::to_string).collect(),
            private: self.private.iter().map(ToString::to_string).collect(),
            tls: self.tls,
            limits: self.limits.wire(),
        };
        Reach::read(&rules)?;
        Ok(rules)
    }
}

/// One job's rules as they are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    mode: Mode,
    /// From narrow to wide.
    allow: Vec<Destination>,
    private: Vec<Range>,
    tls: TlsPolicy,
}

/// Why a host and port may be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The entry, or `open`.
    pub rule: String,
    /// What may be spoken.
    pub speech: Speech,
    /// The addresses that the entry names, if it names addresses.
    range: Option<Range>,
}

/// Whether an address is one of this machine's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// It is.
    ThisMachine,
    /// It is not.
    Other,
}

/// Why an address is not dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotDialled {
    /// It is not a public one.
    Special(Special),
    /// It is this machine's.
    Own,
}

impl Reach {
    /// Reads rules as they travel.
    ///
    /// # Errors
    /// Says which entry is wrong.
    pub fn read(rules: &wire::Rules) -> Result<Self, String> {
        check_bounds(&rules.limits)?;
        let text: usize = rules.allow.iter().chain(&rules.private).map(String::len).sum();
        if rules.allow.len() + rules.private.len() > MAX_ENTRIES || text > MAX_TEXT {
            return Err(format!(
                "there are more than {MAX_ENTRIES} entries, or {MAX_TEXT} bytes of them"
            ));
        }
        let mut allow = read_each::<Destination>("allow", &rules.allow)?;
        let private = read_each::<Range>("private", &rules.private)?;
        if let Some(range) = private.iter().find(|r| !names_something_special(r)) {
            return Err(format!(
                "private: {range} is not inside a range that needs naming"
            ));
        }
        allow.sort_by_key(Destination::width);
        Ok(Self {
            mode: rules.mode,
            allow,
            private,
            tls: rules.tls,
        })
    }

    /// What happens to what is not listed.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What happens to TLS that cannot be verified.
    #[must_use]
    pub fn tls(&self) -> TlsPolicy {
        self.tls
    }

    /// By what a host and port may be asked for; the narrowest entry decides. Not yet whether its addresses may be
    /// dialled.
    #[must_use]
    pub fn find(&self, host: &Host, port: u16) -> Option<Listed> {
        if self.mode == Mode::None {
            return None;
        }
        if let Some(entry) = self.allow.iter().find(|d| d.matches(host, port)) {
            let range = match entry.target() {
                Target::Range(range) => Some(*range),
                Target::Name(_) | Target::Below(_) => None,
            };
            return Some(Listed {
                rule: entry.to_string(),
                speech: entry.speech(),
                range,
            });
        }
        (self.mode == Mode::Open).then(|| Listed {
            rule: "open".to_owned(),
            speech: Speech::Http,
            range: None,
        })
    }

    /// Why an address may not be dialled for something listed, if it may not.
    #[must_use]
    pub fn refuses(&self, ip: IpAddr, listed: &Listed, owner: Owner) -> Option<NotDialled> {
        let found = special(ip);
        if let Some((kind, range)) = found
            && !range.is_some_and(|outer| self.names(ip, listed, |r| r.is_within(&outer)))
        {
            return Some(NotDialled::Special(kind));
        }
        // Loopback is always this machine's: whoever names it means it.
        let loopback = matches!(found, Some((Special::Loopback, _)));
        let own = owner == Owner::ThisMachine && !loopback;
        (own && !self.names(ip, listed, Range::is_single)).then_some(NotDialled::Own)
    }

    fn names(&self, ip: IpAddr, listed: &Listed, narrow_enough: impl Fn(&Range) -> bool) -> bool {
        let named = self.private.iter().chain(&listed.range);
        named.into_iter().any(|r| r.contains(ip) && narrow_enough(r))
    }
}

/// What the proxy's memory rests on, whoever wrote the rules.
fn check_bounds(limits: &wire::Limits) -> Result<(), String> {
    let most = lictor_proto::limits::MAX_INTEGER;
    let good = (1..=1024).contains(&limits.connections)
        && (1..=1_000_000).contains(&limits.attempts)
        && (1..=most).contains(&limits.bytes_up)
        && (1..=most).contains(&limits.bytes_down)
        && (1024..=65_536).contains(&limits.head_bytes)
        && (1..=86_400_000).contains(&limits.idle_ms)
        && (1..=60_000).contains(&limits.handshake_ms);
    good.then_some(())
        .ok_or_else(|| "a limit is out of its bounds".to_owned())
}

fn names_something_special(range: &Range) -> bool {
    range.is_single()
        || special(range.base()).is_some_and(|(_, outer)| outer.is_some_and(|o| range.is_within(&o)))
}

fn read_each<T: std::str::FromStr<Err = String>>(what: &str, entries: &[String]) -> Result<Vec<T>, String> {
    let read = entries
        .iter()
        .map(|e| e.parse().map_err(|e| format!("{what}: {e}")));
    read.collect()
}

fn write_size<S: Serializer>(n: &u64, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(n)
}
fn read_size<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}
fn write_duration<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{}ms", d.as_millis()))
}
fn read_duration<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests;
