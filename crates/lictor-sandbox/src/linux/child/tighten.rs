//! Mounts of a sandbox held to what may be done with them: engines know no words for all of it.

use std::ffi::{c_long, c_void};

use super::cover::cover_all;
use super::exit;
use super::program::{ALL_NAMESPACES, Start, fail};
use crate::linux::table::Step;

/// Enters the namespaces, and takes rights from each mount and from all that is mounted below it.
///
/// # Safety
/// As `become_program`.
pub(super) unsafe extern "C" fn tighten(argument: *mut c_void) -> ! {
    // SAFETY: the keeper passes a `Start` that lives until this process has ended.
    let start = unsafe { &*argument.cast::<Start<'_>>() };
    let table = start.table;
    // SAFETY: system calls on mounts of these namespaces alone; the agent has put that many into its slot.
    unsafe {
        if libc::setns(start.namespaces.unwrap_or(-1), ALL_NAMESPACES) < 0 {
            fail(table, Step::Namespaces);
        }
        for mount in std::slice::from_raw_parts(table.tightened, table.tightened_count) {
            // `struct mount_attr`: set, clear, propagation, user namespace.
            let attributes = [mount.attributes, 0, 0, 0];
            let set: c_long = libc::syscall(
                libc::SYS_mount_setattr,
                libc::AT_FDCWD,
                mount.path,
                libc::AT_RECURSIVE | libc::AT_SYMLINK_NOFOLLOW,
                attributes.as_ptr(),
                size_of_val(&attributes),
            );
            if set < 0 {
                fail(table, Step::Tighten);
            }
        }
        // Afterwards: what is tightened may be what lies under a cover.
        if !cover_all(table) {
            fail(table, Step::Cover);
        }
    }
    exit(0)
}
