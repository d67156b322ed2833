//! What a profile lets its jobs reach, in words.

use lictor_proto::egress::{Mode, Unverified};

use super::{Topic, size, time, topic};
use crate::egress::{Destination, Egress, Presets, Speech, Target};

/// What may be reached, under which conditions, and how much of it.
pub(super) fn topics(egress: &Egress, presets: &Presets) -> Vec<Topic> {
    let Egress {
        mode,
        allow,
        presets: _, // written out when the law was loaded
        private,
        tls,
        limits,
    } = egress;
    let listed = allow.iter().map(|d| destination(d, presets));
    let open = (*mode == Mode::Open)
        .then(|| "every public address, by TLS or plain HTTP; what is listed, as it says".to_owned());
    let private = private
        .iter()
        .map(|r| format!("listed names may have addresses in {r}"));
    let lets_pass = [
        (tls.no_sni, "TLS that names no host, to whoever is listed"),
        (tls.ech, "TLS that hides its real name behind a listed one (ECH)"),
        (tls.not_tls, "what is not TLS, to whoever is listed"),
    ];
    let lets_pass = lets_pass
        .into_iter()
        .filter(|(what, _)| *what == Unverified::Allow);
    vec![
        topic("may reach", open.into_iter().chain(listed).collect()),
        topic("not public", private.collect()),
        topic("lets pass", lets_pass.map(|(_, what)| what.to_owned()).collect()),
        topic(
            "traffic",
            vec![
                format!(
                    "{} out, {} in, over all connections",
                    size(limits.bytes_up),
                    size(limits.bytes_down)
                ),
                format!(
                    "{} connections at once, {} attempts; silence ends one after {}",
                    limits.connections,
                    limits.attempts,
                    time(limits.idle)
                ),
            ],
        ),
    ]
}

/// Where the node may fetch files from that its jobs put. What is between 64 connections and none is nothing that
/// anybody has to know of one download.
pub(super) fn fetches(from: &Egress, presets: &Presets) -> Topic {
    let told = topics(from, presets).into_iter();
    let about_whom = told.filter(|t| t.about != "traffic");
    topic("files may come from", about_whom.flat_map(|t| t.says).collect())
}

fn destination(destination: &Destination, presets: &Presets) -> String {
    let whom = match destination.target() {
        Target::Name(name) => name.to_string(),
        Target::Below(parent) => format!("every name below {parent}"),
        Target::Range(range) if range.is_single() => format!("the address {}", range.base()),
        Target::Range(range) => format!("addresses in {range}"),
    };
    let ports = match destination.ports() {
        (one, last) if one == last => format!("port {one}"),
        (first, last) => format!("ports {first} to {last}"),
    };
    let speech = match destination.speech() {
        Speech::Tls => "TLS",
        Speech::Http => "TLS or plain HTTP",
        Speech::Plain => "anything",
    };
    let mut lists = presets.iter().filter(|(_, p)| p.allow.contains(destination));
    let list = lists
        .next()
        .map_or_else(String::new, |(name, _)| format!(" (in the preset {name})"));
    format!("{whom}, {ports}: {speech}{list}")
}
