//! A copy of a program that others than root could change: in memory, sealed, so that what was judged is what runs.

use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, fchown};

use lictor_proto::Digest;
use rustix::fs::{Access, AtFlags, CWD, MemfdFlags, Mode, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};

/// Largest program that is copied; copies are memory.
const MOST: u64 = 256 << 20;

/// Copies `of`, which was opened by `link`, and says what the copy's content is. The copy has the original's owner and
/// rights, but for writing and for taking on an id.
pub(super) fn sealed(of: &mut File, meta: &Metadata, link: &str) -> io::Result<(File, Digest)> {
    if rustix::fs::fstatvfs(&*of)?
        .f_flag
        .contains(StatVfsMountFlags::NOEXEC)
    {
        return Err(io::Error::other("nothing is executed from its file system"));
    }
    let mut copy = memory("lictor-program")?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 128 * 1024];
    let mut left = MOST;
    loop {
        let n = of.read(&mut piece)?;
        if n == 0 {
            break;
        }
        left = left.checked_sub(n as u64).ok_or_else(|| {
            io::Error::other("others than root can change it, and it is too large to be copied")
        })?;
        hash.update(&piece[..n]);
        copy.write_all(&piece[..n])?;
    }
    // Perl reads a script on where its descriptor stands.
    copy.rewind()?;
    let rights = match fchown(&copy, Some(meta.uid()), Some(meta.gid())) {
        Ok(()) => meta.mode() & 0o555,
        // An agent that is not root runs programs as itself.
        Err(_) if rustix::fs::accessat(CWD, link, Access::EXEC_OK, AtFlags::EACCESS).is_ok() => 0o555,
        Err(_) => 0,
    };
    rustix::fs::fchmod(&copy, Mode::from_raw_mode(rights))?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(copy.as_fd(), seals)?;
    Ok((copy, Digest(hash.finalize().into())))
}

/// A file in memory that may be executed.
pub(super) fn memory(name: &str) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every such file may be executed.
        Err(Errno::INVAL) => Ok(rustix::fs::memfd_create(name, flags)?.into()),
        other => Ok(other?.into()),
    }
}
