//! The process: commands in, records out.
//!
//! ```text
//! control ─ Open ─▶ job task ┐                  ┌─▶ writer task ─▶ control
//!         ─ Close ─▶ cancel ─┴─ records (queue) ─┘
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lictor_control::{Channel, Packet};
use lictor_proto::JobId;
use lictor_proto::egress::{Command, Event, Open, Refused, Totals};
use lictor_proto::json::{self, JsonError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::job::{Job, Shared};
use crate::listener::Listener;
use crate::resolve::{Lookups, Resolve, SHARED, SystemResolver};
use crate::room::Room;

/// Jobs served at once.
const MAX_JOBS: usize = 1024;
/// Of each thread; it counts only as far as it is used.
const STACK: usize = 1 << 20;
/// Records that wait to be read by the warden; beyond that connections wait.
const QUEUE: usize = 256;

/// Why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The control socket broke.
    #[error("the control socket broke")]
    Control(#[from] io::Error),
    /// A message that is no command.
    #[error("a control message is no command")]
    Command(#[source] JsonError),
    /// No runtime could be made.
    #[error("no runtime could be made")]
    Runtime(#[source] io::Error),
}

/// The `main` of the proxy's process: serves until the other end of `control` goes away.
///
/// # Errors
/// When the control socket breaks or carries what is no command.
pub fn run(control: OwnedFd) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        // One for each job, and those that are shared: nobody waits for a thread that another job holds.
        .max_blocking_threads(MAX_JOBS + SHARED)
        .thread_stack_size(STACK)
        .enable_all()
        .build()
        .map_err(ServeError::Runtime)?;
    let served = runtime.block_on(serve(control, Arc::new(SystemResolver)));
    // A name lookup may hang in the system's resolver; nobody waits for it.
    runtime.shutdown_background();
    served
}

/// Serves jobs as the control socket says, until its other end goes away.
///
/// # Errors
/// As [`run`].
pub async fn serve(control: OwnedFd, resolver: Arc<dyn Resolve>) -> Result<(), ServeError> {
    let channel = Arc::new(Channel::new(control)?);
    let (events, queue) = mpsc::channel(QUEUE);
    let mut writer = JoinSet::new();
    writer.spawn(write(Arc::clone(&channel), queue));
    let mut proxy = Proxy {
        shared: Shared {
            resolver,
            events,
            room: Room::default(),
            lookups: Lookups::default(),
        },
        open: HashMap::new(),
        jobs: JoinSet::new(),
    };
    loop {
        tokio::select! {
            Some(written) = writer.join_next() => return written.unwrap_or(Ok(())).map_err(ServeError::Control),
            Some(ended) = proxy.jobs.join_next(), if !proxy.jobs.is_empty() => {
                if let Ok((job, totals)) = ended {
                    // First forgotten, then said: whoever hears it may open the job again.
                    proxy.open.remove(&job);
                    proxy.say(Event::Closed { job, totals }).await;
                }
            }
            packet = channel.receive() => match packet? {
                Some(packet) => proxy.obey(packet).await?,
                None => return Ok(()),
            },
        }
    }
}

/// Writes records as they come, until nobody makes or reads any.
async fn write(channel: Arc<Channel>, mut queue: mpsc::Receiver<Event>) -> io::Result<()> {
    while let Some(event) = queue.recv().await {
        let bytes = json::to_vec(&event).map_err(io::Error::other)?;
        channel.send(&bytes, &[]).await?;
    }
    Ok(())
}

struct Proxy {
    shared: Shared,
    /// Each job, and by what it is ended. Here until the last about it has been said.
    open: HashMap<JobId, (Arc<Job>, CancellationToken)>,
    jobs: JoinSet<(JobId, Totals)>,
}

impl Proxy {
    async fn obey(&mut self, packet: Packet) -> Result<(), ServeError> {
        let command = json::from_slice(&packet.bytes).map_err(ServeError::Command)?;
        let refused = match command {
            Command::Taken { job, records } => {
                // One that is gone needs no more.
                if let Some((job, _)) = self.open.get(&job) {
                    job.taken(records);
                }
                Ok(())
            }
            Command::Open(open) => {
                let job = open.job.clone();
                self.open(*open, packet.descriptors)
                    .map_err(|(why, text)| Event::Refused { job, why, text })
            }
            Command::Close { job } => match self.open.get(&job) {
                Some((_, token)) if !token.is_cancelled() => {
                    token.cancel();
                    Ok(())
                }
                _ => Err(Event::Refused {
                    job,
                    why: Refused::NotOpen,
                    text: "no job of this id is open".into(),
                }),
            },
        };
        if let Err(event) = refused {
            self.say(event).await;
        }
        Ok(())
    }

    async fn say(&self, event: Event) {
        // That nobody reads is noticed by the loop.
        let _: Result<(), _> = self.shared.events.send(event).await;
    }

    fn open(&mut self, open: Open, mut descriptors: Vec<OwnedFd>) -> Result<(), (Refused, String)> {
        if self.open.contains_key(&open.job) {
            return Err((Refused::AlreadyOpen, "a job of this id is open".into()));
        }
        if self.open.len() >= MAX_JOBS {
            return Err((Refused::TooManyJobs, format!("{MAX_JOBS} jobs are open")));
        }
        let (Some(descriptor), true) = (descriptors.pop(), descriptors.is_empty()) else {
            return Err((
                Refused::BadListener,
                "a job comes with exactly one descriptor".into(),
            ));
        };
        let listener = Listener::adopt(descriptor).map_err(|e| (Refused::BadListener, e.to_string()))?;
        let token = CancellationToken::new();
        let events = self.shared.events.clone();
        let job = Job::new(open.job.clone(), &open.rules, self.shared.clone(), token.clone());
        let job = Arc::new(job.map_err(|text| (Refused::BadRules, text))?);
        self.open.insert(open.job.clone(), (job.clone(), token));
        self.jobs.spawn(async move {
            let id = open.job;
            // If nobody reads any more, the process is about to end, and the job with it.
            let _: Result<(), _> = events.send(Event::Opened { job: id.clone() }).await;
            let totals = job.serve(listener).await;
            (id, totals)
        });
        Ok(())
    }
}
