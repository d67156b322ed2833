//! Standard input: nothing, or a file that a job can read and not change.
//!
//! A descriptor that is only for reading can be opened again for writing, by `/proc/self/fd`, whatever namespaces are
//! around: the file's owner and rights decide. So a sandboxed job whose user could write to the file gets a copy.

use std::fs::File;
use std::io::{self, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use lictor_trust::profiles::Backend;
use rustix::pipe::PipeFlags;

use super::{quota, secret};
use crate::plan::LaunchSpec;
use crate::running::StdinSource;

/// What a job reads.
pub(super) async fn open(source: StdinSource, spec: &LaunchSpec) -> io::Result<OwnedFd> {
    match source {
        StdinSource::Null if gives_away(spec) => nothing(),
        StdinSource::Null => null(),
        StdinSource::Secret(secret) if gives_away(spec) => through_pipe(&secret.file),
        StdinSource::Secret(secret) => {
            secret::give(&secret.file, &spec.user)?;
            Ok(File::open(format!("/proc/self/fd/{}", secret.file.as_raw_fd()))?.into())
        }
        StdinSource::File(mut file) => {
            let could = spec.backend.is_unprivileged() && is_writable(&file, spec.user.uid)?;
            if could || gives_away(spec) {
                let to = quota::file_beside(spec)?;
                let copied = tokio::task::spawn_blocking(move || copy(file, to)).await;
                file = copied.map_err(io::Error::other)??;
            }
            // The job gets a description of its own, at the start and read-only, whatever the caller has.
            Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
        }
    }
}

/// Whether the backend makes somebody else the owner of what it is given: runsc does, of the machine's `/dev/null`, too.
fn gives_away(spec: &LaunchSpec) -> bool {
    spec.backend == Backend::Gvisor
}

/// A pipe whose other end is closed.
fn nothing() -> io::Result<OwnedFd> {
    let (read, _) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    Ok(read)
}

/// A pipe with what a small file holds in it, and its other end closed.
fn through_pipe(from: &File) -> io::Result<OwnedFd> {
    let mut from = File::open(format!("/proc/self/fd/{}", from.as_raw_fd()))?;
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    io::copy(&mut from, &mut File::from(write))?;
    // What is in it can be read as from any pipe.
    rustix::fs::fcntl_setfl(&read, rustix::fs::OFlags::empty())?;
    Ok(read)
}

/// `/dev/null`.
pub(super) fn null() -> io::Result<OwnedFd> {
    Ok(File::open("/dev/null")?.into())
}

/// Whether a user could write to it, by ownership or because more than its owner can.
fn is_writable(file: &File, uid: u32) -> io::Result<bool> {
    let meta = file.metadata()?;
    Ok(meta.uid() == uid || meta.mode() & 0o022 != 0)
}

/// Into a file without a name, which nobody but the job has.
fn copy(mut from: File, mut to: File) -> io::Result<File> {
    from.rewind()?;
    io::copy(&mut from, &mut to)?;
    Ok(to)
}
