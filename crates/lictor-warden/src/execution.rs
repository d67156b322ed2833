//! One execution: spawn, output, end, receipt. Nothing outside can end it but a stop that somebody signed for.

mod files;
mod workspace;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use lictor_audit::{Event, EventType};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Exit, Job, LimitHit, Outcome};
use lictor_proto::egress::Totals;
use lictor_proto::frame::{FrameKind, HEADER};
use lictor_proto::{Code, Digest, Timestamp};
use lictor_sandbox::{
    Cause, EgressEvents, Ended, OutputReader, Plan, Running, Sandbox, StartError, StdinSource, StopReason,
};
use lictor_trust::Verified;
use lictor_trust::profiles::Limits;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::core::Core;
use crate::egress::Recorder;
use crate::journal::Step;
use crate::journal::entry::{Decision, Entry};
use crate::live::LiveJob;
use crate::receipt::End;
use crate::redact::{self, Redactor};
use crate::retry::Retry;
use crate::spool::{self, INLINE, Keep, Spool, Writer};
use crate::steps::{Step as Timed, StepTimes};

/// Bytes read from a stream at once.
const PIECE: usize = 256 * 1024;
/// How long the end of a job may wait for its sandbox to be removed.
const TIDY_WITHIN: Duration = Duration::from_secs(5);

/// Everything that belongs to one execution.
pub(crate) struct Execution {
    pub(crate) core: Arc<Core>,
    pub(crate) live: Arc<LiveJob>,
    pub(crate) job: Verified<Job>,
    pub(crate) limits: Limits,
    pub(crate) decision: Decision,
    pub(crate) plan: Plan,
    pub(crate) stdin: StdinSource,
    /// Takes the values of its secrets out of what it says.
    pub(crate) redactor: Redactor,
    pub(crate) times: StepTimes,
    /// Its place among those that run, held to the end.
    pub(crate) _place: OwnedSemaphorePermit,
}

/// Carries it out to its receipt.
pub(crate) async fn run(execution: Execution) {
    let Execution {
        core,
        live,
        job,
        limits,
        decision,
        plan,
        stdin,
        redactor,
        mut times,
        _place,
    } = execution;
    let keep = Keep {
        bytes: job.keeps(limits.keep),
        overflow: limits.overflow,
    };
    let digest = job.digest();
    let (spool, writer) = Spool::new(core.spool_paths(&digest), keep);
    // From now on a reader can wait for output.
    let _ = live.spool.set(spool.clone());
    let mut to_remove = None;
    let end = match start((&core, &live), plan, stdin).await {
        Ok((sandbox, running)) => {
            times.done(Timed::Spawn);
            let output = Output {
                core: core.clone(),
                live: live.clone(),
                job: digest,
                spool,
                writer,
                redactor,
            };
            let (ended, output, egress) = attend(&core, running, output).await;
            times.done(Timed::Wait);
            let end = End {
                egress,
                ..finished(ended, output, live.stopped())
            };
            let end = workspace::done(&job, &*sandbox, files::carried(&job, end)).await;
            to_remove = Some(sandbox);
            end
        }
        Err((outcome, refusal)) => {
            // Nothing was written; whoever waits for output learns that none comes.
            writer.end();
            End::unstarted(outcome, refusal)
        }
    };
    let committed = conclude(&core, &digest, (&decision, &end), to_remove).await;
    let_go(&core, &live, &digest, end.output.filter(|_| committed));
    core.feeds.touch(digest);
    times.done(Timed::Receipt);
    times.report(&digest);
}

/// Journals the end, and removes the sandbox beside the sync: who hears of the end finds nothing left. But an end is
/// told, whatever is left. Gives whether the journal has it.
async fn conclude(
    core: &Arc<Core>,
    digest: &Digest,
    (decision, end): (&Decision, &End),
    sandbox: Option<Box<dyn Sandbox>>,
) -> bool {
    let make = || Step {
        receipt: Some(core.issuer.draft(*digest, decision, end.clone())),
        ..Step::default()
    };
    let removed = async {
        if let Some(sandbox) = sandbox
            && tokio::time::timeout(TIDY_WITHIN, core.tasks.spawn(tidy(core.closing.clone(), sandbox)))
                .await
                .is_err()
        {
            tracing::warn!(job = %digest, "removing the sandbox takes long; the end is told meanwhile");
        }
    };
    let (committed, ()) = tokio::join!(core.commit_surely(make), removed);
    if let Err(e) = &committed {
        tracing::error!(job = %digest, error = %e, "the journal refuses the end of an execution");
    }
    committed.is_ok()
}

/// What is kept of the output is read from the journal's description from now on, if that has it.
fn let_go(core: &Core, live: &LiveJob, job: &Digest, output: Option<spool::Ended>) {
    if let Some(output) = &output {
        // Before that, the files were the only copy.
        core.spool_paths(job).tidy(&output.log);
    }
    // The live window stays for a while when more was written than is kept, for readers who are about to come to its
    // end.
    if output.is_some_and(|o| o.truncated()) {
        live.ended();
    } else {
        core.live.forget(job);
    }
}

/// Makes the sandbox, which may take its time, and starts the job in it if it is not to be ended by then.
async fn start(
    (core, live): (&Arc<Core>, &LiveJob),
    plan: Plan,
    stdin: StdinSource,
) -> Result<(Box<dyn Sandbox>, Running), (Outcome, Refusal)> {
    let failed = |refusal| (Outcome::Failed, refusal);
    let backend = core.sandboxes.backend(plan.backend()).map_err(failed)?;
    let created = backend.create(plan).await;
    let mut sandbox = created.map_err(|e: StartError| failed(e.refusal()))?;
    let started = match live.called_off() {
        Some(end) => Err(end),
        None => sandbox.exec(stdin.into()).await.map_err(|e| failed(e.refusal())),
    };
    match started {
        Ok(running) => Ok((sandbox, running)),
        Err(end) => {
            let removed = core.tasks.spawn(tidy(core.closing.clone(), sandbox));
            let _ = tokio::time::timeout(TIDY_WITHIN, removed).await;
            Err(end)
        }
    }
}

/// Removes what was made for a job. While something of it is left nobody else gets what it holds, a kept sandbox above
/// all, so it is tried until nothing is.
async fn tidy(closing: CancellationToken, mut sandbox: Box<dyn Sandbox>) {
    let mut retry = Retry::until(&closing);
    while let Err(e) = sandbox.destroy().await {
        tracing::warn!(error = %e, "a sandbox could not be removed; it is tried again");
        if !retry.again().await {
            return;
        }
    }
}

/// The output side of one execution.
struct Output {
    core: Arc<Core>,
    live: Arc<LiveJob>,
    job: Digest,
    spool: Arc<Spool>,
    writer: Writer,
    redactor: Redactor,
}

/// From the first byte to the last process.
async fn attend(core: &Core, mut running: Running, output: Output) -> (Ended, spool::Ended, Option<Totals>) {
    let started_at = running.started_at();
    let _ = output.live.started_at.set(started_at);
    output.live.started(running.stop_switch());
    core.journal.note(Step {
        entries: vec![Entry::Started {
            job: output.job,
            at: started_at,
            handle: serde_json::to_string(running.handle()).unwrap_or_default(),
        }],
        audit: vec![Event::new(EventType::JobStarted).with_id("job", &output.job)],
        receipt: None,
    });
    core.feeds.touch(output.job);
    let egress = running.take_egress();
    let way_out = egress.as_ref().map(EgressEvents::to_close);
    let (stdout, stderr) = (running.take_stdout(), running.take_stderr());
    let Output {
        core: shared,
        live,
        job,
        spool,
        writer,
        redactor,
    } = output;
    let writer = Mutex::new(writer);
    let pump = Pump {
        core: &shared,
        live: &live,
        job,
        spool: &spool,
        writer: &writer,
        redactor: &redactor,
    };
    let wait = async {
        let ended = running.wait().await;
        // Nobody is left to be throttled; what is in the pipes is taken at once.
        spool.stop_throttling();
        // The last that is said about it belongs into the log.
        if let Some(way_out) = way_out {
            way_out.close().await;
        }
        ended
    };
    let recorder = Recorder {
        core: &shared,
        live: &live,
        job,
        spool: &spool,
        writer: &writer,
        redactor: &redactor,
    };
    let (ended, totals, (), ()) = tokio::join!(
        wait,
        recorder.record(egress),
        pump.stream(FrameKind::Stdout, stdout),
        pump.stream(FrameKind::Stderr, stderr)
    );
    let writer = writer.into_inner().unwrap_or_else(PoisonError::into_inner);
    (ended, end_log(writer, spool.end()).await, totals)
}

/// A small log ends without touching the disk; a large one is synced, which must not hold up others.
async fn end_log(writer: Writer, length: u64) -> spool::Ended {
    if length <= INLINE {
        return writer.end();
    }
    let ended = tokio::task::spawn_blocking(move || writer.end()).await;
    ended.unwrap_or_else(|e| {
        tracing::error!(error = %e, "the end of a log failed");
        spool::Ended::nothing()
    })
}

struct Pump<'a> {
    core: &'a Core,
    live: &'a LiveJob,
    job: Digest,
    spool: &'a Spool,
    writer: &'a Mutex<Writer>,
    redactor: &'a Redactor,
}

impl Pump<'_> {
    async fn stream(&self, kind: FrameKind, reader: Option<OutputReader>) {
        let Some(mut reader) = reader else { return };
        if let Err(e) = self.copy(kind, &mut reader).await {
            tracing::warn!(job = %self.job, error = %e, "an output stream broke");
        }
    }

    async fn copy(&self, kind: FrameKind, reader: &mut OutputReader) -> io::Result<()> {
        let mut buffer = BytesMut::new();
        let mut redacted = redact::Stream::of(self.redactor);
        let mut since_yield = 0;
        loop {
            // A stream that always has more would otherwise keep its time limit, and everybody else, from running.
            if since_yield >= PIECE {
                since_yield = 0;
                tokio::task::yield_now().await;
            }
            self.spool.wait_room().await;
            buffer.clear();
            buffer.resize(HEADER, 0);
            let read = reader.read(&mut buffer, PIECE).await?;
            if read == 0 {
                self.without_secrets(kind, |out| redacted.end(out));
                return Ok(());
            }
            since_yield += read;
            if self.redactor.is_empty() {
                self.write(kind, &mut buffer);
            } else {
                self.without_secrets(kind, |out| redacted.push(&buffer[HEADER..], out));
            }
        }
    }

    /// Writes what is left of output once values of secrets are taken out of it.
    fn without_secrets(&self, kind: FrameKind, take: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        take(&mut out);
        for piece in out.chunks(PIECE) {
            let mut buffer = BytesMut::zeroed(HEADER);
            buffer.extend_from_slice(piece);
            self.write(kind, &mut buffer);
        }
    }

    fn write(&self, kind: FrameKind, buffer: &mut [u8]) {
        let before = {
            let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let before = self.spool.end();
            writer.write(kind, Timestamp::now(), buffer);
            before
        };
        if self.live.wants(before) {
            self.core.feeds.touch(self.job);
        }
    }
}

/// The end in the words of a receipt.
fn finished(ended: Ended, output: spool::Ended, stopped: Option<Refusal>) -> End {
    let (outcome, why) = match ended.cause {
        Cause::TimedOut => (Outcome::TimedOut, Some(Code::TimedOut.into())),
        Cause::Stopped(StopReason::Canceled) => (
            Outcome::Canceled,
            Some(stopped.unwrap_or_else(|| Code::Canceled.into())),
        ),
        Cause::Stopped(StopReason::Shutdown) => {
            let why = Refusal::new(Code::Interrupted, "the agent was stopped while it ran");
            (Outcome::Interrupted, Some(why))
        }
        Cause::Exited if ended.exit == Some(Exit::Status(0)) => (Outcome::Succeeded, None),
        Cause::Exited => (Outcome::Failed, None),
    };
    let mut limits_hit = ended.limits_hit;
    if output.truncated() && !limits_hit.contains(&LimitHit::Output) {
        limits_hit.push(LimitHit::Output);
    }
    limits_hit.sort_unstable();
    End {
        outcome,
        why,
        started_at: Some(ended.started_at),
        finished_at: ended.finished_at,
        exit: ended.exit,
        limits_hit,
        usage: Some(ended.usage),
        egress: None,
        output: Some(output),
        artifacts: Vec::new(),
    }
}
