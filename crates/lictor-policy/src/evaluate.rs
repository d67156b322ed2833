//! From a job or a cancel to a verdict: what no policy can allow first, then the rule.
//!
//! A verdict from here binds nobody; `authorise` (a feature that only nodes enable) turns one into a permit.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Approval, Cancel, Job, JobKind, OpenGate, Release, Spec};
use lictor_proto::{Code, Digest, Timestamp};
use lictor_trust::LawFiles;
use lictor_trust::profiles::Profile;
use lictor_trust::roster::Operator;

use crate::entities::NodeContext;
use crate::facts::Facts;
use crate::law::Law;
use crate::rule::{self, Asked, Stop};
use crate::shell::{Action, ScriptRead, classify, read_script};
use crate::tally::{Leave, Poll, Signer, Vote};
use crate::{context, environment};

/// The action that is judged for each secret of a job, besides the job itself.
const USE_SECRET: &str = "use_secret";

/// What policy says, and which rules said it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub outcome: Outcome,
    /// The action that was judged: `exec`, `shell`, `shell_opaque`, `script`, `fetch`, `collect`, `cancel`.
    pub action: &'static str,
    /// Why a run counts as opaque, if it does; of a script why its code was not read.
    pub why_opaque: Option<&'static str>,
    /// The policies that decided, sorted: permits and lifted gates of a permit; permits and open gates of an ask; the
    /// forbids, or the policies that failed, of a denial.
    pub rules: Vec<String>,
    /// Digests of the approvals that counted, sorted.
    pub approvals: Vec<Digest>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Allowed.
    Permit,
    /// Allowed although these gates are open, since the operator may break glass.
    BreakGlass(Vec<OpenGate>),
    /// Allowed once these gates are met.
    Ask(Vec<OpenGate>),
    /// Not allowed.
    Deny(Refusal),
}

/// A question whose answer binds nobody: what would policy say?
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The bundle that the law was loaded from.
    pub files: &'a LawFiles,
    /// The job.
    pub job: &'a Job,
    /// Its digest.
    pub job_digest: Digest,
    /// The node.
    pub node: &'a NodeContext,
    /// What is, or is assumed to be, found there.
    pub facts: &'a Facts,
    /// Approvals, believed as they are.
    pub approvals: &'a [Approval],
    /// Releases, believed as they are.
    pub releases: &'a [Release],
    /// When.
    pub now: Timestamp,
}

/// Predicts the verdict on a job. Binds nobody: only a node's own verdict counts.
#[must_use]
pub fn evaluate(law: &Law, question: &Question<'_>) -> Verdict {
    let votes: Vec<_> = question.approvals.iter().map(assumed).collect();
    let leaves: Vec<_> = question.releases.iter().map(assumed_leave).collect();
    judge(
        law,
        &Inputs {
            files: question.files,
            job: question.job,
            job_digest: question.job_digest,
            node: question.node,
            facts: question.facts,
            votes: &votes,
            leaves: &leaves,
            now: question.now,
        },
    )
}

/// Predicts the verdict on a cancel of `job`.
#[must_use]
pub fn evaluate_cancel(
    law: &Law,
    files: &LawFiles,
    cancel: &Cancel,
    job: &Job,
    node: &NodeContext,
) -> Verdict {
    judge_cancel(law, files, cancel, job, node)
}

fn assumed(approval: &Approval) -> Vote<'_> {
    let digest = Digest::of(&lictor_proto::json::to_vec(approval).unwrap_or_default());
    Vote {
        approval,
        digest,
        signer: Signer::Assumed,
    }
}

fn assumed_leave(release: &Release) -> Leave<'_> {
    let digest = Digest::of(&lictor_proto::json::to_vec(release).unwrap_or_default());
    Leave {
        release,
        digest,
        signer: Signer::Assumed,
    }
}

/// Everything that a verdict on a job depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) files: &'a LawFiles,
    pub(crate) job: &'a Job,
    pub(crate) job_digest: Digest,
    pub(crate) node: &'a NodeContext,
    pub(crate) facts: &'a Facts,
    pub(crate) votes: &'a [Vote<'a>],
    pub(crate) leaves: &'a [Leave<'a>],
    pub(crate) now: Timestamp,
}

/// The verdict on a job, without regard to who signed it.
pub(crate) fn judge(law: &Law, inputs: &Inputs<'_>) -> Verdict {
    let program = &inputs.facts.program.path;
    let action = match &inputs.job.spec {
        Spec::Exec(exec) => classify(exec, program),
        Spec::Script(script) => match inputs.files.script(script) {
            Ok(text) => Action::Script(ScriptRead {
                size: text.len(),
                code: read_script(script, text, program),
            }),
            Err(refusal) => return Stop::from(refusal).verdict(JobKind::Script.as_str()),
        },
        Spec::Fetch(_) => Action::Fetch,
        Spec::Collect(_) => Action::Collect,
        Spec::Workspace(_) => Action::Workspace,
    };
    let mut verdict = weigh(law, inputs, &action).unwrap_or_else(|stop| stop.verdict(action.name()));
    if let Action::ShellOpaque { why } | Action::Script(ScriptRead { code: Err(why), .. }) = action {
        verdict.why_opaque = Some(why);
    }
    verdict
}

fn weigh(law: &Law, inputs: &Inputs<'_>, action: &Action) -> Result<Verdict, Stop> {
    let (operator, profile) = terms(law, inputs)?;
    let context = match &inputs.job.spec {
        Spec::Exec(_) | Spec::Script(_) => context::run(inputs.job, profile, inputs.facts, action),
        Spec::Fetch(fetch) => context::fetch(fetch, (inputs.job, profile, inputs.facts)),
        Spec::Collect(collect) => context::collect(collect, (inputs.job, profile, inputs.facts)),
        Spec::Workspace(workspace) => context::workspace(workspace, (inputs.job, profile, inputs.facts)),
    };
    let context = context.map_err(Stop::error)?;
    let mut asked = rule::ask(law, action.name(), operator, inputs.node, context)?;
    for used in &inputs.facts.secrets {
        let context = context::secret(inputs.job, inputs.facts, used, action.name()).map_err(Stop::error)?;
        let also = rule::ask(law, USE_SECRET, operator, inputs.node, context);
        asked.join(also.map_err(|stop| stop.about(&format!("secret {}", used.name)))?);
    }
    // Most jobs meet no gate, and the facts' digest costs more than the rest of a poll.
    if asked.gates.is_empty() {
        return Ok(asked.verdict(action.name(), Outcome::Permit, Vec::new()));
    }
    let poll = Poll {
        roster: &inputs.files.roster,
        job: inputs.job,
        job_digest: inputs.job_digest,
        node: &inputs.node.id,
        facts_digest: inputs.facts.digest(),
        bundle: law.version,
        now: inputs.now,
        votes: inputs.votes,
        leaves: inputs.leaves,
    };
    let may_break_glass = inputs.files.roster.may_break_glass(&operator.name);
    rule::count(law, action.name(), asked, &poll, may_break_glass)
}

/// What no policy can allow: law and facts that do not belong together, unknown profiles, refused variables, caps.
fn terms<'a>(law: &Law, inputs: &Inputs<'a>) -> Result<(&'a Operator, &'a Profile), Refusal> {
    let (job, files, facts) = (inputs.job, inputs.files, inputs.facts);
    let operator = operator(law, files, &job.operator)?;
    let profile = files.profiles.profiles.get(&job.profile).ok_or_else(|| {
        Refusal::new(
            Code::ProfileUnknown,
            format!("the bundle has no profile {}", job.profile),
        )
    })?;
    let same = facts.profile == job.profile
        && facts.named_rootfs() == profile.rootfs
        && law.profile_digests.get(&job.profile) == Some(&facts.profile_digest)
        && profile
            .backend
            .iter()
            .any(|b| facts.backend == b.as_str() && facts.namespaced == b.is_namespaced());
    if !same {
        return Err(Refusal::new(
            Code::PolicyError,
            "the facts were found under another profile",
        ));
    }
    let named = job
        .secrets
        .iter()
        .map(|used| (&used.name, used.version, used.delivery));
    let found = facts
        .secrets
        .iter()
        .map(|used| (&used.name, used.version, used.delivery));
    if !named.eq(found) {
        let text = "the facts are about other secrets than the job's";
        return Err(Refusal::new(Code::PolicyError, text));
    }
    environment::check(job.process().env, facts.namespaced)?;
    if let Spec::Script(script) = &job.spec {
        profile.check_interpreter(&script.interpreter, &facts.program.path)?;
    }
    if let Some((url, _)) = job.download() {
        profile.fetch_rules(&job.profile, url)?;
    }
    if job.expires_at.since(job.issued_at) > files.fleet.max_job_validity {
        let text = format!(
            "the law caps validity at {} s",
            files.fleet.max_job_validity.as_secs()
        );
        return Err(Refusal::new(Code::ValidityTooLong, text));
    }
    profile.limits_for(job.process().terms)?;
    let limits = &profile.limits;
    if job.process().timeout.is_some_and(|t| t > limits.max_timeout) {
        let text = format!(
            "profile {} allows a timeout of at most {} s",
            job.profile,
            limits.max_timeout.as_secs()
        );
        return Err(Refusal::new(Code::LimitExceeded, text));
    }
    if job.process().keep_bytes.is_some_and(|keep| keep > limits.keep) {
        let text = format!(
            "profile {} keeps at most {} bytes of output",
            job.profile, limits.keep
        );
        return Err(Refusal::new(Code::LimitExceeded, text));
    }
    Ok((operator, profile))
}

fn operator<'a>(law: &Law, files: &'a LawFiles, name: &lictor_proto::Name) -> Result<&'a Operator, Refusal> {
    if law.digest != files.meta.digest {
        return Err(Refusal::new(
            Code::PolicyError,
            "policies and roster come from different bundles",
        ));
    }
    files
        .roster
        .operator(name)
        .ok_or_else(|| Refusal::new(Code::SignerUnknown, format!("{name} is not in the roster")))
}

/// The verdict on a cancel, without regard to who signed it. Approvals cannot be given to a cancel, so an open gate
/// is a denial.
pub(crate) fn judge_cancel(
    law: &Law,
    files: &LawFiles,
    cancel: &Cancel,
    job: &Job,
    node: &NodeContext,
) -> Verdict {
    const ACTION: &str = "cancel";
    let ask = || -> Result<Asked, Stop> {
        let operator = operator(law, files, &cancel.operator)?;
        let requester = crate::entities::uid("Operator", job.operator.as_str()).map_err(Stop::error)?;
        let context = context::cancel(requester, &cancel.reason).map_err(Stop::error)?;
        let asked = rule::ask(law, ACTION, operator, node, context)?;
        if asked.gates.is_empty() {
            return Ok(asked);
        }
        let text = format!("{}: a cancel cannot be approved", asked.gates.join(", "));
        Err(Stop {
            refusal: Refusal::new(Code::Forbidden, text),
            rules: asked.gates,
        })
    };
    match ask() {
        Ok(asked) => asked.verdict(ACTION, Outcome::Permit, Vec::new()),
        Err(stop) => stop.verdict(ACTION),
    }
}
