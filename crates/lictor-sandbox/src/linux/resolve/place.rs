//! Where a job runs and works: its kept directory, what its process is told of it, and what is started there before it.

use std::collections::BTreeMap;
use std::path::Path;

use lictor_policy::facts::{Facts, ProgramFacts};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{Exec, GitCommit, Operation, Process, Spec, Workspace};
use lictor_proto::{Digest, Name};
use lictor_trust::profiles::{Backend, Network, Profile};

use crate::kept::{Kept, Which};
use crate::linux::files;
use crate::linux::users::{self, User};
use crate::linux::whom;
use crate::plan::LaunchSpec;
use crate::program::OpenProgram;
use crate::work::Work;

/// A profile's variable that says whom git trusts to say who a host is, in place of the host's own list.
const AUTHORITIES: &str = "GIT_SSL_CAINFO";

/// A profile, its name, and the backend that was chosen for it.
pub(super) type Of<'a> = (&'a Name, &'a Profile, Backend);

/// The kept sandbox that a job works in: the one that it names, or one that a commit is brought into, and that goes with it.
pub(super) fn kept(of: Of<'_>, work: &Work, dir: &Path, user: &User) -> Result<Option<Kept>, Refusal> {
    let (name, profile, backend) = of;
    let which = |called: &Name| Which {
        name: called.clone(),
        profile: name.clone(),
        backend,
        uid: user.uid,
    };
    if work.spec.git().is_some() {
        return for_one_job(profile, which(name), dir).map(Some);
    }
    let Some(wanted) = work.process().sandbox else {
        return Ok(None);
    };
    let Some(persist) = &profile.persist else {
        let why = "the profile keeps no sandboxes; leave the sandbox out, or add persist to the profile";
        return Err(Refusal::new(Code::Unenforceable, why));
    };
    let kept = Kept::new(which(wanted), persist, dir);
    Ok(Some(kept.wanted_by(&work.spec)))
}

fn for_one_job(profile: &Profile, which: Which, dir: &Path) -> Result<Kept, Refusal> {
    if profile.limits.disk.is_some() {
        let why = "a commit is brought into a directory on the disk, and the profile's jobs have a disk in memory (limits.disk); name \
                   another profile, and limit what its workspaces hold by persist.bytes";
        return Err(Refusal::new(Code::Unenforceable, why));
    }
    let bytes = profile.persist.and_then(|persist| persist.bytes);
    let nameless = || Refusal::new(Code::Internal, "the job's directory has no name of a job");
    Kept::for_one_job(which, bytes, dir).ok_or_else(nameless)
}

/// What its process is told of it.
pub(super) fn of<'a>(
    (name, profile, backend): Of<'a>,
    dir: &'a Path,
    kept: Option<&Kept>,
    user: &User,
) -> files::Place<'a> {
    files::Place {
        profile: name,
        dir,
        workspace: match kept {
            Some(_) if backend.is_namespaced() => "/workspace".to_owned(),
            Some(kept) => kept.workspace().to_string_lossy().into_owned(),
            None => String::new(),
        },
        has_proxy: profile.network == Network::Egress,
        user: (user.uid, backend),
        authorities: profile.env.get(AUTHORITIES).cloned(),
    }
}

/// What brings a commit, in the place of the job that works on it, with a way out to its host alone.
pub(super) fn first(
    (_, profile, backend): Of<'_>,
    (words, git, process): (&[String], &GitCommit, Process<'_>),
    places: (&Path, Option<Kept>),
    program: OpenProgram,
    user: &User,
) -> Result<LaunchSpec, Refusal> {
    let none = BTreeMap::new();
    let process = Process {
        env: &none,
        cwd: None,
        ..process
    };
    let wanted = (words, process);
    let mut first = LaunchSpec::new((profile, backend), wanted, places, program, user.clone());
    first.env.clear();
    let clone = Workspace {
        git: Some(git.clone()),
        ..Workspace::new(Operation::Clone, None)
    };
    first.narrow_for(&Spec::Workspace(clone))?;
    Ok(first)
}

/// What policy is told, but for whom the job itself has chosen.
pub(super) fn facts(
    (name, profile, backend): Of<'_>,
    spec: &LaunchSpec,
    (program, interpreters): (ProgramFacts, Vec<ProgramFacts>),
    (rootfs, rootfs_index): (Option<Digest>, Option<Digest>),
) -> Facts {
    Facts {
        program,
        interpreters,
        env_names: spec.env.keys().cloned().collect(),
        network: profile.network_word().to_owned(),
        profile: name.clone(),
        profile_digest: profile.digest(),
        backend: backend.as_str().to_owned(),
        namespaced: backend.is_namespaced(),
        rootfs,
        rootfs_index,
        run_as_uid: spec.user.uid,
        run_as_gid: None,
        run_as_groups: Vec::new(),
        cwd: spec.cwd.clone(),
        secrets: Vec::new(),
    }
}

/// The place that a profile's jobs run in, before there is any, in a directory of its own.
pub(in crate::linux) fn before_any(
    (profile, backend): (&Profile, Backend),
    dir: &Path,
    sandbox: &User,
) -> Result<LaunchSpec, Refusal> {
    let user = whom::runs((profile, backend), None, sandbox)?;
    let changes_user = user != users::current();
    let nothing = Exec::new(Vec::new());
    let spec = LaunchSpec::new(
        (profile, backend),
        (&nothing.argv, nothing.process()),
        (dir, None),
        OpenProgram::none(),
        user,
    );
    Ok(LaunchSpec { changes_user, ..spec })
}

/// That there are the devices that a profile shows: character devices under their own names, since disks are for nobody in a
/// sandbox, and a link could lead to one.
pub(super) fn has_devices(profile: &Profile) -> Result<(), Refusal> {
    profile.devices.iter().try_for_each(|path| is_device(path))
}

fn is_device(path: &str) -> Result<(), Refusal> {
    use std::os::unix::fs::FileTypeExt as _;
    let refuse = |why: String| Err(Refusal::new(Code::Unenforceable, format!("{path}: {why}")));
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_char_device() => Ok(()),
        Ok(_) => refuse("the profile shows it as a device, and it is no character device".to_owned()),
        Err(e) => refuse(format!(
            "the profile shows this device, and this host has none: {e}"
        )),
    }
}
