//! A real node: enrolled for real, with the real warden, sandbox, journal and link, in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use lictor_agent::config::Transport;
use lictor_agent::{AgentConfig, Enrolled, Enrolment, enroll, run};
use lictor_audit::{EventType, Expect, Record};
use lictor_proto::{Code, Timestamp};
use lictor_sandbox::Host;
use lictor_warden::{Clock, Config, Warden, audit_lines};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hub::PATIENCE;
use super::org::NODE;

/// What makes a program of these tests carry files: the name of a test that does nothing else.
pub const CARRIER: [&str; 2] = ["--exact", "carries_files"];

/// Carries files if that is what this process was started for; it then ends here.
pub fn carries_files() {
    let mut arguments = std::env::args().skip(1);
    let is_carrier = CARRIER
        .iter()
        .all(|word| arguments.next().is_some_and(|a| a == *word));
    // Whoever runs this test as a test says something else, or nothing.
    let order = arguments.next().filter(|o| o.starts_with('{'));
    if let (true, Some(order)) = (is_carrier, order) {
        let done = lictor_sandbox::carry_files(&order);
        std::process::exit(done.map_or_else(|e| e.status(), |()| 0));
    }
}

/// What starts jobs, one for the process. Call it first in `main`, before there are threads.
///
/// # Panics
/// When this machine can't start jobs at all.
pub fn host() -> Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    let config = || lictor_sandbox::Config {
        carrier: CARRIER.map(str::to_owned).to_vec(),
        ..lictor_sandbox::Config::default()
    };
    HOST.get_or_init(|| Host::start(config()).expect("the host backend starts"))
        .clone()
}

/// The node's system clock, which somebody may turn.
#[derive(Debug, Clone, Default)]
pub struct TurnedClock(Arc<AtomicI64>);

impl TurnedClock {
    /// Turns it forward from the true time.
    pub fn ahead(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.store(ms, Ordering::SeqCst);
    }

    /// Turns it back from the true time.
    pub fn back(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.store(-ms, Ordering::SeqCst);
    }

    fn clock(&self) -> Clock {
        let turned = self.0.clone();
        Clock::new(move || {
            let now = Timestamp::now().as_millis();
            Timestamp::from_millis(now.saturating_add_signed(turned.load(Ordering::SeqCst)))
        })
    }
}

/// An enrolled machine.
pub struct Node {
    dir: TempDir,
    /// Its clock.
    pub clock: TurnedClock,
    running: Option<Running>,
}

struct Running {
    warden: Warden,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Node {
    /// A machine that is no node yet.
    ///
    /// # Errors
    /// When there is no directory for it.
    pub fn fresh() -> Result<Self> {
        Ok(Self {
            dir: tempfile::Builder::new().prefix("lictor-hostile-").tempdir()?,
            clock: TurnedClock::default(),
            running: None,
        })
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Enrols with this token, as `lictor agent enroll` does.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn enroll(&self, token: &str) -> Result<Enrolled, lictor_agent::EnrollError> {
        let enrolment = Enrolment {
            token,
            dir: self.dir(),
            name: NODE.parse().ok(),
        };
        enroll(enrolment).await
    }

    /// Starts it, as `lictor agent run` does; `change` is made to the warden's settings.
    ///
    /// # Errors
    /// When it doesn't start.
    pub async fn start(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        let mut config = Config::new(self.dir());
        config.clock = self.clock.clock();
        change(&mut config);
        let warden = Warden::start(config, host()).await?;
        let hub = run::open_hub(&AgentConfig::new(self.dir()))?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let port = Arc::new(warden.clone());
        let stopped = stop.clone().cancelled_owned();
        tasks.spawn(run::serve(port, hub, Transport::Link, Duration::ZERO, stopped));
        self.running = Some(Running { warden, stop, tasks });
        Ok(())
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it doesn't end in time.
    pub async fn stop(&mut self) -> Result<()> {
        let running = self.running.take().context("the node does not run")?;
        running.stop.cancel();
        running.tasks.close();
        tokio::time::timeout(PATIENCE, running.tasks.wait())
            .await
            .context("the agent doesn't end")?;
        running.warden.close().await;
        let joined = tokio::task::spawn_blocking(|| running.warden.join());
        tokio::time::timeout(PATIENCE, joined)
            .await
            .context("the warden doesn't end")??;
        Ok(())
    }

    /// Its audit log, checked.
    ///
    /// # Errors
    /// When it can't be read or doesn't hold.
    pub fn audit(&self) -> Result<Vec<Record>> {
        let mut text = String::new();
        audit_lines(self.dir(), |line| {
            text += line;
            text.push('\n');
        })?;
        lictor_audit::verify(text.as_bytes(), &Expect::default())?;
        let records = text
            .lines()
            .map(|l| Record::parse(l).map_err(|e| anyhow!("{e}: {l}")));
        records.collect()
    }

    /// The type of the newest event that carries this code, after the first `known` ones.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn noted(&self, known: usize, code: Code) -> Result<EventType> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        loop {
            let log = self.audit()?;
            let carries = |r: &&Record| r.fields().get("code") == Some(&code.into());
            if let Some(record) = log.iter().skip(known).rev().find(carries) {
                return Ok(record.kind());
            }
            let said: Vec<_> = log.iter().skip(known).map(Record::line).collect();
            ensure!(
                tokio::time::Instant::now() < deadline,
                "no audit event carries {code}: {said:#?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for an event of this type, after the first `known` ones.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn notes(&self, known: usize, kind: EventType) -> Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if self.audit()?.iter().skip(known).any(|r| r.kind() == kind) {
                return Ok(());
            }
            ensure!(
                tokio::time::Instant::now() < deadline,
                "no {kind} in the audit log"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.stop.cancel();
        }
    }
}
