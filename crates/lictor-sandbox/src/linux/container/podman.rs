//! Containers made by podman, which an agent may use that is not root: `podman run --detach`, once per job.
//!
//! ```text
//!   keeper -> podman run (settings, storage and state below the bundle) -> runc or crun
//!     '--> conmon -> the first process; conmon and whatever else podman keeps are ended when that runs
//! ```
//!
//! Nothing of the site's podman is read or changed: no image, no volume, no file of settings. It ends with its bundle.

use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::pipe::PipeFlags;
use rustix::process::Resource;

use super::first::{self, By, First};
use crate::backend::StartError;
use crate::linux::input;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Access, Bundle, Ids, Mount, View};
use crate::linux::spawn::{self, Launch, LaunchFile};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::table::HostCgroups;
use crate::program::FileIdentity;

/// The first process, as podman's runtime finds it, and the descriptors that it waits at and tells at.
const FIRST: [&str; 4] = ["/proc/self/fd/3", "hold", "4", "5"];
/// Where podman mounts something by itself.
const DIRECTORIES: [&str; 1] = ["/sys"];
const FILES: [&str; 3] = ["/etc/hostname", "/etc/resolv.conf", "/run/.containerenv"];
/// The directories that these are in.
const AMID: [&str; 2] = ["/etc", "/run"];
/// What the bundle puts in the place of a root file system's own.
const OVER_TREE: [&str; 3] = ["/etc/passwd", "/etc/group", "/etc/hosts"];
/// Where it finds its own programs.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Most files and processes of its own programs; the job's limits are others.
const FEW: u64 = 64;

/// What holds for every container.
const ALWAYS: [&str; 31] = [
    "run",
    "--detach",
    "--rm",
    "--pull=never",
    "--name=sandbox",
    "--read-only",
    "--read-only-tmpfs=false",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    // The job's own filter is stricter, and is the job's from its start.
    "--security-opt=seccomp=unconfined",
    "--security-opt=label=disable",
    "--security-opt=apparmor=unconfined",
    "--security-opt=mask=/proc/pressure",
    // It covers files with the null device, which can be written to; without privileges they tell and take nothing.
    "--security-opt=unmask=/proc/kcore:/proc/keys:/proc/latency_stats:/proc/timer_list:/proc/timer_stats:/proc/sched_debug",
    "--network=none",
    "--ipc=private",
    "--pid=private",
    "--uts=private",
    "--cgroupns=private",
    "--no-hosts",
    "--hostname=sandbox",
    "--log-driver=none",
    "--systemd=false",
    "--http-proxy=false",
    "--image-volume=ignore",
    "--shm-size=268435456",
    "--tmpfs=/sys:ro,notmpcopyup,size=4k",
    "--tmpfs=/sys/fs/cgroup:ro,notmpcopyup,size=4k",
    "--preserve-fds=3",
    "--user=0:0",
    "--workdir=/",
];

const TMP: &str = "--tmpfs=/tmp:rw,notmpcopyup,exec,nosuid,nodev,mode=1777,size=1073741824";

const SETTINGS: &str = "[containers]\nvolumes = []\nenv = []\nenv_host = false\ndefault_ulimits = []\ninit = false\n\
    [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\nhooks_dir = []\n";

/// What podman mounts besides what it is asked for.
const NO_MOUNTS: &str = "mounts.conf";

/// podman, and the runtime that it is to use.
#[derive(Debug, Clone)]
pub(crate) struct Podman {
    pub(super) path: PathBuf,
    pub(super) runtime: PathBuf,
    /// Whether that goes without cgroups when it is told to; runc cannot be told by podman.
    pub(super) without_cgroups: bool,
}

/// The agent's ends of what podman was given.
struct Ends {
    words: OwnedFd,
    hold: OwnedFd,
    told: OwnedFd,
}

impl Podman {
    /// Has a container made, and waits until its first process waits.
    pub(super) async fn start(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        (ids, view): (Ids, &View),
    ) -> Result<First, StartError> {
        let failed = StartError::failed;
        let own = lay(bundle, view).map_err(failed("write the bundle"))?;
        let program = first::program().map_err(failed("make a memory file"))?;
        let argv = self
            .argv(bundle, (ids, view, &own))
            .map_err(failed("name podman"))?;
        let (mut keeper, Ends { words, hold, told }) =
            run(kernel, (bundle, argv), (&program, view.stage())).await?;
        let bound = Timer::after(kernel.zygote.bound);
        let found = tokio::select! {
            found = first_process(&mut keeper, &words, told) => found,
            () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
        };
        let found = found.and_then(|()| {
            let none = || io::Error::other("podman has started nothing");
            let (id, fd) = first::below(&keeper, &program)?.ok_or_else(none)?;
            let users = first::users_of(id)?;
            first::leave_alone(&keeper, id)?;
            Ok((id, fd, users))
        });
        match found {
            Ok((id, fd, users)) => Ok(First {
                id,
                fd,
                _hold: hold,
                keeper: Some(keeper),
                by: By::Podman { users },
            }),
            Err(e) => {
                drop(hold);
                first::give_up(kernel, keeper).await;
                Err(failed("make the container")(e))
            }
        }
    }

    fn argv(&self, bundle: &Bundle, (ids, view, files): (Ids, &View, &[Mount])) -> io::Result<Vec<CString>> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or(io::ErrorKind::InvalidInput)
        };
        let own = own(bundle);
        let mut words = vec![text(&self.path)?, "--tmpdir".to_owned(), text(&own.join("tmp"))?];
        // Else it shows what the site's own file says, whatever its settings are.
        words.extend(["--default-mounts-file".to_owned(), text(&own.join(NO_MOUNTS))?]);
        words.extend(["--runtime".to_owned(), text(&self.runtime)?]);
        // Else what that writes down lies on the host, and nobody takes it away: the monitor that would is ended.
        words.push(format!("--runtime-flag=root={}", text(&bundle.state())?));
        words.extend(ALWAYS.map(str::to_owned));
        words.extend(self.without_cgroups.then(|| "--cgroups=disabled".to_owned()));
        for (kind, resource) in [("nofile", Resource::Nofile), ("nproc", Resource::Nproc)] {
            // It asks for more than an agent may have, unless it is told.
            let most = rustix::process::getrlimit(resource)
                .maximum
                .unwrap_or(FEW)
                .min(FEW);
            words.push(format!("--ulimit={kind}={most}:{most}"));
        }
        words.extend(mappings(ids));
        let shows = |at: &str| view.mounts.iter().any(|mount| mount.at == at);
        // A disk of the job's own takes the place of memory.
        words.extend((!shows("/tmp")).then(|| TMP.to_owned()));
        for mount in view.mounts.iter().chain(files) {
            words.extend(["--mount".to_owned(), shown(mount)]);
        }
        words.extend(["--rootfs".to_owned(), text(&bundle.root())?]);
        words.extend(FIRST.map(str::to_owned));
        Ok(words.into_iter().map(CString::new).collect::<Result<_, _>>()?)
    }
}

/// podman's own directory.
pub(super) fn own(bundle: &Bundle) -> PathBuf {
    bundle.dir().join("podman")
}

/// Leaves room in a root file system for what podman and the bundle put there.
pub(super) fn prepare(view: &mut View) -> io::Result<()> {
    let others: Vec<&str> = FILES.into_iter().chain(OVER_TREE).collect();
    view.leave_out_covered();
    view.break_up(&AMID, &others)
}

/// Mounts of files of the bundle.
fn lay(bundle: &Bundle, view: &View) -> io::Result<Vec<Mount>> {
    let files = bundle.lay(view)?;
    bundle.lay_points(&DIRECTORIES, &FILES)?;
    bundle.lay_points(&[], &OVER_TREE)?;
    let own = own(bundle);
    for dir in ["", "tmp", "run", "storage", "home"] {
        fs::create_dir(own.join(dir))?;
    }
    fs::write(own.join("containers.conf"), SETTINGS)?;
    fs::write(own.join(NO_MOUNTS), "")?;
    let at = own.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let storage = format!(
        "[storage]\ndriver = \"vfs\"\nrunroot = \"{at}/run\"\ngraphroot = \"{at}/storage\"\n\
         rootless_storage_path = \"{at}/storage\"\n"
    );
    fs::write(own.join("storage.conf"), storage)?;
    Ok(files)
}

/// Two users, as in every container. podman of somebody who is not root counts from that user, who is 0 there, and the
/// ids that `/etc/subuid` gives it, from 1 on.
fn mappings(ids: Ids) -> Vec<String> {
    let (root, user, group) = match rustix::process::geteuid().is_root() {
        true => (ids.root, ids.user.0, ids.user.1),
        false => (1, 0, 0),
    };
    vec![
        format!("--uidmap=0:{root}:1"),
        format!("--uidmap=1000:{user}:1"),
        format!("--gidmap=0:{root}:1"),
        format!("--gidmap=1000:{group}:1"),
    ]
}

/// A mount in podman's words, which are a line of comma-separated values.
fn shown(mount: &Mount) -> String {
    let quoted = |key: &str, path: &str| format!("\"{key}={}\"", path.replace('"', "\"\""));
    let (source, at) = (quoted("source", mount.source()), quoted("destination", &mount.at));
    let rights = match mount.access {
        Access::Read => "ro=true,nosuid,nodev",
        Access::Write => "ro=false,nosuid,nodev",
        Access::Device => "ro=false,nosuid,dev",
    };
    format!("type=bind,{source},{at},{rights},bind-propagation=rprivate")
}

async fn run(
    kernel: &Kernel,
    (bundle, argv): (&Bundle, Vec<CString>),
    (program, mounts): (&OwnedFd, Option<BorrowedFd<'_>>),
) -> Result<(Keeper, Ends), StartError> {
    let failed = StartError::failed;
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| failed("make a pipe")(e.into()));
    let ((words, said), (held, hold), (told, tell)) = (pipe()?, pipe()?, pipe()?);
    let null = input::null().map_err(failed("open /dev/null"))?;
    let inherit = [&null, &said, &said, program, &held, &tell].map(|fd| fd.as_fd());
    let launch = Launch {
        mounts,
        ..launch(bundle, argv, inherit.to_vec()).map_err(failed("name podman"))?
    };
    let spawned = spawn::spawn(&kernel.zygote, &launch).await?;
    Ok((spawned.keeper, Ends { words, hold, told }))
}

fn launch<'a>(bundle: &Bundle, argv: Vec<CString>, inherit: Vec<BorrowedFd<'a>>) -> io::Result<Launch<'a>> {
    let own = own(bundle);
    let set = |name: &str, value: &Path| {
        let words = [OsStr::new(name), value.as_os_str()].map(OsStr::as_encoded_bytes);
        CString::new(words.join(&b'='))
    };
    let env = vec![
        CString::new(PATH)?,
        set("HOME", &own.join("home"))?,
        set("XDG_RUNTIME_DIR", &own.join("run"))?,
        set("TMPDIR", &own.join("tmp"))?,
        set("CONTAINERS_CONF", &own.join("containers.conf"))?,
        set("CONTAINERS_STORAGE_CONF", &own.join("storage.conf"))?,
    ];
    Ok(Launch {
        files: vec![LaunchFile {
            path: argv.first().cloned().unwrap_or_default(),
            identity: FileIdentity::NONE,
            held_at: None,
            copy: None,
        }],
        argv,
        env,
        rlimits: vec![(libc::RLIMIT_CORE, 0, 0)],
        cgroups: match rustix::process::geteuid().is_root() {
            true => HostCgroups::Hidden,
            // Only root can have it otherwise.
            false => HostCgroups::AsTheyAre,
        },
        inherit,
        // It works by others, who would wait for it for ever. What it begins it ends, and the first process finds out
        // that there is no agent any more; who keeps its users for the next time does not.
        die_with_keeper: false,
        ends_alone: true,
        ..Launch::of_a_helper()
    })
}

/// Waits until podman is done, and the first process runs.
async fn first_process(keeper: &mut Keeper, words: &OwnedFd, told: OwnedFd) -> io::Result<()> {
    let ended = keeper.next().await?;
    if ended.is_none_or(|record| record.a != 0) {
        return Err(io::Error::other(first::said(words)));
    }
    first::heard(told).await
}
