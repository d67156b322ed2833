//! The `bubblewrap` backend: namespaces made by `bwrap`, the program put into them by our own spawn.
//!
//! ```text
//!   create: zygote -> keeper -> bwrap (unprivileged uid, empty environment) -> first process of the namespaces,
//!           which sets everything up, drops all privileges, and waits at --block-fd
//!   exec:   zygote -> keeper -> setns(that process) -> program: no privileges, seccomp, execveat of what was judged
//!   end:    the first process is killed, and the kernel ends everything in its pid namespace
//! ```
//!
//! Why bwrap does not start the program itself: it would turn a signal into an exit status that a program can also
//! return (`exit 137`), it would look the program up by path, and limits meant for the program would hold for bwrap.
//! This way also costs one process less.
//!
//! The block pipe's other end is the agent's alone: when the agent goes, bwrap goes on, finds no program, and ends;
//! so nothing of a sandbox outlives its agent.
//!
//! # Invariants
//! - bwrap never runs as real uid 0 (it could write `/proc/sys`), and `/proc/sys` is read-only all the same.
//! - bwrap gets an empty environment and only the descriptors listed here.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lictor_proto::doc::Usage;
use lictor_trust::profiles::Backend as BackendName;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;

use super::kernel::{Inside, Job, Kernel, open_stdin};
use super::process;
use super::recover;
use super::resolve::SHOWN;
use super::spawn::{self, Launch, Spawned};
use super::supervisor::{Timer, expiry};
use super::users::{self, User};
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::handle::{Handle, ProcessId, Recovered};
use crate::plan::{LaunchSpec, Plan};
use crate::program::{ExecBy, FileIdentity};
use crate::running::{Running, StdinSource};

/// Between two looks at whether bwrap is done.
const LOOK_AGAIN: Duration = Duration::from_micros(150);
/// How long bwrap may take, on a very busy machine.
const SETUP_BOUND: Duration = Duration::from_secs(20);
/// The user inside.
const INSIDE: &str = "1000";
const PASSWD: &[u8] = b"root:x:0:0:root:/:/usr/sbin/nologin\nlictor:x:1000:1000::/workspace:/bin/sh\nnobody:x:65534:65534::/:/usr/sbin/nologin\n";
const GROUP: &[u8] = b"root:x:0:\nlictor:x:1000:\nnogroup:x:65534:\n";
const HOSTS: &[u8] = b"127.0.0.1 localhost sandbox\n::1 localhost\n";
/// What of `/etc` programs need in order to find libraries, names, certificates and each other.
const ETC: [&str; 16] = [
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/host.conf",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
];

/// Runs jobs in namespaces made by bwrap.
#[derive(Debug)]
pub(crate) struct Bubblewrap(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for Bubblewrap {
    fn name(&self) -> BackendName {
        BackendName::Bubblewrap
    }

    /// Makes a sandbox and takes it down again.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        if !self.0.config.bwrap.is_file() {
            return Err(ProbeError {
                problem: format!("{} is not there", self.0.config.bwrap.display()),
                fix: "install it: apt install bubblewrap".to_owned(),
            });
        }
        if self.0.config.sandbox_uid == 0 {
            return Err(ProbeError {
                problem: "the sandbox user is root".to_owned(),
                fix: "set sandbox_uid to an unprivileged user".to_owned(),
            });
        }
        let unusable = |what: String| ProbeError {
            problem: what,
            fix: "user namespaces must be allowed to unprivileged users: look at \
                  kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns and \
                  user.max_user_namespaces"
                .to_owned(),
        };
        let filter = super::seccomp::filter().map_err(|e| unusable(e.to_string()))?;
        drop(filter);
        let probe = self.probe_namespaces().await;
        probe.map_err(|e| unusable(e.refusal().message))?;
        let mut found = vec![C::ProcessTree, C::CleanStart, C::NewSession, C::NoNetwork];
        found.extend([
            C::UserNamespace,
            C::MountNamespace,
            C::PidNamespace,
            C::IpcNamespace,
        ]);
        found.extend([
            C::UtsNamespace,
            C::CgroupNamespace,
            C::ReadOnlyRoot,
            C::NoNewPrivileges,
        ]);
        found.extend([C::Seccomp, C::CpuTime, C::FileSize, C::OpenFiles, C::Pids]);
        let cgroups = self.0.cgroups.as_ref();
        found.extend(cgroups.map(|_| C::Cgroup));
        found.push(if cgroups.is_some_and(|c| c.memory) {
            C::MemoryOfTree
        } else {
            C::MemoryOfProcess
        });
        if rustix::process::geteuid().is_root() {
            found.push(C::RunAsUser);
        }
        Ok(found.into_iter().collect())
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut job = Job::create(self.0.clone(), plan)?;
        let filter = super::seccomp::filter();
        let filter = filter.map_err(|e| StartError::failed("make the seccomp filter")(io::Error::other(e)));
        let made = match filter {
            Ok(filter) => Namespaces::make(&self.0, job.plan.spec())
                .await
                .map(|n| (n, filter)),
            Err(e) => Err(e),
        };
        match made {
            Ok((namespaces, filter)) => Ok(Box::new(Inner {
                job,
                namespaces,
                filter,
            })),
            Err(e) => {
                let _ = job.destroy(Vec::new()).await;
                Err(e)
            }
        }
    }

    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError> {
        recover::Recovered::take_up(handle).map(Recovered::new)
    }
}

impl Bubblewrap {
    /// Everything but the program: bwrap, all namespaces, mounts, loopback, no privileges left.
    async fn probe_namespaces(&self) -> Result<(), StartError> {
        let own = users::current();
        let user = User {
            uid: if own.uid == 0 {
                self.0.config.sandbox_uid
            } else {
                own.uid
            },
            gid: if own.uid == 0 {
                self.0.config.sandbox_gid
            } else {
                own.gid
            },
            groups: Vec::new(),
        };
        let parts = Parts {
            user: &user,
            changes_user: own.uid == 0,
            workspace: None,
            binds: &[],
        };
        let mut namespaces = Namespaces::start(&self.0, &parts).await?;
        namespaces
            .end()
            .await
            .map_err(StartError::failed("take the sandbox down"))
    }
}

struct Inner {
    job: Job,
    namespaces: Namespaces,
    filter: Vec<libc::sock_filter>,
}

#[async_trait]
impl Sandbox for Inner {
    fn plan(&self) -> &Plan {
        &self.job.plan
    }

    async fn exec(&mut self, stdin: StdinSource) -> Result<Running, StartError> {
        let inside = Inside {
            namespaces: Some(self.namespaces.init_fd.as_fd()),
            init: Some(self.namespaces.init),
            filter: Some(&self.filter),
            roots: self.namespaces.roots(),
        };
        self.job.exec(stdin, inside).await
    }

    async fn signal(&self, signal: i32) -> io::Result<()> {
        self.job.signal(signal)
    }

    async fn usage(&self) -> io::Result<Usage> {
        self.job.usage()
    }

    async fn destroy(&mut self) -> io::Result<()> {
        self.namespaces.end().await?;
        self.job.destroy(Vec::new()).await
    }
}

/// What a set of namespaces is made of.
struct Parts<'a> {
    user: &'a User,
    changes_user: bool,
    workspace: Option<OwnedFd>,
    /// Option and path, for further paths of the host.
    binds: &'a [(&'static str, String)],
}

/// A set of namespaces, held by bwrap waiting at its block pipe.
struct Namespaces {
    bwrap: Spawned,
    outer: ProcessId,
    init: ProcessId,
    init_fd: OwnedFd,
    /// Dropping it lets bwrap go on to its end.
    _block: OwnedFd,
}

impl Namespaces {
    async fn make(kernel: &Kernel, spec: &LaunchSpec) -> Result<Self, StartError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let workspace = rustix::fs::open(&spec.dir, flags, Mode::empty())
            .map_err(|e| StartError::failed("open the job's directory")(e.into()))?;
        let binds = |option: &'static str, paths: &[String]| -> Vec<(&'static str, String)> {
            paths.iter().map(|p| (option, p.clone())).collect()
        };
        let mut all = binds("--ro-bind", &spec.read_only);
        all.extend(binds("--bind", &spec.read_write));
        let parts = Parts {
            user: &spec.user,
            changes_user: spec.changes_user,
            workspace: Some(workspace),
            binds: &all,
        };
        Self::start(kernel, &parts).await
    }

    /// Starts bwrap and waits until it has set everything up and dropped all privileges.
    async fn start(kernel: &Kernel, parts: &Parts<'_>) -> Result<Self, StartError> {
        let io = StartError::failed;
        let cloexec = PipeFlags::CLOEXEC;
        let pipe = || rustix::pipe::pipe_with(cloexec).map_err(|e| io("make a pipe")(e.into()));
        let ((mut error, error_in), (info, info_in), (block_out, block)) = (pipe()?, pipe()?, pipe()?);
        let data = |bytes: &[u8]| memory_file(bytes).map_err(io("make a memory file"));
        let files = [data(PASSWD)?, data(GROUP)?, data(HOSTS)?];
        let arguments = data(&arguments(parts))?;
        let null = open_stdin(StdinSource::Null).map_err(io("open /dev/null"))?;
        let mut bwrap = {
            let mut inherit = vec![null.as_fd(), null.as_fd(), error_in.as_fd()];
            inherit.extend([arguments.as_fd(), info_in.as_fd(), block_out.as_fd()]);
            inherit.extend(files.iter().map(AsFd::as_fd));
            inherit.extend(parts.workspace.as_ref().map(AsFd::as_fd));
            spawn::spawn(&kernel.zygote, &launch(kernel, parts, inherit)?).await?
        };
        drop((error_in, info_in, block_out));
        let Some(outer) = process::identify(bwrap.main) else {
            return Err(broken(&mut error));
        };
        let bound = Timer::after(SETUP_BOUND);
        let found = tokio::select! {
            found = wait_until_ready(outer, parts.user.uid, info) => found,
            // bwrap ends by itself only when something failed.
            _ = bwrap.status.next() => Err(broken(&mut error)),
            () = expiry(&bound) => Err(io("set the sandbox up")(io::ErrorKind::TimedOut.into())),
        };
        match found {
            Ok((init, init_fd)) => Ok(Self {
                bwrap,
                outer,
                init,
                init_fd,
                _block: block,
            }),
            Err(e) => {
                let _ = process::signal(outer, Signal::KILL);
                drop(block);
                while matches!(bwrap.status.next().await, Ok(Some(_))) {}
                spawn::reap(bwrap.keeper);
                Err(e)
            }
        }
    }

    fn roots(&self) -> Vec<ProcessId> {
        vec![self.init, self.outer]
    }

    /// Ends it and everything in it.
    async fn end(&mut self) -> io::Result<()> {
        process::signal(self.init, Signal::KILL)?;
        process::signal(self.outer, Signal::KILL)?;
        // The keeper of bwrap ends when both are gone and closes its pipe.
        while matches!(self.bwrap.status.next().await, Ok(Some(_))) {}
        spawn::reap(self.bwrap.keeper);
        Ok(())
    }
}

fn launch<'a>(
    kernel: &Kernel,
    parts: &'a Parts<'a>,
    inherit: Vec<std::os::fd::BorrowedFd<'a>>,
) -> Result<Launch<'a>, StartError> {
    let bwrap = kernel.config.bwrap.to_string_lossy().into_owned();
    let text = |s: &str| CString::new(s).map_err(|e| StartError::failed("use a NUL byte")(e.into()));
    let unused = FileIdentity {
        dev: 0,
        ino: 0,
        ctime: 0,
        ctime_nsec: 0,
        size: 0,
    };
    // There is no such program: whatever lets bwrap go on makes it end.
    let argv = ["bwrap", "--args", "3", "--", "/.lictor-end"];
    Ok(Launch {
        exec_by: ExecBy::Trusted,
        files: vec![(text(&bwrap)?, unused)],
        argv: argv.iter().map(|a| text(a)).collect::<Result<_, _>>()?,
        env: Vec::new(),
        cwd: text("/")?,
        cwd_before_ids: false,
        user: parts.changes_user.then_some(parts.user),
        confine: false,
        filter: None,
        rlimits: vec![(libc::RLIMIT_CORE, 0)],
        ignore_sigchld: true,
        die_with_keeper: true,
        inherit,
        cgroup: None,
        namespaces: None,
    })
}

/// bwrap's arguments. Descriptors: 3 these, 4 info, 5 block, 6 to 8 generated files, 9 the workspace.
fn arguments(parts: &Parts<'_>) -> Vec<u8> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| list.extend(words.iter().map(|w| (*w).to_owned()));
    add(&[
        "--unshare-all",
        "--unshare-user",
        "--disable-userns",
        "--die-with-parent",
    ]);
    add(&[
        "--uid",
        INSIDE,
        "--gid",
        INSIDE,
        "--hostname",
        "sandbox",
        "--cap-drop",
        "ALL",
    ]);
    add(&["--info-fd", "4", "--block-fd", "5"]);
    for dir in SHOWN {
        match std::fs::symlink_metadata(dir) {
            Ok(m) if m.is_symlink() => {
                let target = std::fs::read_link(dir).unwrap_or_default();
                add(&["--symlink", &target.to_string_lossy(), dir]);
            }
            Ok(m) if m.is_dir() => add(&["--ro-bind", dir, dir]),
            _ => {}
        }
    }
    for path in ETC {
        add(&["--ro-bind-try", path, path]);
    }
    add(&[
        "--ro-bind-data",
        "6",
        "/etc/passwd",
        "--ro-bind-data",
        "7",
        "/etc/group",
    ]);
    add(&["--ro-bind-data", "8", "/etc/hosts"]);
    add(&[
        "--proc",
        "/proc",
        "--ro-bind",
        "/proc/sys",
        "/proc/sys",
        "--dev",
        "/dev",
    ]);
    add(&[
        "--size",
        "1073741824",
        "--tmpfs",
        "/tmp",
        "--dir",
        "/run",
        "--symlink",
        "../tmp",
        "/var/tmp",
    ]);
    if parts.workspace.is_some() {
        add(&["--bind-fd", "9", "/workspace"]);
    } else {
        add(&["--dir", "/workspace"]);
    }
    for (option, path) in parts.binds {
        add(&[option, path, path]);
    }
    add(&["--remount-ro", "/", "--chdir", "/workspace"]);
    let mut bytes = Vec::new();
    for word in list {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn memory_file(bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("lictor", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// What bwrap said on its way out.
fn broken(error: &mut OwnedFd) -> StartError {
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
    StartError::failed("set the sandbox up")(io::Error::other(said))
}

/// bwrap tells the pid of the namespaces' first process early on. That process is ready when it has no capability
/// left, which is the last thing it does before it waits, and belongs to its user again, without which the kernel
/// would not let anybody in.
async fn wait_until_ready(
    outer: ProcessId,
    uid: u32,
    info: OwnedFd,
) -> Result<(ProcessId, OwnedFd), StartError> {
    let io = StartError::failed;
    rustix::fs::fcntl_setfl(&info, OFlags::NONBLOCK).map_err(|e| io("read from bwrap")(e.into()))?;
    let mut known: Option<(ProcessId, OwnedFd)> = None;
    let mut text = String::new();
    loop {
        if known.is_none() {
            let mut bytes = [0; 512];
            if let Ok(n) = rustix::io::read(&info, &mut bytes) {
                text.push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
            known = child_pid(&text).and_then(|pid| child_of(outer, pid));
        }
        if let Some((init, _)) = &known
            && is_ready(*init, uid)
        {
            break;
        }
        expiry(&Timer::after(LOOK_AGAIN)).await;
    }
    known.ok_or_else(|| io("set the sandbox up")(io::ErrorKind::Other.into()))
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
