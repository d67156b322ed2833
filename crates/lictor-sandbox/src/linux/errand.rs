//! Sending the agent's own program on an errand.
//!
//! ```text
//!   proxy <── a listener in a private directory, gone at once ──> one connection = the process's standard input
//!     '──> whom the rules name                                       the process: no socket of its own, no file to write
//! ```
//!
//! # Invariants
//! - The process has the stricter system call filter, by which nobody makes a socket, and Landlock, by which it opens no file but
//!   libraries and certificates. So what it can reach is what it was given.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::PipeFlags;
use tokio::sync::watch;

use super::confine;
use super::helper::{ERRORS, Helping, Words};
use super::kernel::Kernel;
use super::pipe::PipeReader;
use super::proxy::OWN_PROGRAM;
use super::spawn::{self, Launch, LaunchFile};
use super::supervisor::{Timer, expiry};
use super::table::FileIdentity;
use super::way_out::{self, WayOut};
use crate::errand::{Errand, OnErrand as Public};

/// How long it may take to say why it failed, once it has nothing more to write.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// More open files than it needs.
const OPEN_FILES: u64 = 256;

/// One that is under way.
#[derive(Debug)]
pub(crate) struct OnErrand {
    kernel: Arc<Kernel>,
    helping: Helping,
    output: PipeReader,
    errors: Words,
    way_out: WayOut,
    /// Whether it has nothing more to write.
    is_over: bool,
    /// Keeps the reader waiting for the end of the pipe itself.
    _never: watch::Sender<bool>,
}

impl OnErrand {
    pub(crate) async fn read(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        let read = self.output.read(into, limit).await;
        self.is_over |= matches!(read, Ok(0));
        read
    }

    pub(crate) async fn end(mut self) -> io::Result<Vec<u8>> {
        // Whoever is cut short has no last words.
        if self.is_over {
            self.last_words().await;
        }
        let ended = self.helping.end(&self.kernel).await;
        self.way_out.close().await;
        ended.map(|()| self.errors.kept())
    }

    async fn last_words(&mut self) {
        let late = Timer::after(LAST_WORDS);
        loop {
            tokio::select! {
                is_more = self.errors.hear() => if !is_more { return },
                () = expiry(&late) => return,
            }
        }
    }
}

/// Sends it.
pub(crate) async fn send(kernel: &Arc<Kernel>, errand: &Errand) -> io::Result<Public> {
    let place = Place::make(errand)?;
    let listener = OwnedFd::from(UnixListener::bind(&place.path)?);
    let served = way_out::serve_by(kernel, (&errand.job, &errand.rules), listener).await;
    let egress = served.map_err(|e| io::Error::other(e.refusal().message))?;
    let way_out = egress.way_out();
    // Whoever comes after this finds nobody.
    let connected = UnixStream::connect(&place.path);
    drop(place);
    let started = match connected {
        Ok(connection) => start(kernel, errand, connection.into(), &way_out).await,
        Err(e) => Err(e),
    };
    match started {
        Ok(on_errand) => Ok(Public::new(egress, on_errand)),
        Err(e) => {
            drop(egress);
            way_out.close().await;
            Err(e)
        }
    }
}

/// The place of the listener, by a name that is short whatever the directory is called. Dropped, it is gone.
struct Place {
    path: PathBuf,
    _dir: OwnedFd,
}

impl Place {
    fn make(errand: &Errand) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(&errand.dir, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}/{}.way", dir.as_raw_fd(), errand.job);
        let place = Self {
            path: path.into(),
            _dir: dir,
        };
        place.clear()?;
        Ok(place)
    }

    fn clear(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            tracing::warn!(%error, "the listener of a download could not be removed");
        }
    }
}

async fn start(
    kernel: &Arc<Kernel>,
    errand: &Errand,
    connection: OwnedFd,
    way_out: &WayOut,
) -> io::Result<OnErrand> {
    let never = watch::Sender::new(false);
    let (output, to_output) = PipeReader::new(never.subscribe())?;
    let (errors, to_errors) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let errors = Words::of(errors, ERRORS)?;
    let program = CString::new(OWN_PROGRAM)?;
    let arguments = errand.arguments.iter().map(|a| CString::new(a.as_str()));
    let argv: Result<Vec<CString>, _> = std::iter::once(Ok(program.clone())).chain(arguments).collect();
    let user = kernel.unprivileged();
    let ruleset = confine::errand(Path::new(OWN_PROGRAM))?;
    let filter = kernel.isolated_filter.as_deref();
    let launch = Launch {
        files: vec![LaunchFile {
            path: program,
            identity: FileIdentity::NONE,
            held_at: None,
            copy: None,
        }],
        argv: argv?,
        user: user.as_ref(),
        confine: true,
        ruleset: Some(ruleset.as_fd()),
        filter: Some(filter.map_err(|e| io::Error::other(e.clone()))?),
        rlimits: vec![
            (libc::RLIMIT_CORE, 0, 0),
            (libc::RLIMIT_FSIZE, 0, 0),
            (libc::RLIMIT_DATA, errand.memory, errand.memory),
            (libc::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES),
        ],
        inherit: vec![connection.as_fd(), to_output.as_fd(), to_errors.as_fd()],
        ..Launch::of_a_helper()
    };
    let spawned = spawn::spawn(&kernel.zygote, &launch).await;
    let spawned = spawned.map_err(|e| io::Error::other(e.refusal().message))?;
    Ok(OnErrand {
        kernel: kernel.clone(),
        helping: Helping::of(spawned),
        output,
        errors,
        way_out: way_out.clone(),
        is_over: false,
        _never: never,
    })
}
