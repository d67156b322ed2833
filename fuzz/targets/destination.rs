//! Hosts, ranges and destinations have one spelling, which reads back as itself and as nothing else.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_trust::egress::{Destination, Host, Range, authority};

fuzz_target!(|text: &str| {
    if let Ok(host) = Host::parse(text) {
        let one = host.to_string();
        assert_eq!(Host::parse(&one).as_ref(), Ok(&host));
        assert!(one.is_ascii() && !one.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_whitespace() || b == 0));
        // What the system would take for an address is one here too.
        match (&host, one.parse::<std::net::Ipv4Addr>()) {
            (Host::Ip(ip), _) => assert!(!matches!(ip, std::net::IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())),
            (Host::Name(_), parsed) => assert!(parsed.is_err()),
        }
    }
    if let Ok((host, port)) = authority(text) {
        assert!(Host::parse(&host.to_string()).is_ok() && port != Some(0));
    }
    if let Ok(range) = text.parse::<Range>() {
        assert_eq!(range.to_string().parse(), Ok(range));
        assert!(range.contains(range.base()) && range.is_within(&range));
    }
    if let Ok(destination) = text.parse::<Destination>() {
        assert_eq!(destination.to_string().parse(), Ok(destination));
    }
});
