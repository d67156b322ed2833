//! Containers are containers whoever makes them: the execution cases and the attempts, for each engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stdout
)]

mod common;

use std::os::unix::fs::MetadataExt as _;

use common::Bench;
use common::OnThisMachine as _;
use common::docker::Docker;
use common::secrets;
use common::somebody::{as_somebody, own_place};
use lictor_sandbox::conformance::{Rule, Site, attempts, judge, pass_all};
use lictor_sandbox::{Config, ContainerEngine, StdinSource};
use lictor_trust::profiles::Backend;

fn with(engine: ContainerEngine) -> Config {
    Config {
        container_engine: engine,
        ..Config::default()
    }
}

/// All that a job can tell by being run.
async fn runs_jobs_exactly(config: Config) {
    let Some(bench) = Bench::on_with(Backend::Container, config).await else {
        return;
    };
    pass_all(&bench, |case| println!("{case}")).await;
    leaves_nobody_beside_the_first_process(&bench).await;
    names_who_made_it(&bench);
    match rustix::process::geteuid().is_root() {
        true => secrets::is_a_file_of_its_users_alone(&bench, "/run/secrets").await,
        false => secrets::is_refused_as_a_file(&bench).await,
    }
    // crun, started by podman, gives its standard input to the container's root.
    let null = std::fs::metadata("/dev/null").expect("a device");
    assert_eq!((null.uid(), null.gid(), null.mode() & 0o7777), (0, 0, 0o666));
}

/// What the receipt says.
fn names_who_made_it(bench: &Bench) {
    let plan = bench.plan(&common::command(&["true"]));
    let named = plan.applied().engine.as_deref();
    assert_eq!(named, bench.capabilities.engine());
    assert!(named.is_some_and(|engine| engine != "auto"), "{named:?}");
}

#[tokio::test]
async fn docker_runs_jobs_exactly() {
    if let Some(docker) = Docker::start() {
        runs_jobs_exactly(docker.config()).await;
    }
}

#[tokio::test]
async fn docker_holds_what_any_sandbox_must() {
    if let Some(docker) = Docker::start() {
        holds_what_any_sandbox_must(docker.config()).await;
    }
}

/// What an engine starts beside the first process would outlive the agent.
async fn leaves_nobody_beside_the_first_process(bench: &Bench) {
    let exec = common::command(&["/bin/sleep", "60"]);
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("it starts");
    common::eventually("engine and monitor are gone", || {
        let all = common::processes();
        let mut below = vec![std::process::id()];
        while let Some(pid) = below.pop() {
            let children = all.iter().filter(|p| p.3 == pid && p.2 != "Z");
            for child in children {
                if ["podman", "conmon"].contains(&child.1.as_str()) {
                    return false;
                }
                below.push(child.0);
            }
        }
        true
    });
    drop(running);
    sandbox.destroy().await.expect("destroyed");
}

/// Every attempt that any sandbox must hold.
async fn holds_what_any_sandbox_must(config: Config) {
    let place = tempfile::tempdir().expect("a directory");
    let mut site = Site::prepare(place.path()).expect("bait");
    let Some(bench) = Bench::on_with(Backend::Container, config).await else {
        return;
    };
    let mut surprises = Vec::new();
    for attempt in attempts().filter(|a| a.rule == Rule::Must) {
        let backend = (bench.backend.as_ref(), &bench.capabilities);
        let verdict = site.within(&bench.host, backend, attempt).await;
        let verdict = verdict.unwrap_or_else(|e| panic!("{}: {e:?}", attempt.name));
        surprises.extend(judge(Some(Backend::Container), attempt, &verdict).err());
    }
    assert!(surprises.is_empty(), "{}", surprises.join("\n"));
}

#[tokio::test]
async fn crun_runs_jobs_exactly() {
    runs_jobs_exactly(with(ContainerEngine::Crun)).await;
}

#[tokio::test]
async fn crun_holds_what_any_sandbox_must() {
    holds_what_any_sandbox_must(with(ContainerEngine::Crun)).await;
}

#[tokio::test]
async fn a_runtime_that_the_configuration_names_goes_before_the_others() {
    for (named, engine) in [("/usr/sbin/runc", "runc"), ("/usr/bin/crun", "crun")] {
        let config = Config {
            oci_runtime: Some(named.into()),
            ..Config::default()
        };
        let Some(bench) = Bench::on_with(Backend::Container, config).await else {
            continue;
        };
        // For an agent that is not root it is podman, whatever is named.
        let engine = if rustix::process::geteuid().is_root() {
            engine
        } else {
            "podman"
        };
        assert_eq!(bench.capabilities.engine(), Some(engine));
        assert!(bench.run(&["/usr/bin/true"]).await.succeeded());
    }
}

#[tokio::test]
async fn podman_of_root_runs_jobs_exactly() {
    runs_jobs_exactly(with(ContainerEngine::Podman)).await;
}

#[tokio::test]
async fn podman_of_root_holds_what_any_sandbox_must() {
    holds_what_any_sandbox_must(with(ContainerEngine::Podman)).await;
}

#[test]
fn an_agent_that_is_not_root_runs_jobs_exactly_in_podman() {
    if as_somebody("an_agent_that_is_not_root_runs_jobs_exactly_in_podman") {
        alone(runs_jobs_exactly(not_root()));
    }
}

#[test]
fn an_agent_that_is_not_root_holds_what_any_sandbox_must_in_podman() {
    if as_somebody("an_agent_that_is_not_root_holds_what_any_sandbox_must_in_podman") {
        alone(holds_what_any_sandbox_must(not_root()));
    }
}

/// Some files of such an agent's containers belong to other users; root takes away what is left of them.
fn not_root() -> Config {
    Config {
        runtime_dir: own_place(),
        ..Config::default()
    }
}

fn alone(what: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(what);
}
