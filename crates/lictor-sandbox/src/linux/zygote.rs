//! The agent's side of the zygote: starting it (again), having keepers made, lending them and the slots out.
//!
//! # Invariants
//! - A slot is written only by the holder of its [`Lease`], and goes back to the pool only when the keeper has said
//!   that it reads no more ([`Lease::release`]). A lease that is dropped without that takes its slot with it, and a
//!   spare one comes in its place.
//! - The zygote is forked by a thread that has no other children than it and its keepers, and takes away the status
//!   of each that ends: none of them stays a zombie, and nobody else's children are touched.
//! - A zygote that is gone (killed by hand, or for memory) is replaced at the next start that needs it.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::child::{self, Forget};
use super::keeper::{self, Idle, Keeper, Kind};
use super::process;
use super::ready;
use super::supervisor::{Timer, expiry};
use super::table::{AT_ONCE, KEEPER, SLOT, SLOTS};

/// Most keepers of each kind that wait for a job; more than that end when theirs has.
pub(super) const MOST_IDLE: usize = 16;

/// How long SIGKILL may take.
const KILL_BOUND: Duration = Duration::from_secs(10);

/// Memory shared with zygote and keepers, for the life of the process.
#[derive(Debug)]
struct Slots(*mut u8);

// SAFETY: the pointer is to a mapping that is never unmapped; who may touch which part is decided by leases.
unsafe impl Send for Slots {}
// SAFETY: as above; `Slots` itself offers no access.
unsafe impl Sync for Slots {}

/// The process that makes keepers, and the keepers that have no job.
#[derive(Debug)]
pub(crate) struct Zygote {
    socket: Mutex<Arc<OwnedFd>>,
    slots: Slots,
    free: Mutex<Vec<usize>>,
    available: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    /// How long a start may take.
    pub(super) bound: Duration,
}

impl Zygote {
    /// Forks it. The earlier in a program's life, the less there is to copy.
    pub(crate) fn start(bound: Duration) -> io::Result<Arc<Self>> {
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
        let socket = fork_zygote(base as usize)?;
        Ok(Arc::new(Self {
            socket: Mutex::new(Arc::new(socket)),
            slots: Slots(base.cast()),
            free: Mutex::new((0..SLOTS).collect()),
            available: Arc::new(Semaphore::new(AT_ONCE)),
            idle: Mutex::new(Vec::new()),
            bound,
        }))
    }

    pub(super) async fn lease(self: &Arc<Self>) -> io::Result<Lease> {
        let permit = self.available.clone().acquire_owned().await;
        let permit = permit.map_err(io::Error::other)?;
        let index = locked(&self.free).pop();
        let index = index.ok_or_else(|| io::Error::other("no slot is left"))?;
        Ok(Lease {
            zygote: self.clone(),
            index,
            permit,
        })
    }

    /// A keeper without a job: one that is idle, else a new one.
    pub(super) async fn keeper(&self, kind: Kind) -> io::Result<Idle> {
        if let Some(idle) = self.idle(kind) {
            return Ok(idle);
        }
        let zygote = locked(&self.socket).clone();
        let made = match self.make_keeper(&zygote).await {
            Ok(idle) => idle,
            Err(error) => {
                tracing::warn!(%error, "the zygote makes no keepers; it is started again");
                let again = self.restart(&zygote)?;
                self.make_keeper(&again).await?
            }
        };
        Ok(Idle { kind, ..made })
    }

    /// The one that had a job last.
    fn idle(&self, kind: Kind) -> Option<Idle> {
        let mut all = locked(&self.idle);
        let at = all.iter().rposition(|idle| idle.kind == kind)?;
        Some(all.remove(at))
    }

    /// A zygote may be stopped by a job of the agent's own user; it is not waited for.
    async fn make_keeper(&self, zygote: &OwnedFd) -> io::Result<Idle> {
        let bound = Timer::after(self.bound);
        tokio::select! {
            made = make_keeper(zygote) => made,
            () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// How long those whom SIGKILL was sent to may take to go.
    pub(super) fn kill_bound(&self) -> Duration {
        self.bound.min(KILL_BOUND)
    }

    /// Takes a keeper back; one that still has a job, or is one too many, is let go.
    pub(super) fn give_back(&self, keeper: Keeper) {
        let Some(idle) = keeper.into_idle() else {
            return;
        };
        let mut all = locked(&self.idle);
        if all.iter().filter(|other| other.kind == idle.kind).count() < MOST_IDLE {
            all.push(idle);
        }
    }

    /// A new zygote in place of `old`, unless somebody else has done that already.
    fn restart(&self, old: &Arc<OwnedFd>) -> io::Result<Arc<OwnedFd>> {
        let mut current = locked(&self.socket);
        if Arc::ptr_eq(&current, old) {
            *current = Arc::new(fork_zygote(self.slots.0 as usize)?);
        }
        Ok(current.clone())
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn make_keeper(zygote: &OwnedFd) -> io::Result<Idle> {
    let (ours, theirs) = socket_pair()?;
    keeper::send(zygote, 0, &[theirs.as_fd()])?;
    drop(theirs);
    let socket = ready::watch(ours)?;
    match keeper::next(&socket).await? {
        Some(record) if record.kind == KEEPER => {
            let pid = u32::try_from(record.a).unwrap_or(0);
            let id = process::identify(pid).ok_or(io::ErrorKind::BrokenPipe)?;
            let socket = socket.into_inner();
            let kind = Kind::Plain;
            Ok(Idle { id, socket, kind })
        }
        Some(record) => Err(io::Error::from_raw_os_error(record.a)),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    Ok(rustix::net::socketpair(
        family,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// Forks a zygote and returns its socket.
fn fork_zygote(base: usize) -> io::Result<OwnedFd> {
    let (ours, theirs) = socket_pair()?;
    fork_from_own_thread(theirs, base)?;
    Ok(ours)
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
        if forked && told {
            reap_own();
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

/// Takes away the status of every child of this thread that ends; returns when there is none any more.
fn reap_own() {
    let flags = libc::__WALL | libc::__WNOTHREAD;
    loop {
        // SAFETY: no memory is written.
        let pid = unsafe { libc::waitpid(-1, std::ptr::null_mut(), flags) };
        if pid < 0 && io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return;
        }
    }
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

    /// Its number, for the keeper.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// Gives the slot back: nobody reads it any more.
    pub(super) fn release(self) {
        locked(&self.zygote.free).push(self.index);
        drop(self.permit);
    }

    /// Leaves the slot for good: somebody may read it yet. A spare one takes its place.
    pub(super) fn abandon(self) {
        let left = locked(&self.zygote.free).len();
        tracing::error!(
            left,
            "a start hangs, and what it has of the slots is not used again"
        );
    }
}
