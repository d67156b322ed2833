//! What the suites share: a host, a job in one line, everything it printed and how it ended.
#![allow(
    dead_code,
    unused_imports,
    unused_macros,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods
)]

pub mod docker;
pub mod machine;
pub mod somebody;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lictor_proto::doc::{Exec, Exit};
use lictor_sandbox::{
    Backend, Capabilities, Config, ContainerEngine, Ended, Host, OutputReader, Plan, ProbeError, Running,
    Sandbox, StartError, StdinSource,
};
use lictor_trust::profiles::{Backend as BackendName, Profile, Profiles};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// One backend on this machine, with a place for job directories.
pub struct Bench {
    pub host: Host,
    pub backend: Arc<dyn Backend>,
    pub capabilities: Capabilities,
    pub profile: Profile,
    pub root: tempfile::TempDir,
    pub warm: Option<KeptWarm>,
}

/// Prepared sandboxes, and whoever keeps them waiting.
pub struct KeptWarm {
    wanted: watch::Sender<Vec<Profile>>,
    keeper: JoinSet<()>,
}

/// Everything about one finished job.
#[derive(Debug)]
pub struct Outcome {
    pub ended: Ended,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

/// Everything that a started job prints, and how it ends.
pub async fn outcome(mut running: Running) -> Outcome {
    let started = Instant::now();
    let out = running.take_stdout().expect("stdout");
    let err = running.take_stderr().expect("stderr");
    let (ended, stdout, stderr) = tokio::join!(running.wait(), read_all(out), read_all(err));
    Outcome {
        ended,
        stdout,
        stderr,
        took: started.elapsed(),
    }
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn profile(name: BackendName) -> Profile {
    let text = match name {
        BackendName::Host => "[profiles.p]\nbackend = \"host\"\nnetwork = \"host\"\n",
        BackendName::Landlock => "[profiles.p]\nbackend = \"landlock\"\n",
        BackendName::Bubblewrap => "[profiles.p]\nbackend = \"bubblewrap\"\n",
        BackendName::Container => "[profiles.p]\nbackend = \"container\"\n",
        BackendName::Gvisor => "[profiles.p]\nbackend = \"gvisor\"\n",
    };
    let profiles: Profiles = toml::from_str(text).expect("a valid profile");
    profiles.profiles.into_values().next().expect("one profile")
}

impl Bench {
    pub async fn new(name: BackendName) -> Self {
        Self::with(name, Config::default()).await
    }

    pub async fn with(name: BackendName, config: Config) -> Self {
        let bench = Self::probed(name, config).await;
        bench.unwrap_or_else(|why| panic!("this machine cannot run {name}: {why}"))
    }

    /// `None` where this machine cannot run it: then the test is skipped, with the reason.
    pub async fn on(name: BackendName) -> Option<Self> {
        Self::on_with(name, Config::default()).await
    }

    pub async fn on_with(name: BackendName, config: Config) -> Option<Self> {
        let listed_as = match config.container_engine {
            ContainerEngine::Auto => name.as_str(),
            engine => engine.as_str(),
        };
        match Self::probed(name, config).await {
            Ok(bench) => Some(bench),
            Err(why) => {
                machine::skip_what_cannot_run(listed_as, &why);
                None
            }
        }
    }

    async fn probed(name: BackendName, config: Config) -> Result<Self, ProbeError> {
        let host = Host::start(config).expect("the host starts");
        let backend = host.backend(name).expect("the backend is built in");
        let capabilities = backend.probe().await?;
        let root = tempfile::tempdir().expect("a directory");
        let profile = profile(name);
        Ok(Self {
            host,
            backend,
            capabilities,
            profile,
            root,
            warm: None,
        })
    }

    /// Bubblewrap with prepared sandboxes: each job of the bench's own profile gets one.
    pub async fn warm(count: u32) -> Self {
        let mut bench = Self::new(BackendName::Bubblewrap).await;
        bench.profile.warm = count;
        let (wanted, receiver) = watch::channel(vec![bench.profile.clone()]);
        let (host, work) = (bench.host.clone(), bench.root.path().to_owned());
        let mut keeper = JoinSet::new();
        keeper.spawn(async move { host.keep_warm(&work, receiver).await });
        bench.warm = Some(KeptWarm { wanted, keeper });
        bench
    }

    pub fn want_warm(&self, profiles: Vec<Profile>) {
        let warm = self.warm.as_ref().expect("a warm bench");
        warm.wanted.send_replace(profiles);
    }

    /// Waits until `count` prepared sandboxes wait.
    pub async fn until_warm(&self, count: usize) {
        let mut ready = self.host.warm_ready();
        ready.wait_for(|n| *n == count).await.expect("the host lives");
    }

    /// Nobody wants prepared sandboxes any more.
    pub async fn cool_down(&mut self) {
        if let Some(KeptWarm { wanted, keeper }) = self.warm.take() {
            drop(wanted);
            keeper.join_all().await;
        }
    }

    pub fn is_boxed(&self) -> bool {
        self.backend.name().is_namespaced()
    }

    /// Whether a job sees only what its profile names, as an unprivileged user.
    pub fn hides(&self) -> bool {
        self.backend.name().is_unprivileged()
    }

    pub fn profile(&self) -> (&Profile, BackendName) {
        (&self.profile, self.backend.name())
    }

    pub fn job_dir(&self) -> PathBuf {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        self.root.path().join(format!("job-{}-{n}", std::process::id()))
    }

    pub fn plan(&self, exec: &Exec) -> Plan {
        let name = "p".parse().expect("a name");
        let dir = self.job_dir();
        let resolved = self
            .host
            .resolve(&name, self.profile(), exec, &dir)
            .expect("the program is there");
        Plan::without_permit(resolved, &self.capabilities).expect("the profile can be enforced")
    }

    pub async fn start(
        &self,
        exec: &Exec,
        stdin: StdinSource,
    ) -> Result<(Box<dyn Sandbox>, Running), StartError> {
        if self.warm.is_some() {
            let mut ready = self.host.warm_ready();
            ready.wait_for(|n| *n > 0).await.expect("the host lives");
        }
        let mut sandbox = self.backend.create(self.plan(exec)).await?;
        match sandbox.exec(stdin.into()).await {
            Ok(running) => Ok((sandbox, running)),
            Err(e) => {
                sandbox.destroy().await.expect("destroyed");
                Err(e)
            }
        }
    }

    pub async fn run_with(&self, exec: &Exec, stdin: StdinSource) -> Outcome {
        let started = Instant::now();
        let (mut sandbox, running) = self.start(exec, stdin).await.expect("it starts");
        let mut outcome = outcome(running).await;
        outcome.took = started.elapsed();
        sandbox.destroy().await.expect("destroyed");
        outcome
    }

    pub async fn run(&self, argv: &[&str]) -> Outcome {
        self.run_with(&command(argv), StdinSource::Null).await
    }

    /// A shell line.
    pub async fn sh(&self, line: &str) -> Outcome {
        self.run(&["/bin/sh", "-c", line]).await
    }

    /// A Python program; the escape attempts need system calls that a shell has no word for.
    pub async fn python(&self, program: &str) -> Outcome {
        self.run(&["/usr/bin/python3", "-c", program]).await
    }
}

impl Outcome {
    pub fn succeeded(&self) -> bool {
        self.ended.exit == Some(Exit::Status(0))
    }
}

pub fn command(argv: &[&str]) -> Exec {
    Exec::new(argv.iter().map(|a| (*a).to_owned()).collect())
}

pub async fn read_all(mut reader: OutputReader) -> String {
    let mut bytes = BytesMut::new();
    while reader.read(&mut bytes, 256 * 1024).await.expect("readable") > 0 {}
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Live processes of this machine whose command line contains `mark`.
pub fn processes_with(mark: &str) -> Vec<String> {
    let proc = std::fs::read_dir("/proc").expect("/proc");
    let pids = proc
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (pid != std::process::id() && line.contains(mark)).then(|| format!("{pid} {line}"))
    })
    .collect()
}

/// A number of this process's own status, in KiB.
pub fn own_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("the key");
    line.trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

const INSIDE: &str = "LICTOR_TEST_OWN_MOUNTS";

/// `true` in a mount namespace of the test's own; outside it runs the test there and holds that it passes.
pub fn with_own_mounts(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let mut unshare = std::process::Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private"]);
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    let here = std::env::current_exe().expect("this test");
    let status = unshare
        .arg(here)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status()
        .expect("unshare runs");
    assert!(status.success(), "{test} in a mount namespace of its own");
    false
}

/// Says that a test cannot run here. In CI a test that cannot run must not pass for one that did.
pub fn skip(why: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!in_ci, "this test must run in CI, but: {why}");
    eprintln!("skipped: {why}");
}

/// Whether an attempt that prints `escaped` has worked without a sandbox. Some do for root only.
pub fn works_outside(host: &Outcome) -> bool {
    let works = host.stdout.contains("escaped");
    if !works && !rustix::process::geteuid().is_root() {
        skip("only root can show that it works without a sandbox");
        return false;
    }
    assert!(works, "works nowhere: {host:?}");
    true
}

/// A line of `/proc/PID/stat`: pid, name, state, parent.
pub fn processes() -> Vec<(u32, String, String, u32)> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        Some((pid.parse().ok()?, name.to_owned(), state.to_owned(), parent))
    })
    .collect()
}

pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let own = processes().into_iter().filter(|p| p.3 == parent && p.1 == name);
    own.map(|p| p.0).collect()
}

/// Keepers of this process: an idle one is called so, one with a job after the job.
pub fn keepers() -> Vec<u32> {
    let own = std::process::id();
    let own = processes()
        .into_iter()
        .filter(|p| p.3 == own && p.1.starts_with("lictor-") && p.1 != "lictor-zygote");
    own.map(|p| p.0).collect()
}

/// Waits for what processes of others will have done soon.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        // Between two looks at /proc, which are dear, whoever is waited for gets the processor.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// Each case as a test of its own for each backend; those after `but for gvisor` do not fit a kernel of its own.
macro_rules! for_every_backend {
    ($($case:ident),* $(,)?) => {
        $crate::common::for_every_backend![$($case),*; but for gvisor];
    };
    ($($case:ident),* $(,)?; but for gvisor $($less:ident),* $(,)?) => {
        $crate::common::for_every_backend!(@ host Host $($case)* $($less)*);
        $crate::common::for_every_backend!(@ landlock Landlock $($case)* $($less)*);
        $crate::common::for_every_backend!(@ container Container $($case)* $($less)*);
        $crate::common::for_every_backend!(@ bubblewrap Bubblewrap $($case)* $($less)*);
        $crate::common::for_every_backend!(@ gvisor Gvisor $($case)*);
        mod prepared_bubblewrap {
            $crate::common::for_every_backend!(@ prepared $($case)* $($less)*);
        }
    };
    (@ prepared $($case:ident)*) => {
        $(#[tokio::test]
        async fn $case() {
            let mut bench = super::Bench::warm(1).await;
            super::$case(&bench).await;
            bench.cool_down().await;
        })*
    };
    (@ $module:ident $backend:ident $($case:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $case() {
                if let Some(bench) = super::Bench::on(super::Backend::$backend).await {
                    super::$case(&bench).await;
                }
            })*
        }
    };
}
pub(crate) use for_every_backend;

/// Each case as a test of its own for each backend that shows a view of its own; a case gets the backend's name.
macro_rules! for_every_sandbox {
    ($($case:ident),* $(,)?) => {
        $crate::common::for_every_sandbox!(@ bubblewrap Bubblewrap $($case)*);
        $crate::common::for_every_sandbox!(@ container Container $($case)*);
        $crate::common::for_every_sandbox!(@ gvisor Gvisor $($case)*);
    };
    (@ $module:ident $backend:ident $($case:ident)*) => {
        mod $module {
            $(#[tokio::test]
            async fn $case() {
                super::$case(super::Backend::$backend).await;
            })*
        }
    };
}
#[allow(unused_imports)]
pub(crate) use for_every_sandbox;
