//! The value of a secret on its way to a job: in memory alone, sealed, never swapped out.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lictor_policy::facts::SecretFacts;
use lictor_proto::Name;
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::{Delivery, SECRET_FILES, SecretUse};
use lictor_trust::profiles::Backend;

use crate::imp;
use crate::plan::{LaunchSpec, Resolved, Unenforceable};
use crate::program::{ExecBy, FileIdentity, ProgramFile};

/// The first descriptor of secrets. Those below are of what interpreters read.
const FIRST: u32 = 8;
/// Where they are in a root filesystem, which has no place for them, and where the profile shows something of `/run`: in the
/// devices' file system, which is each sandbox's own memory.
const BESIDE_DEVICES: &str = "/dev/secrets";
/// Where the files of secrets are in the directory of a job that sees the host's own tree: in its own mounts, and an empty
/// directory in everybody else's.
const OWN_FILES: &str = ".lictor-secrets";

/// A value in a file that has no name, is locked in memory, can be changed by nobody, and goes with the last process that
/// holds it.
#[derive(Debug, Clone)]
pub struct SecretFile {
    pub(crate) file: Arc<File>,
    _locked: Arc<imp::Locked>,
}

impl SecretFile {
    /// This value.
    ///
    /// # Errors
    /// The system's: above all when so much may not be locked in memory.
    pub fn new(value: &[u8]) -> io::Result<Self> {
        let (file, locked) = imp::secret_file(value)?;
        Ok(Self {
            file: Arc::new(file),
            _locked: Arc::new(locked),
        })
    }
}

impl LaunchSpec {
    /// Whether the job has mounts that a file can be put into for it alone, before anything of it runs.
    fn check_secret_files(&self) -> Result<(), Refusal> {
        let backend = self.backend;
        let has_place = !backend.is_namespaced() || !self.shows_any_of(&self.secret_dir());
        // bwrap makes the mount itself, with the rights that it has in its own namespaces.
        let may_mount = backend == Backend::Bubblewrap || imp::may_mount();
        match has_place && may_mount {
            true => Ok(()),
            false => Err(Unenforceable::SecretFiles { backend }.refusal()),
        }
    }

    /// Where the files of its secrets are, as the job sees it.
    pub(crate) fn secret_dir(&self) -> PathBuf {
        if !self.backend.is_namespaced() {
            return self.dir.join(OWN_FILES);
        }
        let has_runs = self.rootfs.is_none() && !self.shows_any_of(Path::new("/run"));
        PathBuf::from(if has_runs { SECRET_FILES } else { BESIDE_DEVICES })
    }

    /// Whether that is beside the devices, which nothing comes into later.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn has_secrets_beside_devices(&self) -> bool {
        self.secret_dir() == Path::new(BESIDE_DEVICES)
    }

    /// Whether the profile shows something of the host's at a path, in it, or above it.
    fn shows_any_of(&self, at: &Path) -> bool {
        let mut shown = self.read_only.iter().chain(&self.read_write).chain(&self.devices);
        shown.any(|path| Path::new(path).starts_with(at) || at.starts_with(path))
    }
}

impl Resolved {
    /// The same job with secrets: what policy is told of them, with who has set each, and where the job finds them.
    /// Their values follow by [`Resolved::hold`].
    ///
    /// # Errors
    /// `unenforceable` where the backend hands no descriptors on.
    pub fn with_secrets<'a>(
        mut self,
        uses: impl IntoIterator<Item = (&'a SecretUse, &'a Name)>,
    ) -> Result<Self, Refusal> {
        let mut number = FIRST;
        for (used, set_by) in uses {
            self.facts.secrets.push(SecretFacts {
                name: used.name.clone(),
                version: used.version,
                set_by: set_by.clone(),
                delivery: used.delivery,
            });
            let Some(variable) = used.variable() else { continue };
            if used.delivery == Delivery::File {
                self.spec.check_secret_files()?;
                let path = self.spec.secret_dir().join(used.name.as_str());
                self.spec
                    .env
                    .insert(variable, path.to_string_lossy().into_owned());
                continue;
            }
            if self.spec.backend == Backend::Gvisor {
                let backend = self.spec.backend;
                return Err(Unenforceable::Descriptors { backend }.refusal());
            }
            self.spec.env.insert(variable, format!("/dev/fd/{number}"));
            number += 1;
        }
        self.facts.env_names = self.spec.env.keys().cloned().collect();
        Ok(self)
    }

    /// Takes the values of those secrets that have a variable, in their order. No plan is made without them.
    ///
    /// # Errors
    /// When the files cannot be given to the job's user.
    pub fn hold(mut self, values: Vec<SecretFile>) -> Result<Self, Refusal> {
        let failed = |e| Refusal::new(Code::StartFailed, format!("cannot hand over a secret: {e}"));
        let program = &mut self.spec.program;
        let by = self.facts.secrets.iter().filter(|s| s.delivery.has_path());
        let mut numbers = FIRST..;
        for (secret, value) in by.zip(values) {
            if secret.delivery == Delivery::File {
                self.spec.secret_files.push((secret.name.clone(), value));
                continue;
            }
            let number = numbers.next();
            imp::give(&value.file, &self.spec.user).map_err(failed)?;
            let held = ProgramFile {
                path: String::new(),
                identity: FileIdentity::NONE,
                held_at: number,
                loose: true,
                copy: Some(value.file.clone()),
            };
            // The program is the first of them or the last.
            match program.exec_by {
                ExecBy::Descriptor => program.files.insert(0, held),
                ExecBy::Path | ExecBy::Trusted => program.files.push(held),
            }
            self.spec.secrets.push(value);
        }
        Ok(self)
    }

    /// Whether it holds as many values as the facts speak of.
    pub(crate) fn holds_all(&self) -> bool {
        let variable = |s: &&SecretFacts| s.delivery.has_path();
        let held = self.spec.secrets.len() + self.spec.secret_files.len();
        self.facts.secrets.iter().filter(variable).count() == held
    }
}
