//! Starting `runsc`, which starts the first process, which starts the program.

use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use lictor_trust::egress::PROXY_PORT;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::process::Resource;
use serde_json::json;

use super::door::Wire;
use super::report::{Report, Start};
use crate::backend::StartError;
use crate::handle::ProcessId;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Access, Bundle, Config, Dialect, INIT, Ids, View};
use crate::linux::process;
use crate::linux::spawn::{Launch, LaunchFile};
use crate::linux::supervisor::{Timer, expiry};
use crate::linux::table::Step;
use crate::plan::LaunchSpec;
use crate::program::{ExecBy, FileIdentity, ProgramFile};

/// Where the first process finds what the agent has for it.
const OWN: &str = "/.lictor";
/// What the first process needs in order to become the job's user, to give up everything, and to signal the job.
const PRIVILEGES: [&str; 4] = ["CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID"];
/// Most of what runsc says that is read.
const MOST_WORDS: u64 = 64 * 1024;
/// What the process calls itself that is the sandbox's kernel.
const KERNEL: &[u8] = b"runsc-sandbox";

/// A start that is prepared.
#[derive(Debug)]
pub(crate) struct Starter {
    argv: Vec<CString>,
    /// What it is started in.
    stage: Option<OwnedFd>,
    report: Report,
    /// Of the program.
    path: String,
    /// Where runsc writes why it gives up.
    log: PathBuf,
    /// What it gets in place of the job's input, for a way out.
    wire: Option<Wire>,
}

impl Starter {
    /// Lays out the bundle of a job.
    pub(super) fn prepare(
        kernel: &Kernel,
        bundle: &Bundle,
        (spec, view): (&LaunchSpec, View),
        (filter, limits): (&[libc::sock_filter], &[(u32, u64, u64)]),
        wire: Option<Wire>,
    ) -> Result<Self, StartError> {
        let failed = StartError::failed;
        let ids = Ids {
            user: (spec.user.uid, spec.user.gid),
            root: kernel.config.container_root,
        };
        let own = Own::lay(bundle, filter).map_err(failed("write the bundle"))?;
        let report =
            Report::make(&own.0.join("told/report"), ids.root).map_err(failed("write the bundle"))?;
        let program = own.programs(spec)?;
        let first = own.words(spec, &program, limits);
        let stage = view.stage().map(|fd| fd.try_clone_to_owned()).transpose();
        let stage = stage.map_err(failed("show what the profile names"))?;
        let argv = own.fill(kernel, bundle, (ids, view), &first);
        Ok(Self {
            argv: argv.map_err(failed("write the bundle"))?,
            stage,
            report,
            log: log(bundle),
            wire,
            path: spec
                .program
                .files
                .first()
                .map_or_else(String::new, |f| f.path.clone()),
        })
    }

    /// The same start, of runsc in place of the program.
    pub(crate) fn launch<'a>(&'a self, program: Launch<'a>) -> Launch<'a> {
        Launch {
            mounts: self.stage.as_ref().map(AsFd::as_fd),
            keeper_name: program.keeper_name,
            ..Self::launch_of(&self.argv)
        }
    }

    /// Puts the sandbox's end of the wire in the place of the job's input, which goes in by it.
    pub(crate) fn give_input<'a>(&'a self, inherit: &mut [BorrowedFd<'a>]) -> io::Result<()> {
        if let (Some(wire), Some(input)) = (&self.wire, inherit.first_mut()) {
            wire.give_input(*input)?;
            *input = wire.theirs();
        }
        Ok(())
    }

    /// runsc itself.
    pub(super) fn launch_of<'a>(argv: &[CString]) -> Launch<'a> {
        Launch {
            files: vec![LaunchFile {
                path: argv.first().cloned().unwrap_or_default(),
                identity: FileIdentity::NONE,
                held_at: None,
                copy: None,
            }],
            argv: argv.to_vec(),
            rlimits: vec![(libc::RLIMIT_CORE, 0, 0)],
            ..Launch::of_a_helper()
        }
    }

    /// Waits until the program runs; then who passes signals on to it, and what will tell its end. When it does not run,
    /// nothing is left below the keeper.
    pub(crate) async fn started(
        self,
        kernel: &Kernel,
        keeper: &mut Keeper,
        main: u32,
    ) -> Result<(Option<ProcessId>, Report), StartError> {
        let failed = |e| StartError::failed("start the sandbox")(e);
        let bound = Timer::after(kernel.zygote.bound);
        let start = tokio::select! {
            biased;
            start = self.report.start() => start.map_err(failed),
            _ = keeper.next() => Err(failed(io::Error::other(said_in(&self.log)))),
            () = expiry(&bound) => Err(failed(io::ErrorKind::TimedOut.into())),
        };
        let speaker = || {
            let mut below = process::children(main).into_iter();
            below.find(|pid| is_kernel(*pid)).and_then(process::identify)
        };
        let outcome = match start {
            // Nobody any more when it has ended by now.
            Ok(Start::Runs) => Ok((speaker(), self.report)),
            Ok(Start::Failed(step, _)) if i64::from(step) == Step::Changed as i64 => {
                Err(StartError::ProgramChanged { path: self.path })
            }
            Ok(Start::Failed(step, error)) => Err(StartError::Failed {
                step: Step::describe(step.into()),
                source: io::Error::from_raw_os_error(error),
            }),
            Err(e) => Err(e),
        };
        if outcome.is_err()
            && let Err(error) = keeper.end_all(kernel.zygote.kill_bound()).await
        {
            tracing::error!(%error, "a sandbox that did not start is left");
        }
        outcome
    }
}

fn is_kernel(pid: u32) -> bool {
    let line = process::read_page(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
    line.split(|b| *b == 0).next() == Some(KERNEL)
}

/// The agent's own directory in the sandbox. The job may read it; the file with the report is its first process's.
pub(super) struct Own(PathBuf);

impl Own {
    /// The first process as the sandbox sees it.
    pub(super) fn init(&self) -> String {
        format!("{OWN}/init")
    }

    /// Writes down what runsc is to make; how it is started.
    pub(super) fn fill(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        (ids, mut view): (Ids, View),
        first: &[String],
    ) -> io::Result<Vec<CString>> {
        view.add(&self.0, OWN, Access::Write)?;
        let mounts = bundle.lay(&view)?;
        view.settle(&bundle.root())?;
        // What runsc shows whether it is asked to or not. Devices of its own are taken away by the first process.
        let hardware = json!({ "destination": "/sys", "type": "tmpfs", "source": "tmpfs", "options": ["ro", "size=4k"] });
        let config = Config {
            ids,
            first,
            privileges: &PRIVILEGES,
            hides: &[hardware],
            dialect: Dialect::Runsc,
        };
        bundle.write(&view, &config, &mounts)?;
        argv(kernel, bundle)
    }

    pub(super) fn lay(bundle: &Bundle, filter: &[libc::sock_filter]) -> io::Result<Self> {
        let own = Self(bundle.dir().join("own"));
        for dir in [own.0.clone(), own.0.join("told"), own.0.join("program")] {
            DirBuilder::new().mode(0o755).create(&dir)?;
            fs::set_permissions(&dir, Permissions::from_mode(0o755))?;
        }
        let init = INIT.ok_or(io::ErrorKind::Unsupported)?;
        own.file("init", 0o755)?.write_all(init)?;
        let mut file = own.file("filter", 0o644)?;
        for i in filter {
            let [code, k] = [i.code.to_ne_bytes().to_vec(), i.k.to_ne_bytes().to_vec()];
            file.write_all(&[code, vec![i.jt, i.jf], k].concat())?;
        }
        Ok(own)
    }

    fn file(&self, name: &str, mode: u32) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).open(self.0.join(name))?;
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// Compares the program and its interpreters with what was judged, and says where each is inside. What others than
    /// root could change, or what a path of leads to, is there as a copy of what was judged.
    fn programs(&self, spec: &LaunchSpec) -> Result<Vec<String>, StartError> {
        let places = spec.program.files.iter().enumerate();
        places.map(|(n, file)| self.program(spec, n, file)).collect()
    }

    fn program(&self, spec: &LaunchSpec, n: usize, file: &ProgramFile) -> Result<String, StartError> {
        let failed = StartError::failed;
        let mut judged = match &file.copy {
            Some(copy) if file.is_only_held() => copy.try_clone().map_err(failed("copy the script"))?,
            _ => open_judged(spec, file)?,
        };
        if !file.loose {
            return Ok(file.path.clone());
        }
        let mut copy = || {
            let name = format!("program/{n}");
            let mut to = self.file(&name, 0o755)?;
            match &file.copy {
                // By a descriptor of its own, which begins at the start.
                Some(copy) => {
                    use std::os::fd::AsRawFd as _;
                    let mut from = File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?;
                    io::copy(&mut from, &mut to)?;
                }
                None => drop(io::copy(&mut judged, &mut to)?),
            }
            // Nobody gets a right by the copy that the original does not give.
            let meta = judged.metadata()?;
            fchown(&to, Some(meta.uid()), Some(meta.gid()))?;
            to.set_permissions(Permissions::from_mode(meta.mode() & 0o555))?;
            Ok(format!("{OWN}/{name}"))
        };
        copy().map_err(failed("copy the program"))
    }

    /// The first process's arguments: see `init/run.rs`.
    fn words(&self, spec: &LaunchSpec, program: &[String], limits: &[(u32, u64, u64)]) -> Vec<String> {
        let files = &spec.program.files;
        let executed = match spec.program.exec_by {
            ExecBy::Descriptor => program.last(),
            ExecBy::Path | ExecBy::Trusted => program.first(),
        };
        let mut words = vec![self.init(), "run".to_owned(), spec.cwd.clone()];
        words.push(executed.cloned().unwrap_or_default());
        words.push(spec.egress.as_ref().map_or(0, |_| PROXY_PORT).to_string());
        words.push(processes(spec).to_string());
        words.push(spec.umask.to_string());
        words.push(limits.len().to_string());
        for (resource, soft, hard) in limits {
            words.extend([resource.to_string(), soft.to_string(), hard.to_string()]);
        }
        words.push(spec.env.len().to_string());
        words.extend(spec.env.iter().map(|(name, value)| format!("{name}={value}")));
        words.push(String::new());
        match &spec.program.in_place_of_first {
            Some(first) => {
                let held = |word: &String| {
                    let is_it = |f: &ProgramFile| f.held_at.is_some_and(|n| *word == format!("/dev/fd/{n}"));
                    files.iter().position(is_it).and_then(|i| program.get(i)).cloned()
                };
                words.extend(first.iter().map(|w| held(w).unwrap_or_else(|| w.clone())));
            }
            None => words.extend(spec.argv.first().cloned()),
        }
        words.extend(spec.argv.iter().skip(1).cloned());
        words
    }
}

/// How many processes the first process lets there be; 0 for any number. What the agent itself may not exceed, no job may.
fn processes(spec: &LaunchSpec) -> u64 {
    let most = rustix::process::getrlimit(Resource::Nproc).maximum;
    let most = most.unwrap_or(u64::MAX);
    spec.limits.pids.map_or(0, |n| n.clamp(1, most))
}

/// Opens a file as the sandbox will find it: in its root, unless the profile shows the host's there.
fn open_inside(spec: &LaunchSpec, path: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut named = spec.read_only.iter().chain(&spec.read_write);
    match &spec.rootfs {
        Some(tree) if !named.any(|dir| Path::new(path).starts_with(dir)) => {
            let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let tree = rustix::fs::open(tree, directory, Mode::empty())?;
            let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            Ok(rustix::fs::openat2(&tree, path, flags, Mode::empty(), inside)?.into())
        }
        _ => Ok(rustix::fs::open(path, flags, Mode::empty())?.into()),
    }
}

/// Opens a file, which must be what was judged.
fn open_judged(spec: &LaunchSpec, file: &ProgramFile) -> Result<File, StartError> {
    let changed = || StartError::ProgramChanged {
        path: file.path.clone(),
    };
    let opened = open_inside(spec, &file.path).map_err(|_| changed())?;
    let meta = opened.metadata().map_err(|_| changed())?;
    let found = FileIdentity {
        dev: meta.dev(),
        ino: meta.ino(),
        ctime: meta.ctime(),
        ctime_nsec: meta.ctime_nsec(),
        size: i64::try_from(meta.size()).unwrap_or(i64::MAX),
    };
    if found == file.identity {
        Ok(opened)
    } else {
        Err(changed())
    }
}

/// What runsc has said on its way out.
fn said_in(log: &Path) -> String {
    let mut text = String::new();
    let read = File::open(log).and_then(|f| f.take(MOST_WORDS).read_to_string(&mut text));
    let last = text.lines().last().filter(|_| read.is_ok()).unwrap_or_default();
    last.chars().filter(|c| !c.is_control()).collect()
}

fn log(bundle: &Bundle) -> PathBuf {
    bundle.dir().join("log")
}

fn argv(kernel: &Kernel, bundle: &Bundle) -> io::Result<Vec<CString>> {
    let (state, dir) = (bundle.state(), bundle.dir());
    let log = log(bundle);
    let words: [&OsStr; 13] = [
        kernel.config.runsc.as_os_str(),
        "--root".as_ref(),
        state.as_os_str(),
        "--log".as_ref(),
        log.as_os_str(),
        "--log-format=text".as_ref(),
        "--platform=ptrace".as_ref(),
        "--network=none".as_ref(),
        // The job's own hold it, this process included.
        "--ignore-cgroups".as_ref(),
        "run".as_ref(),
        "--bundle".as_ref(),
        dir.as_os_str(),
        bundle.id().as_ref(),
    ];
    let words = words.iter().map(|w| CString::new(w.as_encoded_bytes()));
    Ok(words.collect::<Result<_, _>>()?)
}
