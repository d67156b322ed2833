//! `lictor cp`: files to nodes, or files and directories from nodes.
//!
//! ```text
//! Each file is a job of its own, one after the other.
//!
//! to nodes    digest -> upload to the hub -> signed job -> followed to its verified end
//! from a URL  signed job, by which the nodes fetch it
//! from one    signed job -> its output unpacked aside as it comes -> held against the receipt -> its place
//! from several  one signed job -> of each that has ended the same, some at a time -> a directory of its name
//! ```

mod arriving;
mod from;
mod several;
mod to;
mod url;

use std::path::PathBuf;
use std::time::Duration;

use lictor_client::TrustStore;
use lictor_proto::Timestamp;

use crate::args::Copy;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// How long a job may wait for its node, unless it is said.
const VALID: Duration = Duration::from_secs(300);
/// Bytes in a second at which a file comes to its node at least. The node has all of it before the job starts, so
/// the job has to be valid for that long.
const SLOWEST: u64 = 256 * 1024;

/// One end of a copy.
enum End {
    Here(PathBuf),
    /// Targets, and a path on them.
    There(String, String),
    /// Somewhere that nodes fetch from.
    Url,
}

pub(crate) async fn run(session: &Session, args: &Copy) -> Result {
    let fetched = match args.from.as_slice() {
        [one] => Some(one).filter(|from| matches!(end(from), End::Url)),
        _ => None,
    };
    if fetched.is_none() && (args.sha256.is_some() || args.size.is_some()) {
        return Err(Failure::new(
            "--sha256 and --size are for what comes from one URL",
        ));
    }
    match there(
        &args.to,
        args.all && !args.from.iter().any(|from| from.starts_with(":/")),
    ) {
        End::There(targets, path) => {
            if let Some(from) = fetched {
                return url::run(session, args, from, (&targets, path)).await;
            }
            let files = args.from.iter().map(|from| match end(from) {
                End::Here(file) => Ok(file),
                End::There(..) => Err(Failure::new("both ends of the copy are on nodes")
                    .hint("Copy it here first, then to the other node.")),
                End::Url => Err(Failure::new("what comes from a URL is copied by itself")
                    .hint("Use one command for each URL, with its --sha256 and --size.")),
            });
            let files = files.collect::<Result<Vec<_>>>()?;
            to::run(session, args, &files, (&targets, path)).await
        }
        End::Here(place) => {
            args.is_from_a_node()?;
            let sources = args.from.iter().map(|from| match there(from, args.all) {
                End::There(targets, path) => Ok(from::Source {
                    targets: args.targets(&targets)?,
                    path,
                }),
                End::Here(_) | End::Url => Err(Failure::new("neither end of the copy is on a node")
                    .hint("Write it as TARGET:/path, as in `lictor cp ./file web-1:/srv/app/file`.")),
            });
            let sources = sources.collect::<Result<Vec<_>>>()?;
            from::run(session, args, &sources, &place).await
        }
        End::Url => Err(Failure::new("nothing is copied to a URL")),
    }
}

/// The first status that says that something went wrong: what comes after it is copied all the same.
fn worst(so_far: Status, next: Status) -> Status {
    if is_ok(so_far) { next } else { so_far }
}

/// That no two have one name.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Result {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(Failure::new(format!("two of them are called {name}"))
                .hint("Copy one of them under another name, by itself."));
        }
    }
    Ok(Status::OK)
}

/// How long the job is valid that carries so many bytes to nodes.
fn valid(args: &Copy, size: u64, store: &TrustStore) -> Result<Duration> {
    if let Some(valid) = args.valid {
        return Ok(valid);
    }
    let law = store.trust().law(Timestamp::now());
    let law = law.map_err(|r| Failure::refused("the pinned law is not in force", &r))?;
    Ok(usually_valid(size, law.fleet.max_job_validity))
}

fn usually_valid(size: u64, most: Duration) -> Duration {
    (VALID + Duration::from_secs(size / SLOWEST)).min(most)
}

/// One end of the copy. All nodes need no target before the colon.
fn there(text: &str, all: bool) -> End {
    match text.strip_prefix(':') {
        Some(path) if all && path.starts_with('/') => End::There(String::new(), path.to_owned()),
        _ => end(text),
    }
}

/// A URL by its scheme. What begins with a target, a colon and a slash is on nodes. A file here that looks so is named with `./` before it.
fn end(text: &str) -> End {
    if text.starts_with("https://") || text.starts_with("http://") {
        return End::Url;
    }
    match text.split_once(":/") {
        Some((targets, path)) if !targets.is_empty() && !targets.starts_with(['.', '/']) => {
            End::There(targets.to_owned(), format!("/{path}"))
        }
        _ => End::Here(text.into()),
    }
}

/// The last part of a path on a node.
fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// That nothing went wrong, as a status.
fn is_ok(status: Status) -> bool {
    status == Status::OK
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{End, end, usually_valid};

    #[test]
    fn a_larger_file_is_given_more_time_but_no_more_than_the_law_gives() {
        let day = Duration::from_secs(24 * 3600);
        for (size, seconds) in [(0, 300), (1 << 10, 300), (1 << 30, 4396), (4 << 30, 16_684)] {
            assert_eq!(usually_valid(size, day), Duration::from_secs(seconds), "{size}");
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(usually_valid(4 << 30, hour), hour);
    }

    #[test]
    fn a_target_stands_before_a_colon_and_a_slash() {
        for (text, target, path) in [
            ("web-1:/srv/file", "web-1", "/srv/file"),
            (
                "role=web,region!=eu:/srv/a:/b",
                "role=web,region!=eu",
                "/srv/a:/b",
            ),
        ] {
            assert!(
                matches!(end(text), End::There(t, p) if t == target && p == path),
                "{text}"
            );
        }
        for url in ["https://dl.example.org/x", "http://dl.example.org:8080/"] {
            assert!(matches!(end(url), End::Url), "{url}");
        }
        for here in ["file", "./web-1:/x", "/srv/a:/b", "C:file", ":/x"] {
            assert!(matches!(end(here), End::Here(_)), "{here}");
        }
    }
}
