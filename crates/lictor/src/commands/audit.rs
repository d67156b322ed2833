//! `lictor audit`: the hub's log of this org, a node's log, or an exported one.
//!
//! The verifier is the same for all three. For the hub's log it also takes nothing from the hub but the lines.

use std::io::{BufReader, Read};
use std::path::Path;

use lictor_audit::{Checked, Expect, Record, verify};
use serde_json::json;

use crate::args::{Audit, AuditCommand, Global};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::{Session, block_on, failed};

/// More than any log that is looked at on a terminal.
const MAX_PAGES: usize = 10_000;

pub(crate) fn run(global: &Global, args: &Audit, out: Out) -> Result {
    if let AuditCommand::Verify { file: Some(file) } = &args.command {
        let file_handle = std::fs::File::open(file).doing(format!("open {}", file.display()))?;
        return check(BufReader::new(file_handle), &Expect::default(), out);
    }
    let (lines, log) = match &args.source.agent {
        Some(dir) => (of_agent(dir)?, None),
        None => {
            let session = Session::open(global, out)?;
            let log = session.config.org.to_string();
            (block_on(of_hub(&session))?, Some(log))
        }
    };
    match &args.command {
        AuditCommand::Show => show(&lines, out),
        AuditCommand::Export => {
            for line in &lines {
                // Only what is a record is printed: a hub could send a terminal anything else.
                let record = Record::parse(line).doing("read a record; `lictor audit verify` says which")?;
                out.line(record.line())?;
            }
            Ok(Status::OK)
        }
        AuditCommand::Verify { .. } => {
            let expect = Expect {
                log,
                ..Expect::default()
            };
            let text = lines.join("\n") + if lines.is_empty() { "" } else { "\n" };
            check(text.as_bytes(), &expect, out)
        }
    }
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

fn check(reader: impl Read, expect: &Expect, out: Out) -> Result {
    match verify(BufReader::new(reader), expect) {
        Ok(Checked { records, head }) => {
            let value = json!({ "verified": true, "records": records, "head": head });
            out.either(&value, || {
                let head = head.map_or_else(|| "none".to_owned(), |h| h.to_string());
                format!("{records} records hold; head {head}")
            })?;
            Ok(Status::OK)
        }
        Err(e) => Err(Failure::new("the audit log does not hold")
            .because(&e)
            .hint("Somebody changed, removed or reordered records after they were written. Keep a copy and find out who.")),
    }
}
