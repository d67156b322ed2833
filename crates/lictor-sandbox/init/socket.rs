//! Sockets, as the first process uses them: nothing here waits, but for what comes with the first word.

use crate::call::{number, system};

const AF_INET: u16 = 2;
const SOCK_STREAM: usize = 1;
const SOCK_NONBLOCK: usize = 0o4000;
const SOCK_CLOEXEC: usize = 0o2_000_000;
const SOL_SOCKET: i32 = 1;
const SCM_RIGHTS: i32 = 1;
const IPPROTO_TCP: usize = 6;
const TCP_NODELAY: usize = 1;
const SHUT_WR: usize = 1;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x4000_0000;
const LOOPBACK: u32 = 0x7f00_0001;
const BACKLOG: usize = 128;

pub(crate) const EAGAIN: isize = -11;
pub(crate) const EINTR: isize = -4;
pub(crate) const ECONNABORTED: isize = -103;

/// What `poll` is asked, and its answer.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Poll {
    /// A negative one is passed over.
    pub(crate) descriptor: i32,
    pub(crate) wanted: i16,
    pub(crate) found: i16,
}

pub(crate) const IN: i16 = 1;
pub(crate) const OUT: i16 = 4;
/// Is found whether it is asked for or not: an error, or nobody at the other end.
pub(crate) const GONE: i16 = 8 | 16;

/// Waits until something is found of one of them.
///
/// # Safety
/// So many are there.
pub(crate) unsafe fn poll(first: *mut Poll, count: usize) {
    // SAFETY: as the caller vouches; no time limit, and the signals stay blocked as they are.
    unsafe { system(number::PPOLL, [first as usize, count, 0, 0, 0]) };
}

/// Listens on a port of the loopback interface.
pub(crate) fn listen(port: u16) -> isize {
    /// `struct sockaddr_in`.
    #[repr(C)]
    struct Address {
        family: u16,
        port: u16,
        address: u32,
        zero: u64,
    }
    let address = Address {
        family: AF_INET,
        port: port.to_be(),
        address: LOOPBACK.to_be(),
        zero: 0,
    };
    // SAFETY: the address is live and as long as is said.
    unsafe {
        let kind = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;
        let made = system(number::SOCKET, [AF_INET as usize, kind, 0, 0, 0]);
        if made < 0 {
            return made;
        }
        let socket = made as usize;
        let size = size_of::<Address>();
        let bound = system(number::BIND, [socket, (&raw const address) as usize, size, 0, 0]);
        if bound < 0 {
            return bound;
        }
        match system(number::LISTEN, [socket, BACKLOG, 0, 0, 0]) {
            0 => made,
            error => error,
        }
    }
}

/// Takes the next connection, or says why there is none.
pub(crate) fn accept(listener: usize) -> isize {
    let one = 1_i32;
    // SAFETY: nobody's address is asked for; the option's value is live.
    unsafe {
        let flags = SOCK_NONBLOCK | SOCK_CLOEXEC;
        let accepted = system(number::ACCEPT4, [listener, 0, 0, flags, 0]);
        if let Ok(socket) = usize::try_from(accepted) {
            let words = [socket, IPPROTO_TCP, TCP_NODELAY, (&raw const one) as usize, 4];
            system(number::SETSOCKOPT, words);
        }
        accepted
    }
}

/// Reads into `room`; 0 at the end.
pub(crate) fn receive(socket: usize, room: &mut [u8]) -> isize {
    let words = [socket, room.as_mut_ptr() as usize, room.len(), MSG_DONTWAIT, 0];
    // SAFETY: the room is live and nobody else's.
    unsafe { system(number::RECVFROM, words) }
}

/// Writes as much as there is room for.
pub(crate) fn send(socket: usize, bytes: &[u8]) -> isize {
    let flags = MSG_DONTWAIT | MSG_NOSIGNAL;
    // SAFETY: the bytes are live.
    unsafe {
        system(
            number::SENDTO,
            [socket, bytes.as_ptr() as usize, bytes.len(), flags, 0],
        )
    }
}

/// Says that nothing more will be written.
pub(crate) fn end_writing(socket: usize) {
    // SAFETY: of a descriptor alone.
    unsafe { system(number::SHUTDOWN, [socket, SHUT_WR, 0, 0, 0]) };
}

pub(crate) fn close(descriptor: usize) {
    // SAFETY: whoever closes it does not use it any more.
    unsafe { system(number::CLOSE, [descriptor, 0, 0, 0, 0]) };
}

/// What comes through the socket to the agent.
pub(crate) enum Word {
    /// Not yet.
    Nothing,
    /// One word, and a descriptor with it or none.
    Said(Option<usize>),
    /// Nobody is there any more.
    Ended,
}

/// Whether to wait for one.
#[derive(Clone, Copy)]
pub(crate) enum Wait {
    No,
    Yes,
}

/// The next word of the agent's.
pub(crate) fn hear(socket: usize, wait: Wait) -> Word {
    /// `struct iovec`.
    #[repr(C)]
    struct Part {
        base: usize,
        length: usize,
    }
    /// `struct msghdr`.
    #[repr(C)]
    struct Header {
        name: usize,
        name_length: u32,
        parts: usize,
        part_count: usize,
        control: usize,
        control_length: usize,
        flags: i32,
    }
    /// `struct cmsghdr`, and one descriptor.
    #[repr(C)]
    struct Rights {
        length: usize,
        level: i32,
        kind: i32,
        descriptor: i32,
        padding: i32,
    }
    let mut byte = 0_u8;
    let mut rights = Rights {
        length: 0,
        level: 0,
        kind: 0,
        descriptor: 0,
        padding: 0,
    };
    let part = Part {
        base: (&raw mut byte) as usize,
        length: 1,
    };
    let mut header = Header {
        name: 0,
        name_length: 0,
        parts: (&raw const part) as usize,
        part_count: 1,
        control: (&raw mut rights) as usize,
        control_length: size_of::<Rights>(),
        flags: 0,
    };
    let flags = match wait {
        Wait::No => MSG_CMSG_CLOEXEC | MSG_DONTWAIT,
        Wait::Yes => MSG_CMSG_CLOEXEC,
    };
    // SAFETY: everything that the header points to is live, and as long as is said.
    let heard = unsafe { system(number::RECVMSG, [socket, (&raw mut header) as usize, flags, 0, 0]) };
    // SAFETY: it is; the kernel has written to it, which the compiler does not know.
    let rights = unsafe { (&raw const rights).read_volatile() };
    match heard {
        1 => {
            let has_one = header.control_length >= size_of::<Rights>() - size_of::<i32>();
            let is_one = has_one && rights.level == SOL_SOCKET && rights.kind == SCM_RIGHTS;
            Word::Said(is_one.then_some(rights.descriptor as usize))
        }
        EAGAIN | EINTR => Word::Nothing,
        _ => Word::Ended,
    }
}
