//! A file of this machine to nodes.

use std::fs::File;
use std::io::{self, Read as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use lictor_client::files::Hash;
use lictor_client::{Hub, JobOptions, SignedDoc, Signer, TrustStore};
use lictor_proto::api::RolloutPlan;
use lictor_proto::doc::Fetch;
use lictor_proto::{Code, Digest, limits};
use lictor_trust::SecretKey;

use crate::args::Copy;
use crate::commands::choice::{self, Choice};
use crate::commands::rollout;
use crate::commands::run::{self, How, Submitted, until};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

use super::{distinct, is_ok, name_of, worst};

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// Every file by a job of its own, one after the other.
pub(super) async fn run(
    session: &Session,
    args: &Copy,
    files: &[PathBuf],
    (targets, path): (&str, String),
) -> Result {
    if files.len() > 1 && !path.ends_with('/') {
        return Err(Failure::new("several files go into a directory")
            .hint("Write it with a `/` at its end, as in `lictor cp a b web-1:/srv/app/`."));
    }
    let places: Vec<String> = files.iter().map(|file| destination(path.clone(), file)).collect();
    distinct(places.iter().map(|place| name_of(place)))?;
    let contents = files.iter().map(|file| Content::of(file));
    let contents = contents.collect::<Result<Vec<_>>>()?;
    let copying = match Copying::to(session, args, targets).await? {
        ControlFlow::Continue(copying) => copying,
        ControlFlow::Break(shown) => return Ok(shown),
    };
    let mut status = Status::OK;
    for (content, to) in contents.iter().zip(places) {
        status = worst(status, copying.file(content, to).await?);
        // A rollout that stopped stops the files behind it as well.
        if copying.plan.is_some() && !is_ok(status) {
            break;
        }
    }
    Ok(status)
}

/// What holds for every file.
pub(super) struct Copying<'a> {
    session: &'a Session,
    args: &'a Copy,
    hub: Hub,
    store: TrustStore,
    choice: Choice,
    plan: Option<RolloutPlan>,
    after: Vec<Digest>,
    key: SecretKey,
}

impl<'a> Copying<'a> {
    /// The nodes that are meant, shown and asked about. With `--dry-run` that is all.
    pub(super) async fn to(
        session: &'a Session,
        args: &'a Copy,
        targets: &str,
    ) -> Result<ControlFlow<Status, Self>> {
        let hub = session.hub()?;
        let mut store = session.fresh_trust(&hub).await?;
        let targets = args.targets(targets)?;
        let mut choice = choice::nodes(session, &mut store, &hub, &targets).await?;
        let plan = rollout::plan(&args.spread, &targets.targets, &mut choice);
        if args.dry_run {
            let shown = choice.preview(session, &hub, plan.as_ref()).await?;
            return Ok(ControlFlow::Break(shown));
        }
        choice.agreed(session, args.yes)?;
        let after = run::former(session, &hub, &mut store, &args.after).await?;
        Ok(ControlFlow::Continue(Self {
            session,
            args,
            hub,
            store,
            choice,
            plan,
            after,
            key: session.key(args.key.as_ref())?,
        }))
    }

    async fn file(&self, content: &Content<'_>, to: String) -> Result {
        let (sha256, size) = (content.sha256, content.size);
        if size > 0 {
            let sending = format!("sending {size} bytes to the hub");
            self.session.out.progress(sending);
        }
        let again = content.pieces()?;
        self.hub
            .put_file(&sha256, size, again)
            .await
            .map_err(|e| failed("send the file to the hub", &e))?;
        self.submit(self.fetch(to, (sha256, size), &content.mode)).await
    }

    /// Submits a job and follows it to its end.
    pub(super) async fn submit(&self, fetch: Fetch) -> Result {
        let job = self.sign(fetch)?;
        let submitted = Submitted {
            session: self.session,
            hub: &self.hub,
            store: &self.store,
            key: &self.key,
            nodes: &self.choice.nodes,
            job: job.digest,
        };
        let how = How {
            plan: self.plan.clone(),
            detach: self.args.detach,
            until: until(self.args.wait),
        };
        submitted.send(&job, how).await
    }

    /// A file of these bytes, as it was asked for.
    pub(super) fn fetch(&self, to: String, (sha256, size): (Digest, u64), mode: &str) -> Fetch {
        let args = self.args;
        Fetch {
            to,
            url: None,
            sha256,
            size,
            mode: args.mode.clone().unwrap_or_else(|| mode.to_owned()),
            owner: args.owner.as_ref().and_then(|o| o.user.clone()),
            group: args.owner.as_ref().and_then(|o| o.group.clone()),
            replace: args.replace,
            timeout_ms: args.timeout_ms(),
            sandbox: args.sandbox.clone(),
        }
    }

    fn sign(&self, fetch: Fetch) -> Result<SignedDoc> {
        let args = self.args;
        let alone = super::valid(args, fetch.size, &self.store)?;
        let valid = rollout::valid(args.valid, alone, &args.spread, &self.store)?;
        let options = JobOptions {
            after: self.after.clone(),
            ..self.choice.job(&args.profile, valid, &args.reason)
        };
        Signer::new(self.store.trust(), &self.session.config.operator, &self.key)
            .job(fetch, options)
            .map_err(|r| Failure::refused("could not sign the job", &r))
    }
}

fn destination(path: String, file: &Path) -> String {
    let name = file.file_name().map(|name| name.to_string_lossy());
    named(path, name.as_deref())
}

/// A path that ends with `/` is a directory, in which the file has the name that it has where it comes from.
pub(super) fn named(path: String, name: Option<&str>) -> String {
    match (path.strip_suffix('/'), name) {
        (Some(dir), Some(name)) => format!("{dir}/{name}"),
        _ => path,
    }
}

/// A file to be sent.
struct Content<'a> {
    path: &'a Path,
    sha256: Digest,
    size: u64,
    /// Its permission bits here.
    mode: String,
}

impl<'a> Content<'a> {
    fn of(path: &'a Path) -> Result<Self> {
        let doing = || format!("read {}", path.display());
        let file = File::open(path).doing(doing())?;
        let meta = file.metadata().doing(doing())?;
        if !meta.is_file() {
            return Err(Failure::new(format!("{} is no file", path.display()))
                .hint("A directory is sent as an archive: tar it, copy it, and unpack it by a job."));
        }
        let mut hash = Hash::default();
        let mut size = 0;
        for piece in Pieces(file) {
            let piece = piece.doing(doing())?;
            size += piece.len() as u64;
            hash.update(&piece);
        }
        if size > limits::ARTIFACT {
            return Err(Failure::new(format!("{} is over 4 GiB", path.display())).code(Code::LimitExceeded));
        }
        Ok(Self {
            path,
            sha256: hash.finish(),
            size,
            mode: mode_of(&meta),
        })
    }

    fn pieces(&self) -> Result<Pieces> {
        let file = File::open(self.path).doing(format!("read {}", self.path.display()))?;
        Ok(Pieces(file))
    }
}

#[cfg(unix)]
fn mode_of(meta: &std::fs::Metadata) -> String {
    use std::os::unix::fs::MetadataExt as _;
    format!("{:04o}", meta.mode() & 0o777)
}

#[cfg(not(unix))]
fn mode_of(_: &std::fs::Metadata) -> String {
    "0644".to_owned()
}

/// A file piece by piece.
struct Pieces(File);

impl Iterator for Pieces {
    type Item = io::Result<Bytes>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut piece = Vec::with_capacity(PIECE);
        match (&mut self.0).take(PIECE as u64).read_to_end(&mut piece) {
            Ok(0) => None,
            Ok(_) => Some(Ok(piece.into())),
            Err(e) => Some(Err(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::destination;

    #[test]
    fn a_directory_takes_the_file_under_its_own_name() {
        let of = |path: &str| destination(path.to_owned(), Path::new("./here/app.conf"));
        assert_eq!(of("/srv/"), "/srv/app.conf");
        assert_eq!(of("/"), "/app.conf");
        assert_eq!(of("/srv/other"), "/srv/other");
    }
}
