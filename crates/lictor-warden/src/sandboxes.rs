//! The backends of this host, probed once at start; a plan is made only for one that can be used.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lictor_policy::Permit;
use lictor_proto::agent::{BackendReport, HostFacts};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Name};
use lictor_sandbox::{
    Backend, Capabilities, Errand, Handle, Helped, Helper, HelperError, Host, OnErrand, Plan, Resolved, Work,
    can_hold,
};
use lictor_trust::profiles::{Backend as BackendName, Profile, Profiles};
use tokio::sync::{Semaphore, watch};

/// Programs that are looked at at once.
const RESOLVERS: usize = 64;
/// How long looking at one may take: hashing the largest there may be, on a slow disk.
const RESOLVE_WITHIN: Duration = Duration::from_secs(30);

/// Host and backends.
pub(crate) struct Sandboxes {
    host: Host,
    usable: BTreeMap<BackendName, Usable>,
    reports: Vec<BackendReport>,
    resolving: Arc<Semaphore>,
    /// The profiles whose jobs find prepared sandboxes; `None` when nothing is prepared any more.
    warm: Mutex<Option<watch::Sender<Vec<Profile>>>>,
}

struct Usable {
    backend: Arc<dyn Backend>,
    capabilities: Capabilities,
}

impl Sandboxes {
    pub(crate) async fn probe(host: Host) -> Self {
        let mut usable = BTreeMap::new();
        let mut reports = Vec::new();
        for backend in host.backends() {
            let name = backend.name();
            let mut report = BackendReport {
                name: name.as_str().to_owned(),
                usable: false,
                engine: None,
                capabilities: Vec::new(),
                problem: String::new(),
            };
            match backend.probe().await {
                Ok(capabilities) => {
                    report.usable = true;
                    report.engine = capabilities.engine().map(str::to_owned);
                    report.capabilities = capabilities.words();
                    usable.insert(
                        name,
                        Usable {
                            backend,
                            capabilities,
                        },
                    );
                }
                Err(e) => report.problem = e.to_string(),
            }
            reports.push(report);
        }
        Self {
            host,
            usable,
            reports,
            resolving: Arc::new(Semaphore::new(RESOLVERS)),
            warm: Mutex::new(Some(watch::Sender::new(Vec::new()))),
        }
    }

    /// Keeps sandboxes prepared for jobs whose directories are made in `work`, as [`Self::prepare`] says, until
    /// [`Self::prepare_none`].
    pub(crate) fn keep_warm(&self, work: PathBuf) -> impl Future<Output = ()> + Send + 'static {
        let wanted = self.warm().as_ref().map(watch::Sender::subscribe);
        let host = self.host.clone();
        async move {
            if let Some(wanted) = wanted {
                host.keep_warm(&work, wanted).await;
            }
        }
    }

    /// What the law asks for from now on: of profiles that bubblewrap holds here.
    pub(crate) fn prepare(&self, profiles: Option<&Profiles>) {
        let all = profiles.into_iter().flat_map(|p| p.profiles.values());
        let warm = all.filter(|p| p.warm > 0);
        let wanted = warm.filter(|p| self.choose(p).is_ok_and(|b| b == BackendName::Bubblewrap));
        let wanted: Vec<Profile> = wanted.cloned().collect();
        if let Some(sender) = self.warm().as_ref() {
            sender.send_if_modified(|before| std::mem::replace(before, wanted.clone()) != wanted);
        }
    }

    /// Ends what is prepared.
    pub(crate) fn prepare_none(&self) {
        self.warm().take();
    }

    fn warm(&self) -> MutexGuard<'_, Option<watch::Sender<Vec<Profile>>>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reports(&self) -> Vec<BackendReport> {
        self.reports.clone()
    }

    pub(crate) fn host_facts(&self, data: &Path) -> HostFacts {
        lictor_sandbox::host_facts(data)
    }

    /// Finds a job's program and the facts about it, on a thread that may wait: the program may be large, or lie on
    /// a file system that does not answer. `None` when it takes too long.
    pub(crate) async fn resolve(
        &self,
        (name, profile): (&Name, &Profile),
        work: Work,
        dir: PathBuf,
    ) -> Option<Result<Resolved, Refusal>> {
        let backend = match self.choose(profile) {
            Ok(backend) => backend,
            Err(refusal) => return Some(Err(refusal)),
        };
        let host = self.host.clone();
        let (name, profile) = (name.clone(), profile.clone());
        let threads = self.resolving.clone();
        let resolved = async move {
            // A thread that hangs keeps its permit, so that there are never more of them than this.
            let permit = threads.acquire_owned().await;
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                host.resolve(&name, (&profile, backend), work, &dir)
            })
            .await
        };
        let resolved = tokio::time::timeout(RESOLVE_WITHIN, resolved).await.ok()?;
        let failed = |e| Refusal::new(Code::Internal, format!("the program could not be looked at: {e}"));
        Some(resolved.map_err(failed).and_then(|r| r))
    }

    /// Runs a tool to its end; see [`Host::help`].
    pub(crate) async fn help(
        &self,
        helper: &Helper,
        watch: impl FnMut() -> Result<(), String> + Send,
    ) -> Result<Helped, HelperError> {
        self.host.help(helper, watch).await
    }

    /// Sends the agent's own program to ask for something; see [`Host::send`].
    pub(crate) async fn send(&self, errand: &Errand) -> std::io::Result<OnErrand> {
        self.host.send(errand).await
    }

    /// The plan of a permit, if this host can hold what the profile promises.
    pub(crate) fn plan(&self, permit: Permit, resolved: Resolved) -> Result<Plan, Refusal> {
        let usable = self.usable(resolved.backend())?;
        Plan::new(permit, resolved, &usable.capabilities).map_err(|e| e.refusal())
    }

    pub(crate) fn backend(&self, name: BackendName) -> Result<Arc<dyn Backend>, Refusal> {
        self.usable(name).map(|u| u.backend.clone())
    }

    /// The first of a profile's backends that works here and can hold all of it.
    fn choose(&self, profile: &Profile) -> Result<BackendName, Refusal> {
        let mut reasons = Vec::new();
        for name in profile.backend.iter() {
            let fit = self
                .usable(name)
                .and_then(|usable| can_hold(profile, name, &usable.capabilities).map_err(|e| e.refusal()));
            match fit {
                Ok(()) => return Ok(name),
                Err(refusal) => reasons.push(refusal.message),
            }
        }
        Err(Refusal::new(Code::Unenforceable, reasons.join("; ")))
    }

    /// Whether this host can hold a profile at all.
    pub(crate) fn can_hold(&self, profile: &Profile) -> bool {
        self.choose(profile).is_ok()
    }

    fn usable(&self, name: BackendName) -> Result<&Usable, Refusal> {
        self.usable.get(&name).ok_or_else(|| {
            let report = self.reports.iter().find(|r| r.name == name.as_str());
            let problem = report.map_or("this system has no such backend", |r| r.problem.as_str());
            Refusal::new(Code::Unenforceable, format!("{}: {problem}", name.as_str()))
        })
    }

    /// Ends and removes what an earlier process left of a job. Also for a backend that cannot be used any more.
    pub(crate) async fn sweep(&self, handle: &str) -> Result<(), String> {
        self.sweep_handle(serde_json::from_str(handle).map_err(|e| e.to_string())?)
            .await
    }

    /// The same for a job whose start was not written down; it is looked for by its directory.
    pub(crate) async fn sweep_unwritten(&self, backend: &str, dir: &Path) -> Result<(), String> {
        self.sweep_handle(Handle::look_for(backend, dir)).await
    }

    async fn sweep_handle(&self, handle: Handle) -> Result<(), String> {
        let backends = self.host.backends();
        let backend = backends
            .iter()
            .find(|b| b.name().as_str() == handle.backend)
            .ok_or_else(|| format!("no backend {}", handle.backend))?;
        match backend.recover(handle).await {
            Ok(recovered) => recovered.destroy().await.map_err(|e| e.to_string()),
            Err(lictor_sandbox::RecoverError::Gone) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }
}
