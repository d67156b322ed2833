//! The context of carrying files. Paths are judged as they are signed: no link is followed on the node, and there is one
//! spelling of each, so what a rule says of a path holds for the file.

use cedar_policy::Context;
use lictor_proto::Name;
use lictor_proto::doc::{Collect, Fetch, FileUrl, Job};
use lictor_trust::profiles::Profile;

use super::{ContextError, Pairs, error, last_part, long, put, set, text};
use crate::facts::Facts;

/// What every job that carries files says, and what it would run in.
pub(super) type Around<'a> = (&'a Job, &'a Profile, &'a Facts);

/// The context of putting a file on the node.
pub(crate) fn fetch(fetch: &Fetch, around: Around<'_>) -> Result<Context, ContextError> {
    let mut pairs = about(&fetch.to, fetch.size, around);
    let bits = fetch.mode_bits().unwrap_or(0o777);
    put(&mut pairs, "sha256", text(&fetch.sha256.to_string()));
    from(fetch.url.as_ref(), &mut pairs);
    put(&mut pairs, "mode", text(&fetch.mode));
    put(
        &mut pairs,
        "executable",
        super::Value::new_bool(bits & 0o111 != 0),
    );
    put(
        &mut pairs,
        "owner",
        text(fetch.owner.as_deref().unwrap_or_default()),
    );
    put(
        &mut pairs,
        "group",
        text(fetch.group.as_deref().unwrap_or_default()),
    );
    put(&mut pairs, "replace", super::Value::new_bool(fetch.replace));
    Context::from_pairs(pairs).map_err(error)
}

/// The context of bringing files from the node.
pub(crate) fn collect(collect: &Collect, around: Around<'_>) -> Result<Context, ContextError> {
    let mut pairs = about(&collect.from, collect.max_bytes, around);
    for unknown in [
        "sha256",
        "source",
        "url",
        "url_scheme",
        "url_host",
        "mode",
        "owner",
        "group",
    ] {
        put(&mut pairs, unknown, text(""));
    }
    put(&mut pairs, "url_port", long(0));
    for not in ["executable", "replace"] {
        put(&mut pairs, not, super::Value::new_bool(false));
    }
    Context::from_pairs(pairs).map_err(error)
}

/// Where its content comes from.
fn from(url: Option<&FileUrl>, pairs: &mut Pairs) {
    put(pairs, "source", text(if url.is_some() { "url" } else { "hub" }));
    put(pairs, "url", text(url.map_or("", FileUrl::as_str)));
    put(pairs, "url_scheme", text(url.map_or("", |u| u.scheme().as_str())));
    put(pairs, "url_host", text(url.map_or("", FileUrl::host)));
    put(pairs, "url_port", long(url.map_or(0, FileUrl::port)));
}

fn about(path: &str, size: u64, around: Around<'_>) -> Pairs {
    let mut pairs: Pairs = Vec::with_capacity(30);
    surround(&mut pairs, around);
    let sandbox = around.0.process().sandbox.map_or("", Name::as_str);
    put(&mut pairs, "sandbox", text(sandbox));
    put(&mut pairs, "path", text(path));
    put(&mut pairs, "name", text(last_part(path)));
    put(&mut pairs, "below", set(above(path).into_iter()));
    put(&mut pairs, "size", long(size));
    pairs
}

/// Where a job of the node's own program would run, and on what terms.
pub(super) fn surround(pairs: &mut Pairs, (job, profile, facts): Around<'_>) {
    let process = job.process();
    put(pairs, "network", text(&facts.network));
    put(pairs, "profile", text(facts.profile.as_str()));
    put(pairs, "backend", text(&facts.backend));
    put(pairs, "namespaced", super::Value::new_bool(facts.namespaced));
    put(
        pairs,
        "run_as_uid",
        super::Value::new_long(i64::from(facts.run_as_uid)),
    );
    put(
        pairs,
        "timeout_ms",
        long(process.timeout.unwrap_or(profile.limits.timeout).as_millis()),
    );
    put(
        pairs,
        "validity_ms",
        long(job.expires_at.since(job.issued_at).as_millis()),
    );
    put(
        pairs,
        "delay_ms",
        long(job.not_before.since(job.issued_at).as_millis()),
    );
    put(pairs, "nodes", long(job.nodes.len()));
    put(pairs, "retry", super::Value::new_bool(job.retry_of.is_some()));
    // A schedule carries no files.
    put(pairs, "scheduled", super::Value::new_bool(false));
    put(pairs, "reason", text(&job.reason));
}

/// Every directory that a path lies in.
fn above(path: &str) -> Vec<&str> {
    let ends = path
        .match_indices('/')
        .map(|(at, _)| if at == 0 { "/" } else { &path[..at] });
    ends.collect()
}

#[cfg(test)]
mod tests {
    use super::above;

    #[test]
    fn a_path_lies_in_every_directory_above_it_and_not_in_itself() {
        assert_eq!(above("/srv/app/file"), ["/", "/srv", "/srv/app"]);
        assert_eq!(above("/file"), ["/"]);
    }
}
