//! Which nodes are meant, by what is signed about them: name, id, labels, groups.
//!
//! ```text
//! target  = clause *( "," clause )            all of them hold
//! clause  = name / id / glob                  web-1   n_...   web-*   db-?
//!         / key "=" value / key "!=" value    role=web   region!=eu*   (value may be a glob)
//!         / "@" group                         @databases
//! ```
//!
//! Several targets mean everything that one of them means. The same text means the same nodes to everybody who holds
//! the same records: nothing that a hub or a machine says about itself takes part.
//!
//! # Invariants
//! - A target that means nothing is an error, also beside others that mean something: it is a typing error more
//!   often than a wish.
//! - A name that is claimed twice is never chosen, and never left out without a word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use lictor_proto::code::Refusal;
use lictor_proto::{Code, Name, NodeId};
use lictor_trust::directory::{Node, NodeDirectory};

/// How many names an error lists.
const LISTED: usize = 20;

/// Which nodes are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: String,
    clauses: Vec<Clause>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Clause {
    Id(NodeId),
    Name(Name),
    NameLike(Glob),
    Group(Name),
    Label { key: Name, value: Glob, is: bool },
}

/// A pattern over names: `*` is any number of characters, `?` is one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Glob(Vec<u8>);

/// Text that is no target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no target: {why}")]
pub struct TargetError {
    text: String,
    why: &'static str,
}

/// The nodes that are meant, and what could not be decided.
#[derive(Debug, Default)]
pub struct Chosen {
    /// They, by name.
    pub nodes: Vec<Node>,
    /// Nodes, or records, that a target may mean and that nothing proves: they are not among `nodes`.
    pub unproven: Vec<Refusal>,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = |why| TargetError {
            text: text.chars().take(80).collect(),
            why,
        };
        if text.len() > 1024 {
            return Err(wrong("it is over 1024 characters"));
        }
        let clauses = text.split(',').map(|clause| Clause::read(clause).map_err(wrong));
        Ok(Self {
            text: text.to_owned(),
            clauses: clauses.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Clause {
    fn read(text: &str) -> Result<Self, &'static str> {
        const NAME: &str = "a name has only a-z, 0-9, `.`, `_` and `-`, and starts with a letter or a digit";
        if text.is_empty() {
            return Err("a part of it is empty");
        }
        if let Some(group) = text.strip_prefix('@') {
            return Ok(Self::Group(group.parse().map_err(|_| NAME)?));
        }
        if let Some((key, value)) = text.split_once('=') {
            let (key, is) = match key.strip_suffix('!') {
                Some(key) => (key, false),
                None => (key, true),
            };
            return Ok(Self::Label {
                key: key.parse().map_err(|_| NAME)?,
                value: Glob::read(value)?,
                is,
            });
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        if text.contains(['*', '?']) {
            return Ok(Self::NameLike(Glob::read(text)?));
        }
        Ok(Self::Name(text.parse().map_err(|_| NAME)?))
    }

    /// Whether it names one node, whatever else there is.
    fn is_exact(&self) -> bool {
        matches!(self, Self::Id(_) | Self::Name(_))
    }

    fn means(&self, node: &Node) -> bool {
        match self {
            Self::Id(id) => node.id() == id,
            Self::Name(name) => node.name() == name,
            Self::NameLike(glob) => glob.matches(node.name()),
            Self::Group(group) => node.groups.contains(group),
            // A node without the label is not `=` anything, and is `!=` everything.
            Self::Label { key, value, is } => {
                node.labels.get(key).is_some_and(|found| value.matches(found)) == *is
            }
        }
    }
}

impl Glob {
    fn read(text: &str) -> Result<Self, &'static str> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*?".contains(&b);
        match text.is_empty() || !text.bytes().all(fits) {
            true => Err("a pattern has only a-z, 0-9, `.`, `_`, `-`, `*` and `?`"),
            false => Ok(Self(text.bytes().collect())),
        }
    }

    /// In steps of pattern times name at most, whatever the pattern: it goes back to the last `*` only.
    fn matches(&self, name: &Name) -> bool {
        let (pattern, name) = (&self.0, name.as_str().as_bytes());
        let (mut p, mut n) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    star = Some((p, n));
                    p += 1;
                }
                Some(b) if *b == b'?' || *b == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => match &mut star {
                    Some((at, from)) => {
                        *from += 1;
                        (p, n) = (*at + 1, *from);
                    }
                    None => return false,
                },
            }
        }
        pattern[p..].iter().all(|b| *b == b'*')
    }
}

impl Target {
    /// Every node.
    #[must_use]
    pub fn all() -> Self {
        Self {
            text: "--all".to_owned(),
            clauses: vec![Clause::NameLike(Glob(b"*".to_vec()))],
        }
    }

    /// The one node's name or id, where it is nothing else.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        match self.clauses.as_slice() {
            [clause] if clause.is_exact() => Some(&self.text),
            _ => None,
        }
    }

    pub(crate) fn means(&self, node: &Node) -> bool {
        self.clauses.iter().all(|clause| clause.means(node))
    }

    /// Whether a record of which nothing holds might be one of these.
    fn is_open(&self) -> bool {
        !self.clauses.iter().any(Clause::is_exact)
    }
}

/// The nodes that one of these targets means, without those that one of `except` means.
///
/// # Errors
/// [`Code::NodeUnknown`] with what there is, for a target that means nothing; [`Code::AmbiguousName`] for a name that
/// two live records claim.
pub fn choose(directory: &NodeDirectory, targets: &[Target], except: &[Target]) -> Result<Chosen, Refusal> {
    let mut nodes: BTreeMap<(Name, NodeId), Node> = BTreeMap::new();
    let mut doubtful: BTreeSet<Name> = BTreeSet::new();
    for target in targets {
        let mut found = false;
        for node in directory.iter() {
            // An id still leads to a node whose name another one has taken over.
            let by_id = target.clauses.iter().any(|c| matches!(c, Clause::Id(_)));
            if !target.means(node) || (node.replaced && !by_id) {
                continue;
            }
            found = true;
            if except.iter().any(|e| e.means(node)) {
                continue;
            }
            match directory.resolve(node.name()) {
                Err(ambiguous) if !by_id && target.exact().is_some() => return Err(ambiguous),
                Err(_) if !by_id => {
                    doubtful.insert(node.name().clone());
                }
                _ => {
                    nodes.insert((node.name().clone(), node.id().clone()), node.clone());
                }
            }
        }
        if !found {
            return Err(means_nothing(directory, target));
        }
    }
    let mut unproven: Vec<Refusal> = doubtful
        .iter()
        .filter_map(|name| directory.resolve(name).err())
        .collect();
    if targets.iter().any(Target::is_open) {
        unproven.extend(refused(directory));
    }
    Ok(Chosen {
        nodes: nodes.into_values().collect(),
        unproven,
    })
}

/// Records that held once and do not any more, for another reason than that somebody took their leave back.
fn refused(directory: &NodeDirectory) -> impl Iterator<Item = Refusal> {
    let settled = |r: &Refusal| matches!(r.code, Code::NodeRevoked | Code::GrantRevoked);
    let refused = directory.refused().iter().map(|(_, refusal)| refusal);
    refused.filter(move |r| !settled(r)).cloned()
}

/// That a target means nothing, and what there is instead of its first clause that alone means nothing.
fn means_nothing(directory: &NodeDirectory, target: &Target) -> Refusal {
    let live: Vec<&Node> = directory.iter().filter(|n| !n.replaced).collect();
    let alone = |clause: &&Clause| !live.iter().any(|n| clause.means(n));
    let there_is = match target.clauses.iter().find(alone) {
        _ if live.is_empty() => "there is no node yet".to_owned(),
        None => "each of its parts means some node, and all together none".to_owned(),
        Some(Clause::Id(_) | Clause::Name(_) | Clause::NameLike(_)) => {
            listed("the nodes are", live.iter().map(|n| n.name().to_string()))
        }
        Some(Clause::Group(_)) => listed(
            "the groups with nodes are",
            live.iter().flat_map(|n| n.groups.iter().map(ToString::to_string)),
        ),
        Some(Clause::Label { .. }) => listed(
            "the labels are",
            live.iter()
                .flat_map(|n| n.labels.iter().map(|(k, v)| format!("{k}={v}"))),
        ),
    };
    Refusal::new(
        Code::NodeUnknown,
        format!("no node is meant by `{target}`: {there_is}"),
    )
}

fn listed(what: &str, words: impl Iterator<Item = String>) -> String {
    let words: BTreeSet<String> = words.collect();
    if words.is_empty() {
        return format!("{what} none");
    }
    let more = words.len().saturating_sub(LISTED);
    let first: Vec<&str> = words.iter().take(LISTED).map(String::as_str).collect();
    match more {
        0 => format!("{what} {}", first.join(", ")),
        more => format!("{what} {} and {more} more", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Target {
        text.parse().expect("a target")
    }

    #[test]
    fn what_is_written_is_what_is_meant() {
        assert_eq!(
            read("web-1").clauses,
            [Clause::Name("web-1".parse().expect("a name"))]
        );
        assert!(matches!(read("web-*").clauses[..], [Clause::NameLike(_)]));
        assert!(matches!(
            read("@web,role=db").clauses[..],
            [Clause::Group(_), Clause::Label { is: true, .. }]
        ));
        assert!(matches!(
            read("region!=eu").clauses[..],
            [Clause::Label { is: false, .. }]
        ));
        assert_eq!(read("web-1").exact(), Some("web-1"));
        assert_eq!(read("web-1,role=db").exact(), None);
    }

    #[test]
    fn what_is_none_is_refused_with_a_reason() {
        for text in [
            "", ",", "a,", "Web", "a b", "@", "@*", "=x", "role=", "a==b", "role!=", "-x", "a/b", "n_*!",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
        assert!("a".repeat(2000).parse::<Target>().is_err());
    }

    /// The plain, slow definition.
    fn like(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => like(rest, name) || (!name.is_empty() && like(pattern, &name[1..])),
            (Some((p, rest)), Some((n, names))) => (*p == b'?' || p == n) && like(rest, names),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_pattern_means_what_its_plain_definition_says(pattern in "[ab*?]{1,8}", name in "[ab]{1,10}") {
            let glob = Glob::read(&pattern).expect("a pattern");
            let name: Name = name.parse().expect("a name");
            prop_assert_eq!(glob.matches(&name), like(pattern.as_bytes(), name.as_str().as_bytes()));
        }

        #[test]
        fn any_text_is_a_target_that_reads_back_or_is_refused(text in "\\PC{0,40}") {
            if let Ok(target) = text.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>(), Ok(target));
            }
        }

        #[test]
        fn a_name_means_itself_as_name_and_as_pattern(name in "[a-z0-9][a-z0-9._-]{0,62}") {
            let parsed: Name = name.parse().expect("a name");
            prop_assert!(Glob::read(&name).expect("a pattern").matches(&parsed));
            let is_exact = read(&name).exact().is_some();
            prop_assert!(is_exact);
        }
    }
}
