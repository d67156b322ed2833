//! The organisations that are shipped: the starter, useful on day one, and the demo law of `lictor up`.
//!
//! Both are ordinary org directories, as text; whoever calls writes, signs and pushes them like any other.

use std::collections::BTreeMap;

use lictor_proto::Name;

/// Who the first operator is.
#[derive(Debug, Clone, Copy)]
pub struct Founder<'a> {
    /// The operator's name.
    pub operator: &'a Name,
    /// Its public key, the line that `lictor keys export-public` prints.
    pub public: &'a str,
    /// The node that the demo law speaks of.
    pub node: &'a Name,
}

const COMMON: &[(&str, &str)] = &[
    ("roster.toml", include_str!("../starter/roster.toml")),
    ("fleet.toml", include_str!("../starter/fleet.toml")),
    ("profiles.toml", include_str!("../starter/profiles.toml")),
];

const FULL: &[(&str, &str)] = &[
    (
        "policies/sandbox.cedar",
        include_str!("../starter/policies/sandbox.cedar"),
    ),
    (
        "policies/host.cedar",
        include_str!("../starter/policies/host.cedar"),
    ),
    (
        "policies/files.cedar",
        include_str!("../starter/policies/files.cedar"),
    ),
    (
        "policies/sessions.cedar",
        include_str!("../starter/policies/sessions.cedar"),
    ),
    (
        "policies/cancel.cedar",
        include_str!("../starter/policies/cancel.cedar"),
    ),
    (
        "tests/day-one.toml",
        include_str!("../starter/tests/day-one.toml"),
    ),
];

const DEMO: &[(&str, &str)] = &[
    ("policies/demo.cedar", include_str!("../starter/demo/demo.cedar")),
    ("tests/demo.toml", include_str!("../starter/demo/demo.toml")),
];

/// The starter: path in the org directory, to text.
#[must_use]
pub fn full(founder: &Founder<'_>) -> BTreeMap<String, String> {
    fill(FULL, founder)
}

/// The demo: this operator runs anything on this one node.
#[must_use]
pub fn demo(founder: &Founder<'_>) -> BTreeMap<String, String> {
    fill(DEMO, founder)
}

fn fill(files: &[(&str, &str)], founder: &Founder<'_>) -> BTreeMap<String, String> {
    let public = founder.public.trim().replace(['"', '\\'], "");
    let text = |template: &str| {
        template
            .replace("{{operator}}", founder.operator.as_str())
            .replace("{{node}}", founder.node.as_str())
            .replace("{{public}}", &public)
    };
    COMMON
        .iter()
        .chain(files)
        .map(|(path, template)| ((*path).to_owned(), text(template)))
        .collect()
}
