//! Who makes the containers: which of them works here, and what it takes where one does not.

use std::path::{Path, PathBuf};

use super::first::First;
use super::made::Made;
use super::runtime::{Kind, Runtime};
use crate::backend::{ProbeError, StartError};
use crate::engine::ContainerEngine;
use crate::host::Config;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Ids, View};

/// Whoever makes containers of a view for an agent.
#[derive(Debug, Clone)]
pub(crate) enum Maker {
    Runtime(Runtime),
}

impl Maker {
    /// The first of those that may be used here that works.
    ///
    /// # Errors
    /// Of each, why not, and what to do about it.
    pub(super) async fn choose(kernel: &Kernel) -> Result<Self, ProbeError> {
        let mut reasons = Vec::new();
        for engine in kernel.config.container_engine.candidates() {
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
                    fix: format!(
                        "see that `{} run` works as root on this host, and that `runtime_dir` ({}) can be written to",
                        engine.as_str(),
                        kernel.config.runtime_dir.display(),
                    ),
                }),
            }
        }
        Err(all(reasons))
    }

    fn find(engine: ContainerEngine, config: &Config) -> Result<Self, ProbeError> {
        let (kind, usual) = match engine {
            ContainerEngine::Auto | ContainerEngine::Runc => {
                (Kind::Runc, ["/usr/sbin/runc", "/usr/bin/runc"])
            }
            ContainerEngine::Crun => (Kind::Crun, ["/usr/bin/crun", "/usr/local/bin/crun"]),
        };
        let own = config.oci_runtime.as_deref().filter(|path| kind_of(path) == kind);
        let path = match own {
            Some(path) => Some(path.to_owned()).filter(|p| p.is_file()),
            None => usual.map(PathBuf::from).into_iter().find(|p| p.is_file()),
        };
        let word = engine.as_str();
        path.map(|path| Self::Runtime(Runtime { kind, path }))
            .ok_or_else(|| ProbeError {
                problem: format!("{word} is not there"),
                fix: format!("apt install {word}"),
            })
    }

    /// Makes a container that shows nothing but the host's programs, and takes it down.
    async fn try_out(&self, kernel: &Kernel) -> Result<(), StartError> {
        let ids = Ids {
            user: (kernel.config.sandbox_uid, kernel.config.sandbox_gid),
            root: kernel.config.container_root,
        };
        let mut made = Made::make(kernel, self, (ids, &View::of_host())).await?;
        made.end()
            .await
            .map_err(StartError::failed("take the container down"))
    }

    pub(super) async fn start(
        &self,
        kernel: &Kernel,
        bundle: &Bundle,
        what: (Ids, &View),
    ) -> Result<First, StartError> {
        match self {
            Self::Runtime(runtime) => runtime.start(kernel, bundle, what).await,
        }
    }
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
        let both = all(vec![crun.clone(), crun]);
        assert_eq!(both.problem, "crun is not there; crun is not there");
        assert_eq!(both.fix, "apt install crun, or apt install crun");
        assert_eq!(kind_of(Path::new("/opt/runc-1.2")), Kind::Runc);
    }
}
