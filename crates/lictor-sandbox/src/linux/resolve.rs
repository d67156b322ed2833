//! From a profile and a command to the facts that policy judges, and the file that they are about.
//!
//! The namespaced backends show the host's own files read-only, so a path names the same file in both views; what
//! they do not show is not found. Whoever starts the program later opens it again *there* and compares device,
//! inode, change time and size with what was judged here.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lictor_policy::facts::{Facts, ProgramFacts};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::Exec;
use lictor_proto::{Digest, Name};
use lictor_trust::profiles::{Network, Profile};
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};

use super::users::{self, User};
use crate::plan::{LaunchSpec, Resolved, run_as};
use crate::program::{ExecBy, FileIdentity, OpenProgram};

/// Longest chain of `#!` interpreters, as the kernel has it.
const INTERPRETERS: usize = 4;
/// Largest program that is hashed.
const MAX_PROGRAM: u64 = 1 << 30;
/// Digests remembered, of late and from before.
const REMEMBERED: usize = 2048;
/// A file that changed less than this ago could change again without a new time stamp.
const SETTLED_S: i64 = 2;

/// Directories of the host that every namespaced root shows.
pub(super) const SHOWN: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Resolves programs; remembers digests, so that the second look at the same file costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    digests: Mutex<Remembered>,
}

/// Digests by file: those of late, and those of the time before. When there are too many, the older ones go.
#[derive(Debug, Default)]
struct Remembered {
    late: HashMap<FileIdentity, Digest>,
    before: HashMap<FileIdentity, Digest>,
}

impl Remembered {
    fn get(&mut self, identity: &FileIdentity) -> Option<Digest> {
        if let Some(digest) = self.late.get(identity) {
            return Some(*digest);
        }
        let digest = self.before.remove(identity)?;
        self.insert(*identity, digest);
        Some(digest)
    }

    fn insert(&mut self, identity: FileIdentity, digest: Digest) {
        if self.late.len() >= REMEMBERED {
            self.before = std::mem::take(&mut self.late);
        }
        self.late.insert(identity, digest);
    }
}

/// One file, judged.
struct Judged {
    asked: String,
    identity: FileIdentity,
    facts: ProgramFacts,
    file: OwnedFd,
}

fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::ProgramNotFound, message)
}

impl Resolver {
    /// Facts of a job, in its profile's root. `sandbox` is whom namespaced jobs of a root agent run as.
    pub(crate) fn resolve(
        &self,
        (name, profile): (&Name, &Profile),
        exec: &Exec,
        dir: &Path,
        sandbox: &User,
    ) -> Result<Resolved, Refusal> {
        let own = users::current();
        let user = match run_as(profile) {
            Some(name) => named_user(name)?,
            None if profile.backend.is_namespaced() && own.uid == 0 => sandbox.clone(),
            None => own.clone(),
        };
        let command = exec.argv.first().map_or("", String::as_str);
        let asked = look_up(profile, command)?;
        let program = self.judge(profile, &asked, &user)?;
        let mut files = vec![(program.asked.clone(), program.identity)];
        let mut interpreters: Vec<ProgramFacts> = Vec::new();
        let mut next = interpreter_of(&program.file)?;
        let is_script = next.is_some();
        while let Some(path) = next {
            if interpreters.len() == INTERPRETERS {
                return Err(not_found(format!(
                    "{command}: more than {INTERPRETERS} interpreters"
                )));
            }
            let judged = self.judge(profile, &path, &user)?;
            next = interpreter_of(&judged.file)?;
            files.push((judged.asked, judged.identity));
            interpreters.push(judged.facts);
        }
        let exec_by = match (is_script, program.facts.writable) {
            (false, _) => ExecBy::Descriptor,
            (true, false) => ExecBy::Path,
            (true, true) => ExecBy::DescriptorPath,
        };
        let changes_user = user != own;
        let uid = user.uid;
        let mut spec = LaunchSpec::new(profile, exec, dir, OpenProgram { files, exec_by }, user);
        spec.changes_user = changes_user;
        let facts = Facts {
            program: program.facts,
            interpreters,
            env_names: spec.env.keys().cloned().collect(),
            network: match profile.network {
                Network::Host => "host",
                Network::None => "none",
            }
            .to_owned(),
            profile: name.clone(),
            profile_digest: profile.digest(),
            backend: profile.backend.as_str().to_owned(),
            namespaced: profile.backend.is_namespaced(),
            run_as_uid: uid,
            cwd: spec.cwd.clone(),
        };
        Ok(Resolved {
            exec: exec.clone(),
            facts,
            spec,
        })
    }

    fn judge(&self, profile: &Profile, asked: &str, user: &User) -> Result<Judged, Refusal> {
        let wrong = |e: io::Error| not_found(format!("{asked}: {e}"));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = rustix::fs::open(asked, flags, Mode::empty()).map_err(|e| wrong(e.into()))?;
        let canonical = std::fs::read_link(link_of(&file)).map_err(wrong)?;
        let shown = |p: &Path| !profile.backend.is_namespaced() || is_shown(profile, p);
        if !shown(Path::new(asked)) || !shown(&canonical) {
            return Err(not_found(format!("{asked}: the profile does not show it")));
        }
        let meta = std::fs::metadata(link_of(&file)).map_err(wrong)?;
        if !meta.is_file() || meta.mode() & 0o111 == 0 {
            return Err(not_found(format!("{asked}: not an executable file")));
        }
        let identity = FileIdentity {
            dev: meta.dev(),
            ino: meta.ino(),
            ctime: meta.ctime(),
            ctime_nsec: meta.ctime_nsec(),
            size: i64::try_from(meta.size()).unwrap_or(i64::MAX),
        };
        let path = canonical
            .to_str()
            .ok_or_else(|| not_found(format!("{asked}: its real path is not UTF-8")))?;
        Ok(Judged {
            facts: ProgramFacts {
                path: path.to_owned(),
                sha256: self.digest(&file, identity).map_err(wrong)?,
                writable: is_writable(&canonical, user),
            },
            asked: asked.to_owned(),
            identity,
            file,
        })
    }

    fn digest(&self, file: &OwnedFd, identity: FileIdentity) -> io::Result<Digest> {
        let known = || self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(digest) = known().get(&identity) {
            return Ok(digest);
        }
        let mut content = File::open(link_of(file))?;
        if content.metadata()?.len() > MAX_PROGRAM {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let mut hash = Sha256::new();
        let mut piece = vec![0; 128 * 1024];
        loop {
            match content.read(&mut piece)? {
                0 => break,
                n => hash.update(&piece[..n]),
            }
        }
        let digest = Digest(hash.finalize().into());
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        if identity.ctime + SETTLED_S < now {
            known().insert(identity, digest);
        }
        Ok(digest)
    }
}

/// The file behind a descriptor that was opened without rights.
fn link_of(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn named_user(name: &Name) -> Result<User, Refusal> {
    let refuse = |message: String| Refusal::new(Code::Unenforceable, message);
    match users::by_name(name.as_str()) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(refuse(format!("this host has no user {name}"))),
        Err(e) => Err(refuse(format!("cannot read the users of this host: {e}"))),
    }
}

fn look_up(profile: &Profile, command: &str) -> Result<String, Refusal> {
    if command.starts_with('/') {
        return Ok(command.to_owned());
    }
    if command.contains('/') {
        return Err(not_found(format!(
            "{command}: a program is named by an absolute path, or looked up by its bare name"
        )));
    }
    let candidates = profile.path.iter().filter(|d| d.starts_with('/'));
    let candidates = candidates.map(|d| format!("{}/{command}", d.trim_end_matches('/')));
    let is_program = |p: &String| {
        let path = Path::new(p);
        let shown = !profile.backend.is_namespaced() || is_shown(profile, path);
        shown && std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0)
    };
    candidates
        .into_iter()
        .find(is_program)
        .ok_or_else(|| not_found(format!("{command}: not in the profile's path")))
}

/// Whether a namespaced root shows this path.
fn is_shown(profile: &Profile, path: &Path) -> bool {
    let named = profile.read_only.iter().chain(&profile.read_write);
    let mut all = SHOWN.iter().copied().chain(named.map(String::as_str));
    all.any(|dir| path.starts_with(dir))
}

/// The interpreter that a `#!` line names; `None` for a binary.
fn interpreter_of(file: &OwnedFd) -> Result<Option<String>, Refusal> {
    let mut head = Vec::with_capacity(256);
    let read = File::open(link_of(file)).and_then(|f| f.take(256).read_to_end(&mut head));
    read.map_err(|e| not_found(format!("cannot read the program: {e}")))?;
    let Some(line) = head.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let mut words = line
        .split(|b| matches!(b, b' ' | b'\t'))
        .filter(|w| !w.is_empty());
    let path = words.next().and_then(|w| std::str::from_utf8(w).ok());
    match path {
        Some(p) if p.starts_with('/') && p.len() < 250 => Ok(Some(p.to_owned())),
        _ => Err(not_found("the program's #! line names no absolute path")),
    }
}

/// Whether `user` could change the file, or a directory above it. In doubt, yes.
fn is_writable(path: &Path, user: &User) -> bool {
    user.uid == 0 || path.ancestors().any(|p| may_write(p, user))
}

fn may_write(path: &Path, user: &User) -> bool {
    let Ok(meta) = std::fs::symlink_metadata(path) else {
        return true;
    };
    if meta.uid() == user.uid {
        return true; // an owner can always give itself the right
    }
    let group_bit = meta.mode() & 0o020 != 0;
    let member = user.gid == meta.gid() || user.groups.contains(&meta.gid());
    meta.mode() & 0o002 != 0 || group_bit && (member || has_acl(path))
}

/// With an access list the group bits are its mask, and stand for users that mode bits cannot name.
fn has_acl(path: &Path) -> bool {
    let mut none: [u8; 0] = [];
    rustix::fs::getxattr(path, "system.posix_acl_access", &mut none).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_remembered_as_long_as_it_is_used_and_others_make_room() {
        let file = |ino| FileIdentity {
            dev: 1,
            ino,
            ctime: 0,
            ctime_nsec: 0,
            size: 0,
        };
        let mut known = Remembered::default();
        known.insert(file(0), Digest::of(b"used"));
        for ino in 1..20_000 {
            known.insert(file(ino), Digest::of(b"once"));
            if ino % 1000 == 0 {
                assert_eq!(known.get(&file(0)), Some(Digest::of(b"used")));
            }
        }
        assert!(known.late.len() + known.before.len() <= 2 * REMEMBERED);
        assert_eq!(known.get(&file(1)), None);
        assert!(known.get(&file(19_999)).is_some());
    }
}
