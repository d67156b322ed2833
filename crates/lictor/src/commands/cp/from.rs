//! A file or a directory of a node to this machine.
//!
//! # Invariants
//! - Nothing is at its place here before the receipt and all of what it signs has been verified.

use std::fs;
use std::path::{Path, PathBuf};

use lictor_client::files::Unpacked;
use lictor_client::{JobOptions, Signer};
use lictor_proto::doc::Collect;
use serde_json::json;

use super::arriving::Arriving;
use super::{distinct, is_ok, name_of, worst};
use crate::args::Copy;
use crate::commands::bring::Asked;
use crate::commands::{choice, run};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// Entries that are named one by one.
const NAMED: usize = 20;

/// Every source by a job of its own, one after the other.
pub(super) async fn run(
    session: &Session,
    args: &Copy,
    sources: &[(String, String)],
    place: &Path,
) -> Result {
    if sources.len() > 1 && !place.is_dir() {
        return Err(Failure::new(format!("{} is no directory", place.display()))
            .hint("Several files go into a directory, which has to be there."));
    }
    distinct(sources.iter().map(|(_, path)| name_of(path)))?;
    let places = sources.iter().map(|(_, path)| vacant(place, name_of(path)));
    let places = places.collect::<Result<Vec<_>>>()?;
    let mut status = Status::OK;
    for ((target, path), to) in sources.iter().zip(places) {
        status = worst(status, bring(session, args, (target, path.clone()), to).await?);
    }
    Ok(status)
}

async fn bring(session: &Session, args: &Copy, (target, path): (&str, String), to: PathBuf) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let choice = choice::nodes(session, &mut store, &hub, &args.targets(target)?).await?;
    let [node] = choice.nodes.as_slice() else {
        return Err(Failure::new("files are brought from one node at a time")
            .hint("Name one node, and a directory of its own for each."));
    };
    let key = session.key(args.key.as_ref())?;
    let collect = Collect {
        timeout_ms: args.timeout_ms(),
        sandbox: args.sandbox.clone(),
        ..Collect::new(path, args.max_bytes)
    };
    let after = run::former(session, &hub, &mut store, &args.after).await?;
    let options = JobOptions {
        after,
        ..choice.job(&args.profile, super::valid(args, 0, &store)?, &args.reason)
    };
    let job = Signer::new(store.trust(), &session.config.operator, &key)
        .job(collect, options)
        .map_err(|r| Failure::refused("could not sign the job", &r))?;
    let arriving = Arriving::beside(&to, &job.job_id(), args.max_bytes)?;
    let asked = Asked {
        session,
        hub: &hub,
        store: &store,
        node,
        key: &key,
    };
    let status = asked.bring(&job, &arriving).await?;
    if !is_ok(status) {
        return Ok(status);
    }
    let unpacked = arriving.settle(&to)?;
    tell(session, &unpacked, &to)?;
    Ok(Status::OK)
}

/// Where it goes: into a directory that is there, or to a name that is not.
fn vacant(place: &Path, name: &str) -> Result<PathBuf> {
    let to = if place.is_dir() {
        place.join(name)
    } else {
        place.to_owned()
    };
    if fs::symlink_metadata(&to).is_ok() {
        return Err(Failure::new(format!("{} is there already", to.display()))
            .hint("Nothing is overwritten here; move it away, or name another place."));
    }
    Ok(to)
}

fn tell(session: &Session, unpacked: &Unpacked, to: &Path) -> Result<()> {
    let out = session.out;
    if out.is_json() {
        let links: Vec<_> = unpacked
            .links
            .iter()
            .map(|(p, t)| json!({ "path": p, "target": t }))
            .collect();
        let skipped: Vec<_> = unpacked
            .skipped
            .iter()
            .map(|(p, w)| json!({ "path": p, "why": w }))
            .collect();
        let line = json!({
            "event": "unpacked", "to": to.to_string_lossy(), "files": unpacked.files, "bytes": unpacked.bytes,
            "links": links, "skipped": skipped,
        });
        return out.either(&line, String::new);
    }
    out.note(format!(
        "{} files, {} bytes: {}",
        unpacked.files,
        unpacked.bytes,
        to.display()
    ));
    for (path, target) in unpacked.links.iter().take(NAMED) {
        out.note(format!(
            "a link, not made: {} -> {}",
            escape(path),
            escape(target)
        ));
    }
    for (path, why) in unpacked.skipped.iter().take(NAMED) {
        let why = serde_json::to_value(why).unwrap_or_default();
        let why = why.as_str().unwrap_or_default().replace('_', " ");
        out.note(format!("left out ({why}): {}", escape(path)));
    }
    let more = (unpacked.links.len() + unpacked.skipped.len()).saturating_sub(2 * NAMED);
    if more > 0 {
        out.note(format!("and more of these; --json names all: {more}"));
    }
    Ok(())
}
