//! `lictor audit`: the hub's log of this org, a node's log, or an exported one.
//!
//! The verifier is the same for all three. For the hub's log it also takes nothing from the hub but the lines. That a
//! log was cut off at its end shows only by heads kept elsewhere: named, or those in receipts that this home has seen.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use lictor_audit::chain::genesis;
use lictor_audit::{Checked, Expect, Record, verify};
use lictor_client::ReceiptTracker;
#[cfg(feature = "agent")]
use lictor_proto::doc::NodeRecord;
use lictor_proto::{Digest, NodeId};
#[cfg(feature = "agent")]
use lictor_proto::{Envelope, limits};
use serde_json::json;

use crate::args::{Audit, AuditCommand, Global};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::{Session, block_on, failed, home};

/// More than any log that is looked at on a terminal.
const MAX_PAGES: usize = 10_000;

pub(crate) fn run(global: &Global, args: &Audit, out: Out) -> Result {
    if let AuditCommand::Verify { file, heads } = &args.command {
        return check(global, args, file.as_deref(), heads, out);
    }
    let lines = match &args.source.agent {
        Some(dir) => of_agent(dir)?,
        None => {
            let session = Session::open(global, out)?;
            block_on(of_hub(&session))?
        }
    };
    if matches!(args.command, AuditCommand::Show) {
        return show(&lines, out);
    }
    for line in &lines {
        // Only what is a record is printed: a hub could send a terminal anything else.
        let record = Record::parse(line).doing("read a record; `lictor audit verify` says which")?;
        out.line(record.line())?;
    }
    Ok(Status::OK)
}

/// The log's name and the heads that must occur come from elsewhere than the log, and before it is read: it may grow.
fn check(global: &Global, args: &Audit, file: Option<&Path>, heads: &[Digest], out: Out) -> Result {
    let lines = |lines: Vec<String>| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
    if let Some(path) = file {
        let open = || std::fs::File::open(path).doing(format!("open {}", path.display()));
        let expect = expected(global, name_of(global, open()?), heads)?;
        return verified(open()?, &expect, out);
    }
    if let Some(dir) = &args.source.agent {
        let expect = expected(global, Some(node_in(dir)?.to_string()), heads)?;
        return verified(lines(of_agent(dir)?).as_bytes(), &expect, out);
    }
    let session = Session::open(global, out)?;
    let expect = expected(global, Some(session.config.org.to_string()), heads)?;
    verified(lines(block_on(of_hub(&session))?).as_bytes(), &expect, out)
}

/// The receipts that this home has seen, where there is a home.
fn tracker(global: &Global) -> Option<ReceiptTracker> {
    let home = home(global).ok()?;
    Some(ReceiptTracker::below(&home.trust_dir()))
}

fn expected(global: &Global, log: Option<String>, heads: &[Digest]) -> Result<Expect> {
    let mut known_heads: BTreeSet<Digest> = heads.iter().copied().collect();
    let node = log.as_deref().and_then(|log| log.parse::<NodeId>().ok());
    if let (Some(node), Some(tracker)) = (node, tracker(global)) {
        known_heads.extend(
            tracker
                .audit_heads(&node)
                .doing("read the receipts seen before")?,
        );
    }
    Ok(Expect { log, known_heads })
}

/// Whose log an export is: its first record says it by a hash, so only names that this home knows can be found.
fn name_of(global: &Global, file: impl Read) -> Option<String> {
    let mut line = String::new();
    let limit = lictor_audit::record::LINE as u64 + 2;
    BufReader::new(file.take(limit)).read_line(&mut line).ok()?;
    let first = Record::parse(line.trim_end_matches('\n')).ok()?;
    let org = home(global)
        .ok()
        .and_then(|h| h.config().ok())
        .map(|c| c.org.to_string());
    let nodes = tracker(global).map_or_else(Vec::new, |t| t.nodes());
    let names = nodes.into_iter().map(|n| n.to_string()).chain(org);
    names.into_iter().find(|name| genesis(name) == first.prev())
}

async fn of_hub(session: &Session) -> Result<Vec<String>> {
    let hub = session.hub()?;
    let mut lines = Vec::new();
    let mut cursor: Option<String> = None;
    for _ in 0..MAX_PAGES {
        let page = hub
            .audit(cursor.as_deref())
            .await
            .map_err(|e| failed("read the hub's audit log", &e))?;
        lines.extend(page.items.into_iter().map(|l| l.line));
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            _ => break,
        }
    }
    Ok(lines)
}

#[cfg(feature = "agent")]
fn of_agent(dir: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    lictor_warden::audit_lines(dir, |line| lines.push(line.to_owned())).map_err(|e| {
        Failure::new(format!(
            "could not read the audit log of the node in {}",
            dir.display()
        ))
        .because(&e)
    })?;
    Ok(lines)
}

/// The node whose directory this is.
#[cfg(feature = "agent")]
pub(crate) fn node_in(dir: &Path) -> Result<NodeId> {
    let what = || format!("read which node is in {}", dir.display());
    let node = lictor_warden::node_dir::NodeDir::at(dir).node().doing(what())?;
    let node = node.ok_or_else(|| Failure::new(format!("there is no node in {}", dir.display())))?;
    let envelope = Envelope::parse(node.record.as_bytes(), limits::ENVELOPE).doing(what())?;
    let record: NodeRecord = lictor_proto::json::from_slice(&envelope.payload).doing(what())?;
    Ok(record.node_id)
}

#[cfg(not(feature = "agent"))]
fn node_in(dir: &Path) -> Result<NodeId> {
    of_agent(dir).and(Err(Failure::new("this build has no agent in it")))
}

#[cfg(not(feature = "agent"))]
fn of_agent(_: &Path) -> Result<Vec<String>> {
    Err(Failure::new("this build has no agent in it").hint("Use a build with the feature `agent`."))
}

fn show(lines: &[String], out: Out) -> Result {
    for line in lines {
        let record = Record::parse(line).doing("read a record; `lictor audit verify` says which")?;
        let fields = serde_json::to_value(record.fields()).doing("show a record")?;
        if out.is_json() {
            let value: serde_json::Value = serde_json::from_str(line).doing("show a record")?;
            out.object(&value)?;
            continue;
        }
        let words: Vec<String> = fields
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, v)| match v.as_str() {
                Some(text) => format!("{k}={}", escape(text)),
                None => format!("{k}={}", escape(&v.to_string())),
            })
            .collect();
        let kind = serde_json::to_value(record.kind()).doing("show a record")?;
        let kind = kind.as_str().unwrap_or("?").to_owned();
        out.line(format!(
            "{:>6}  {}  {kind:<24} {}",
            record.seq(),
            record.time(),
            words.join(" ")
        ))?;
    }
    Ok(Status::OK)
}

fn verified(reader: impl Read, expect: &Expect, out: Out) -> Result {
    match verify(BufReader::new(reader), expect) {
        Ok(Checked { records, head }) => {
            let heads = expect.known_heads.len();
            let value = json!({
                "verified": true, "records": records, "head": head, "log": expect.log, "known_heads": heads,
            });
            out.either(&value, || {
                let head = head.map_or_else(|| "none".to_owned(), |h| h.to_string());
                let log = expect.log.as_deref().unwrap_or("an unknown log");
                format!("{records} records of {log} hold; head {head}; {heads} heads known from elsewhere occur in it")
            })?;
            Ok(Status::OK)
        }
        Err(e) => Err(Failure::new("the audit log does not hold")
            .because(&e)
            .hint("Somebody changed, removed or reordered records after they were written. Keep a copy and find out who.")),
    }
}
