//! One execution: spawn, output, end, receipt. Nothing outside can end it but a stop that somebody signed for.

mod files;
mod first;
mod output;
mod workspace;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Exit, Job, LimitHit, Outcome};
use lictor_proto::egress::Totals;
use lictor_proto::{Code, Digest};
use lictor_sandbox::{Cause, Ended, Plan, Running, Sandbox, SecretFile, StartError, StdinSource, StopReason};
use lictor_trust::Verified;
use lictor_trust::profiles::Limits;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use self::output::{Output, Part};
use crate::core::Core;
use crate::journal::Step;
use crate::journal::entry::{Decision, Entry};
use crate::live::LiveJob;
use crate::receipt::End;
use crate::redact::Redactor;
use crate::retry::Retry;
use crate::spool::{self, Keep, Spool};
use crate::steps::{Step as Timed, StepTimes};

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
    /// What is shown to the host of the repository that a commit is brought from before it.
    pub(crate) credential: Option<SecretFile>,
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
        credential,
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
    let output = Output {
        core: core.clone(),
        live: live.clone(),
        job: digest,
        spool,
        writer: Mutex::new(writer),
        redactor,
    };
    let carried = carry_out(&job, plan, (stdin, credential), output, &mut times);
    let (end, to_remove) = Box::pin(carried).await;
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

/// From what is started before it, if something is, to the last process; and its sandbox, which is to be removed.
async fn carry_out(
    job: &Job,
    mut plan: Plan,
    (stdin, credential): (StdinSource, Option<SecretFile>),
    output: Output,
    times: &mut StepTimes,
) -> (End, Option<Box<dyn Sandbox>>) {
    let stopped = output.live.clone();
    let mut before = None;
    if let Some(first) = plan.take_first() {
        match Box::pin(first::bring(first, credential, &output)).await {
            Ok(totals) => before = totals,
            Err(cut) => {
                let gone = tokio::task::spawn_blocking(move || plan.let_go());
                if let Err(error) = gone.await {
                    tracing::error!(%error, "the directory of a job that has not begun may be left");
                }
                return (cut.end(output.end().await, stopped.stopped()), None);
            }
        }
    }
    let started = start((&output.core, &output.live), plan, stdin).await;
    let (sandbox, running) = match started {
        Ok(started) => started,
        Err((outcome, refusal)) => {
            // Whoever waits for output learns that no more comes; nothing was written unless something came before.
            let is_empty = output.spool.end() == 0;
            let output = Some(output.end().await).filter(|_| !is_empty);
            let end = End::unstarted(outcome, refusal);
            return (End { output, ..end }, None);
        }
    };
    times.done(Timed::Spawn);
    let (ended, output, egress) = attend(running, output).await;
    times.done(Timed::Wait);
    let end = End {
        egress: first::sum(before, egress),
        ..finished(ended, output, stopped.stopped())
    };
    let end = workspace::done(job, &*sandbox, files::carried(job, end)).await;
    (end, Some(sandbox))
}

/// From the first byte to the last process.
async fn attend(running: Running, output: Output) -> (Ended, spool::Ended, Option<Totals>) {
    let started_at = running.started_at();
    let _ = output.live.started_at.set(started_at);
    output.live.started(running.stop_switch());
    output.core.journal.note(Step {
        entries: vec![Entry::Started {
            job: output.job,
            at: started_at,
            handle: serde_json::to_string(running.handle()).unwrap_or_default(),
        }],
        audit: vec![Event::new(EventType::JobStarted).with_id("job", &output.job)],
        receipt: None,
    });
    output.core.feeds.touch(output.job);
    let (ended, totals) = output.follow(running, Part::Last).await;
    (ended, output.end().await, totals)
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
        Cause::OutOfRoom => {
            let why = "it was ended: its sandbox held more than the profile says; remove what is too much, restore a snapshot, \
                       or remove the sandbox";
            (Outcome::Failed, Some(Refusal::new(Code::SandboxLimit, why)))
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
