//! Who makes the containers: which of them works here, and what it takes where one does not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::docker::Docker;
use super::first::First;
use super::made::Made;
use super::podman::{self, Podman};
use super::runtime::{Kind, Runtime};
use crate::backend::{ProbeError, StartError};
use crate::engine::ContainerEngine;
use crate::host::Config;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Ids, View};
use crate::linux::users;

/// Whoever makes containers of a view for an agent.
#[derive(Debug, Clone)]
pub(crate) enum Maker {
    Runtime(Runtime),
    Podman(Podman),
    Docker(Docker),
}

impl Maker {
    /// The first of those that may be used here that works.
    ///
    /// # Errors
    /// Of each, why not, and what to do about it.
    pub(super) async fn choose(kernel: &Arc<Kernel>) -> Result<Self, ProbeError> {
        let is_root = rustix::process::geteuid().is_root();
        let mut reasons = Vec::new();
        for engine in candidates(&kernel.config, is_root) {
            let maker = match Self::find(engine, &kernel.config) {
                Ok(maker) => maker,
                Err(reason) => {
                    reasons.push(reason);
                    continue;
                }
            };
            match maker.try_out(kernel).await {
                Ok(()) => return Ok(maker),
                Err(e) => reasons.push(ProbeError {
                    problem: format!("{}: {}", engine.as_str(), e.refusal().message),
                    fix: maker.mending(kernel),
                }),
            }
        }
        Err(all(reasons))
    }

    fn find(engine: ContainerEngine, config: &Config) -> Result<Self, ProbeError> {
        let is_root = rustix::process::geteuid().is_root();
        match engine {
            ContainerEngine::Podman => Ok(Self::Podman(find_podman(config, is_root)?)),
            _ if !is_root => Err(ProbeError {
                problem: format!(
                    "{}: the agent is not root, so it can give a container only one user",
                    engine.as_str()
                ),
                fix: "container_engine = \"podman\" below `[sandbox]`, or run the agent as root".to_owned(),
            }),
            ContainerEngine::Docker => find_docker(config).map(Self::Docker),
            ContainerEngine::Crun => find_runtime(Kind::Crun, config).map(Self::Runtime),
            ContainerEngine::Auto | ContainerEngine::Runc => {
                find_runtime(Kind::Runc, config).map(Self::Runtime)
            }
        }
    }

    /// Makes a container that shows nothing but the host's programs, and takes it down.
    async fn try_out(&self, kernel: &Arc<Kernel>) -> Result<(), StartError> {
        self.try_with(kernel, View::to_try(kernel)).await
    }

    /// The same with parts of these hidden or held, where that is done in the container.
    pub(super) async fn try_covers(&self, kernel: &Arc<Kernel>) -> Result<(), StartError> {
        let view = View::to_try(kernel).and_then(View::with_covers_to_try);
        self.try_with(kernel, view).await
    }

    async fn try_with(&self, kernel: &Arc<Kernel>, view: io::Result<View>) -> Result<(), StartError> {
        let ids = Ids {
            user: (kernel.config.sandbox_uid, kernel.config.sandbox_gid),
            root: kernel.config.container_root,
        };
        let view = view.map_err(StartError::failed("lay out what it shows"))?;
        let mut made = Made::make(kernel, self, (ids, &view)).await?;
        made.end()
            .await
            .map_err(StartError::failed("take the container down"))
    }

    /// What to do when it does not work.
    fn mending(&self, kernel: &Kernel) -> String {
        let place = kernel.config.runtime_dir.display();
        match self {
            Self::Docker(_) => format!(
                "see that `docker info` works on this host as root, that the daemon runs on the host itself, not rootless \
                 nor in a container, and that `runtime_dir` ({place}) is the same directory for both"
            ),
            Self::Runtime(_) | Self::Podman(_) => format!(
                "see that `{} run` works on this host as the agent's user, and that `runtime_dir` ({place}) can be written \
                 to",
                self.engine().as_str(),
            ),
        }
    }

    /// Its name.
    pub(super) const fn engine(&self) -> ContainerEngine {
        match self {
            Self::Runtime(runtime) => runtime.kind.engine(),
            Self::Podman(_) => ContainerEngine::Podman,
            Self::Docker(_) => ContainerEngine::Docker,
        }
    }

    /// Whether what was laid out on a path comes into the container with it. crun, which podman uses, mounts the path
    /// alone where the container has users of its own (seen of 1.8), and what one engine does another version may not.
    pub(super) const fn shows_what_is_mounted_below(&self) -> bool {
        match self {
            Self::Runtime(Runtime { kind: Kind::Runc, .. }) | Self::Docker(_) => true,
            Self::Runtime(Runtime { kind: Kind::Crun, .. }) | Self::Podman(_) => false,
        }
    }

    /// What of a root file system it cannot show as it is: podman mounts files of its own into every one.
    pub(super) fn prepare(&self, view: &mut View) -> io::Result<()> {
        match self {
            Self::Runtime(_) | Self::Docker(_) => Ok(()),
            Self::Podman(_) => podman::prepare(view),
        }
    }

    pub(super) async fn start(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        what: (Ids, &View),
    ) -> Result<First, StartError> {
        match self {
            Self::Runtime(runtime) => runtime.start(kernel, bundle, what).await,
            Self::Podman(podman) => podman.start(kernel, bundle, what).await,
            Self::Docker(docker) => docker.start(kernel, bundle, what).await,
        }
    }
}

/// In the order in which they are tried: a runtime that the configuration names goes before those that it does not.
fn candidates(config: &Config, is_root: bool) -> Vec<ContainerEngine> {
    let mut all = config.container_engine.candidates(is_root);
    if let Some(named) = config.oci_runtime.as_deref().map(kind_of) {
        all.sort_by_key(|engine| *engine != named.engine());
    }
    all
}

fn find_runtime(kind: Kind, config: &Config) -> Result<Runtime, ProbeError> {
    let (word, usual) = match kind {
        Kind::Runc => ("runc", ["/usr/sbin/runc", "/usr/bin/runc"]),
        Kind::Crun => ("crun", ["/usr/bin/crun", "/usr/local/bin/crun"]),
    };
    let own = config.oci_runtime.as_deref().filter(|path| kind_of(path) == kind);
    let path = match own {
        Some(path) => Some(path.to_owned()).filter(|p| p.is_file()),
        None => usual.map(PathBuf::from).into_iter().find(|p| p.is_file()),
    };
    path.map(|path| Runtime { kind, path })
        .ok_or_else(|| lacks(format!("{word} is not there"), format!("apt install {word}")))
}

fn find_docker(config: &Config) -> Result<Docker, ProbeError> {
    let Some(daemon) = &config.docker else {
        let problem = "docker: this program cannot ask a daemon".to_owned();
        return Err(lacks(problem, "use the released program, which can".to_owned()));
    };
    match daemon.socket().exists() {
        true => Ok(Docker::by(daemon.clone())),
        false => Err(lacks(
            format!("docker: {} is not there", daemon.socket().display()),
            "apt install docker.io, or set `docker_socket` below `[sandbox]` to where the daemon listens"
                .to_owned(),
        )),
    }
}

/// podman with the runtime that can do without cgroups of its own where the agent may make none.
fn find_podman(config: &Config, is_root: bool) -> Result<Podman, ProbeError> {
    let path = config.podman.clone();
    if !path.is_file() {
        return Err(lacks(
            format!("podman: {} is not there", path.display()),
            "apt install podman crun uidmap".to_owned(),
        ));
    }
    // Where both versions of cgroups are mounted, crun refuses, and only root can cover them; runc then makes none.
    let both = Path::new("/sys/fs/cgroup/unified").exists();
    let kind = if both && !is_root { Kind::Runc } else { Kind::Crun };
    let runtime = find_runtime(kind, config)
        .map_err(|e| lacks(format!("podman: {}, which it needs here", e.problem), e.fix))?;
    if !is_root {
        has_more_users()?;
    }
    Ok(Podman {
        path,
        runtime: runtime.path,
        without_cgroups: kind == Kind::Crun,
    })
}

/// Whether the agent's user may have ids besides its own.
fn has_more_users() -> Result<(), ProbeError> {
    if !Path::new("/usr/bin/newuidmap").is_file() {
        let problem = "podman: newuidmap is not there, which gives users more ids".to_owned();
        return Err(lacks(problem, "apt install uidmap".to_owned()));
    }
    let user = users::current().uid;
    let name = users::name_of(user).unwrap_or_else(|| user.to_string());
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        if !gives_ids(&text, [&name, &user.to_string()]) {
            return Err(lacks(
                format!("podman: {file} gives {name} no ids"),
                format!("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}"),
            ));
        }
    }
    Ok(())
}

/// Whether a file of lines `user:first:count` has one for a user, by either of its names.
fn gives_ids(text: &str, names: [&str; 2]) -> bool {
    let mut owners = text.lines().filter_map(|line| line.split(':').next());
    owners.any(|owner| names.contains(&owner))
}

fn lacks(problem: String, fix: String) -> ProbeError {
    ProbeError { problem, fix }
}

/// Which one a configured runtime is, by its name.
fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default();
    match name.as_encoded_bytes().starts_with(b"crun") {
        true => Kind::Crun,
        false => Kind::Runc,
    }
}

fn all(reasons: Vec<ProbeError>) -> ProbeError {
    let join = |of: fn(&ProbeError) -> &str| reasons.iter().map(of).collect::<Vec<_>>().join("; ");
    ProbeError {
        problem: join(|r| &r.problem),
        fix: join(|r| &r.fix).replace("; ", ", or "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_that_is_not_there_comes_with_what_installs_it() {
        let config = Config {
            oci_runtime: Some("/nonexistent/crun".into()),
            ..Config::default()
        };
        let crun = Maker::find(ContainerEngine::Crun, &config).expect_err("it is not there");
        let docker = Maker::find(ContainerEngine::Docker, &config).expect_err("nobody can ask one");
        assert!(docker.problem.starts_with("docker: "), "{docker}");
        let both = all(vec![crun.clone(), crun]);
        assert_eq!(both.problem, "crun is not there; crun is not there");
        assert_eq!(both.fix, "apt install crun, or apt install crun");
        assert!(gives_ids("web:1:2\n", ["web", "33"]) && !gives_ids("webmaster:1:2", ["web", "33"]));
        assert_eq!(kind_of(Path::new("/opt/runc-1.2")), Kind::Runc);
    }
}
