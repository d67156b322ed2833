//! A daemon that makes containers may lie, hang, die and come back: no job is started in what it must not be in, none
//! outlives its agent, and nothing is left at the daemon. Each test has a daemon of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use common::docker::Docker;
use common::{Bench, command, eventually, processes_with};
use lictor_proto::doc::Exit;
use lictor_sandbox::{Config, ContainerDaemon, LeftContainer, StdinSource, Wanted};
use lictor_trust::profiles::Backend;
use rustix::process::Signal;

async fn bench(config: Config) -> Bench {
    Bench::with(Backend::Container, config).await
}

/// Why no job starts.
async fn refusal(bench: &Bench) -> String {
    let started = bench.start(&command(&["true"]), StdinSource::Null).await;
    started.err().expect("refused").refusal().message
}

/// What a daemon does that is not as it should be.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// Names the agent itself.
    TheAgent,
    /// Names the first process of the container that was made before.
    Another,
    /// Makes it with the host's group of root.
    AsRoot,
    /// Has another program as its first process, which tells that it runs.
    AnotherProgram,
}

/// A real daemon, but for a lie from the second container on: the first is the probe's.
#[derive(Debug)]
struct Liar {
    daemon: Arc<dyn ContainerDaemon>,
    lie: Lie,
    honest: AtomicU32,
    last: AtomicU32,
}

#[async_trait]
impl ContainerDaemon for Liar {
    fn socket(&self) -> &Path {
        self.daemon.socket()
    }

    async fn start(&self, wanted: &Wanted) -> io::Result<u32> {
        let mut wanted = wanted.clone();
        let honest = self.honest.load(Ordering::Relaxed);
        if honest > 0 {
            self.honest.store(honest - 1, Ordering::Relaxed);
            let pid = self.daemon.start(&wanted).await?;
            self.last.store(pid, Ordering::Relaxed);
            return Ok(pid);
        }
        match self.lie {
            Lie::AsRoot => wanted.user.1 = 0,
            Lie::AnotherProgram => {
                let own = Path::new(&wanted.own);
                fs::copy(own.join("init"), own.join("other"))?;
                wanted.first[0] = "/.lictor/other".to_owned();
            }
            Lie::TheAgent | Lie::Another => {}
        }
        let pid = self.daemon.start(&wanted).await?;
        Ok(match self.lie {
            Lie::TheAgent => std::process::id(),
            Lie::Another => self.last.load(Ordering::Relaxed),
            Lie::AsRoot | Lie::AnotherProgram => pid,
        })
    }

    async fn remove(&self, name: &str) -> io::Result<()> {
        self.daemon.remove(name).await
    }

    async fn left(&self, node: &str) -> io::Result<Vec<LeftContainer>> {
        self.daemon.left(node).await
    }
}

#[tokio::test]
async fn what_a_daemon_says_of_a_container_is_looked_at_from_outside() {
    let Some(docker) = Docker::start() else { return };
    for (lie, word) in [
        (Lie::TheAgent, "not the first one of this container"),
        (Lie::Another, "not the first one of this container"),
        (Lie::AnotherProgram, "not the first one of this container"),
        (Lie::AsRoot, "somebody else (Gid)"),
    ] {
        let liar = Arc::new(Liar {
            daemon: docker.client(),
            lie,
            honest: AtomicU32::new(100),
            last: AtomicU32::new(0),
        });
        let bench = bench(docker.config_by(liar.clone())).await;
        let (mut sandbox, running) = bench
            .start(&command(&["/bin/sleep", "60"]), StdinSource::Null)
            .await
            .expect("an honest daemon's container is used");
        liar.honest.store(0, Ordering::Relaxed);
        let refused = refusal(&bench).await;
        assert!(refused.contains(word), "{lie:?}: {refused}");
        drop(running);
        sandbox.destroy().await.expect("destroyed");
    }
    eventually("no container is left", || docker.containers() == 0);
}

#[tokio::test]
async fn no_daemon_is_asked_that_is_not_named() {
    let Some(docker) = Docker::start() else { return };
    let config = Config {
        container_engine: lictor_sandbox::ContainerEngine::Auto,
        ..docker.config()
    };
    let engine = bench(config).await.capabilities.engine().map(str::to_owned);
    assert!(
        engine.is_some() && engine.as_deref() != Some("docker"),
        "{engine:?}"
    );
    let images = || {
        docker
            .request("GET", "/images/json?all=1", "")
            .expect("an answer")
    };
    assert_eq!(images().trim(), "[]", "nothing was handed over");
    let named = bench(docker.config()).await;
    assert_eq!(named.capabilities.engine(), Some("docker"));
    assert_ne!(images().trim(), "[]");
}

#[tokio::test]
async fn a_daemon_in_another_pid_namespace_names_somebody_else() {
    let Some(docker) = Docker::start_in_other_pids() else {
        return;
    };
    let host = lictor_sandbox::Host::start(docker.config()).expect("the host starts");
    let probed = host.backend(Backend::Container).expect("built in").probe().await;
    let problem = probed
        .expect_err("its containers are not this host's")
        .to_string();
    assert!(
        problem.contains("not the first one of this container on this host"),
        "{problem}"
    );
}

// A pipe as standard input: the job waits until somebody writes.
#[tokio::test]
async fn a_job_goes_on_when_its_daemon_is_killed_and_nothing_stays_when_that_comes_back() {
    let Some(mut docker) = Docker::start() else { return };
    let bench = bench(docker.config()).await;
    let exec = command(&["/bin/cat"]);
    let (input, write) = rustix::pipe::pipe().expect("a pipe");
    let stdin = StdinSource::File(input.into());
    let (mut sandbox, running) = bench.start(&exec, stdin).await.expect("starts");
    docker.end(Signal::KILL);
    fs::File::from(write).write_all(b"still here").expect("written");
    let outcome = common::outcome(running).await;
    assert!(
        outcome.succeeded() && outcome.stdout == "still here",
        "{outcome:?}"
    );
    let began = Instant::now();
    sandbox.destroy().await.expect("destroyed without it");
    assert!(
        began.elapsed() < Duration::from_secs(9),
        "nobody waits for a daemon that is gone"
    );
    assert_eq!(docker.containers(), 1, "it has written it down");
    assert!(refusal(&bench).await.contains("the daemon"));
    docker.begin();
    assert!(bench.run(&["true"]).await.succeeded());
    eventually("no container is left", || docker.containers() == 0);
}

#[tokio::test]
async fn a_daemon_that_is_stopped_ends_its_jobs() {
    let Some(mut docker) = Docker::start() else { return };
    let bench = bench(docker.config()).await;
    let exec = command(&["/bin/sleep", "60"]);
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    docker.end(Signal::TERM);
    let outcome = common::outcome(running).await;
    assert_eq!(outcome.ended.exit, Some(Exit::Signal(9)), "{outcome:?}");
    sandbox.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn a_daemon_that_does_not_answer_fails_a_start_in_time_and_keeps_nothing_of_it() {
    let Some(docker) = Docker::start() else { return };
    let bound = Duration::from_secs(8);
    let bench = bench(Config {
        start_bound: bound,
        ..docker.config()
    })
    .await;
    docker.signal(Signal::STOP);
    let began = Instant::now();
    let refused = refusal(&bench).await;
    assert!(refused.contains("longer than it may"), "{refused}");
    assert!(began.elapsed() < 3 * bound, "{:?}", began.elapsed());
    docker.signal(Signal::CONT);
    // It goes on with what it was asked for; whatever comes of that is removed with the next start.
    eventually("it answers again and has nothing left", || {
        docker.request("GET", "/_ping", "").is_ok()
    });
    assert!(bench.run(&["true"]).await.succeeded());
    eventually("no container is left", || docker.containers() == 0);
}

/// Started by the test below as a process of its own: an agent with a running job, to be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let Some(place) = std::env::var_os("LICTOR_TEST_AGENT").map(PathBuf::from) else {
        return;
    };
    let mark = std::env::var("LICTOR_TEST_MARK").expect("a mark");
    let config = Config {
        container_engine: lictor_sandbox::ContainerEngine::Docker,
        docker: Some(Arc::new(lictor_docker::Daemon::at(place.join("docker.sock")))),
        runtime_dir: place.join("run"),
        ..Config::default()
    };
    let mut bench = bench(config).await;
    bench.root.disable_cleanup(true);
    let line = format!("(setsid sleep {mark} &); echo up; exec sleep {mark}");
    let exec = command(&["sh", "-c", &line]);
    let (_sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let mut bytes = bytes::BytesMut::new();
    out.read(&mut bytes, 64).await.expect("readable");
    fs::write(place.join("up"), bench.root.path().as_os_str().as_encoded_bytes()).expect("written");
    running.wait().await;
}

#[tokio::test]
async fn a_container_ends_with_its_agent_and_the_next_one_removes_what_was_never_started() {
    let Some(docker) = Docker::start() else { return };
    let place = docker.runtime_dir().parent().expect("a directory").to_owned();
    let mark = format!("67.{}", std::process::id());
    let mut agent = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed"])
        .env("LICTOR_TEST_AGENT", &place)
        .env("LICTOR_TEST_MARK", &mark)
        .stdout(Stdio::null())
        .spawn()
        .expect("an agent");
    eventually("its job runs", || place.join("up").exists());
    assert!(!processes_with(&mark).is_empty());
    let labels = docker.labels();
    let bundle = labels["lictor.bundle"].clone();
    assert!(Path::new(&bundle).starts_with(docker.runtime_dir()), "{labels:?}");
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    eventually("its job has ended", || processes_with(&mark).is_empty());
    eventually("its container is gone", || docker.containers() == 0);
    // As an agent leaves them that is killed between two requests; and those of others, which are nobody's business.
    docker.make_container(&labels);
    let mut others = labels.clone();
    others.insert("lictor.node".to_owned(), "another".to_owned());
    docker.make_container(&others);
    assert_eq!(docker.containers(), 2);
    let next = bench(docker.config()).await;
    assert!(!Path::new(&bundle).exists(), "what lay there was removed");
    assert!(next.run(&["true"]).await.succeeded());
    eventually("only the other one is left", || docker.containers() == 1);
    let root = fs::read(place.join("up")).expect("where its jobs were");
    let _ = fs::remove_dir_all(String::from_utf8(root).expect("a path"));
}

#[tokio::test]
async fn what_a_container_shows_is_the_agents_alone() {
    let Some(docker) = Docker::start() else { return };
    let mut bench = bench(docker.config()).await;
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().to_str().expect("UTF-8").to_owned();
    for (file, text) in [("secret", "the-secret"), ("plain", "plain")] {
        fs::write(place.path().join(file), text).expect("written");
    }
    std::os::unix::fs::chown(place.path(), Some(65_534), Some(65_534)).expect("given");
    bench.profile.read_write = vec![path.clone()];
    // One that every container has, one in a directory, one that is like most.
    let devices = ["/dev/full", "/dev/net/tun", "/dev/kmsg"].into_iter();
    let devices: Vec<String> = devices
        .filter(|at| Path::new(at).exists())
        .map(str::to_owned)
        .collect();
    assert!(devices.len() > 1, "{devices:?}");
    let line = format!(
        "cat {path}/plain {path}/secret; echo x > {path}/new; cut -d' ' -f5 /proc/self/mountinfo; id -u; \
         head -c 9000000 /dev/zero > /workspace/big; wc -c < /workspace/big"
    );
    let open = bench.sh(&line).await;
    assert!(open.stdout.contains("the-secret"), "works without: {open:?}");
    assert!(open.stdout.contains("9000000"), "works without: {open:?}");
    bench.profile.limits.disk = Some(4 << 20);
    bench.profile.deny = vec!["secret".into()];
    let seen = format!("ls {} 2>/dev/null", devices.join(" "));
    assert_eq!(
        bench.sh(&seen).await.stdout,
        "/dev/full\n",
        "what the profile does not name is not there"
    );
    bench.profile.devices = devices.clone();
    assert_eq!(bench.sh(&seen).await.stdout.lines().count(), devices.len());
    let held = bench.sh(&line).await;
    assert!(
        held.stdout.starts_with("plain") && !held.stdout.contains("the-secret"),
        "{held:?}"
    );
    assert!(!held.stdout.contains("9000000"), "{held:?}");
    // Nothing that the daemon mounts is there: no names of hosts, no kernel's settings, no directory of the agent's.
    for theirs in [
        "/etc/resolv.conf",
        "/etc/hostname",
        "/sys",
        "/dev/mqueue",
        "/.lictor",
    ] {
        assert!(
            !held.stdout.lines().any(|at| at.starts_with(theirs)),
            "{theirs}: {held:?}"
        );
    }
    assert!(held.stdout.contains("\n1000\n"), "{held:?}");
    assert_eq!(
        fs::read_to_string(place.path().join("new")).expect("written by the job"),
        "x\n"
    );
}
