//! The `bubblewrap` backend: namespaces made by `bwrap`, the program put into them by our own spawn.
//!
//! ```text
//!   create: zygote -> keeper -> bwrap (unprivileged uid, empty environment) -> first process of the namespaces,
//!           which sets everything up, drops all privileges, and waits at --block-fd
//!   exec:   zygote -> keeper -> setns(that process) -> program: no privileges, seccomp, execveat of what was judged
//!   end:    the first process is killed, and the kernel ends everything in its pid namespace
//! ```
//!
//! Why bwrap does not start the program itself: it would turn a signal into an exit status that a program can also
//! return (`exit 137`), it would look the program up by path, and limits meant for the program would hold for bwrap.
//!
//! When the agent goes, its keeper does, with that bwrap, with that the first process, and with that everybody in
//! the box; so nothing of a sandbox outlives its agent.
//!
//! A profile may ask for prepared ones (`warm`): `create` then takes one whose place is exactly the plan's.
//!
//! # Invariants
//! - bwrap never runs as real uid 0 (it could write `/proc/sys`), and `/proc/sys` is read-only all the same.
//! - bwrap gets an empty environment and only the descriptors listed here.

mod apart;
mod arguments;
mod namespaces;
mod warm;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use async_trait::async_trait;
use lictor_trust::profiles::Backend as BackendName;

use self::namespaces::Namespaces;
use self::warm::Taken;
pub(crate) use self::warm::{Warm, keep_warm};
use super::boxed::Boxed;
use super::job::{Inside, Job};
use super::kernel::Kernel;
use super::overlay::Overlay;
use super::{probing, recover, trial};
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::handle::{Handle, Recovered};
use crate::plan::Plan;
use crate::running::Running;
use crate::terminal::Stdio;

/// Runs jobs in namespaces made by bwrap.
#[derive(Debug)]
pub(crate) struct Bubblewrap(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for Bubblewrap {
    fn name(&self) -> BackendName {
        BackendName::Bubblewrap
    }

    /// Runs a job in a sandbox, which looks at itself.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        if !self.0.config.bwrap.is_file() {
            return Err(ProbeError {
                problem: format!("{} is not there", self.0.config.bwrap.display()),
                fix: "install it: apt install bubblewrap".to_owned(),
            });
        }
        if self.0.config.sandbox_uid == 0 {
            return Err(ProbeError {
                problem: "the sandbox user is root".to_owned(),
                fix: "set `uid` below `[sandbox]` in the agent's configuration to an unprivileged user"
                    .to_owned(),
            });
        }
        if let Err(e) = &self.0.filter {
            return Err(unusable(e.clone()));
        }
        let found = trial::run(&self.0, self, self.claimed()).await;
        let found = found.map_err(|e| unusable(e.refusal().message))?;
        Ok(probing::with_egress(found, &self.0).await.explained(self.name()))
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut overlay = None;
        let (job, namespaces, taken) = match Taken::out_of(&self.0, plan.spec()).await {
            Some((mut namespaces, taken)) => match Job::create_in(self.0.clone(), plan) {
                Ok(job) => (job, namespaces, Some(taken)),
                Err(e) => {
                    let _ = namespaces.end().await;
                    return Err(e);
                }
            },
            None => {
                let mut job = Job::create(self.0.clone(), plan)?;
                match Self::make(&self.0, &job).await {
                    Ok((namespaces, made)) => {
                        overlay = made;
                        (job, namespaces, None)
                    }
                    Err(e) => {
                        let _ = job.destroy().await;
                        return Err(e);
                    }
                }
            }
        };
        let mut made = Inner {
            job,
            namespaces,
            taken,
            overlay,
        };
        let inside = (made.namespaces.init_fd.as_fd(), None, None);
        if let Err(e) = made.job.open_way_out(inside).await {
            let _ = made.destroy().await;
            return Err(e);
        }
        Ok(Box::new(made))
    }

    async fn recover(&self, handle: Handle) -> Result<Recovered, RecoverError> {
        recover::Recovered::take_up(handle).map(Recovered::new)
    }
}

impl Bubblewrap {
    async fn make(kernel: &Kernel, job: &Job) -> Result<(Namespaces, Option<Overlay>), StartError> {
        let spec = job.plan.spec();
        let overlay = Overlay::make(&kernel.id_maps, spec);
        let overlay = overlay.map_err(StartError::failed("make a root to write to"))?;
        let namespaces = Namespaces::make(kernel, spec, overlay.as_ref()).await?;
        Ok((namespaces, overlay))
    }

    fn claimed(&self) -> Capabilities {
        let mut own = vec![C::NoNetwork, C::OwnRoot, C::Devices, C::Prepared];
        own.extend([C::HiddenPaths, C::ProtectedPaths, C::HiddenAgent]);
        own.extend(C::OF_NAMESPACES);
        let found = probing::begin(&self.0, self.name(), &own);
        let found = probing::with_disk(probing::with_pids(found, &self.0));
        let found = probing::with_writable_root(found, &self.0);
        probing::with_rights(found, &[C::RunAsUser])
    }
}

fn unusable(problem: String) -> ProbeError {
    if problem.contains("Unknown option") {
        return ProbeError {
            problem,
            fix:
                "it is too old: sandboxes take bwrap 0.8 as in Debian 12, with --bind-fd and --disable-userns"
                    .to_owned(),
        };
    }
    ProbeError {
        problem,
        fix: "user namespaces must be allowed to unprivileged users: look at kernel.unprivileged_userns_clone, \
              kernel.apparmor_restrict_unprivileged_userns and user.max_user_namespaces"
            .to_owned(),
    }
}

struct Inner {
    job: Job,
    namespaces: Namespaces,
    /// Until it runs: the next one is prepared after that, not beside its start.
    taken: Option<Taken>,
    /// The root that it may write to.
    overlay: Option<Overlay>,
}

#[async_trait]
impl Boxed for Inner {
    fn job(&self) -> &Job {
        &self.job
    }

    fn job_mut(&mut self) -> &mut Job {
        &mut self.job
    }

    async fn start(&mut self, stdio: Stdio) -> Result<Running, StartError> {
        let kernel = self.job.kernel.clone();
        let filter = kernel.filter_of(self.job.plan.spec().seccomp)?;
        let inside = Inside {
            namespaces: Some(self.namespaces.init_fd.as_fd()),
            init: Some(self.namespaces.init),
            filter: Some(filter),
            roots: self.namespaces.roots(),
            overlay: self.overlay.as_ref(),
            ..Inside::default()
        };
        let running = self.job.exec(stdio, inside).await;
        drop(self.taken.take());
        running
    }

    async fn end_around(&mut self) -> io::Result<()> {
        self.namespaces.end().await
    }
}
