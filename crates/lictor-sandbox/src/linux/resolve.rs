//! From a profile and a command to the facts that policy judges, and the file that they are about.
//!
//! The namespaced backends show the host's own files read-only, so a path names the same file in both views, or a root
//! file system of the store, in which paths are looked up as they will be inside; what they do not show is not found. Whoever starts the program later opens it again *there* and compares device,
//! inode, change time and size with what was judged here. That tells an innocent change; what somebody does between
//! the comparison and the use it cannot tell. So a file that others than root could change is copied first, the copy
//! is judged, and the copy runs; such a digest is never remembered, since a page that is mapped already can be written
//! to without a new change time.

mod place;

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use lictor_policy::facts::{Facts, ProgramFacts};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::Spec;
use lictor_proto::{Digest, Name};
use lictor_rootfs::Store;
use lictor_trust::profiles::{Backend, Profile};
use sha2::{Digest as _, Sha256};

pub(super) use self::place::before_any as place_of;
use super::OWN_PROGRAM;
use super::copy;
use super::files::{self, Own};
use super::reach::{Reach, is_changeable};
use super::remove::link_of;
use super::script;
use super::users::{self, User};
use super::view::{Seen, View};
use super::whom;
use crate::plan::{LaunchSpec, Resolved};
use crate::program::{ExecBy, FileIdentity, OpenProgram, ProgramFile};
use crate::work::Work;

/// Longest chain of `#!` interpreters, as the kernel has it.
const INTERPRETERS: usize = 4;
/// The first descriptor after standard input, output and error.
pub(super) const FIRST_HELD: u32 = 3;
/// Largest program that is hashed.
const MAX_PROGRAM: u64 = 1 << 30;
/// Digests remembered, of late and from before.
const REMEMBERED: usize = 2048;
/// A file that changed less than this ago could change again without a new time stamp.
const SETTLED_S: i64 = 2;

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
    file: ProgramFile,
    facts: ProgramFacts,
    line: Option<Line>,
}

/// A `#!` line.
struct Line {
    interpreter: String,
    argument: Option<String>,
}

fn not_found(message: impl Into<String>) -> Refusal {
    Refusal::new(Code::ProgramNotFound, message)
}

impl Resolver {
    /// Facts of a job, in its profile's root. `sandbox` is whom namespaced jobs of a root agent run as, `store` where
    /// root file systems are.
    pub(crate) fn resolve(
        &self,
        (name, profile, backend): (&Name, &Profile, Backend),
        work: &Work,
        dir: &Path,
        (sandbox, store, own): (&User, Option<&Store>, Own<'_>),
    ) -> Result<Resolved, Refusal> {
        let limits = profile.limits_for(work.process().terms)?;
        let user = whom::runs((profile, backend), work.process().terms, sandbox)?;
        let of = (name, profile, backend);
        let kept = place::kept(of, work, dir, &user)?;
        place::has_devices(profile)?;
        let view = View::of((profile, backend), store)?;
        let (program, found) = self.program(&view, work, &user)?;
        let mut found = found.into_iter();
        let own_facts = found.next().ok_or_else(|| not_found("no program"))?;
        let place = place::of(of, dir, kept.as_ref(), &user);
        let terms = |spec: LaunchSpec| LaunchSpec {
            changes_user: user != users::current(),
            limits: limits.clone(),
            ..spec
        };
        let first = match work.spec.git() {
            Some(git) => {
                let (program, _) = self.own_program(&view, &user)?;
                let words = files::words_to_clone(git, &place, own);
                let wanted = (&words[..], git, work.process());
                let first = place::first(of, wanted, (dir, kept.clone()), program, &user)?;
                Some(Box::new(terms(first)))
            }
            None => None,
        };
        let words = files::words_of(&work.spec, &place, own)?;
        let wanted = (&words[..], work.process());
        let spec = LaunchSpec::new((profile, backend), wanted, (dir, kept), program, user.clone());
        let mut spec = LaunchSpec { first, ..terms(spec) };
        if spec.program.is_own {
            // What a profile sets for jobs is not for the agent's own program.
            spec.env.clear();
        }
        spec.narrow_for(&work.spec)?;
        spec.rootfs = view.held().map(|held| held.tree().to_owned());
        spec.hold = view.held();
        let (rootfs, rootfs_index) = view.root_facts();
        spec.rootfs_manifest = rootfs.filter(|_| rootfs_index.is_some());
        let facts = place::facts(of, &spec, (own_facts, found.collect()), (rootfs, rootfs_index));
        let (run_as_gid, run_as_groups) = whom::told(work.process().terms, &user);
        let facts = Facts {
            run_as_gid,
            run_as_groups,
            ..facts
        };
        Ok(Resolved {
            work: work.spec.clone(),
            facts,
            spec,
        })
    }

    /// What is executed, and the facts about it: the program, then what its `#!` lines lead to; of a script its interpreter.
    fn program(
        &self,
        view: &View<'_>,
        work: &Work,
        user: &User,
    ) -> Result<(OpenProgram, Vec<ProgramFacts>), Refusal> {
        let command = match &work.spec {
            Spec::Exec(exec) => exec.argv.first().map_or("", String::as_str),
            Spec::Script(script) => script.interpreter.as_str(),
            Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => {
                let (program, facts) = self.own_program(view, user)?;
                return Ok((program, vec![facts]));
            }
        };
        let asked = view.look_up(command)?;
        let mut chain = vec![self.judge(view, &asked, user)?];
        while let Some(line) = chain.last().and_then(|j| j.line.as_ref()) {
            if chain.len() > INTERPRETERS {
                return Err(not_found(format!(
                    "{command}: more than {INTERPRETERS} interpreters"
                )));
            }
            let next = self.judge(view, &line.interpreter, user)?;
            chain.push(next);
        }
        let program = match (&work.spec, work.text()) {
            (Spec::Script(script), Some(text)) => {
                let [interpreter] = &chain[..] else {
                    let why = format!("{asked} is itself a script");
                    return Err(Refusal::new(Code::InterpreterRefused, why));
                };
                let program = script::program(script, text, interpreter.file.clone(), user);
                program.map_err(|e| {
                    Refusal::new(
                        Code::StartFailed,
                        format!("the script cannot be held in memory: {e}"),
                    )
                })?
            }
            (Spec::Script(_), None) => return Err(Code::ScriptUnknown.into()),
            (_, _) => open_program(&mut chain),
        };
        Ok((program, chain.into_iter().map(|j| j.facts).collect()))
    }

    /// The program that carries files and looks after workspaces: this one. It needs the host's libraries, and a descriptor to be started by.
    fn own_program(&self, view: &View<'_>, user: &User) -> Result<(OpenProgram, ProgramFacts), Refusal> {
        let lacks = |why: &str| Refusal::new(Code::Unenforceable, why);
        if view.held().is_some() {
            return Err(lacks(
                "the node's own program, which carries files and looks after workspaces, does not run in root filesystems of their own; name a profile without one",
            ));
        }
        if view.backend() == Backend::Gvisor {
            return Err(lacks(
                "the node's own program, which carries files and looks after workspaces, does not run in gvisor; name a profile of another backend",
            ));
        }
        let wrong = |e: io::Error| not_found(format!("the agent's own program: {e}"));
        let file = File::open(OWN_PROGRAM).map_err(wrong)?;
        let path = std::fs::read_link(OWN_PROGRAM).map_err(wrong)?;
        let meta = file.metadata().map_err(wrong)?;
        let identity = identity_of(&meta);
        let sha256 = self.digest(&file, identity).map_err(wrong)?;
        let facts = ProgramFacts {
            path: path.to_string_lossy().into_owned(),
            sha256,
            writable: Reach::of(Path::new("/"), (&path, &path), user).writable,
        };
        let held = ProgramFile {
            path: String::new(),
            identity,
            held_at: None,
            loose: true,
            copy: Some(Arc::new(file)),
        };
        let program = OpenProgram {
            files: vec![held],
            exec_by: ExecBy::Descriptor,
            in_place_of_first: None,
            script: None,
            is_own: true,
        };
        Ok((program, facts))
    }

    fn judge(&self, view: &View<'_>, asked: &str, user: &User) -> Result<Judged, Refusal> {
        let wrong = |e: io::Error| not_found(format!("{asked}: {e}"));
        let Seen {
            file,
            path: canonical,
            base,
        } = view.open(asked)?;
        let meta = std::fs::metadata(link_of(&file)).map_err(wrong)?;
        if !meta.is_file() || meta.mode() & 0o111 == 0 {
            return Err(not_found(format!("{asked}: not an executable file")));
        }
        let identity = identity_of(&meta);
        let path = canonical
            .to_str()
            .ok_or_else(|| not_found(format!("{asked}: its real path is not UTF-8")))?;
        let reach = Reach::of(&base, (Path::new(asked), &canonical), user);
        let changeable = is_changeable(&meta);
        let (sha256, copy) = if changeable {
            let mut content = File::open(link_of(&file)).map_err(wrong)?;
            let (copy, digest) = copy::sealed(&mut content, &meta, &link_of(&file)).map_err(wrong)?;
            (digest, Some(copy))
        } else {
            (self.digest(&file, identity).map_err(wrong)?, None)
        };
        let line = line_of(copy.as_ref().map_or(file.as_fd(), |f| f.as_fd()))?;
        Ok(Judged {
            facts: ProgramFacts {
                path: path.to_owned(),
                sha256,
                writable: reach.writable,
            },
            file: ProgramFile {
                path: asked.to_owned(),
                identity,
                held_at: None,
                loose: reach.loose || changeable,
                copy: copy.map(Arc::new),
            },
            line,
        })
    }

    fn digest(&self, file: &impl AsRawFd, identity: FileIdentity) -> io::Result<Digest> {
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

fn identity_of(meta: &std::fs::Metadata) -> FileIdentity {
    FileIdentity {
        dev: meta.dev(),
        ino: meta.ino(),
        ctime: meta.ctime(),
        ctime_nsec: meta.ctime_nsec(),
        size: i64::try_from(meta.size()).unwrap_or(i64::MAX),
    }
}

/// How a judged chain is executed. Where others than root could change a file or what a path leads to, nothing is
/// looked up again: the last interpreter is executed as the kernel would do it, and reads the scripts from descriptors.
fn open_program(chain: &mut [Judged]) -> OpenProgram {
    let scripts = chain.len() - 1;
    let tight = !chain.iter().any(|j| j.file.loose);
    let exec_by = if scripts > 0 && tight {
        ExecBy::Path
    } else {
        ExecBy::Descriptor
    };
    let mut in_place_of_first = None;
    if scripts > 0 && exec_by == ExecBy::Descriptor {
        let mut words: Vec<String> = Vec::new();
        let mut number = FIRST_HELD;
        for judged in chain.iter_mut().filter(|j| j.line.is_some()) {
            let Some(line) = &judged.line else { continue };
            let name = if judged.file.loose {
                judged.file.held_at = Some(number);
                number += 1;
                format!("/dev/fd/{}", number - 1)
            } else {
                judged.file.path.clone()
            };
            // The line before has put this script's own path first.
            let rest = words.split_off(words.len().min(1));
            words = vec![line.interpreter.clone()];
            words.extend(line.argument.clone());
            words.push(name);
            words.extend(rest);
        }
        in_place_of_first = Some(words);
    }
    OpenProgram {
        files: chain.iter().map(|j| j.file.clone()).collect(),
        exec_by,
        in_place_of_first,
        script: None,
        is_own: false,
    }
}

/// The `#!` line; `None` for a binary.
fn line_of(file: BorrowedFd<'_>) -> Result<Option<Line>, Refusal> {
    let mut head = Vec::with_capacity(256);
    let read = File::open(link_of(&file)).and_then(|f| f.take(256).read_to_end(&mut head));
    read.map_err(|e| not_found(format!("cannot read the program: {e}")))?;
    let Some(line) = head.strip_prefix(b"#!") else {
        return Ok(None);
    };
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let wrong = || not_found("the program's #! line names no absolute path, or is no text");
    let line = std::str::from_utf8(line).map_err(|_| wrong())?;
    // As the kernel has it: one interpreter, and the rest of the line as one argument.
    let line = line.trim_matches([' ', '\t']);
    let (path, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    let argument = argument.trim_start_matches([' ', '\t']);
    if !path.starts_with('/') || path.len() >= 250 || line.contains('\0') {
        return Err(wrong());
    }
    Ok(Some(Line {
        interpreter: path.to_owned(),
        argument: (!argument.is_empty()).then(|| argument.to_owned()),
    }))
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
