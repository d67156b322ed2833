//! Files in memory for secrets: locked, so that they are never swapped out, and sealed; and file systems in memory for those
//! that want a path.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::fchown;
use std::ptr;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::oci;
use super::remove::link_of;
use crate::plan::LaunchSpec;
use crate::program::User;

/// Bytes and files of a file system for the secrets of one job: each is 16 KiB at most.
const SIZE: [(&str, &str); 3] = [("size", "512k"), ("nr_inodes", "32"), ("mode", "0700")];

/// Pages of a file that stay in memory as long as this lives.
#[derive(Debug)]
pub(crate) struct Locked {
    /// As a number: what is there is never looked at.
    at: usize,
    length: usize,
}

impl Locked {
    fn new(file: &File, length: usize) -> io::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes; nobody reads or writes by it.
        let at = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let locked = Self {
            at: at as usize,
            length,
        };
        // SAFETY: the mapping that was just made, whole.
        if unsafe { libc::mlock(at, length) } < 0 {
            let error = io::Error::last_os_error();
            let why =
                format!("it cannot be locked in memory ({error}); raise the agent's limit: LimitMEMLOCK=8M");
            return Err(io::Error::other(why));
        }
        Ok(locked)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping, that nobody else has.
        unsafe { libc::munmap(self.at as *mut libc::c_void, self.length) };
    }
}

/// This value as a file that cannot be changed, executed or swapped out.
pub(crate) fn secret_file(value: &[u8]) -> io::Result<(File, Locked)> {
    let mut file = memory()?;
    file.set_len(value.len() as u64)?;
    // Before the value is in them.
    let locked = Locked::new(&file, value.len().max(1))?;
    file.write_all(value)?;
    file.rewind()?;
    rustix::fs::fchmod(&file, Mode::RUSR)?;
    let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(file.as_fd(), seals)?;
    Ok((file, locked))
}

/// Makes it a user's, who then may open it again by its descriptor.
pub(crate) fn give(file: &File, user: &User) -> io::Result<()> {
    let own = rustix::process::geteuid().as_raw();
    match fchown(file, Some(user.uid), Some(user.gid)) {
        // An agent that is not root runs jobs as itself, whose file it is already.
        Err(_) if own == user.uid => Ok(()),
        other => other,
    }
}

/// Whether this agent can make mounts.
pub(crate) fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}

/// A read-only file system in memory with the secrets of a job that are files there, its user's alone, and mounted nowhere;
/// `None` of a job that has none. It goes with the last mount of it.
pub(super) fn files(spec: &LaunchSpec) -> io::Result<Option<OwnedFd>> {
    if spec.secret_files.is_empty() {
        return Ok(None);
    }
    let made = file_system()?;
    for (name, value) in &spec.secret_files {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&made, name.as_str(), flags, Mode::RUSR)?);
        // By a description of its own, which begins at the beginning; the kernel copies it.
        io::copy(&mut File::open(link_of(&value.file))?, &mut file)?;
        give(&file, &spec.user)?;
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    give(
        &File::from(rustix::fs::openat(&made, ".", flags, Mode::empty())?),
        &spec.user,
    )?;
    let inert = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    oci::restrict(
        &made,
        inert | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY,
    )?;
    Ok(Some(made))
}

fn file_system() -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in SIZE {
        rustix::mount::fsconfig_set_string(context.as_fd(), key, value)?;
    }
    // Never swapped out, where the kernel knows that (Linux 6.4).
    match rustix::mount::fsconfig_set_flag(context.as_fd(), "noswap") {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(e) => return Err(e.into()),
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    let made = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(rustix::mount::fsmount(
        context.as_fd(),
        made,
        MountAttrFlags::empty(),
    )?)
}

fn memory() -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("lictor-secret", flags | MemfdFlags::NOEXEC_SEAL) {
        // Linux before 6.3 does not know it; who may execute it is decided by its rights there.
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create("lictor-secret", flags)?.into()),
        other => Ok(other?.into()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn a_secret_is_locked_in_memory_and_read_from_its_beginning_and_written_by_nobody() {
        let (mut file, locked) = secret_file(b"correct horse").expect("a file in memory");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "correct horse");
        let maps = std::fs::read_to_string("/proc/self/smaps").expect("our own mappings");
        let start = format!("{:x}-", locked.at);
        let own = maps.split_once(&start).expect("the mapping").1;
        let kept = own.lines().find(|l| l.starts_with("Locked:")).expect("a line");
        assert!(!kept.contains(" 0 kB"), "{kept}");
    }
}
