//! The agent's side of its egress proxy: a process that reads hostile bytes, so it has a user without rights (where the
//! agent has any to give up), no key, no environment, no memory that others may read, and nothing open but the control
//! socket and a pipe for what it has to say to people (see `lictor-egress` for what is said over the first).
//!
//! It is started with the first job that needs it. When it ends, every way out ends with it; the next job gets a
//! new one. One that does not answer is killed.

mod control;
mod routes;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use lictor_proto::egress::{Command, Event, Open, Rules};
use lictor_proto::{Digest, JobId};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Resource, Signal};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::control::Control;
use self::routes::Routes;
use super::input;
use super::keeper::Keeper;
use super::kernel::Kernel;
use super::process;
use super::spawn::{self, Launch, LaunchFile};
use super::supervisor::{Timer, expiry};
use super::users::{self, User};
use crate::handle::ProcessId;
use crate::program::FileIdentity;

/// The program of whoever looks: what the zygote starts is what the agent is, whatever lies at its path by now, and no
/// directory on the way to it has to be open to the proxy's user.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// The proxy of one agent.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Of the agent's own program.
    argv: Vec<String>,
    /// Locked while one is started, which is bounded: two jobs must not start two.
    live: tokio::sync::Mutex<Option<Arc<Live>>>,
}

/// One that runs.
#[derive(Debug)]
struct Live {
    control: Arc<Control>,
    routes: Arc<Routes>,
    process: Option<ProcessId>,
    /// Listen to it; they end when it does.
    _listeners: JoinSet<()>,
    /// Holds it.
    _keeper: Keeper,
}

impl Proxy {
    pub(crate) fn new(arguments: Vec<String>) -> Self {
        let mut argv = vec![OWN_PROGRAM.to_owned()];
        argv.extend(arguments);
        Self {
            argv,
            live: tokio::sync::Mutex::new(None),
        }
    }

    /// Starts one, hears a word from it, and lets it go.
    pub(super) async fn probe(&self, kernel: &Kernel) -> io::Result<()> {
        let live = self.start(kernel).await?;
        // What is not open cannot be closed, and that is an answer.
        let job = JobId::from_digest(&Digest::of(b"probe"));
        live.control.send(&Command::Close { job }, None).await?;
        let answered = within(kernel.zygote.bound, live.routes.answered()).await;
        live.kill();
        answered
    }

    /// Has a job's listener served by these rules; returns when it is.
    pub(super) async fn open(
        &self,
        kernel: &Kernel,
        job: &JobId,
        rules: Rules,
        listener: OwnedFd,
    ) -> io::Result<(mpsc::Receiver<Event>, Taken)> {
        let live = self.live(kernel).await?;
        let opened = within(kernel.zygote.bound, live.open(job, rules, listener)).await;
        if opened.is_err() {
            live.routes.forget(job);
        }
        if opened
            .as_ref()
            .is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
        {
            live.kill();
        }
        let job = job.clone();
        opened.map(|events| (events, Taken { live, job }))
    }

    /// Has a job's connections ended, and waits for the last of its records. One that does not answer in time is
    /// killed, and all connections with it.
    pub(super) async fn close(&self, kernel: &Kernel, job: &JobId) {
        let live = self.live.lock().await.clone();
        let Some((live, last)) = live.and_then(|l| l.routes.last_of(job).map(|last| (l, last))) else {
            return;
        };
        if let Err(error) = within(kernel.zygote.kill_bound(), live.close(job, last)).await {
            tracing::warn!(%error, "the egress proxy does not close a job's way out and is ended");
            live.kill();
        }
    }

    async fn live(&self, kernel: &Kernel) -> io::Result<Arc<Live>> {
        let mut held = self.live.lock().await;
        if held.as_ref().is_some_and(|live| live.routes.have_ended()) {
            *held = None;
        }
        match &*held {
            Some(live) => Ok(live.clone()),
            None => Ok(held.insert(Arc::new(self.start(kernel).await?)).clone()),
        }
    }

    async fn start(&self, kernel: &Kernel) -> io::Result<Live> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        let null = input::null()?;
        let (words, error) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let inherit = vec![theirs.as_fd(), null.as_fd(), error.as_fd()];
        let user = kernel.unprivileged();
        let launch = self.launch(kernel, user.as_ref(), inherit)?;
        let spawned = spawn::spawn(&kernel.zygote, &launch).await;
        let spawned = spawned.map_err(|e| io::Error::other(e.refusal().message))?;
        let control = Arc::new(Control::new(ours)?);
        let routes = Arc::new(Routes::default());
        let mut listeners = JoinSet::new();
        let (to, from) = (routes.clone(), control.clone());
        let process = process::identify(spawned.main);
        listeners.spawn(async move {
            to.serve(&from).await;
            // Nobody listens to it any more, so it has nothing more to do.
            kill(process);
        });
        listeners.spawn(repeat(pipe::Receiver::from_owned_fd(words)?));
        tracing::info!(pid = spawned.main, "the egress proxy runs");
        Ok(Live {
            control,
            routes,
            process,
            _listeners: listeners,
            _keeper: spawned.keeper,
        })
    }

    fn launch<'a>(
        &self,
        kernel: &'a Kernel,
        user: Option<&'a User>,
        inherit: Vec<BorrowedFd<'a>>,
    ) -> io::Result<Launch<'a>> {
        let filter = kernel
            .filter
            .as_deref()
            .map_err(|e| io::Error::other(e.clone()))?;
        let argv = self.argv.iter().map(|a| CString::new(a.as_str()));
        let argv: Vec<CString> = argv.collect::<Result<_, _>>()?;
        let path = argv.first().cloned().unwrap_or_default();
        // As many descriptors as the agent may have itself: it serves all jobs.
        let most = rustix::process::getrlimit(Resource::Nofile).maximum;
        let files = most.map(|n| (libc::RLIMIT_NOFILE, n, n));
        Ok(Launch {
            files: vec![LaunchFile {
                path,
                identity: FileIdentity::NONE,
                held_at: None,
                copy: None,
            }],
            argv,
            user,
            confine: true,
            filter: Some(filter),
            rlimits: std::iter::once((libc::RLIMIT_CORE, 0, 0)).chain(files).collect(),
            inherit,
            ..Launch::of_a_helper()
        })
    }
}

impl Live {
    async fn open(&self, job: &JobId, rules: Rules, listener: OwnedFd) -> io::Result<mpsc::Receiver<Event>> {
        let mut events = self.routes.add(job)?;
        let open = Command::Open(Box::new(Open {
            job: job.clone(),
            rules,
        }));
        self.control.send(&open, Some(listener.as_fd())).await?;
        match events.recv().await {
            Some(Event::Opened { .. }) => Ok(events),
            Some(Event::Refused { text, .. }) => Err(io::Error::other(text)),
            Some(_) => Err(io::Error::other("the egress proxy says something else first")),
            None => Err(io::Error::other("the egress proxy ended")),
        }
    }

    async fn close(&self, job: &JobId, mut last: tokio::sync::watch::Receiver<()>) -> io::Result<()> {
        self.control
            .send(&Command::Close { job: job.clone() }, None)
            .await?;
        while last.changed().await.is_ok() {}
        Ok(())
    }

    fn kill(&self) {
        kill(self.process);
    }
}

fn kill(process: Option<ProcessId>) {
    match process.map(|process| process::signal(process, Signal::KILL)) {
        Some(Err(error)) if error.raw_os_error() != Some(libc::ESRCH) => {
            tracing::warn!(%error, "the egress proxy cannot be ended");
        }
        _ => {}
    }
}

/// Says which of a job's records have been taken.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    live: Arc<Live>,
    job: JobId,
}

impl Taken {
    /// So many, since this was said last. A proxy that does not hear it lets the job wait.
    pub(super) async fn say(&self, records: u32) {
        let taken = Command::Taken {
            job: self.job.clone(),
            records,
        };
        if let Err(error) = self.live.control.send(&taken, None).await {
            tracing::debug!(%error, "the egress proxy is gone");
        }
    }
}

impl Kernel {
    /// Whom helpers without rights run as; `None` when the agent has none to give up.
    pub(super) fn unprivileged(&self) -> Option<User> {
        (users::current().uid == 0).then(|| User {
            uid: self.config.sandbox_uid,
            gid: self.config.sandbox_gid,
            groups: Vec::new(),
        })
    }
}

/// What something says, unless it takes too long.
async fn within<T>(bound: Duration, what: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let bound = Timer::after(bound);
    tokio::select! {
        done = what => done,
        () = expiry(&bound) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Repeats in the agent's log what the proxy has to say to people.
async fn repeat(words: pipe::Receiver) {
    let mut room = [0; 1024];
    while words.readable().await.is_ok() {
        match words.try_read(&mut room) {
            Ok(0) => return,
            Ok(length) => {
                let text = String::from_utf8_lossy(room.get(..length).unwrap_or_default());
                tracing::warn!(said = ?text.trim_end(), "the egress proxy");
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
