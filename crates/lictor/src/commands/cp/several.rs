//! A file or a directory of several nodes to this machine: one signed job, and of each node its own below a directory of its name.
//!
//! ```text
//!   one job --> web-1 ends --> fetched, verified --> PLACE/web-1/app.log
//!               web-2 ends --> fetched, verified --> PLACE/web-2/app.log      so many at once, and the others after them
//! ```
//!
//! # Invariants
//! - What is wrong with one node, or with its place here, is that node's alone.
//! - A directory that was made here for nothing is gone again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use lictor_client::files::Unpacked;
use lictor_client::{Compared, Expected, Hub, Item, Outcome, ReceiptTracker, Stream};
use lictor_proto::{JobId, Name, doc};
use lictor_trust::directory::Node;

use super::arriving::Arriving;
use super::from::{Asking, Source, vacant_at};
use super::{distinct, name_of};
use crate::args::Copy;
use crate::commands::fleet::{Brought, FleetWatch, Harvest, Harvested, read};
use crate::commands::run::{Submitted, until};
use crate::commands::watch::Inlet as _;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

/// Bytes of a node's standard error that are shown.
const SAID: usize = 64 * 1024;

/// Into directories below `place`, into which files of these names go as well.
pub(super) async fn run(
    session: &Session,
    args: &Copy,
    source: &Source,
    (place, files): (&Path, &[&str]),
) -> Result {
    let mut asking = Asking::of(session, source).await?;
    if args.dry_run {
        return asking.choice.preview(session, &asking.hub, None).await;
    }
    let name = name_of(&source.path);
    if name.is_empty() {
        return Err(
            Failure::new(format!("{} has no name to be given here", source.path))
                .hint("Name a file or a directory below it."),
        );
    }
    vacant(&asking.choice.nodes, (place, files), name)?;
    asking.choice.agreed(session, args.yes)?;
    let key = session.key(args.key.as_ref())?;
    let _made = make(place)?;
    let job = asking.sign(session, args, (&key, &source.path)).await?;
    let landing = Landing {
        place,
        name,
        job: job.job_id(),
        max_bytes: args.max_bytes,
    };
    let submitted = Submitted {
        session,
        hub: &asking.hub,
        store: &asking.store,
        key: &key,
        nodes: &asking.choice.nodes,
        job: job.digest,
    };
    let taken = asking.hub.submit(&job.wire).await;
    taken.map_err(|e| failed("submit the job", &e))?;
    submitted.say(&job)?;
    let watch = FleetWatch {
        into: Some(&landing),
        ..submitted.fleet(until(args.wait))
    };
    watch.follow_job().await
}

/// That the place is a directory, or can become one.
pub(super) fn is_place(place: &Path) -> Result<()> {
    match fs::metadata(place) {
        Ok(meta) if !meta.is_dir() => Err(Failure::new(format!("{} is no directory", place.display()))
            .hint("What several nodes have goes below a directory, for each node into one of its own.")),
        _ => Ok(()),
    }
}

/// A directory that goes again unless something is in it by then. `None` when it was there before.
#[must_use]
pub(super) struct Made(Option<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(dir) = &self.0 {
            // With anything in it, it stays.
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Makes a directory, if there is none.
pub(super) fn make(dir: &Path) -> Result<Made> {
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Made(None)),
        made => made
            .doing(format!("make {}", dir.display()))
            .map(|()| Made(Some(dir.to_owned()))),
    }
}

/// That each node has a place of its own, and nothing is there. Two nodes of one name would have one, and so would a node and a file.
fn vacant(nodes: &[Node], (place, files): (&Path, &[&str]), name: &str) -> Result<()> {
    let names = nodes.iter().map(|node| node.name().as_str());
    distinct(names.clone().chain(files.iter().copied()))?;
    for node in names {
        let dir = place.join(node);
        is_place(&dir)?;
        vacant_at(dir.join(name))?;
    }
    Ok(())
}

/// Where what the nodes have goes.
struct Landing<'a> {
    place: &'a Path,
    name: &'a str,
    job: JobId,
    max_bytes: u64,
}

impl Harvest for Landing<'_> {
    fn fetch<'a>(
        &'a self,
        expected: Expected<'a>,
        hub: &'a Hub,
        tracker: &'a ReceiptTracker,
    ) -> BoxFuture<'a, Harvested> {
        self.bring(expected, hub, tracker).boxed()
    }
}

impl Landing<'_> {
    async fn bring(&self, expected: Expected<'_>, hub: &Hub, tracker: &ReceiptTracker) -> Harvested {
        let node = expected.node;
        let mut taking = Taking::of(self, node.name());
        let of = (&self.job, node.id());
        let follower = match read(hub, of, |item| taking.item(item)).await {
            Ok(follower) => follower,
            Err(e) => {
                let why = match e {
                    lictor_client::Error::Untrusted(refusal) => refusal,
                    e => lictor_proto::code::Refusal::new(e.code(), e.to_string()),
                };
                return Harvested::of(Outcome::Unconfirmed(why.into()), taking.seen);
            }
        };
        let outcome = expected.conclude(hub, &follower, tracker).await;
        let said = std::mem::take(&mut taking.said);
        let mut harvested = Harvested::of(outcome, follower.seen());
        harvested.said = said;
        let Outcome::Confirmed(confirmed) = &harvested.outcome else {
            return harvested;
        };
        if confirmed.receipt.outcome == doc::Outcome::Succeeded {
            let whole = confirmed.output == Compared::Whole;
            // What is still to be written, and synced, keeps nobody else waiting.
            let settled = tokio::task::spawn_blocking(move || taking.settle(whole)).await;
            match settled.unwrap_or_else(|e| Err(Failure::new("it could not be unpacked").because(&e))) {
                Ok(brought) => harvested.brought = Some(brought),
                Err(failure) => harvested.lacks = Some(failure),
            }
        }
        harvested
    }
}

/// One node's stream, while it comes.
struct Taking {
    to: PathBuf,
    arriving: Result<Arriving>,
    /// The directory that it is for. It goes after what lies in it, and so comes after that here.
    _made: Option<Made>,
    said: Vec<Item>,
    /// Bytes of both streams.
    seen: (u64, u64),
}

impl Taking {
    fn of(landing: &Landing<'_>, node: &Name) -> Self {
        let dir = landing.place.join(node.as_str());
        let to = dir.join(landing.name);
        let (arriving, made) = match make(&dir) {
            Ok(made) => (Arriving::beside(&to, &landing.job, landing.max_bytes), Some(made)),
            Err(failure) => (Err(failure), None),
        };
        Self {
            to,
            arriving,
            _made: made,
            said: Vec::new(),
            seen: (0, 0),
        }
    }

    fn item(&mut self, item: Item) {
        let Item::Output {
            stream,
            at,
            ref bytes,
            ..
        } = item
        else {
            return;
        };
        let end = at + bytes.len() as u64;
        match stream {
            Stream::Stdout => {
                self.seen.0 = end;
                let taken = match &mut self.arriving {
                    Ok(arriving) => arriving.take(at, bytes.clone()),
                    Err(_) => Ok(()),
                };
                if let Err(e) = taken {
                    // All of it is read all the same: only then it is known whether the node did its part.
                    let to = self.to.display();
                    self.arriving = Err(Failure::new(format!("could not write {to}")).because(&e));
                }
            }
            Stream::Stderr => {
                self.seen.1 = end;
                if end <= SAID as u64 {
                    self.said.push(item);
                }
            }
        }
    }

    /// Gives what has come, and was verified, its name.
    fn settle(self, whole: bool) -> Result<Brought> {
        let arriving = self.arriving?;
        if !whole {
            return Err(
                Failure::new("not all of it came, though the node has signed for it")
                    .hint("`lictor logs ID` says what the hub still has; then ask for it again."),
            );
        }
        arriving.judged(true);
        let unpacked: Unpacked = arriving.settle(&self.to)?;
        let to = self.to;
        Ok(Brought { to, unpacked })
    }
}
