//! `lictor agent`: this machine becomes a node, and serves as one.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use lictor_agent::config::{Sandbox, Transport};
use lictor_agent::{AgentConfig, Enrolment, enroll};
use lictor_sandbox::Host;
use serde_json::json;

use crate::args::{Agent, AgentCommand, Enroll, ServeAgent};
use crate::commands::daemon;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::block_on;

pub(crate) fn run(agent: &Agent, out: Out) -> Result {
    match &agent.command {
        AgentCommand::Enroll(args) => block_on(join(args, out)),
        AgentCommand::Run(args) => serve(args, out),
        #[cfg(unix)]
        AgentCommand::Archive(args) => super::archive::run(args, out),
        #[cfg(unix)]
        AgentCommand::Rootfs(args) => super::rootfs::run(args, out),
        #[cfg(unix)]
        AgentCommand::Sandbox(args) => super::sandbox::run(args, out),
    }
}

async fn join(args: &Enroll, out: Out) -> Result {
    let mut token = args.token.clone();
    if token == "-" {
        token.clear();
        std::io::stdin()
            .take(64 * 1024)
            .read_to_string(&mut token)
            .doing("read the token")?;
    }
    let enrolment = Enrolment {
        token: token.trim(),
        dir: &args.dir,
        name: args.name.clone(),
    };
    let enrolled = enroll(enrolment).await.map_err(|e| {
        Failure::new("this machine could not enrol")
            .because(&e)
            .code(e.code())
    })?;
    let value = json!({ "name": enrolled.name, "node_id": enrolled.node_id, "hub": enrolled.hub_url });
    out.either(&value, || {
        format!(
            "this machine is node {} ({})\nnext: lictor agent run --dir {}",
            enrolled.name,
            enrolled.node_id,
            args.dir.display()
        )
    })?;
    Ok(Status::OK)
}

fn serve(args: &ServeAgent, out: Out) -> Result {
    let mut config = match &args.config {
        Some(file) => AgentConfig::load(file).doing("read the agent's configuration")?,
        None => AgentConfig::new(&args.dir),
    };
    // Before any thread and any key: what starts jobs is a fork of the process as it is now.
    let host = prepare_host(&config.sandbox, &config.dir, config.rootfs.credentials.as_deref())?;
    daemon::log(out);
    #[cfg(unix)]
    {
        let puller = super::rootfs::puller(&config.dir, args.config.as_deref(), &config.rootfs);
        config.puller = Some(puller);
        config.downloader = Some(super::download::downloader(&config.downloads)?);
    }
    if args.poll {
        config.transport = Transport::Poll;
    }
    runtime()?.block_on(serve_node(&config, host, daemon::terminated()))?;
    Ok(Status::OK)
}

/// One thread: the agent waits far more than it works, and a small process is part of the promise.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start")
}

/// Makes the process that starts jobs of the node whose directory is `node_dir`, whose passwords for registries are in a file.
pub(crate) fn prepare_host(set: &Sandbox, node_dir: &Path, passwords: Option<&Path>) -> Result<Host> {
    let mut config = host_config(set);
    config.node_dir = Some(node_dir.to_owned());
    config.own.extend(passwords.map(Path::to_owned));
    Host::start(config).doing("prepare for starting jobs")
}

/// How jobs are run here.
pub(crate) fn host_config(set: &Sandbox) -> lictor_sandbox::Config {
    let usual = lictor_sandbox::Config::default();
    lictor_sandbox::Config {
        egress_proxy: cfg!(unix).then(|| vec![crate::args::EGRESS_PROXY.to_owned()]),
        carrier: usual.carrier,
        sandbox_uid: set.uid.unwrap_or(usual.sandbox_uid),
        sandbox_gid: set.gid.unwrap_or(usual.sandbox_gid),
        bwrap: set.bwrap.clone().unwrap_or(usual.bwrap),
        container_engine: set.container_engine,
        oci_runtime: set.oci_runtime.clone().or(usual.oci_runtime),
        podman: set.podman.clone().unwrap_or(usual.podman),
        docker: docker(set),
        runsc: set.runsc.clone().unwrap_or(usual.runsc),
        container_root: set.container_root.unwrap_or(usual.container_root),
        runtime_dir: set.runtime_dir.clone().unwrap_or(usual.runtime_dir),
        node_dir: usual.node_dir,
        // Who gets at the daemon's socket by the agent's groups is root.
        own: docker_socket(set).into_iter().collect(),
        kept: lictor_sandbox::KeptBounds {
            most: set.kept_most.map_or(usual.kept.most, |n| n.get()),
            bytes: set
                .kept_gib
                .map_or(usual.kept.bytes, |n| u64::from(n.get()) << 30),
        },
        start_bound: usual.start_bound,
    }
}

/// The daemon that may be asked for containers; nobody looks whether there is one before it is needed.
#[cfg(unix)]
fn docker(set: &Sandbox) -> Option<std::sync::Arc<dyn lictor_sandbox::ContainerDaemon>> {
    let daemon = docker_socket(set).map(lictor_docker::Daemon::at)?;
    Some(std::sync::Arc::new(daemon))
}

#[cfg(unix)]
fn docker_socket(set: &Sandbox) -> Option<PathBuf> {
    let usual = || lictor_docker::USUAL_SOCKET.into();
    Some(set.docker_socket.clone().unwrap_or_else(usual))
}

#[cfg(not(unix))]
fn docker_socket(_: &Sandbox) -> Option<PathBuf> {
    None
}

#[cfg(not(unix))]
fn docker(_: &Sandbox) -> Option<std::sync::Arc<dyn lictor_sandbox::ContainerDaemon>> {
    None
}

/// Is the egress proxy of an agent: what the agent starts with a control socket as standard input.
#[cfg(unix)]
pub(crate) fn egress_proxy() -> Result {
    use std::os::fd::AsFd as _;
    lictor_sandbox::hide_memory().doing("hide what it will hold")?;
    lictor_sandbox::confine_to_network().doing("give up what it will not need")?;
    let control = std::io::stdin().as_fd().try_clone_to_owned();
    let served = control.map_err(Into::into).and_then(lictor_egress::run);
    served.map_err(|e| {
        Failure::new("the egress proxy cannot run")
            .because(&e)
            .hint("Agents start it themselves, when a job's profile has an egress section.")
    })?;
    Ok(Status::OK)
}

/// Carries files, as a job's process.
#[cfg(unix)]
pub(crate) fn carry_files(order: &str) -> Result {
    match lictor_sandbox::carry_files(order) {
        Ok(()) => Ok(Status::OK),
        Err(e) => {
            let status = u8::try_from(e.status()).unwrap_or(crate::exit::OWN_ERROR);
            Err(Failure::new(e.to_string()).code(e.code()).exit(status))
        }
    }
}

/// Runs the agent until `stop`, and drains it.
pub(crate) async fn serve_node(
    config: &AgentConfig,
    host: Host,
    stop: impl Future<Output = ()>,
) -> Result<()> {
    lictor_agent::run::agent(config, host, stop)
        .await
        .map_err(|e| Failure::new("the agent cannot run").because(&e))
}
