//! How a job is spread over its nodes: sizes of batches from words, and who is in which.

use std::fmt;
use std::str::FromStr;

use lictor_proto::NodeId;
use lictor_trust::directory::Node;

use crate::target::Target;

/// Some of the nodes: so many, or a part of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// So many.
    Count(u32),
    /// So many of a hundred, rounded up.
    Percent(u32),
}

impl Share {
    /// How many that is of `all`, at least one.
    #[must_use]
    pub fn of(self, all: usize) -> usize {
        match self {
            Self::Count(n) => n as usize,
            Self::Percent(p) => (all * p as usize).div_ceil(100),
        }
        .max(1)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a number of nodes, as 10, nor a part of them, as 50%");
        let number = |text: &str| text.parse::<u32>().ok().filter(|n| *n > 0).ok_or_else(wrong);
        match text.strip_suffix('%') {
            Some(percent) => number(percent)
                .and_then(|p| if p <= 100 { Ok(p) } else { Err(wrong()) })
                .map(Self::Percent),
            None => number(text).map(Self::Count),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(p) => write!(f, "{p}%"),
        }
    }
}

/// The order in which nodes begin: as the targets were named, and by name among those that one target means.
pub fn order(nodes: &mut [Node], targets: &[Target]) {
    let place = |n: &Node| targets.iter().position(|t| t.means(n)).unwrap_or(targets.len());
    nodes.sort_by(|a, b| (place(a), a.name(), a.id()).cmp(&(place(b), b.name(), b.id())));
}

/// The batches: of these sizes, the last one again and again; without any, all at once.
#[must_use]
pub fn batches(nodes: &[NodeId], sizes: &[Share]) -> Vec<Vec<NodeId>> {
    let last = sizes.last().copied().unwrap_or(Share::Percent(100));
    let sizes = sizes.iter().copied().chain(std::iter::repeat(last));
    let mut left = nodes;
    let mut batches = Vec::new();
    for size in sizes {
        if left.is_empty() {
            break;
        }
        let (batch, rest) = left.split_at(size.of(nodes.len()).min(left.len()));
        batches.push(batch.to_vec());
        left = rest;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::{Digest, OrgId};
    use proptest::prelude::*;

    fn nodes(n: u8) -> Vec<NodeId> {
        let org = OrgId::from_root(&Digest::of(b"root"));
        (0..n).map(|i| NodeId::derive(&org, &[i; 32])).collect()
    }

    fn sizes(nodes: &[NodeId], words: &str) -> Vec<usize> {
        let sizes: Vec<Share> = words.split(',').map(|w| w.parse().expect("a share")).collect();
        batches(nodes, &sizes).iter().map(Vec::len).collect()
    }

    #[test]
    fn batches_are_as_large_as_they_are_written_and_the_last_size_repeats() {
        let all = nodes(200);
        assert_eq!(sizes(&all, "1,10,50%"), [1, 10, 100, 89]);
        assert_eq!(sizes(&all, "60%"), [120, 80]);
        assert_eq!(sizes(&all, "500"), [200]);
        assert_eq!(sizes(&all[..3], "1%"), [1, 1, 1]);
        assert_eq!(batches(&all, &[]).len(), 1);
    }

    #[test]
    fn what_is_no_share_is_refused_with_a_reason() {
        for text in ["", "0", "0%", "101%", "-1", "a", "1.5", "10 %", "4294967296"] {
            let refused = text.parse::<Share>().expect_err("no share");
            assert!(refused.contains("50%"), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn every_node_is_in_one_batch_in_its_place(n in 1_u8..=255, sizes in prop::collection::vec(1_u32..300, 1..5)) {
            let all = nodes(n);
            let shares: Vec<Share> = sizes.iter().map(|s| if *s > 100 { Share::Count(*s) } else { Share::Percent(*s) }).collect();
            let made = batches(&all, &shares);
            prop_assert!(made.iter().all(|b| !b.is_empty()));
            prop_assert_eq!(made.concat(), all);
        }
    }
}
