//! One row per node: what is known of its execution, and all of them together as a table and an exit status.

use std::collections::BTreeMap;

use lictor_client::Stream;
use lictor_proto::JobId;
use lictor_proto::api::ExecutionState;
use lictor_proto::code::Code;
use lictor_trust::directory::Node;
use serde_json::{Value, json};

use super::lines::Lines;
use crate::commands::result::ResultLine;
use crate::commands::said::Said;
use crate::escape::escape;
use crate::exit::{self, Status};
use crate::out::table;

/// With more nodes than this, the table leaves out those that succeeded.
const ALL: usize = 30;

/// One node.
pub(crate) struct Row {
    pub(crate) node: Node,
    pub(crate) lines: Lines,
    pub(crate) said: Said,
    /// Bytes of both streams.
    pub(crate) seen: (u64, u64),
    /// How it ended, or that nothing proves how.
    pub(crate) end: Option<ResultLine>,
}

impl Row {
    /// Whether it waits for its node, which is not there, as far as the hub says.
    pub(crate) fn is_away(&self) -> bool {
        let offline = self
            .said
            .reason
            .as_ref()
            .is_some_and(|r| r.code == Code::NodeOffline);
        match self.said.state {
            Some(ExecutionState::Queued) => offline,
            Some(ExecutionState::Lost) => true,
            _ => false,
        }
    }

    /// Whether it waits for a rollout that stopped, or with one for its node's word on a cancel, as far as the hub says.
    pub(crate) fn is_stopped(&self) -> bool {
        let code = self.said.reason.as_ref().map(|r| r.code);
        let stopped = matches!(code, Some(Code::RolloutStopped | Code::Canceled));
        self.end.is_none() && self.said.state == Some(ExecutionState::Held) && stopped
    }

    /// A word for how it stands.
    fn word(&self) -> String {
        match (&self.end, self.said.state) {
            (Some(end), _) => end.status.clone(),
            (None, Some(ExecutionState::Queued)) if self.is_away() => "queued (offline)".to_owned(),
            (None, Some(state)) => state.as_str().replace('_', " "),
            (None, None) => "unknown".to_owned(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let (mut exit, mut took, mut note) = (String::new(), String::new(), String::new());
        if let Some(end) = &self.end {
            exit = match (end.exit_code, end.signal) {
                (Some(n), _) => n.to_string(),
                (None, Some(n)) => format!("signal {n}"),
                (None, None) => String::new(),
            };
            if let (Some(from), Some(to)) = (end.started_at, end.finished_at) {
                took = format!("{:?}", to.since(from));
            }
            if let Some(code) = end.code {
                note = format!("[{code}] {}", escape(&end.message));
            } else {
                note = escape(&end.message);
            }
        } else if let Some(reason) = &self.said.reason {
            note = format!("the hub says: [{}] {}", reason.code, escape(&reason.message));
        }
        vec![self.node.name().to_string(), self.word(), exit, took, note]
    }

    /// Its last line for programs.
    pub(crate) fn result(&self, job: &JobId) -> Value {
        let mut value = match &self.end {
            Some(end) => json!(end),
            None => {
                let line =
                    ResultLine::unconfirmed(job.clone(), &self.said.without_receipt().into(), self.seen);
                let mut value = json!(line);
                // Nothing is wrong with what has not ended.
                value["status"] = json!(self.said.state.map_or("unknown", ExecutionState::as_str));
                if let Some(reason) = &self.said.reason {
                    value["code"] = json!(reason.code);
                    value["message"] = json!(reason.message);
                }
                value
            }
        };
        self.name_in(&mut value);
        value
    }

    /// Says whose an event is.
    pub(crate) fn name_in(&self, event: &mut Value) {
        event["node"] = json!(self.node.name());
        event["node_id"] = json!(self.node.id());
    }

    fn succeeded(&self) -> bool {
        self.end
            .as_ref()
            .is_some_and(|e| e.confirmed && e.status == "succeeded")
    }

    pub(crate) fn rest(&mut self) -> [(Stream, bytes::Bytes); 2] {
        [Stream::Stdout, Stream::Stderr].map(|s| (s, self.lines.rest(s)))
    }
}

/// How many nodes stand how, the most successful first.
fn counts<'a>(rows: impl Iterator<Item = &'a Row>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.word()).or_default() += 1;
    }
    counts
}

/// `3 nodes: 2 succeeded, 1 failed`.
fn sum<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> String {
    let mut words: Vec<(String, usize)> = counts(rows.clone()).into_iter().collect();
    words.sort_by_key(|(word, _)| word != "succeeded");
    let words: Vec<String> = words.iter().map(|(word, n)| format!("{n} {word}")).collect();
    format!("{} nodes: {}", rows.count(), words.join(", "))
}

/// All of them, for people.
pub(crate) fn text<'a>(rows: impl Iterator<Item = &'a Row> + Clone) -> String {
    let many = rows.clone().count() > ALL;
    let shown = rows.clone().filter(|r| !many || !r.succeeded());
    let cells: Vec<_> = shown.map(Row::cells).collect();
    match cells.is_empty() {
        true => sum(rows),
        false => format!(
            "{}\n{}",
            table(&["node", "result", "exit", "took", "note"], &cells),
            sum(rows)
        ),
    }
}

/// The last line for programs.
pub(crate) fn summary<'a>(job: &JobId, rows: impl Iterator<Item = &'a Row> + Clone) -> Value {
    let status = status(rows.clone());
    json!({
        "event": "summary",
        "job_id": job,
        "nodes": rows.clone().count(),
        "counts": counts(rows),
        "exit": status.0,
    })
}

/// 0 when all succeeded and every receipt holds. Else 125 when of one nothing proves how it ended; else 126 when all
/// that did not succeed were denied; else 1.
pub(crate) fn status<'a>(mut rows: impl Iterator<Item = &'a Row> + Clone) -> Status {
    let mut others = rows.clone().filter(|r| !r.succeeded());
    if rows.all(Row::succeeded) {
        return Status::OK;
    }
    if others
        .clone()
        .any(|r| r.end.as_ref().is_none_or(|e| !e.confirmed))
    {
        return Status(exit::OWN_ERROR);
    }
    if others.all(|r| r.end.as_ref().is_some_and(|e| e.status == "denied")) {
        return Status(exit::DENIED);
    }
    Status(1)
}
