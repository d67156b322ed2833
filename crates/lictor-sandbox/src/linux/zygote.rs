//! The agent's side of the zygote: starting it, leasing its slots, handing tables over.
//!
//! # Invariants
//! - A slot is written only by the holder of its [`Lease`], and goes back to the pool only when the keeper has said
//!   that it reads no more ([`Lease::release`]). A lease that is dropped without that takes its slot with it.
//! - The zygote is forked by a thread that lives as long as the process: its children count as that thread's.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::child::{self, Forget};
use super::table::{MAX_FDS, SLOT, SLOTS};

/// Memory shared with the zygote, for the life of the process.
#[derive(Debug)]
struct Slots(*mut u8);

// SAFETY: the pointer is to a mapping that is never unmapped; who may touch which part is decided by leases.
unsafe impl Send for Slots {}
// SAFETY: as above; `Slots` itself offers no access.
unsafe impl Sync for Slots {}

/// The process that starts all jobs.
#[derive(Debug)]
pub(crate) struct Zygote {
    socket: OwnedFd,
    slots: Slots,
    free: Mutex<Vec<usize>>,
    available: Arc<Semaphore>,
}

impl Zygote {
    /// Forks it. The earlier in a program's life, the less there is to copy.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // SAFETY: a fresh anonymous mapping; nothing else is affected.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SLOT * SLOTS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        fork_from_own_thread(theirs, base as usize)?;
        Ok(Arc::new(Self {
            socket: ours,
            slots: Slots(base.cast()),
            free: Mutex::new((0..SLOTS).collect()),
            available: Arc::new(Semaphore::new(SLOTS)),
        }))
    }

    pub(super) async fn lease(self: &Arc<Self>) -> io::Result<Lease> {
        let permit = self.available.clone().acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let index = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let index = index.ok_or_else(|| io::Error::other("no slot is left"))?;
        Ok(Lease {
            zygote: self.clone(),
            index,
            permit,
        })
    }
}

fn fork_from_own_thread(socket: OwnedFd, base: usize) -> io::Result<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let fork_and_wait = move || {
        let here = 0_u8;
        let forget = Forget {
            ranges: own_memory(&raw const here as usize).unwrap_or_default(),
        };
        let old = block_signals();
        // SAFETY: `base` is the mapping of SLOTS slots made by `start`. `own_memory` lists private anonymous memory
        // only and leaves out this thread's stack, on which the zygote goes on.
        let pid = unsafe { child::fork_zygote(socket.as_raw_fd(), base as *const u8, &forget) };
        let error = io::Error::last_os_error();
        restore_signals(&old);
        drop(socket);
        drop(forget);
        let result = if pid < 0 { Err(error) } else { Ok(()) };
        let forked = result.is_ok();
        let told = sender.send(result).is_ok();
        if let (true, true, Some(pid)) = (forked, told, rustix::process::Pid::from_raw(pid as i32)) {
            // The jobs are children of this thread: its end would reach them as their parent's.
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    };
    std::thread::Builder::new()
        .name("zygote".to_owned())
        .stack_size(256 * 1024)
        .spawn(fork_and_wait)?;
    receiver
        .recv()
        .unwrap_or_else(|_| Err(io::Error::other("the zygote's thread ended")))
}

/// Private anonymous writable memory of this process, without the mapping that `keep` lies in.
fn own_memory(keep: usize) -> io::Result<Vec<(usize, usize)>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let ranges = maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        let private = words.next()? == "rw-p";
        let name = words.nth(3).unwrap_or("");
        let anonymous = name.is_empty() || name == "[heap]" || name == "[stack]" || name.starts_with("[anon");
        (private && anonymous && !(start..end).contains(&keep)).then_some((start, end - start))
    });
    Ok(ranges.collect())
}

fn block_signals() -> libc::sigset_t {
    // SAFETY: both sets are valid sigset_t; this thread's mask alone changes.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut old);
        old
    }
}

fn restore_signals(old: &libc::sigset_t) {
    // SAFETY: `old` was filled by `block_signals` on this thread.
    unsafe {
        libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut());
    }
}

/// One slot, for one spawn.
#[derive(Debug)]
pub(super) struct Lease {
    zygote: Arc<Zygote>,
    index: usize,
    permit: OwnedSemaphorePermit,
}

impl Lease {
    /// Where the slot starts; the holder alone uses its `SLOT` bytes.
    pub(super) fn memory(&self) -> *mut u8 {
        // SAFETY: `index < SLOTS`, so the result lies in the mapping.
        unsafe { self.zygote.slots.0.add(self.index * SLOT) }
    }

    /// Hands the slot and `fds` to the zygote.
    pub(super) fn send(&self, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.len() > MAX_FDS {
            return Err(io::Error::other("too many descriptors for one start"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(io::Error::other("too many descriptors for one start"));
        }
        let index = (self.index as u32).to_ne_bytes();
        let parts = [io::IoSlice::new(&index)];
        rustix::net::sendmsg(&self.zygote.socket, &parts, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Gives the slot back: nobody reads it any more.
    pub(super) fn release(self) {
        let mut free = self.zygote.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(self.index);
        drop(free);
        drop(self.permit);
    }
}
