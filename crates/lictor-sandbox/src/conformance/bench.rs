//! One backend on this machine, and a job in one line.
//!
//! Whoever writes a backend makes a [`Bench`] of it ([`Bench::of`]), and hands that to [`pass_all`](super::pass_all).

#![allow(clippy::expect_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use lictor_proto::doc::{Exec, Exit};
use lictor_trust::profiles::{Backend as BackendName, Profile};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backend::{Backend, ProbeError, Sandbox, StartError};
use crate::capability::Capabilities;
use crate::host::{Config, Host};
use crate::plan::Plan;
use crate::running::{Ended, OutputReader, Running, StdinSource};

/// One backend on this machine, with a place for job directories.
pub struct Bench {
    /// Who resolves.
    pub host: Host,
    /// What it was made with, for another one of the same.
    pub config: Config,
    /// Who runs jobs.
    pub backend: Arc<dyn Backend>,
    /// What its probe has found.
    pub capabilities: Capabilities,
    /// What jobs are run by; a case may change it.
    pub profile: Profile,
    /// Where their directories are.
    pub root: tempfile::TempDir,
    /// Prepared sandboxes, where there are some.
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
    /// How.
    pub ended: Ended,
    /// All that it has printed.
    pub stdout: String,
    /// And that to the other stream.
    pub stderr: String,
    /// With its start and the removal of its sandbox where the bench has made it.
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

/// The smallest profile of a backend.
fn profile(name: BackendName) -> Profile {
    let text = match name {
        BackendName::Host => json!({ "backend": name.as_str(), "network": "host" }),
        _ => json!({ "backend": name.as_str() }),
    };
    serde_json::from_value(text).expect("a valid profile")
}

impl Bench {
    /// A backend that this machine can run, as an agent without a configuration has it.
    pub async fn new(name: BackendName) -> Self {
        Self::with(name, Config::default()).await
    }

    /// The same, of an agent with this configuration.
    pub async fn with(name: BackendName, config: Config) -> Self {
        let bench = Self::probed(name, config).await;
        bench.unwrap_or_else(|why| panic!("this machine cannot run {name}: {why}"))
    }

    /// The same, of an agent with this configuration.
    ///
    /// # Errors
    /// Why this machine cannot run it.
    pub async fn probed(name: BackendName, config: Config) -> Result<Self, ProbeError> {
        let host = Host::start(config.clone()).expect("the host starts");
        let backend = host.backend(name).expect("the backend is built in");
        Self::of(host, config, backend).await
    }

    /// One of a backend that is not built in.
    ///
    /// # Errors
    /// What its probe says is missing.
    pub async fn of(host: Host, config: Config, backend: Arc<dyn Backend>) -> Result<Self, ProbeError> {
        let capabilities = backend.probe().await?;
        let root = tempfile::tempdir().expect("a directory");
        let profile = profile(backend.name());
        Ok(Self {
            host,
            config,
            backend,
            capabilities,
            profile,
            root,
            warm: None,
        })
    }

    /// Another one of the same, for a case that changes the profile.
    pub async fn again(&self) -> Self {
        let made = Self::of(self.host.clone(), self.config.clone(), self.backend.clone()).await;
        made.unwrap_or_else(|why| panic!("it could be used a moment ago: {why}"))
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

    /// Has sandboxes prepared for these and no others.
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

    /// Whether a job sees a tree and processes of its own.
    pub fn is_boxed(&self) -> bool {
        self.backend.name().is_namespaced()
    }

    /// Whether a job sees only what its profile names, as an unprivileged user.
    pub fn hides(&self) -> bool {
        self.backend.name().is_unprivileged()
    }

    /// The profile, and for which backend.
    pub fn profile(&self) -> (&Profile, BackendName) {
        (&self.profile, self.backend.name())
    }

    /// Where another job can lie.
    pub fn job_dir(&self) -> PathBuf {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        self.root.path().join(format!("job-{}-{n}", std::process::id()))
    }

    /// What a job of the profile comes to.
    pub fn plan(&self, exec: &Exec) -> Plan {
        let name = "p".parse().expect("a name");
        let dir = self.job_dir();
        let resolved = self
            .host
            .resolve(&name, self.profile(), exec, &dir)
            .expect("the program is there");
        Plan::without_permit(resolved, &self.capabilities).expect("the profile can be enforced")
    }

    /// Starts one.
    ///
    /// # Errors
    /// As the backend says; nothing of it is left then.
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

    /// Runs a job to its end, and takes its sandbox away.
    pub async fn run_with(&self, exec: &Exec, stdin: StdinSource) -> Outcome {
        let started = Instant::now();
        let (mut sandbox, running) = self.start(exec, stdin).await.expect("it starts");
        let mut outcome = outcome(running).await;
        outcome.took = started.elapsed();
        sandbox.destroy().await.expect("destroyed");
        outcome
    }

    /// The same without input.
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
    /// Whether the program says so.
    pub fn succeeded(&self) -> bool {
        self.ended.exit == Some(Exit::Status(0))
    }
}

/// Its words.
pub fn command(argv: &[&str]) -> Exec {
    Exec::new(argv.iter().map(|a| (*a).to_owned()).collect())
}

/// All that a job prints.
pub async fn read_all(mut reader: OutputReader) -> String {
    let mut bytes = BytesMut::new();
    while reader.read(&mut bytes, 256 * 1024).await.expect("readable") > 0 {}
    String::from_utf8_lossy(&bytes).into_owned()
}
