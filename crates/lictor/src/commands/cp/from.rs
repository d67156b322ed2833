//! A file or a directory of a node to this machine.
//!
//! # Invariants
//! - Nothing is at its place here before the receipt and all of what it signs has been verified.

use std::fs;
use std::path::{Path, PathBuf};

use lictor_client::{Hub, JobOptions, SignedDoc, Signer, TrustStore};
use lictor_proto::doc::Collect;
use lictor_trust::SecretKey;

use super::arriving::Arriving;
use super::{distinct, is_ok, name_of, several, worst};
use crate::args::{Copy, Targets};
use crate::commands::bring::Asked;
use crate::commands::choice::{self, Choice};
use crate::commands::fleet::{Brought, told};
use crate::commands::run;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// What is brought: from whom, and by which path there.
pub(super) struct Source {
    pub(super) targets: Targets,
    pub(super) path: String,
}

impl Source {
    /// Whether the words mean one node whatever nodes there are.
    fn is_of_one(&self) -> bool {
        matches!(self.targets.targets.as_slice(), [only] if only.exact().is_some())
    }
}

/// Every source by a job of its own, one after the other.
pub(super) async fn run(session: &Session, args: &Copy, sources: &[Source], place: &Path) -> Result {
    let several = sources.iter().any(|source| !source.is_of_one());
    if sources.len() > 1 && !several && !place.is_dir() {
        return Err(Failure::new(format!("{} is no directory", place.display()))
            .hint("Several files go into a directory, which has to be there."));
    }
    distinct(sources.iter().map(|source| name_of(&source.path)))?;
    if several {
        several::is_place(place)?;
    }
    let files = sources.iter().filter(|source| source.is_of_one());
    let files: Vec<&str> = files.map(|source| name_of(&source.path)).collect();
    let mut places = Vec::with_capacity(sources.len());
    for source in sources {
        places.push(match source.is_of_one() {
            // Beside those of several nodes it goes into the same directory.
            true if several => vacant_at(place.join(name_of(&source.path)))?,
            true => vacant(place, name_of(&source.path))?,
            false => place.to_owned(),
        });
    }
    let mut status = Status::OK;
    for (source, to) in sources.iter().zip(places) {
        let copied = match source.is_of_one() {
            true if several && !args.dry_run => {
                let _made = several::make(place)?;
                bring(session, args, source, vacant_at(to)?).await
            }
            true => bring(session, args, source, to).await,
            false => several::run(session, args, source, (&to, &files)).await,
        };
        status = worst(status, copied?);
    }
    Ok(status)
}

/// What is asked, and of whom.
pub(super) struct Asking {
    pub(super) hub: Hub,
    pub(super) store: TrustStore,
    pub(super) choice: Choice,
}

impl Asking {
    pub(super) async fn of(session: &Session, source: &Source) -> Result<Self> {
        let hub = session.hub()?;
        let mut store = session.fresh_trust(&hub).await?;
        let choice = choice::nodes(session, &mut store, &hub, &source.targets).await?;
        Ok(Self { hub, store, choice })
    }

    pub(super) async fn sign(
        &mut self,
        session: &Session,
        args: &Copy,
        (key, path): (&SecretKey, &str),
    ) -> Result<SignedDoc> {
        let collect = Collect {
            timeout_ms: args.timeout_ms(),
            sandbox: args.sandbox.clone(),
            ..Collect::new(path.to_owned(), args.max_bytes)
        };
        let after = run::former(session, &self.hub, &mut self.store, &args.after).await?;
        let valid = super::valid(args, 0, &self.store)?;
        let options = JobOptions {
            after,
            ..self.choice.job(&args.profile, valid, &args.reason)
        };
        Signer::new(self.store.trust(), &session.config.operator, key)
            .job(collect, options)
            .map_err(|r| Failure::refused("could not sign the job", &r))
    }
}

async fn bring(session: &Session, args: &Copy, source: &Source, to: PathBuf) -> Result {
    let mut asking = Asking::of(session, source).await?;
    if args.dry_run {
        return asking.choice.preview(session, &asking.hub, None).await;
    }
    let key = session.key(args.key.as_ref())?;
    let job = asking.sign(session, args, (&key, &source.path)).await?;
    let [node] = asking.choice.nodes.as_slice() else {
        return Err(Failure::new("one name means several nodes"));
    };
    let arriving = Arriving::beside(&to, &job.job_id(), args.max_bytes)?;
    let asked = Asked {
        session,
        hub: &asking.hub,
        store: &asking.store,
        node,
        key: &key,
    };
    let status = asked.bring(&job, &arriving).await?;
    if !is_ok(status) {
        return Ok(status);
    }
    let unpacked = arriving.settle(&to)?;
    let brought = Brought { to, unpacked };
    if session.out.is_json() {
        session.out.object(&told::event(&brought))?;
    } else {
        told::note(session.out, None, &brought);
    }
    Ok(Status::OK)
}

/// Where it goes: into a directory that is there, or to a name that is not.
fn vacant(place: &Path, name: &str) -> Result<PathBuf> {
    vacant_at(if place.is_dir() {
        place.join(name)
    } else {
        place.to_owned()
    })
}

/// A place at which nothing is.
pub(super) fn vacant_at(to: PathBuf) -> Result<PathBuf> {
    if fs::symlink_metadata(&to).is_ok() {
        return Err(Failure::new(format!("{} is there already", to.display()))
            .hint("Nothing is overwritten here; move it away, or name another place."));
    }
    Ok(to)
}
