//! A listening socket inside a sandbox's network, handed out to the agent: a socket belongs to the network that it was
//! made in, whoever holds it.

use std::ffi::{c_int, c_void};
use std::{mem, ptr};

use super::exit;
use super::program::{Start, become_user, fail};
use crate::linux::table::Step;

/// Connections that wait to be taken.
const BACKLOG: c_int = 128;

/// Enters the namespaces, listens on their loopback address and sends the socket through the first descriptor.
///
/// # Safety
/// As `become_program`.
pub(super) unsafe extern "C" fn listen(argument: *mut c_void) -> ! {
    // SAFETY: the keeper passes a `Start` that lives until this process has ended.
    let start = unsafe { &*argument.cast::<Start<'_>>() };
    let table = start.table;
    // SAFETY: system calls on this process alone.
    unsafe {
        if !table.ids_inside && become_user(table) < 0 {
            fail(table, Step::Ids);
        }
        if libc::setns(start.namespaces.unwrap_or(-1), start.entered()) < 0 {
            fail(table, Step::Namespaces);
        }
        if let Some(users) = start.users
            && libc::setns(users, libc::CLONE_NEWUSER) < 0
        {
            fail(table, Step::Namespaces);
        }
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        let mut address: libc::sockaddr_in = mem::zeroed();
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_port = table.listen_port.to_be();
        address.sin_addr.s_addr = u32::from(std::net::Ipv4Addr::LOCALHOST).to_be();
        let size = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        let bound = socket >= 0
            && libc::bind(socket, (&raw const address).cast(), size) == 0
            && libc::listen(socket, BACKLOG) == 0;
        if !bound || !send(start.inherit.first().copied().unwrap_or(-1), socket) {
            fail(table, Step::Listen);
        }
    }
    exit(0)
}

/// Sends one descriptor.
///
/// # Safety
/// Both are descriptors of this process.
unsafe fn send(through: c_int, descriptor: c_int) -> bool {
    /// Aligned like a `cmsghdr`, with room for one descriptor.
    #[repr(C, align(8))]
    struct Room([u8; 64]);
    let mut byte = 0_u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut room = Room([0; 64]);
    // SAFETY: all-zero is a valid msghdr; `room` holds CMSG_SPACE of one descriptor (24 bytes) and is aligned, so the
    // first header and its data lie within it.
    unsafe {
        let mut message: libc::msghdr = mem::zeroed();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut room).cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<c_int>() as u32) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<c_int>() as u32) as _;
        ptr::write_unaligned(libc::CMSG_DATA(header).cast::<c_int>(), descriptor);
        libc::sendmsg(through, &raw const message, libc::MSG_NOSIGNAL) == 1
    }
}
