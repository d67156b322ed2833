//! A container made by an OCI runtime and held by its first process.

use std::ffi::CString;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::SealFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use crate::backend::StartError;
use crate::handle::ProcessId;
use crate::linux::copy;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Config, Dialect, INIT, Ids, View};
use crate::linux::process;
use crate::linux::spawn::{self, Launch, LaunchFile};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::zygote::Zygote;
use crate::program::FileIdentity;

/// Where runtimes lie, unless the configuration says so.
const USUAL: [&str; 2] = ["/usr/sbin/runc", "/usr/bin/runc"];
/// Most of what a runtime says that is repeated.
const MOST_WORDS: u64 = 2048;
/// The first process, as the runtime finds it: the descriptor after standard error. No file, so nobody can write to it.
const FIRST: &str = "/proc/self/fd/3";

/// The runtime to use.
pub(super) fn runtime(kernel: &Kernel) -> Option<PathBuf> {
    match &kernel.config.oci_runtime {
        Some(path) => path.is_file().then(|| path.clone()),
        None => USUAL.map(PathBuf::from).into_iter().find(|p| p.is_file()),
    }
}

/// A container that waits for a program.
pub(super) struct Made {
    zygote: Arc<Zygote>,
    /// Has nobody but the first process.
    keeper: Option<Keeper>,
    pub(super) init: ProcessId,
    pub(super) init_fd: OwnedFd,
    bundle: Bundle,
    /// What the first process waits at.
    _hold: OwnedFd,
}

/// The agent's ends of what the runtime was given.
struct Ends {
    /// What is said on standard error; closed by the first process when it runs.
    words: OwnedFd,
    hold: OwnedFd,
}

impl Made {
    /// Has it made, and waits until its first process waits.
    pub(super) async fn make(kernel: &Kernel, ids: Ids, view: &View) -> Result<Self, StartError> {
        let place = kernel
            .place()
            .map_err(StartError::failed("make the runtime's directory"))?;
        let bundle = place.bundle().map_err(StartError::failed("make a bundle"))?;
        let made = Self::start(kernel, &bundle, (ids, view)).await;
        match made {
            Ok((keeper, hold, init, init_fd)) => Ok(Self {
                zygote: kernel.zygote.clone(),
                keeper: Some(keeper),
                init,
                init_fd,
                bundle,
                _hold: hold,
            }),
            Err(e) => {
                if let Err(error) = bundle.remove() {
                    tracing::warn!(%error, "a bundle that was not used stays");
                }
                Err(e)
            }
        }
    }

    async fn start(
        kernel: &Kernel,
        bundle: &Bundle,
        (ids, view): (Ids, &View),
    ) -> Result<(Keeper, OwnedFd, ProcessId, OwnedFd), StartError> {
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
        let (mut keeper, ends) = run(kernel, bundle).await?;
        let bound = Timer::after(kernel.zygote.bound);
        let late = || StartError::failed("make the container")(io::ErrorKind::TimedOut.into());
        let found = tokio::select! {
            found = first_process(&mut keeper, ends.words) => found
                .and_then(|found| view.is_shown_by(found.0).map(|()| found))
                .map_err(StartError::failed("make the container")),
            () = expiry(&bound) => Err(late()),
        };
        match found {
            Ok((init, init_fd)) => Ok((keeper, ends.hold, init, init_fd)),
            Err(e) => {
                drop(ends.hold);
                if let Err(error) = keeper.end_all(kernel.zygote.kill_bound()).await {
                    tracing::error!(%error, "a container that could not be made is left");
                }
                kernel.zygote.give_back(keeper);
                Err(e)
            }
        }
    }

    /// Ends it and everything in it.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        let killed = process::signal(self.init, Signal::KILL);
        if let Some(keeper) = &mut self.keeper {
            keeper.end_all(self.zygote.kill_bound()).await?;
        }
        if let Some(keeper) = self.keeper.take() {
            self.zygote.give_back(keeper);
        }
        killed.and(self.bundle.remove())
    }
}

impl Drop for Made {
    /// What was not taken down in order is ended all the same; its files are taken away by the next agent.
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = process::signal(self.init, Signal::KILL);
        }
    }
}

/// Starts the runtime.
async fn run(kernel: &Kernel, bundle: &Bundle) -> Result<(Keeper, Ends), StartError> {
    let failed = StartError::failed;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe")(e.into()));
    let ((words, said), (held, hold)) = (pipe()?, pipe()?);
    let init = init().map_err(failed("make a memory file"))?;
    let inherit = vec![held.as_fd(), said.as_fd(), said.as_fd(), init.as_fd()];
    let launch = launch(kernel, bundle, inherit).map_err(failed("name the runtime"))?;
    let spawned = spawn::spawn(&kernel.zygote, &launch).await?;
    Ok((spawned.keeper, Ends { words, hold }))
}

fn launch<'a>(kernel: &Kernel, bundle: &Bundle, inherit: Vec<BorrowedFd<'a>>) -> io::Result<Launch<'a>> {
    let runtime = runtime(kernel).ok_or(io::ErrorKind::NotFound)?;
    let (state, dir) = (bundle.state(), bundle.dir());
    let words: [&std::ffi::OsStr; 13] = [
        runtime.as_os_str(),
        "--root".as_ref(),
        state.as_os_str(),
        // Cgroups cannot be written to, so it goes without: what limits a job are its own.
        "--rootless".as_ref(),
        "true".as_ref(),
        "run".as_ref(),
        "--detach".as_ref(),
        // They are counted for each user, and root in all containers is the same one.
        "--no-new-keyring".as_ref(),
        "--preserve-fds".as_ref(),
        "1".as_ref(),
        "--bundle".as_ref(),
        dir.as_os_str(),
        bundle.id().as_ref(),
    ];
    let argv: Vec<_> = words
        .iter()
        .map(|w| CString::new(w.as_encoded_bytes()))
        .collect::<Result<_, _>>()?;
    Ok(Launch {
        files: vec![LaunchFile {
            path: argv.first().cloned().unwrap_or_default(),
            identity: FileIdentity::NONE,
            held_at: None,
            copy: None,
        }],
        argv,
        rlimits: vec![(libc::RLIMIT_CORE, 0, 0)],
        // It would make some that nobody needs, leave them behind when it is killed, and switch on controllers all the
        // way up.
        cgroups_read_only: true,
        inherit,
        ..Launch::of_a_helper()
    })
}

/// Our first process as a file that nobody can change.
fn init() -> io::Result<OwnedFd> {
    let program = INIT.ok_or(io::ErrorKind::Unsupported)?;
    let mut file = copy::memory("lictor-init")?;
    file.write_all(program)?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Waits for the runtime's end and for the first process: it runs when nobody holds standard error any more.
async fn first_process(keeper: &mut Keeper, words: OwnedFd) -> io::Result<(ProcessId, OwnedFd)> {
    let mut said = Vec::new();
    let words = pipe::Receiver::from_owned_fd(words)?;
    words.take(MOST_WORDS).read_to_end(&mut said).await?;
    // The runtime has ended, and has left nobody but the first process.
    keeper.next().await?;
    let children = process::children(keeper.id.pid);
    let init = children.first().copied().and_then(process::identify);
    let (Some(init), false) = (init, keeper.is_free()) else {
        let said = String::from_utf8_lossy(&said);
        let text = said.trim().chars().filter(|c| !c.is_control());
        return Err(io::Error::other(text.collect::<String>()));
    };
    let init_fd = process::open(init)?;
    Ok((init, init_fd))
}
