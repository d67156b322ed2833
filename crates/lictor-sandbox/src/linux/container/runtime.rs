//! Containers made by a plain OCI runtime: called once, `run --detach`, and never again.
//!
//! ```text
//!   keeper -> runc run --detach (root, empty environment, mounts of its own in which no cgroup can be made)
//!     '--> the first process, when the runtime has ended
//! ```

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::pipe::PipeFlags;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::first::{self, By, First};
use crate::backend::StartError;
use crate::engine::ContainerEngine;
use crate::handle::ProcessId;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Config, Dialect, Ids, View};
use crate::linux::spawn::{self, Launch, LaunchFile};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::table::HostCgroups;
use crate::program::FileIdentity;

/// Most of what a runtime says that is repeated.
const MOST_WORDS: u64 = 2048;
/// The first process, as the runtime finds it: the descriptor after standard error. No file, so nobody can write to it.
const FIRST: &str = "/proc/self/fd/3";

/// Which program it is: their words differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Runc,
    Crun,
}

impl Kind {
    /// The name that it goes by.
    pub(super) const fn engine(self) -> ContainerEngine {
        match self {
            Self::Runc => ContainerEngine::Runc,
            Self::Crun => ContainerEngine::Crun,
        }
    }
}

/// An OCI runtime of this host.
#[derive(Debug, Clone)]
pub(crate) struct Runtime {
    pub(super) kind: Kind,
    pub(super) path: PathBuf,
}

impl Runtime {
    /// Has a container made, and waits until its first process waits.
    pub(super) async fn start(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        (ids, view): (Ids, &View),
    ) -> Result<First, StartError> {
        let config = Config {
            ids,
            first: &[FIRST.to_owned()],
            privileges: &[],
            hides: &[],
            dialect: Dialect::Runc,
        };
        bundle
            .fill(view, &config)
            .map_err(StartError::failed("write the bundle"))?;
        let program = first::program().map_err(StartError::failed("make a memory file"))?;
        let (mut keeper, words, hold) = self.run(kernel, bundle, (&program, view.stage())).await?;
        let bound = Timer::after(kernel.zygote.bound);
        let found = tokio::select! {
            found = first_process(&mut keeper, words, &program) => found,
            () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
        };
        match found {
            Ok((id, fd)) => Ok(First {
                id,
                fd,
                _hold: hold,
                keeper: Some(keeper),
                by: By::Runtime,
            }),
            Err(e) => {
                drop(hold);
                first::give_up(kernel, keeper).await;
                Err(StartError::failed("make the container")(e))
            }
        }
    }

    /// Starts the runtime: who looks after it, where it complains, and what the first process waits at.
    async fn run(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        (program, mounts): (&OwnedFd, Option<BorrowedFd<'_>>),
    ) -> Result<(Keeper, OwnedFd, OwnedFd), StartError> {
        let failed = StartError::failed;
        let pipe =
            || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe")(e.into()));
        let ((words, said), (held, hold)) = (pipe()?, pipe()?);
        let inherit = vec![held.as_fd(), said.as_fd(), said.as_fd(), program.as_fd()];
        let launch = Launch {
            mounts,
            ..self.launch(bundle, inherit).map_err(failed("name the runtime"))?
        };
        let spawned = spawn::spawn(&kernel.zygote, &launch).await?;
        Ok((spawned.keeper, words, hold))
    }

    fn launch<'a>(&self, bundle: &Bundle, inherit: Vec<BorrowedFd<'a>>) -> io::Result<Launch<'a>> {
        let argv = argv(self.kind, &self.path, bundle)?;
        Ok(Launch {
            files: vec![LaunchFile {
                path: argv.first().cloned().unwrap_or_default(),
                identity: FileIdentity::NONE,
                held_at: None,
                copy: None,
            }],
            argv,
            rlimits: vec![(libc::RLIMIT_CORE, 0, 0)],
            // It would make some that nobody needs, leave them behind when it is killed, and switch on controllers all
            // the way up.
            cgroups: match self.kind {
                Kind::Runc => HostCgroups::ReadOnly,
                // It refuses to work where both versions are mounted, whether it is to use them or not.
                Kind::Crun => HostCgroups::Hidden,
            },
            inherit,
            ..Launch::of_a_helper()
        })
    }
}

fn argv(kind: Kind, path: &Path, bundle: &Bundle) -> io::Result<Vec<CString>> {
    let (state, dir) = (bundle.state(), bundle.dir());
    let mut words: Vec<&OsStr> = vec![path.as_os_str(), "--root".as_ref(), state.as_os_str()];
    // Cgroups cannot be written to, so it goes without: what limits a job are its own.
    words.extend(match kind {
        Kind::Runc => ["--rootless", "true"].map(OsStr::new),
        Kind::Crun => ["--cgroup-manager", "disabled"].map(OsStr::new),
    });
    words.extend(["run", "--detach"].map(OsStr::new));
    // They are counted for each user, and root in all containers is the same one.
    words.push("--no-new-keyring".as_ref());
    words.extend(["--preserve-fds", "1", "--bundle"].map(OsStr::new));
    words.extend([dir.as_os_str(), bundle.id().as_ref()]);
    let words = words.iter().map(|w| CString::new(w.as_encoded_bytes()));
    Ok(words.collect::<Result<_, _>>()?)
}

/// Waits for the runtime's end and for the first process: it runs when nobody holds standard error any more.
async fn first_process(
    keeper: &mut Keeper,
    words: OwnedFd,
    program: &OwnedFd,
) -> io::Result<(ProcessId, OwnedFd)> {
    let mut said = Vec::new();
    let words = pipe::Receiver::from_owned_fd(words)?;
    words.take(MOST_WORDS).read_to_end(&mut said).await?;
    // The runtime has ended, and has left the first process.
    keeper.next().await?;
    first::below(keeper, program)?.ok_or_else(|| io::Error::other(first::legible(&said)))
}
