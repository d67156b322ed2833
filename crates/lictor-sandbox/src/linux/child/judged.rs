//! The program and what it is to read, opened again where the job is, and compared with what was judged.

use std::ffi::c_int;

use super::program::fail;
use crate::linux::table::{FileCheck, FileIdentity, MAX_FILES, Step, Table};

/// Higher than any number that a file is held at.
const ABOVE_HELD: c_int = 16;

/// Opens the program and its interpreters and compares them with what was judged; returns the last, and leaves open
/// for it what it is to read.
///
/// # Safety
/// As [`become_program`](super::program::become_program).
pub(super) unsafe fn open_judged(table: &Table, copies: &[c_int]) -> c_int {
    let files = &table.files[..table.file_count];
    let holds = files.iter().any(|f| f.held_at >= 0);
    let mut open = [-1; MAX_FILES];
    for (file, slot) in files.iter().zip(&mut open) {
        let copy = usize::try_from(file.copy).ok().and_then(|i| copies.get(i));
        // SAFETY: the path is a string in the slot. An empty one is that of a text which is nowhere but in its copy.
        let fd = match unsafe { *file.path } {
            0 => *copy.unwrap_or(&-1),
            // SAFETY: the same.
            _ => unsafe { judged(table, file) },
        };
        *slot = *copy.unwrap_or(&fd);
        if holds {
            // Out of the way of where any is to be held; not as high as `HIGH`, since limits are in force by now.
            // SAFETY: this process's own descriptors.
            *slot = unsafe { libc::fcntl(*slot, libc::F_DUPFD_CLOEXEC, ABOVE_HELD) };
        }
        if *slot < 0 {
            fail(table, Step::Open);
        }
    }
    for (file, fd) in files.iter().zip(open).filter(|(f, _)| f.held_at >= 0) {
        // SAFETY: as above; an interpreter opens `/dev/fd/N`, so this one stays open.
        if unsafe { libc::dup2(fd, file.held_at) } < 0 {
            fail(table, Step::Open);
        }
    }
    open[table.file_count.saturating_sub(1)]
}

/// Opens a file by its path, and sees that it is what was judged.
///
/// # Safety
/// As [`become_program`](super::program::become_program).
unsafe fn judged(table: &Table, file: &FileCheck) -> c_int {
    // SAFETY: the path is a string in the slot.
    let fd = unsafe { libc::open(file.path, libc::O_PATH | libc::O_CLOEXEC) };
    if fd < 0 {
        fail(table, Step::Open);
    }
    if identity_of(fd) != Some(file.identity) {
        fail(table, Step::Changed);
    }
    fd
}

fn identity_of(fd: c_int) -> Option<FileIdentity> {
    // SAFETY: all-zero is a valid stat; fstat fills it.
    let (result, stat) = unsafe {
        let mut stat: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut stat), stat)
    };
    (result == 0).then_some(FileIdentity {
        dev: stat.st_dev,
        ino: stat.st_ino,
        ctime: stat.st_ctime,
        ctime_nsec: stat.st_ctime_nsec,
        size: stat.st_size,
    })
}
