//! Where a probe's job lies: its directory, and a file beside that which everybody could read.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::linux::kernel::Kernel;

/// What the file holds.
pub(super) const WORD: &str = "readable";
/// Others walk through, and list nothing.
const WALKED_THROUGH: u32 = 0o711;

pub(super) struct TrialPlace {
    /// The job's; not there yet.
    pub(super) dir: PathBuf,
    /// The file, which nobody shows the job.
    pub(super) outside: PathBuf,
    /// What was made for both.
    own: PathBuf,
}

impl TrialPlace {
    /// In the agent's directory for such things, or where that cannot be used or others cannot walk to it, among everybody's
    /// temporary ones.
    pub(super) fn make(kernel: &Kernel) -> io::Result<Self> {
        let usual = kernel.place().map(|place| place.trial());
        let usual = usual.and_then(|dir| walked_through(&dir).map(|()| dir));
        match usual.and_then(Self::at) {
            Ok(place) => Ok(place),
            Err(_) => {
                // A name that nobody can have taken before.
                let mut name = [0_u8; 8];
                fs::File::open("/dev/urandom")?.read_exact(&mut name)?;
                let name = format!("lictor-trial-{:016x}", u64::from_ne_bytes(name));
                let dir = Path::new("/tmp").join(name);
                walked_through(&dir)?;
                Self::at(dir)
            }
        }
    }

    fn at(own: PathBuf) -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // Its cgroup is called like it, and others may look at the same time.
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = Self {
            dir: own.join(format!("trial-{}-{n}", std::process::id())),
            outside: own.join("outside"),
            own,
        };
        let mut file = OpenOptions::new();
        let mut file = file
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&place.outside)?;
        // Whatever the agent's umask leaves to others.
        file.set_permissions(Permissions::from_mode(0o644))?;
        writeln!(file, "{WORD}")?;
        match !rustix::process::geteuid().is_root() || is_open_to_others(&place.own) {
            true => Ok(place),
            false => Err(io::Error::other(
                "others cannot walk to it, so nothing can be told by it",
            )),
        }
    }
}

/// Whether modes alone let anybody come to a directory: else a job that cannot read what lies in it shows nothing.
fn is_open_to_others(dir: &Path) -> bool {
    let lets_through = |dir: &Path| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0);
    dir.ancestors().all(lets_through)
}

fn walked_through(dir: &Path) -> io::Result<()> {
    DirBuilder::new().mode(WALKED_THROUGH).create(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(WALKED_THROUGH))
}

impl Drop for TrialPlace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.outside);
        let _ = fs::remove_dir(&self.own);
    }
}
