//! A set of namespaces, made by bwrap and held by it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lictor_proto::Name;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{MemfdFlags, OFlags};
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::apart;
use super::arguments::{Parts, arguments};
use crate::backend::StartError;
use crate::handle::ProcessId;
use crate::linux::covers::{Cover, Placeholder};
use crate::linux::input;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::overlay::Overlay;
use crate::linux::paths::{Layer, Paths};
use crate::linux::process;
use crate::linux::ready;
use crate::linux::shown::HOSTS;
use crate::linux::spawn::{self, Launch, LaunchFile};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::table::HostCgroups;
use crate::linux::zygote::Zygote;
use crate::plan::{LaunchSpec, UMASK};
use crate::program::{ExecBy, FileIdentity};
use crate::secret::SecretFile;

/// Between two looks at whether bwrap is done.
const LOOK_AGAIN: Duration = Duration::from_micros(100);
/// How long the mounts are waited for before the process is looked at all the same.
const MOUNTS: Duration = Duration::from_millis(100);

/// A set of namespaces, held by bwrap waiting at its block pipe.
#[derive(Debug)]
pub(super) struct Namespaces {
    zygote: Arc<Zygote>,
    keeper: Option<Keeper>,
    outer: ProcessId,
    pub(super) init: ProcessId,
    pub(super) init_fd: OwnedFd,
    /// What was made of the host's to mount something on; removed with this.
    placeholders: Vec<Placeholder>,
    /// What bwrap waits at.
    _block: OwnedFd,
}

/// The kernel's list of what is mounted inside, open: it tells of every change since, which is much cheaper than reading
/// it.
#[derive(Debug)]
pub(super) struct Mounts(File);

impl Mounts {
    pub(super) fn are_the_same(&self) -> bool {
        let changed = PollFlags::PRI;
        let mut asked = [PollFd::new(&self.0, changed)];
        let now = Timespec::default();
        rustix::event::poll(&mut asked, Some(&now)).is_ok_and(|changes| changes == 0)
    }
}

/// The agent's ends of what bwrap was given.
struct Ends {
    error: OwnedFd,
    info: OwnedFd,
    /// Its other end is closed with the last of the mounts.
    mounts: OwnedFd,
    block: OwnedFd,
}

impl Namespaces {
    /// `overlay` is the root, where the job may write to it.
    pub(super) async fn make(
        kernel: &Kernel,
        spec: &LaunchSpec,
        overlay: Option<&Overlay>,
    ) -> Result<Self, StartError> {
        let mut parts = Parts {
            user: &spec.user,
            changes_user: spec.changes_user,
            devices: &spec.devices,
            paths: open_paths(kernel, spec).await?,
            secrets: open_secrets(spec).map_err(StartError::failed("hand over a secret"))?,
            are_beside_devices: spec.has_secrets_beside_devices(),
            overlay: overlay.zip(spec.rootfs.as_deref()),
        };
        let mut made = Self::start(kernel, &parts).await?;
        made.placeholders = std::mem::take(&mut parts.paths.covers.placeholders);
        Ok(made)
    }

    /// Starts bwrap and waits until it has set everything up and dropped all privileges.
    pub(super) async fn start(kernel: &Kernel, parts: &Parts<'_>) -> Result<Self, StartError> {
        let (mut ends, keeper, main) = start_bwrap(kernel, parts).await?;
        let mut keeper = keeper;
        let outer = process::identify(main);
        let Some(outer) = outer else {
            return Err(broken(&mut ends.error).unwrap_or_else(ended_early));
        };
        let bound = Timer::after(kernel.zygote.bound);
        let found = tokio::select! {
            // A first process that has ended says why; bwrap itself would go on waiting for it.
            found = wait_until_ready(outer, parts.user.uid, ends.info, ends.mounts) => {
                found.map_err(|own| broken(&mut ends.error).unwrap_or(own))
            }
            // bwrap ends by itself only when something failed.
            _ = keeper.next() => Err(broken(&mut ends.error).unwrap_or_else(ended_early)),
            () = expiry(&bound) => Err(StartError::failed("set the sandbox up")(io::ErrorKind::TimedOut.into())),
        };
        let found = match found {
            Ok(found) if parts.changes_user => set_apart(parts, found).await,
            found => found,
        };
        match found {
            Ok((init, init_fd)) => Ok(Self {
                zygote: kernel.zygote.clone(),
                keeper: Some(keeper),
                outer,
                init,
                init_fd,
                placeholders: Vec::new(),
                _block: ends.block,
            }),
            Err(e) => {
                drop(ends.block);
                if let Err(error) = keeper.end_all(kernel.zygote.kill_bound()).await {
                    tracing::error!(%error, "a sandbox that could not be set up is left");
                }
                kernel.zygote.give_back(keeper);
                Err(e)
            }
        }
    }

    /// What tells whether anything was mounted inside, or taken away, since now.
    pub(super) fn mounts(&self) -> io::Result<Mounts> {
        File::open(format!("/proc/{}/mountinfo", self.init.pid)).map(Mounts)
    }

    /// Whether it stands, and would end with its agent.
    pub(super) fn is_whole(&self) -> bool {
        process::is_alive(self.init) && process::is_alive(self.outer)
    }

    /// What holds the box, for the handle.
    pub(super) fn roots(&self) -> Vec<ProcessId> {
        vec![self.init, self.outer]
    }

    /// Ends it and everything in it.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        // Everything else in the box goes with its first process.
        let killed = process::signal(self.init, Signal::KILL);
        if let Some(keeper) = &mut self.keeper {
            keeper.end_all(self.zygote.kill_bound()).await?;
        }
        if let Some(keeper) = self.keeper.take() {
            self.zygote.give_back(keeper);
        }
        killed
    }
}

impl Drop for Namespaces {
    /// What was not taken down in order is ended all the same: bwrap, which ignores the end of its children so that
    /// they leave no zombies, would wait for ever.
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = process::signal(self.init, Signal::KILL);
            let _ = process::signal(self.outer, Signal::KILL);
        }
    }
}

/// The last of what a root agent does before anything of a job runs.
async fn set_apart(
    parts: &Parts<'_>,
    (init, init_fd): (ProcessId, OwnedFd),
) -> Result<(ProcessId, OwnedFd), StartError> {
    let cut_off = apart::cut_off(&init_fd).await;
    let whole = cut_off.and_then(|()| apart::look(init, parts));
    whole.map_err(StartError::failed("keep the host's mounts out"))?;
    Ok((init, init_fd))
}

/// Opens what is shown. A file system that does not answer holds up a thread of its own, and nobody else.
async fn open_paths(kernel: &Kernel, spec: &LaunchSpec) -> Result<Paths, StartError> {
    let failed = || StartError::failed("show what the profile names");
    if spec.read_only.is_empty() && spec.read_write.is_empty() {
        return Paths::open(spec, &[]).map_err(failed());
    }
    let late = || failed()(io::ErrorKind::TimedOut.into());
    let bound = Timer::after(kernel.zygote.bound);
    let own = kernel.own().map_err(failed())?;
    let asked = spec.clone();
    let threads = kernel.openers.clone();
    let open = async move {
        // A thread that hangs keeps its place, so that there are never more of them than there are places.
        let place = threads.acquire_owned().await;
        let open = move || {
            let _place = place;
            Paths::open(&asked, &own)
        };
        tokio::task::spawn_blocking(open).await
    };
    tokio::select! {
        opened = open => opened.map_err(io::Error::other).flatten().map_err(failed()),
        () = expiry(&bound) => Err(late()),
    }
}

/// Each value by a description of its own, which begins at its beginning.
fn open_secrets(spec: &LaunchSpec) -> io::Result<Vec<(PathBuf, File)>> {
    let dir = spec.secret_dir();
    let open = |(name, value): &(Name, SecretFile)| {
        let path = format!("/proc/self/fd/{}", value.file.as_raw_fd());
        Ok((dir.join(name.as_str()), File::open(path)?))
    };
    spec.secret_files.iter().map(open).collect()
}

async fn start_bwrap(kernel: &Kernel, parts: &Parts<'_>) -> Result<(Ends, Keeper, u32), StartError> {
    let io = StartError::failed;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| io("make a pipe")(e.into()));
    let ((error, error_in), (info, info_in), (block_out, block)) = (pipe()?, pipe()?, pipe()?);
    let data = |bytes: &[u8]| memory_file(bytes).map_err(io("make a memory file"));
    let (mounts, hosts) = file_to_read(HOSTS).map_err(io("make a socket"))?;
    let [passwd, group] = &parts.paths.users;
    let files = [data(passwd)?, data(group)?, hosts];
    let arguments = data(&arguments(parts))?;
    let null = input::null().map_err(io("open /dev/null"))?;
    let mut inherit = vec![null.as_fd(), null.as_fd(), error_in.as_fd()];
    inherit.extend([arguments.as_fd(), info_in.as_fd(), block_out.as_fd()]);
    inherit.extend(files.iter().map(AsFd::as_fd));
    inherit.extend(parts.root());
    inherit.extend(parts.secrets.iter().map(|(_, value)| value.as_fd()));
    inherit.extend(parts.paths.layers().into_iter().filter_map(|layer| match layer {
        Layer::Mount(mount) => Some(mount.from.as_fd()),
        Layer::Cover(covered) => match &covered.by {
            Cover::ReadOnly(fd) | Cover::Itself(fd) => Some(fd.as_fd()),
            Cover::Empty | Cover::Nothing => None,
        },
    }));
    let spawned = spawn::spawn(&kernel.zygote, &launch(kernel, parts, inherit)?).await?;
    let ends = Ends {
        error,
        info,
        mounts,
        block,
    };
    Ok((ends, spawned.keeper, spawned.main))
}

fn launch<'a>(
    kernel: &Kernel,
    parts: &'a Parts<'a>,
    inherit: Vec<BorrowedFd<'a>>,
) -> Result<Launch<'a>, StartError> {
    let bwrap = kernel.config.bwrap.to_string_lossy().into_owned();
    let text = |s: &str| CString::new(s).map_err(|e| StartError::failed("use a NUL byte")(e.into()));
    // There is no such program: whatever lets bwrap go on makes it end.
    let argv = ["bwrap", "--args", "3", "--", "/.lictor-end"];
    Ok(Launch {
        exec_by: ExecBy::Trusted,
        files: vec![LaunchFile {
            path: text(&bwrap)?,
            identity: FileIdentity::NONE,
            held_at: None,
            copy: None,
        }],
        argv: argv.iter().map(|a| text(a)).collect::<Result<_, _>>()?,
        env: Vec::new(),
        cwd: text("/")?,
        keeper_name: None,
        cwd_before_ids: false,
        user: parts.changes_user.then_some(parts.user),
        confine: false,
        filter: None,
        rlimits: vec![(libc::RLIMIT_CORE, 0, 0)],
        umask: UMASK,
        ids_inside: false,
        ignore_sigchld: true,
        die_with_keeper: true,
        ends_alone: false,
        takes_terminal: false,
        cgroups: HostCgroups::AsTheyAre,
        mount: parts.mount(text)?,
        inherit,
        cgroup: None,
        namespaces: None,
        mounts: None,
        users: None,
        tightened: Vec::new(),
        covers: Vec::new(),
        ruleset: None,
        gates: Vec::new(),
        listen: None,
    })
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("lictor", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// A file whose reader can be seen closing it: a socket with its content, and this side's end.
fn file_to_read(bytes: &[u8]) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::io::write(&ours, bytes)?;
    rustix::net::shutdown(&ours, Shutdown::Write)?;
    Ok((ours, theirs))
}

fn ended_early() -> StartError {
    StartError::failed("set the sandbox up")(io::Error::other("bwrap ended without a word"))
}

/// What bwrap said on its way out, if it did.
fn broken(error: &mut OwnedFd) -> Option<StartError> {
    let mut text = String::new();
    let _ = rustix::fs::fcntl_setfl(&*error, OFlags::NONBLOCK);
    if let Ok(copy) = error.try_clone() {
        let _ = File::from(copy).take(2048).read_to_string(&mut text);
    }
    let said = text
        .trim()
        .chars()
        .filter(|c| !c.is_control())
        .collect::<String>();
    let failed = StartError::failed("set the sandbox up");
    (!said.is_empty()).then(|| failed(io::Error::other(said)))
}

/// bwrap tells the pid of the namespaces' first process early on. That process is ready when it has no capability
/// left, which is the last thing it does before it waits, and belongs to its user again, without which the kernel
/// would not let anybody in. It is looked at from when it has made its mounts.
async fn wait_until_ready(
    outer: ProcessId,
    uid: u32,
    info: OwnedFd,
    mounts: OwnedFd,
) -> Result<(ProcessId, OwnedFd), StartError> {
    let read = StartError::failed;
    let (init, init_fd) = told(outer, info).await.map_err(read("read from bwrap"))?;
    let mounts = ready::watch(mounts).map_err(read("read from bwrap"))?;
    let at_last = Timer::after(MOUNTS);
    tokio::select! {
        _ = mounts.readable() => {}
        () = expiry(&at_last) => {}
    }
    while !is_ready(init, uid) {
        if process::identify(init.pid) != Some(init) {
            return Err(read("set the sandbox up")(io::ErrorKind::NotFound.into()));
        }
        expiry(&Timer::after(LOOK_AGAIN)).await;
    }
    Ok((init, init_fd))
}

/// The first process, as bwrap tells it; waits for ever when bwrap ends without telling.
async fn told(outer: ProcessId, info: OwnedFd) -> io::Result<(ProcessId, OwnedFd)> {
    rustix::fs::fcntl_setfl(&info, OFlags::NONBLOCK)?;
    let info = ready::watch(info)?;
    let mut text = String::new();
    loop {
        let mut bytes = [0; 512];
        match rustix::io::read(info.get_ref(), &mut bytes) {
            Ok(0) => std::future::pending().await,
            Ok(n) => text.push_str(&String::from_utf8_lossy(&bytes[..n])),
            Err(rustix::io::Errno::AGAIN) => info.readable().await?.clear_ready(),
            Err(e) => return Err(e.into()),
        }
        // To its end: a pipe that is closed too early would kill bwrap.
        if text.contains('}')
            && let Some(pid) = child_pid(&text)
        {
            return child_of(outer, pid).ok_or_else(|| io::ErrorKind::NotFound.into());
        }
    }
}

fn child_pid(text: &str) -> Option<u32> {
    let after = text.split_once("\"child-pid\":")?.1.trim_start();
    let end = after.find(|c: char| !c.is_ascii_digit())?;
    after[..end].parse().ok()
}

fn child_of(parent: ProcessId, pid: u32) -> Option<(ProcessId, OwnedFd)> {
    let child = process::identify(pid)?;
    let fd = process::open(child).ok()?;
    (process::stat(pid)?.parent == parent.pid).then_some((child, fd))
}

fn is_ready(init: ProcessId, uid: u32) -> bool {
    let path = format!("/proc/{}/status", init.pid);
    let status = std::fs::read_to_string(&path).unwrap_or_default();
    let powerless = status.lines().any(|l| {
        l.strip_prefix("CapPrm:")
            .is_some_and(|v| v.trim() == "0000000000000000")
    });
    powerless && std::fs::metadata(Path::new(&path)).is_ok_and(|m| m.uid() == uid)
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_the_pid_that_bwrap_tells() {
        assert_eq!(super::child_pid("{\n    \"child-pid\": 4711,\n"), Some(4711));
        assert_eq!(super::child_pid("{\n    \"child-pid\": 47"), None);
    }
}
