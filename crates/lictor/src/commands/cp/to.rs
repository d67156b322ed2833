//! A file of this machine to nodes.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use bytes::Bytes;
use lictor_client::files::Hash;
use lictor_client::{Error, Expected, JobOptions, Signer};
use lictor_proto::doc::{Fetch, Stdin};
use lictor_proto::{Code, Digest, limits};

use crate::args::{Copy, Targets};
use crate::commands::choice;
use crate::commands::fleet::{FleetUntil, FleetWatch};
use crate::commands::watch::{Shows, Until, Watch};
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

pub(super) async fn run(
    session: &Session,
    args: &Copy,
    file: &Path,
    (targets, path): (&str, String),
) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let choice = choice::nodes(session, &mut store, &hub, &Targets::of(targets)?).await?;
    choice.agreed(session, args.yes)?;
    let key = session.key(args.key.as_ref())?;
    let content = Content::of(file)?;
    let (sha256, size) = (content.sha256, content.size);
    if size > 0 {
        session.out.progress(format!("sending {size} bytes to the hub"));
    }
    let again = content.pieces()?;
    hub.put_file(&sha256, size, again)
        .await
        .map_err(|e| failed("send the file to the hub", &e))?;
    let fetch = Fetch {
        to: destination(path, file),
        sha256,
        size,
        mode: args.mode.clone().unwrap_or_else(|| content.mode.clone()),
        owner: args.owner.as_ref().and_then(|o| o.user.clone()),
        group: args.owner.as_ref().and_then(|o| o.group.clone()),
        replace: args.replace,
        timeout_ms: args.timeout_ms(),
        sandbox: args.sandbox.clone(),
    };
    let options = JobOptions {
        nodes: choice.nodes.iter().map(|n| n.id().clone()).collect(),
        profile: args.profile.clone(),
        stdin: Stdin::NONE,
        reason: args.reason.clone(),
        valid: super::valid(args, size, &store)?,
        retry_of: None,
        expect: choice.expect.clone(),
        secrets: Vec::new(),
    };
    let job = Signer::new(store.trust(), &session.config.operator, &key)
        .job(fetch, options)
        .map_err(|r| Failure::refused("could not sign the job", &r))?;
    let stream = hub.submit_attached(&job.wire).await.map_err(|e| match e {
        Error::Refused(r) if r.code == Code::StdinMissing => {
            Failure::refused("the hub has lost the file that it was sent", &r)
        }
        e => failed("submit the job", &e),
    })?;
    let canceler = Some((&session.config.operator, &key));
    if let [node] = choice.nodes.as_slice() {
        let watch = Watch {
            session,
            hub: &hub,
            expected: Expected {
                trust: store.trust(),
                node,
                job: job.digest,
            },
            canceler,
            until: Until::End,
            shows: Shows::Output,
            into: None,
        };
        return watch.run(stream).await;
    }
    let watch = FleetWatch {
        session,
        hub: &hub,
        trust: store.trust(),
        nodes: &choice.nodes,
        job: job.digest,
        canceler,
        until: FleetUntil::Present,
    };
    watch.run(stream).await
}

/// A path that ends with `/` is a directory, in which the file has the name that it has here.
fn destination(path: String, file: &Path) -> String {
    match (path.strip_suffix('/'), file.file_name()) {
        (Some(dir), Some(name)) => format!("{dir}/{}", name.to_string_lossy()),
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
