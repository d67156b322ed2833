//! What all backends share: the zygote, the cgroup root, the resolver.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lictor_proto::Name;
use lictor_proto::code::{Code, Refusal};
use lictor_rootfs::Store;
use lictor_trust::profiles::{Backend, Profile, Seccomp};
use tokio::sync::{Semaphore, watch};

use super::bubblewrap::Warm;
use super::cgroup::Cgroups;
use super::container::Maker;
use super::files;
use super::idmap::IdMaps;
use super::landlock::Reach;
use super::oci::Place;
use super::own::{Names, Own};
use super::proxy::Proxy;
use super::resolve::Resolver;
use super::seccomp::Around;
use super::users::User;
use super::zygote::Zygote;
use crate::backend::StartError;
use crate::capability::{Capabilities, Capability};
use crate::host::Config;
use crate::plan::{Resolved, keeps_from_agent};
use crate::work::Work;

/// Threads that may open paths of profiles at once, some of which may never answer.
const OPENERS: usize = 64;

fn not_known(error: &io::Error) -> Refusal {
    let why = format!("what of this host is the agent's own cannot be told, so nothing is shown: {error}");
    Refusal::new(Code::StartFailed, why)
}

/// This machine.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(super) zygote: Arc<Zygote>,
    pub(super) cgroups: Cgroups,
    pub(super) config: Config,
    /// The namespaced backends' filter, or why there is none.
    pub(super) filter: Result<Vec<libc::sock_filter>, String>,
    /// The stricter one, which jobs without namespaces always have, or why there is none.
    pub(super) isolated_filter: Result<Vec<libc::sock_filter>, String>,
    pub(super) proxy: Option<Proxy>,
    pub(super) warm: Warm,
    /// What jobs behind Landlock may reach, whatever their profile.
    pub(super) reach: Reach,
    /// The agent's own by all its names.
    own: Own,
    resolver: Resolver,
    /// Of the files of OCI runtimes, made when it is first needed.
    place: OnceLock<Place>,
    placing: Mutex<()>,
    /// Who makes containers here, when that has been found out.
    pub(super) maker: Mutex<Option<Maker>>,
    /// Places for threads that open what profiles show.
    pub(super) openers: Arc<Semaphore>,
    /// Where root file systems are.
    rootfs: OnceLock<Store>,
    pub(super) id_maps: IdMaps,
}

impl Kernel {
    pub(crate) fn start(config: Config) -> io::Result<Self> {
        // Before the zygote is forked: it may move this process to where keepers should be, too.
        let cgroups = Cgroups::make();
        Ok(Self {
            zygote: Zygote::start(config.start_bound)?,
            cgroups,
            proxy: config.egress_proxy.clone().map(Proxy::new),
            config,
            filter: super::seccomp::filter(Around::Namespaces).map_err(|e| e.to_string()),
            isolated_filter: super::seccomp::filter(Around::Nothing).map_err(|e| e.to_string()),
            warm: Warm::default(),
            reach: Reach::default(),
            own: Own::default(),
            resolver: Resolver::default(),
            place: OnceLock::new(),
            placing: Mutex::new(()),
            maker: Mutex::new(None),
            openers: Arc::new(Semaphore::new(OPENERS)),
            rootfs: OnceLock::new(),
            id_maps: IdMaps::default(),
        })
    }

    /// Every name of what is the agent's own, which no job sees.
    ///
    /// # Errors
    /// When the kernel does not say what is mounted; then nothing is shown.
    pub(crate) fn own(&self) -> io::Result<Names> {
        let of_store = || self.rootfs.get()?.dir().parent().map(Path::to_owned);
        let node = self.config.node_dir.clone().or_else(of_store);
        let others = self.config.own.iter().chain([&self.config.runtime_dir]);
        self.own.names(node.into_iter().chain(others.cloned()).collect())
    }

    pub(crate) fn use_rootfs(&self, store: Store) {
        let _ = self.rootfs.set(store);
    }

    pub(crate) fn resolve(
        &self,
        profile: (&Name, &Profile, Backend),
        work: &Work,
        dir: &Path,
    ) -> Result<Resolved, Refusal> {
        let (_, settings, backend) = profile;
        let names = self.own().map_err(|e| not_known(&e))?;
        if backend.is_unprivileged() {
            // Once more, whatever was known when the backend was chosen.
            let covers = (backend != Backend::Landlock).then_some(Capability::HiddenAgent);
            let found = covers.into_iter().collect::<Capabilities>().of_agent_in(&names);
            keeps_from_agent(settings, backend, &found).map_err(|e| e.refusal())?;
        }
        let store = self.rootfs.get();
        let own = files::Own {
            names: &names,
            carrier: &self.config.carrier,
        };
        let around = (&self.sandbox_user(), store, own);
        let resolved = self.resolver.resolve(profile, work, dir, around);
        resolved.map(|resolved| resolved.keeping(self.config.kept))
    }

    pub(crate) fn warm_ready(&self) -> watch::Receiver<usize> {
        self.warm.ready()
    }

    /// Whom jobs in sandboxes of a root agent run as.
    pub(super) fn sandbox_user(&self) -> User {
        User {
            uid: self.config.sandbox_uid,
            gid: self.config.sandbox_gid,
            groups: Vec::new(),
        }
    }
}

impl Kernel {
    /// The filter of a job, by the level of its profile.
    pub(super) fn filter_of(&self, level: Seccomp) -> Result<&[libc::sock_filter], StartError> {
        let filter = match level {
            Seccomp::Default => &self.filter,
            Seccomp::Strict => &self.isolated_filter,
        };
        let failed = StartError::failed("make the seccomp filter");
        filter.as_deref().map_err(|e| failed(io::Error::other(e.clone())))
    }

    /// Where OCI runtimes keep their files.
    pub(super) fn place(&self) -> io::Result<&Place> {
        // What stands in the way may be gone the next time, so only a place that was made is remembered.
        let _one = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        match self.place.get() {
            Some(place) => Ok(place),
            None => {
                let place = Place::make(&self.config.runtime_dir)?;
                Ok(self.place.get_or_init(|| place))
            }
        }
    }

    /// What limits on a whole job are held here, or on each process in their place.
    pub(super) fn limits(&self) -> Vec<Capability> {
        let mut found = self.cgroups.capabilities();
        if !found.contains(&Capability::MemoryOfTree) {
            found.push(Capability::MemoryOfProcess);
        }
        found
    }
}
