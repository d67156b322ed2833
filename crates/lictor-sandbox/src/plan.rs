//! Permit x what this host can enforce: the only thing that a backend accepts.
//!
//! ```text
//!   Host::resolve(profile, exec, dir) -> Resolved (facts, and the program they are about)
//!   authorise(.., facts, ..)          -> Permit
//!   Plan::new(permit, resolved, capabilities) -> Plan | Unenforceable
//! ```
//!
//! # Invariants
//! - A [`Plan`] has private fields and one public constructor, which takes a [`Permit`] by value: one permit, one
//!   plan, one start; where a commit is brought before that, the start of git, which the plan has as its first part. A probe makes one of its own, for one fixed program that looks at itself.
//! - What the profile names and the backend lacks is an error, never left out.

mod narrow;
mod promises;
mod unenforceable;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lictor_policy::authorise::Permit;
use lictor_policy::facts::Facts;
use lictor_proto::doc::{AppliedBackend, Process, Spec, Terms};
use lictor_proto::egress::Rules;
use lictor_proto::{Digest, JobId, Name, Timestamp};
use lictor_rootfs::Held;
use lictor_trust::egress::{PROXY_VARIABLES, Presets};
use lictor_trust::profiles::{Backend, Limits, Network, Profile, RunAs, Seccomp};
use serde::Serialize;

use self::promises::Promises;
pub use self::promises::can_hold;
#[cfg(target_os = "linux")]
pub(crate) use self::promises::keeps_from_agent;
pub use self::unenforceable::{Lack, Unenforceable};
use crate::backend::StartError;
use crate::capability::Capabilities;
use crate::imp;
use crate::kept::{Kept, KeptBounds, KeptUse};
use crate::program::{OpenProgram, User};
use crate::secret::SecretFile;

/// Of a job that names none, as [`lictor_proto::limits::UMASK`] writes it.
pub(crate) const UMASK: u32 = 0o022;

/// A job as found out on this host before anybody judged it: its facts, and what they are about. Data without
/// authority.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub(crate) work: Spec,
    pub(crate) facts: Facts,
    pub(crate) spec: LaunchSpec,
}

impl Resolved {
    /// What policy judges.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The backend whose view of the host this is.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.spec.backend
    }

    /// The same on a node that keeps so much.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn keeping(mut self, bounds: KeptBounds) -> Self {
        if let Some(kept) = &mut self.spec.kept {
            kept.room.of_node = bounds;
        }
        self
    }
}

/// A profile's egress rules; presets were written out when the law was loaded.
fn egress_of(profile: &Profile) -> Option<Rules> {
    let egress = profile
        .egress
        .as_ref()
        .filter(|_| profile.network == Network::Egress)?;
    egress.rules(&Presets::new()).ok()
}

/// The body of a plan: everything that a backend needs, and nothing that lets anybody start it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct LaunchSpec {
    pub(crate) backend: Backend,
    /// Digest of the profile that it comes from.
    pub(crate) profile: Digest,
    pub(crate) argv: Vec<String>,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) cwd: String,
    pub(crate) program: OpenProgram,
    pub(crate) user: User,
    /// Whether `user` is somebody else than the agent.
    pub(crate) changes_user: bool,
    /// Whether it is the job that has chosen `user`, and not its profile.
    pub(crate) chosen_user: bool,
    pub(crate) network: Network,
    /// The tree that is the job's root, of those in the node's store; `None` for what the host itself has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs: Option<PathBuf>,
    /// The manifest of its image, where the profile names an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rootfs_manifest: Option<Digest>,
    /// What keeps it there.
    #[serde(skip)]
    pub(crate) hold: Option<Arc<Held>>,
    /// Whether the job may write to a copy of it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) rootfs_writable: bool,
    pub(crate) read_only: Vec<String>,
    pub(crate) read_write: Vec<String>,
    /// What of these is hidden.
    pub(crate) deny: Vec<String>,
    /// What of the writable ones stays as it is.
    pub(crate) protect: Vec<String>,
    /// Devices of the host that are shown.
    pub(crate) devices: Vec<String>,
    pub(crate) seccomp: Seccomp,
    pub(crate) limits: Limits,
    /// The permission bits that the files it makes are without.
    pub(crate) umask: u32,
    #[serde(serialize_with = "millis")]
    pub(crate) timeout: Duration,
    #[serde(serialize_with = "millis")]
    pub(crate) grace: Duration,
    pub(crate) dir: PathBuf,
    /// The kept sandbox that it works in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<Kept>,
    /// What is started before it, to its end, in the same place: the node's own program, which fills that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<Box<Self>>,
    /// What the job may reach through the proxy.
    pub(crate) egress: Option<Rules>,
    /// Whose attempts the proxy records.
    pub(crate) job: JobId,
    /// What keeps the values of secrets in memory; the program's files have their descriptors.
    #[serde(skip)]
    pub(crate) secrets: Vec<SecretFile>,
    /// Secrets that are files in the job's own mounts, by their names: such a sandbox is no other job's.
    #[serde(serialize_with = "names", skip_serializing_if = "Vec::is_empty")]
    pub(crate) secret_files: Vec<(Name, SecretFile)>,
}

fn names<S: serde::Serializer>(files: &[(Name, SecretFile)], s: S) -> Result<S::Ok, S::Error> {
    s.collect_seq(files.iter().map(|(name, _)| name))
}

fn millis<S: serde::Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_u64(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

impl LaunchSpec {
    /// A job's wishes within what its profile allows.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(
        (profile, backend): (&Profile, Backend),
        (words, process): (&[String], Process<'_>),
        (dir, kept): (&Path, Option<Kept>),
        program: OpenProgram,
        user: User,
    ) -> Self {
        let workspace = kept.as_ref().map_or_else(|| dir.to_owned(), Kept::workspace);
        let mut env = BTreeMap::new();
        let egress = egress_of(profile);
        if egress.is_some() {
            env.extend(PROXY_VARIABLES.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        env.extend(profile.env.clone());
        env.extend(process.env.clone());
        let limits = profile.limits.clone();
        Self {
            backend,
            profile: profile.digest(),
            argv: words.to_vec(),
            env,
            cwd: working_directory((profile, backend), process, &workspace),
            program,
            user,
            changes_user: false,
            chosen_user: process.terms.is_some_and(Terms::names_somebody),
            network: profile.network,
            rootfs: None,
            rootfs_manifest: None,
            hold: None,
            rootfs_writable: profile.rootfs_writable,
            read_only: profile.read_only.clone(),
            read_write: profile.read_write.clone(),
            deny: profile.deny.clone(),
            protect: profile.protected(),
            devices: profile.devices.clone(),
            seccomp: profile.seccomp,
            timeout: process.timeout.unwrap_or(limits.timeout).min(limits.max_timeout),
            grace: process.grace_ms.map_or(limits.grace, Duration::from_millis),
            limits,
            umask: process.terms.and_then(Terms::umask_bits).unwrap_or(UMASK),
            dir: dir.to_owned(),
            kept,
            first: None,
            egress,
            job: JobId::from_digest(&Digest::of(dir.as_os_str().as_encoded_bytes())),
            secrets: Vec::new(),
            secret_files: Vec::new(),
        }
    }

    /// Whether it is somebody without privileges who must not get any back: what the agent may do is nothing that a
    /// run-as user should come by through a set-user-id program, or find in the agent's keyring. Namespaced backends see
    /// to that themselves; what they start first may be a runtime that needs its rights.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn drops_privileges(&self) -> bool {
        self.changes_user && self.user.uid != 0 && !self.backend.is_namespaced()
    }

    /// The directory that the job works in, as it is called on the host.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn workspace(&self) -> PathBuf {
        self.kept
            .as_ref()
            .map_or_else(|| self.dir.clone(), Kept::workspace)
    }

    /// Names the place that a job runs in: all of this but what is the job's own. A field that is added counts until
    /// somebody shows that it is.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn place(&self) -> Digest {
        let place = Self {
            argv: Vec::new(),
            env: BTreeMap::new(),
            cwd: String::new(),
            program: OpenProgram::none(),
            umask: UMASK,
            timeout: Duration::ZERO,
            grace: Duration::ZERO,
            dir: self.dir.parent().unwrap_or(&self.dir).to_owned(),
            job: JobId::from_digest(&self.profile),
            secrets: Vec::new(),
            ..self.clone()
        };
        Digest::of(&serde_json::to_vec(&place).unwrap_or_default())
    }

    fn promises(&self) -> Promises<'_> {
        Promises {
            backend: self.backend,
            network: self.network,
            has_rules: self.egress.is_some(),
            own_root: self.rootfs.is_some(),
            writes_root: self.rootfs_writable,
            shown: (&self.read_only, &self.read_write),
            hides: !self.deny.is_empty(),
            protects: !self.read_write.is_empty() && !self.protect.is_empty(),
            shows_devices: !self.devices.is_empty(),
            seccomp: self.seccomp,
            changes_user: self.changes_user,
            chosen_user: self.chosen_user,
            is_root: self.user.uid == 0,
            limits: &self.limits,
        }
    }
}

/// Where a job works, as it sees it.
pub(crate) fn working_directory(
    (profile, backend): (&Profile, Backend),
    process: Process<'_>,
    dir: &Path,
) -> String {
    let own = if backend.is_namespaced() {
        "/workspace".to_owned()
    } else {
        dir.to_string_lossy().into_owned()
    };
    let of_job = process.cwd.map(str::to_owned);
    of_job.or_else(|| profile.cwd.clone()).unwrap_or(own)
}

/// What a backend starts.
#[derive(Debug)]
pub struct Plan {
    body: Body,
    /// That nobody else works in its kept sandbox.
    claim: Option<imp::Claim>,
    /// Whether it works under another plan's claim, of which it is the first part.
    is_first: bool,
}

/// A plan without its permit; only this crate can make one, and only [`Plan::new`] makes a plan of it.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    pub(crate) spec: LaunchSpec,
    pub(crate) applied: AppliedBackend,
    pub(crate) digest: Digest,
}

impl Body {
    pub(crate) fn new(spec: LaunchSpec, capabilities: &Capabilities) -> Result<Self, Unenforceable> {
        let applied: Capabilities = spec.promises().required(capabilities)?.into_iter().collect();
        let applied = AppliedBackend {
            name: spec.backend.as_str().to_owned(),
            engine: capabilities.engine().map(str::to_owned),
            capabilities: applied.words(),
            rootfs: spec.rootfs_manifest,
        };
        // One field order and sorted maps: the same plan is always the same text.
        let text = serde_json::to_vec(&(&spec, &applied)).unwrap_or_default();
        Ok(Self {
            digest: Digest::of(&text),
            spec,
            applied,
        })
    }
}

impl Plan {
    /// Uses up a permit: what it allows, as far as this backend can hold what its profile promises.
    ///
    /// # Errors
    /// [`Unenforceable`].
    pub fn new(
        permit: Permit,
        resolved: Resolved,
        capabilities: &Capabilities,
    ) -> Result<Self, Unenforceable> {
        let same_job = permit.job().spec == resolved.work;
        let same_facts = *permit.facts() == resolved.facts;
        let same_profile = permit.profile().digest() == resolved.facts.profile_digest;
        if !(same_job && same_facts && same_profile && resolved.holds_all()) {
            return Err(Unenforceable::OtherFacts);
        }
        let job = JobId::from_digest(&permit.job().digest());
        let mut spec = resolved.spec;
        if let Some(first) = &mut spec.first {
            first.job = job.clone();
        }
        spec.job = job;
        Body::new(spec, capabilities).map(Self::of)
    }

    /// What a probe starts, which takes nobody's permission: a look at itself, and no other program.
    ///
    /// # Errors
    /// [`Unenforceable`].
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn to_try(resolved: Resolved, capabilities: &Capabilities) -> Result<Self, Unenforceable> {
        let Resolved { work, spec, .. } = &resolved;
        let Spec::Exec(exec) = work else {
            return Err(Unenforceable::OtherFacts);
        };
        let words = exec.argv.iter().take(imp::TRIAL.len());
        // What it is told besides: a file, and whether it is in a box.
        let is_look = words.eq(imp::TRIAL) && exec.argv.len() == imp::TRIAL.len() + 2;
        let shown = [&spec.read_only, &spec.read_write, &spec.devices];
        let shows_nothing = shown.iter().all(|paths| paths.is_empty()) && spec.rootfs.is_none();
        let has_nothing = spec.env.is_empty() && spec.egress.is_none() && spec.kept.is_none();
        if !(is_look && shows_nothing && has_nothing) {
            return Err(Unenforceable::OtherFacts);
        }
        Body::new(resolved.spec, capabilities).map(Self::of)
    }

    fn of(body: Body) -> Self {
        Self {
            body,
            claim: None,
            is_first: false,
        }
    }

    /// What is to be started before it, to its end, under this plan's claim; once. What the digest is of has it.
    pub fn take_first(&mut self) -> Option<Self> {
        let spec = *self.body.spec.first.take()?;
        let body = Body {
            spec,
            ..self.body.clone()
        };
        Some(Self {
            body,
            claim: None,
            is_first: true,
        })
    }

    /// Makes sure that no other job works in the kept sandbox that the job names, from now until its sandbox is
    /// destroyed. `create` does it otherwise. Waits for the disk.
    ///
    /// # Errors
    /// [`StartError::Busy`] when one does, [`StartError::Full`] when there may be no more.
    pub fn claim(&mut self, now: Timestamp) -> Result<(), StartError> {
        if let (Some(kept), None, false) = (&self.body.spec.kept, &self.claim, self.is_first) {
            self.claim = Some(imp::Claim::take(kept, &self.body.spec, now)?);
        }
        Ok(())
    }

    /// Lets others have what was claimed, of a plan that is not carried out. Waits for the disk.
    pub fn let_go(mut self) {
        if let Some(claim) = self.take_claim() {
            claim.let_go();
        }
    }

    /// Whether there is something to claim.
    #[must_use]
    pub fn names_sandbox(&self) -> bool {
        self.body.spec.kept.is_some()
    }

    /// The kept sandbox that was claimed; not one that goes with the job.
    #[must_use]
    pub fn kept(&self) -> Option<KeptUse> {
        let goes = self.body.spec.kept.as_ref().is_some_and(|kept| kept.goes);
        self.claim.as_ref().filter(|_| !goes).map(imp::Claim::to_tell)
    }

    /// That claim.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn claimed(&self) -> Option<&imp::Claim> {
        self.claim.as_ref()
    }

    /// That claim, to let others work there.
    pub(crate) fn take_claim(&mut self) -> Option<imp::Claim> {
        self.claim.take()
    }

    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn spec(&self) -> &LaunchSpec {
        &self.body.spec
    }

    /// SHA-256 over the plan as JSON.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.body.digest
    }

    /// What will be in force, for the receipt.
    #[must_use]
    pub fn applied(&self) -> &AppliedBackend {
        &self.body.applied
    }

    /// Which backend it is for.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.body.spec.backend
    }

    /// Wall time after which the tree is ended.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        self.body.spec.timeout
    }

    /// The job's own directory; made by `create`, removed by `destroy`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.body.spec.dir
    }
}

/// Who a profile's jobs run as, by name; `None` for the agent's own choice.
#[must_use]
pub fn run_as(profile: &Profile) -> Option<&Name> {
    match &profile.run_as {
        RunAs::Agent => None,
        RunAs::User(name) => Some(name),
    }
}

#[cfg(feature = "testing")]
impl Plan {
    /// A plan without a permit, for the conformance suite.
    ///
    /// # Errors
    /// [`Unenforceable`].
    pub fn without_permit(resolved: Resolved, capabilities: &Capabilities) -> Result<Self, Unenforceable> {
        Body::new(resolved.spec, capabilities).map(Self::of)
    }
}
