//! The `container` backend: namespaces, root and users made by an OCI runtime, the program put into them by our own
//! spawn.
//!
//! ```text
//!   create: zygote -> keeper -> runc run --detach (root, empty environment) -> the container's first process, which is
//!           ours, without any privilege, and waits at a pipe of the agent's
//!   exec:   zygote -> keeper -> setns(that process) -> program: user, no privileges, seccomp, execveat of what was judged
//!   end:    the first process is killed, and the kernel ends everything in its pid namespace
//! ```
//!
//! Why the runtime does not start the program itself: see `bubblewrap`; a runtime's exit status says less than ours.
//!
//! # Invariants
//! - Inside, root is an id of the host that owns nothing, and has no capability; the job is another user, so it can
//!   neither trace nor signal the first process.
//! - The runtime is not needed to take a container down, so one that hangs keeps nothing alive.

mod docker;
mod first;
mod made;
mod maker;
mod podman;
mod runtime;

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use lictor_trust::profiles::Backend as BackendName;

use self::made::Made;
pub(super) use self::maker::Maker;
use super::boxed::Boxed;
use super::job::{Inside, Job};
use super::kernel::Kernel;
use super::oci::{Ids, View};
use super::users::User;
use super::{probing, recover, trial};
use crate::backend::{Backend, ProbeError, RecoverError, Sandbox, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::handle::{Handle, Recovered};
use crate::plan::{LaunchSpec, Plan};
use crate::running::Running;
use crate::terminal::Stdio;

/// The job's user as it is inside.
const INSIDE: User = User {
    uid: 1000,
    gid: 1000,
    groups: Vec::new(),
};

/// Runs jobs in containers.
#[derive(Debug)]
pub(crate) struct Container(pub(crate) Arc<Kernel>);

#[async_trait]
impl Backend for Container {
    fn name(&self) -> BackendName {
        BackendName::Container
    }

    /// Has a container made, and runs a job in one, which looks at itself.
    async fn probe(&self) -> Result<Capabilities, ProbeError> {
        let unusable = |problem: String, fix: &str| ProbeError {
            problem,
            fix: fix.to_owned(),
        };
        let is_root = rustix::process::geteuid().is_root();
        if is_root && self.0.config.sandbox_uid == 0 {
            return Err(unusable(
                "the sandbox user is root".to_owned(),
                "set `uid` below `[sandbox]` in the agent's configuration to an unprivileged user",
            ));
        }
        if let Err(e) = &self.0.filter {
            return Err(unusable(
                e.clone(),
                "this architecture has no system call filter here",
            ));
        }
        let maker = Maker::choose(&self.0).await?;
        let engine = maker.engine().as_str();
        let covers = covers(&self.0, &maker).await;
        *self.0.maker.lock().unwrap_or_else(PoisonError::into_inner) = Some(maker);
        let mut own = vec![C::NoNetwork, C::Devices, C::OwnRoot];
        own.extend(C::OF_NAMESPACES);
        let found = probing::begin(&self.0, self.name(), &own);
        let found = probing::with_disk(probing::with_pids(found, &self.0));
        let found = probing::with_rights(found, &[C::RunAsUser]);
        let held = [C::HiddenPaths, C::ProtectedPaths, C::HiddenAgent];
        let found = held.into_iter().fold(found, |found, c| match &covers {
            Some(tried) => found.with(c, tried.clone()),
            None => found.and(c),
        });
        let claimed = found.made_by(Some(engine));
        let found = trial::run(&self.0, self, claimed).await.map_err(|e| ProbeError {
            problem: format!("{engine}: {}", e.refusal().message),
            fix: format!("see that `{engine} run` works on this host as the agent's user"),
        })?;
        Ok(probing::with_egress(found, &self.0).await.explained(self.name()))
    }

    async fn create(&self, plan: Plan) -> Result<Box<dyn Sandbox>, StartError> {
        let mut job = Job::create(self.0.clone(), plan)?;
        let made = match self
            .make(job.plan.spec(), job.plan.applied().engine.as_deref())
            .await
        {
            Ok(made) => made,
            Err(e) => {
                let _ = job.destroy().await;
                return Err(e);
            }
        };
        let mut made = Inner { job, made };
        let inside = (made.made.init_fd().as_fd(), Some(&INSIDE), made.made.users());
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

/// Whether something can be put over what a container shows; `None` where it is laid out before, and comes with that.
async fn covers(kernel: &Arc<Kernel>, maker: &Maker) -> Option<Result<(), String>> {
    if rustix::process::geteuid().is_root() && maker.shows_what_is_mounted_below() {
        return None;
    }
    let tried = maker.try_covers(kernel).await;
    Some(tried.map_err(|e| format!("nothing can be put over what is shown: {}", e.refusal().message)))
}

impl Container {
    /// `told` is who makes it, by the plan.
    async fn make(&self, spec: &LaunchSpec, told: Option<&str>) -> Result<Made, StartError> {
        let mut view = View::open(&self.0, spec)
            .await
            .map_err(StartError::failed("show what the profile names"))?;
        let ids = Ids {
            user: (spec.user.uid, spec.user.gid),
            root: self.0.config.container_root,
        };
        let maker = self.maker().await?;
        if told.is_some_and(|told| told != maker.engine().as_str()) {
            // Another probe has found another one since.
            let other = io::Error::other("it is not the engine that the plan names; try again");
            return Err(StartError::failed("make the container")(other));
        }
        maker
            .prepare(&mut view)
            .map_err(StartError::failed("show the root file system"))?;
        let mut made = Made::make(&self.0, &maker, (ids, &view)).await?;
        made.placeholders = view.placeholders();
        Ok(made)
    }

    /// The one that the last probe has found, or would.
    async fn maker(&self) -> Result<Maker, StartError> {
        let known = || self.0.maker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(maker) = known().clone() {
            return Ok(maker);
        }
        let chosen = Maker::choose(&self.0).await;
        let maker = chosen.map_err(|e| StartError::failed("make the container")(io::Error::other(e)))?;
        *known() = Some(maker.clone());
        Ok(maker)
    }
}

struct Inner {
    job: Job,
    made: Made,
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
            namespaces: Some(self.made.init_fd().as_fd()),
            users: self.made.users(),
            user: Some(&INSIDE),
            init: Some(self.made.init()),
            filter: Some(filter),
            roots: vec![self.made.init()],
            ..Inside::default()
        };
        self.job.exec(stdio, inside).await
    }

    async fn end_around(&mut self) -> io::Result<()> {
        self.made.end().await
    }
}
