//! What of a node has come to its place, for people and for programs.

use lictor_proto::Name;
use serde_json::{Value, json};

use super::Brought;
use crate::escape::escape;
use crate::out::Out;

/// Entries that are named one by one.
const NAMED: usize = 20;

/// As an event.
pub(crate) fn event(brought: &Brought) -> Value {
    let Brought { to, unpacked } = brought;
    let links = unpacked.links.iter();
    let links: Vec<_> = links.map(|(p, t)| json!({ "path": p, "target": t })).collect();
    let skipped = unpacked.skipped.iter();
    let skipped: Vec<_> = skipped.map(|(p, w)| json!({ "path": p, "why": w })).collect();
    json!({
        "event": "unpacked", "to": to.to_string_lossy(), "files": unpacked.files, "bytes": unpacked.bytes,
        "links": links, "skipped": skipped,
    })
}

/// In words, after the node's name where it is one of several.
pub(crate) fn note(out: Out, node: Option<&Name>, brought: &Brought) {
    let Brought { to, unpacked } = brought;
    let note = |text: String| match node {
        Some(node) => out.note(format!("{node}: {text}")),
        None => out.note(text),
    };
    let (files, bytes) = (unpacked.files, unpacked.bytes);
    note(format!("{files} files, {bytes} bytes: {}", to.display()));
    for (path, target) in unpacked.links.iter().take(NAMED) {
        note(format!(
            "a link, not made: {} -> {}",
            escape(path),
            escape(target)
        ));
    }
    for (path, why) in unpacked.skipped.iter().take(NAMED) {
        let why = serde_json::to_value(why).unwrap_or_default();
        let why = why.as_str().unwrap_or_default().replace('_', " ");
        note(format!("left out ({why}): {}", escape(path)));
    }
    let more = (unpacked.links.len() + unpacked.skipped.len()).saturating_sub(2 * NAMED);
    if more > 0 {
        note(format!("and more of these; --json names all: {more}"));
    }
}
