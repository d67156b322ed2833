//! The handle: starts a warden, passes requests to it, gives feeds, drains it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use lictor_audit::{Event, EventType};
use lictor_proto::agent::{LawHeld, OfferReply, OutputPart, ReadOutput, Reply, Request};
use lictor_proto::api::TrustView;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Grant, NodeRecord};
use lictor_proto::{Code, Digest, Envelope, NodeId, limits};
use lictor_rootfs::Store;
use lictor_sandbox::{Host, KeptSweep};
use lictor_trust::SecretKey;
use lictor_trust::keyfile::{self, KeyFileError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::archive::Archive;
use crate::config::Config;
use crate::core::Core;
use crate::downloads::Downloads;
use crate::feed::{EventFeed, Feeds};
use crate::journal::archive::AuditArchive;
use crate::journal::file::DiskFile;
use crate::journal::replay::OpenError;
use crate::journal::{Journal, JournalError, Open, Step, WriterThread};
use crate::law::LawDesk;
use crate::live::LiveJobs;
use crate::node_dir::{NodeDir, NodeDirError, NodeFile};
use crate::presence::Presence;
use crate::pulls::Pulls;
use crate::receipt::{IdentitySigner, Issuer};
use crate::sandboxes::Sandboxes;
use crate::spool::stdin::StdinSpool;
use crate::suppress::Suppress;
use crate::work_place::WorkPlace;
use crate::{control, housekeeping, offer, recovery, schedules};

/// How long stopped jobs may take to end: more than the largest grace that is usual.
const STOP_WITHIN: Duration = Duration::from_secs(30);

/// A running warden. Cheap to clone; all clones are the same one.
#[derive(Debug, Clone)]
pub struct Warden {
    core: Arc<Core>,
    writer: Arc<Mutex<Option<WriterThread>>>,
}

/// Why a warden cannot start. None of this is passed over: what it says about past jobs would be missing.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error("the node directory cannot be used")]
    Dir(#[from] NodeDirError),
    /// No node in it.
    #[error("there is no enrolled node in this directory")]
    NotEnrolled,
    /// The identity key, or the one that secrets are sealed to, cannot be used.
    #[error("the identity key, or the one that secrets are sealed to, cannot be used")]
    Key(#[from] KeyFileError),
    /// The identity key, or the one that secrets are sealed to, is not the record's.
    #[error("the identity key, or the one that secrets are sealed to, is not the one in the node record")]
    OtherKey,
    /// The stored trust documents do not hold.
    #[error("the stored trust documents do not hold: {0}")]
    Trust(Refusal),
    /// The journal cannot be relied on.
    #[error("the journal cannot be used")]
    Journal(#[from] OpenError),
    /// The file system's reason.
    #[error("the node directory cannot be used")]
    Io(#[from] std::io::Error),
}

/// `machine.json`: which machine the identity belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    fingerprint: Digest,
}

impl Warden {
    /// Opens the node directory, ends what an earlier process left unfinished, and is ready for requests. `host`
    /// should have been started before any thread was.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(config: Config, host: Host) -> Result<Self, StartError> {
        let dir = NodeDir::at(&config.dir);
        let Enrolled {
            node,
            record,
            grant,
            identity,
            seal,
            trust,
        } = Enrolled::read(&dir)?;
        NodeDir::create_private(&config.dir.join("spool"))?;
        let work_place = WorkPlace::open(&config.dir, &record.node_id)?;
        let log = record.node_id.to_string();
        let (journal, writer, torn) = Journal::open(Open {
            file: Box::new(DiskFile::open(&dir.join("journal.log"))?),
            archive: Box::new(AuditArchive::new(dir.join("audit.log"), log.clone())),
            signer: Box::new(IdentitySigner(identity.clone())),
            log,
            rotate_after: config.rotate_after,
        })?;
        let cloned = check_machine(&dir)?;
        let law = LawDesk::open(dir.clone(), node, &trust, cloned.clone()).map_err(StartError::Trust)?;
        let stdin = StdinSpool::open(&dir.join("spool").join("stdin"))?;
        let downloaded = StdinSpool::open(&dir.join("spool").join("url"))?;
        let archive = Archive::open(&config.dir, config.archive_bytes)?;
        let issuer = Issuer {
            org: record.org.clone(),
            node_id: record.node_id.clone(),
        };
        host.use_rootfs(Store::of_node(&config.dir));
        let core = Arc::new(Core {
            downloads: Downloads::new(downloaded, config.downloader.as_ref()),
            places: Arc::new(Semaphore::new(config.max_jobs)),
            queue: Arc::new(Semaphore::new(config.max_queued)),
            sweep: Mutex::new(KeptSweep::new(config.kept_patience)),
            config,
            work_place,
            record,
            kind: grant.kind,
            identity,
            seal,
            issuer,
            journal,
            archive,
            law: Arc::new(law),
            live: LiveJobs::default(),
            feeds: Feeds::default(),
            sandboxes: Sandboxes::probe(host).await,
            pulls: Pulls::default(),
            stdin: Mutex::new(stdin),
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
            behind: Default::default(),
            schedules: Arc::default(),
            suppress: Mutex::new(Suppress::default()),
        });
        say_started(&core, torn, cloned).await;
        Presence::write(&dir, core.sandboxes.reports());
        begin(&core).await;
        Ok(Self {
            core,
            writer: Arc::new(Mutex::new(Some(writer))),
        })
    }

    /// Asks; the answer comes when whatever had to be durable is. Dropping the future never undoes the request.
    pub async fn ask(&self, request: Request) -> Reply {
        let core = self.core.clone();
        match request {
            Request::Offer(o) => match self.owned(offer::offer(core, o)).await {
                Ok(reply) => Reply::Offer(reply),
                Err(refusal) => Reply::Offer(OfferReply::Later(refusal)),
            },
            Request::Stdin(piece) => done(self.owned(control::stdin(core, piece)).await),
            Request::Law(docs) => match self.owned(control::law(core, docs)).await {
                Ok(Ok(held)) => Reply::Law(held),
                Ok(Err(refusal)) | Err(refusal) => Reply::Refused(refusal),
            },
            Request::Approval(wire) => done(self.owned(control::approval(core, wire)).await),
            Request::Cancel(wire) => done(self.owned(control::cancel(core, wire, None)).await),
            Request::CancelJob(c) => done(self.owned(control::cancel(core, c.cancel, Some(c.job))).await),
            Request::Ack(ack) => done(self.owned(control::ack(core, ack)).await),
            Request::ReadOutput(read) => match self.read_output(read).await {
                Ok((part, _)) => Reply::Output(part),
                Err(refusal) => Reply::Refused(refusal),
            },
            Request::Status => Reply::Status(Box::new(core.status())),
            Request::Drain { grace_ms } => {
                self.drain(Duration::from_millis(grace_ms)).await;
                // Of a broken journal no results are to be waited for.
                done(Ok(self.core.journal.check().map_err(|e| (&e).into())))
            }
        }
    }

    /// Runs work in a task of its own, so that whoever asked may go.
    async fn owned<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Refusal> {
        self.core
            .tasks
            .spawn(work)
            .await
            .map_err(|e| Refusal::new(Code::Internal, format!("the request failed inside: {e}")))
    }

    /// Bytes of an execution's log: whole frames, at least one when there is something. With `wait`, waits for more
    /// output or the log's end.
    ///
    /// # Errors
    /// [`Code::NotFound`] when this node holds no output of the job, [`Code::BadRequest`] when the position is none.
    pub async fn read_output(&self, read: ReadOutput) -> Result<(OutputPart, Bytes), Refusal> {
        self.core.read_output(read).await
    }

    /// A new feed: a heartbeat, everything that has not been acknowledged, then what happens.
    #[must_use]
    pub fn events(&self) -> EventFeed {
        EventFeed::new(self.core.clone())
    }

    /// The law held at the moment.
    #[must_use]
    pub fn law_held(&self) -> LawHeld {
        self.core.law_held()
    }

    /// Returns, with why, when the journal cannot be relied on any more. Only a new start helps, which recovers what
    /// ran; until then everything is refused.
    pub async fn broken(&self) -> JournalError {
        self.core.journal.broken().await
    }

    /// Takes no new work from now on; returns when nothing runs any more. What still runs after `grace`, or when the
    /// journal is broken, is stopped and ends as `interrupted`, so that its result goes out while there is somebody to
    /// send it.
    pub async fn drain(&self, grace: Duration) {
        if !self.core.draining.swap(true, Ordering::SeqCst) {
            self.core.audit_always(Event::new(EventType::AgentDraining)).await;
        }
        tokio::select! {
            biased;
            () = self.idle() => return,
            () = tokio::time::sleep(grace) => {}
            _ = self.broken() => {}
        }
        for (_, live) in self.core.live.all() {
            live.shut_down();
        }
        if tokio::time::timeout(STOP_WITHIN, self.idle()).await.is_err() {
            tracing::warn!("jobs did not end in time; the next start ends them");
        }
    }

    /// Returns when no execution is under way.
    async fn idle(&self) {
        let all = u32::try_from(self.core.config.max_jobs).unwrap_or(u32::MAX);
        // Never closed, so this only waits.
        let _ = self.core.places.acquire_many(all).await;
    }

    /// Ends the warden: what still runs is stopped and ends as `interrupted`, feeds end, the journal is closed.
    pub async fn close(&self) {
        self.drain(Duration::ZERO).await;
        self.core.closing.cancel();
        self.core.audit_always(Event::new(EventType::AgentStopped)).await;
        self.core.feeds.close();
        self.core.sandboxes.prepare_none();
        self.core.tasks.close();
        self.core.tasks.wait().await;
        self.core.work_place.close();
    }

    /// Waits until the journal's writer has ended. All other clones and feeds must have gone.
    pub fn join(self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        drop(self.core);
        if let Some(writer) = writer {
            writer.join();
        }
    }
}

fn done(result: Result<Result<(), Refusal>, Refusal>) -> Reply {
    match result {
        Ok(Ok(())) => Reply::Done,
        Ok(Err(refusal)) | Err(refusal) => Reply::Refused(refusal),
    }
}

/// Ends what an earlier process left unfinished, and starts what goes on beside all jobs.
async fn begin(core: &Arc<Core>) {
    recovery::recover(core).await;
    core.sweep_kept();
    let work = core.work_place.path().to_owned();
    core.tasks.spawn(core.sandboxes.keep_warm(work));
    core.prepare_sandboxes();
    core.tasks.spawn(housekeeping::keep(Arc::downgrade(core)));
    core.tasks.spawn(schedules::keep(Arc::downgrade(core)));
}

/// What enrolment has left in the node directory, and belongs together.
struct Enrolled {
    node: NodeFile,
    record: NodeRecord,
    grant: Grant,
    identity: SecretKey,
    seal: SecretKey,
    trust: TrustView,
}

impl Enrolled {
    fn read(dir: &NodeDir) -> Result<Self, StartError> {
        let node = dir.node()?.ok_or(StartError::NotEnrolled)?;
        let record: NodeRecord = own(&node.record).ok_or(StartError::NotEnrolled)?;
        let grant: Grant = own(&node.grant).ok_or(StartError::NotEnrolled)?;
        let identity = keyfile::load(&dir.join("identity.key"), None)?;
        let seal = keyfile::load(&dir.join("seal.key"), None)?;
        let node_id = NodeId::derive(&record.org, &identity.public().key);
        let is_own = identity.public() == record.identity_key && node_id == record.node_id;
        if !is_own || seal.x25519_public() != record.seal_key {
            return Err(StartError::OtherKey);
        }
        let trust = dir.trust()?.ok_or(StartError::NotEnrolled)?;
        if trust.org != record.org {
            return Err(StartError::Trust(Code::WrongOrg.into()));
        }
        Ok(Self {
            node,
            record,
            grant,
            identity,
            seal,
            trust,
        })
    }
}

/// Reads one of this node's own documents, which enrolment has verified; [`LawDesk`] verifies it again by the law.
fn own<T: DeserializeOwned>(wire: &str) -> Option<T> {
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).ok()?;
    serde_json::from_slice(&envelope.payload).ok()
}

/// Compares this machine with the one that the identity was first used on.
fn check_machine(dir: &NodeDir) -> Result<Option<Refusal>, NodeDirError> {
    let fingerprint = lictor_sandbox::fingerprint();
    match dir.read::<Machine>("machine.json")? {
        Some(machine) if machine.fingerprint == fingerprint => Ok(None),
        Some(_) => Ok(Some(Code::ClonedIdentity.into())),
        None => dir.write("machine.json", &Machine { fingerprint }).map(|()| None),
    }
}

async fn say_started(core: &Core, torn: u64, cloned: Option<Refusal>) {
    let held = core.law_held();
    let mut audit = Vec::new();
    if core.journal.audit_head() == lictor_audit::chain::genesis(core.issuer.node_id.as_str()) {
        // Enrolment comes before there is a journal; this is its first start.
        let event = Event::new(EventType::AgentEnrolled)
            .with_id("node", &core.record.node_id)
            .with_id("name", &core.record.name)
            .with_id("grant", &core.record.grant_digest);
        audit.push(event);
    }
    audit.push(
        Event::new(EventType::AgentStarted)
            .with("version", env!("CARGO_PKG_VERSION"))
            .with("bundle", held.bundle),
    );
    if torn > 0 {
        audit.push(Event::new(EventType::JournalRepaired).with("bytes", torn));
    }
    if let Some(refusal) = cloned {
        audit.push(Event::new(EventType::IdentityRefused).refused(&refusal));
    }
    let step = Step {
        audit,
        ..Step::default()
    };
    if let Err(e) = core.journal.commit(step).await {
        tracing::error!(error = %e, "the start could not be recorded");
    }
}
