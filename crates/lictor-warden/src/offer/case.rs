//! A verified job in front of the law: facts, verdict, plan, and the entry in the journal that lets it start.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_policy::{Asked, Authorise, Decision as Verdict, Denial, Permit, authorise};
use lictor_proto::agent::{Offer, OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Approval, Ask, Job, Outcome, Release, Spec, UsedSandbox};
use lictor_proto::{Code, Digest, JobId};
use lictor_sandbox::{Plan, Resolved, StartError, StdinSource, Work};
use lictor_trust::Verified;
use lictor_trust::profiles::Profile;
use lictor_trust::sign::{sign, to_wire};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use super::input::Input;
use super::secrets::{Brought, Unusable};
use super::{APPROVAL_BYTES, APPROVALS, Owed, conclude, later};
use crate::core::Core;
use crate::downloads::{NotHere, Wanted};
use crate::execution::{Execution, run};
use crate::journal::Step;
use crate::journal::entry::{Decision, Entry};
use crate::journal::state::Phase;
use crate::law::{Acting, Held};
use crate::live::LiveJob;
use crate::pulls::Awaited;
use crate::receipt::End;
use crate::steps::{Step as Timed, StepTimes};

/// One verified job in front of the law.
pub(super) struct Case<'a> {
    pub(super) core: &'a Arc<Core>,
    pub(super) held: &'a Held,
    pub(super) acting: Acting<'a>,
    pub(super) digest: Digest,
    pub(super) live: &'a Arc<LiveJob>,
    pub(super) job: Verified<Job>,
    pub(super) approvals: Vec<Wire>,
    /// What the hub brings with this offer; it keeps them, and brings them again.
    pub(super) releases: Vec<Wire>,
    /// The signed secrets that came with it.
    pub(super) secrets: Vec<Wire>,
}

impl Case<'_> {
    /// Decides it, and starts what is permitted.
    pub(super) async fn decide(
        self,
        stdin: Input,
        place: OwnedSemaphorePermit,
        times: &mut StepTimes,
    ) -> OfferReply {
        let Some(profile) = self.acting.files.profiles.profiles.get(&self.job.profile) else {
            return self
                .deny(Outcome::Denied, Refusal::plain(Code::ProfileUnknown).into())
                .await;
        };
        match self.core.awaits_rootfs(profile, &self.acting.files.profiles) {
            None => {}
            Some(Awaited::Later(refusal)) => return later(self.core, &self.digest, refusal).await,
            Some(Awaited::Denied(refusal)) => return self.deny(Outcome::Denied, refusal.into()).await,
        }
        let brought = match Brought::verify(self.core, self.held, &self.job, &self.secrets) {
            Ok(brought) => brought,
            Err(Unusable::Later(refusal)) => return later(self.core, &self.digest, refusal).await,
            Err(Unusable::Denied(refusal)) => return self.deny(Outcome::Denied, refusal.into()).await,
        };
        let resolved = match self.look_at_program(profile).await {
            Ok(resolved) => resolved,
            Err(Unresolved::Later(refusal)) => return later(self.core, &self.digest, refusal).await,
            Err(Unresolved::Denied(outcome, refusal)) => return self.deny(outcome, refusal.into()).await,
        };
        let resolved = match resolved.with_secrets(brought.uses()) {
            Ok(resolved) => resolved,
            Err(refusal) => return self.deny(Outcome::Denied, refusal.into()).await,
        };
        times.done(Timed::Facts);
        let counted = self.verified_approvals().await;
        let releases = self.verified_releases().await;
        let verdict = {
            let _span = tracing::debug_span!("authorise").entered();
            authorise(Authorise {
                law: self.acting.law,
                files: self.acting.files,
                job: self.job.clone(),
                node: self.acting.node,
                facts: resolved.facts().clone(),
                approvals: &counted,
                releases: &releases,
                now: self.acting.now,
            })
        };
        times.done(Timed::Authorise);
        let permit = match verdict {
            // Nobody stands by a firing who could answer for what is broken.
            Verdict::Permit(permit) if permit.break_glass() && self.job.fired().is_some() => {
                let gates = permit.broken_gates().iter().map(|g| g.policy_id.clone());
                return self.gated(gates.collect()).await;
            }
            Verdict::Permit(permit) => permit,
            Verdict::Ask(asked) if self.job.fired().is_some() => return self.gated(asked.policy_ids).await,
            Verdict::Ask(asked) => return self.ask(asked, counted).await,
            Verdict::Deny(denial) => return self.deny(Outcome::Denied, denial).await,
        };
        let mut decision = recorded(&permit, &resolved);
        let stdin = match self.input(stdin, profile) {
            Ok(stdin) => stdin,
            Err(NotHere::Later(refusal)) => return later(self.core, &self.digest, refusal).await,
            Err(NotHere::Failed(refusal)) => {
                decision.backend = None;
                let outcome = match refusal.code {
                    Code::UrlRefused | Code::Unenforceable => Outcome::Denied,
                    _ => Outcome::Failed,
                };
                return self.unstarted(outcome, refusal, decision).await;
            }
        };
        let planned = brought.open(self.core, &self.job).and_then(|mut opened| {
            let resolved = resolved.hold(std::mem::take(&mut opened.held))?;
            Ok((self.core.sandboxes.plan(*permit, resolved)?, opened))
        });
        let (plan, opened) = match planned {
            Ok(planned) => planned,
            Err(refusal) => {
                decision.backend = None;
                // What this machine could not do is no verdict on the job.
                let outcome = match refusal.code {
                    Code::StartFailed => Outcome::Failed,
                    _ => Outcome::Denied,
                };
                return self.unstarted(outcome, refusal, decision).await;
            }
        };
        // Before it counts as taken: who waits for a sandbox has not been started.
        let plan = match self.claimed(plan).await {
            Ok(plan) => plan,
            Err(refusal) if refusal.code == Code::SandboxBusy => {
                return later(self.core, &self.digest, refusal).await;
            }
            Err(refusal) => return self.unstarted(Outcome::Failed, refusal, decision).await,
        };
        decision.sandbox = plan.kept().map(|kept| UsedSandbox {
            name: kept.name,
            made_at: kept.made_at,
            new: kept.is_new,
        });
        decision.engine = plan.applied().engine.clone();
        decision.rootfs = plan.applied().rootfs;
        decision.capabilities = plan.applied().capabilities.clone();
        decision.plan_digest = Some(plan.digest());
        if let Err(e) = self.take(&decision).await {
            return OfferReply::Later(e);
        }
        times.done(Timed::JournalStart);
        let execution = Execution {
            core: self.core.clone(),
            live: self.live.clone(),
            job: self.job,
            limits: profile.limits.clone(),
            decision,
            plan,
            stdin: opened.stdin.map_or(stdin, StdinSource::Secret),
            redactor: opened.redactor,
            times: *times,
            _place: place,
        };
        self.core.tasks.spawn(run(execution));
        OfferReply::Accepted
    }

    /// Makes sure of the kept sandbox that the plan names, on a thread that may wait for the disk.
    async fn claimed(&self, mut plan: Plan) -> Result<Plan, Refusal> {
        if !plan.names_sandbox() {
            return Ok(plan);
        }
        let now = self.held.trust.now(self.core.now());
        let claim = move || plan.claim(now).map(|()| plan);
        let claimed = tokio::task::spawn_blocking(claim).await;
        let failed = |e| Refusal::new(Code::Internal, format!("the sandbox could not be claimed: {e}"));
        claimed.map_err(failed)?.map_err(|e: StartError| e.refusal())
    }

    /// Finds the program and the facts about it.
    async fn look_at_program(&self, profile: &Profile) -> Result<Resolved, Unresolved> {
        let dir = self.core.work_dir(&self.digest);
        let named = (&self.job.profile, profile);
        let work = Work::of(&self.job.spec, self.acting.files);
        let work = work.map_err(|refusal| Unresolved::Denied(Outcome::Denied, refusal))?;
        let resolved = self
            .core
            .sandboxes
            .resolve(named, work, dir)
            .instrument(tracing::debug_span!("facts"))
            .await;
        let later = |code: Code, why: &str| Err(Unresolved::Later(Refusal::new(code, why)));
        if !std::ptr::eq(Arc::as_ptr(&self.core.law.current()), self.held) {
            return later(
                Code::StaleBundle,
                "newer law came while the program was looked at",
            );
        }
        match resolved {
            Some(Ok(resolved)) => Ok(resolved),
            None => later(Code::Internal, "looking at the program takes too long"),
            Some(Err(refusal)) => {
                let outcome = match refusal.code {
                    Code::ProgramNotFound | Code::StartFailed => Outcome::Failed,
                    _ => Outcome::Denied,
                };
                Err(Unresolved::Denied(outcome, refusal))
            }
        }
    }

    /// The first of the two syncs of an execution.
    async fn take(&self, decision: &Decision) -> Result<(), Refusal> {
        let event = Event::new(EventType::JobPermitted)
            .with_id("job", &self.digest)
            .with_id("job_id", &JobId::from_digest(&self.digest))
            .with("operator", self.job.operator.as_str())
            .with("argv", self.job.spec.words().as_slice())
            .with("profile", self.job.profile.as_str())
            .with("bundle", decision.bundle_version)
            .with("rules", decision.policy_ids.as_slice())
            .with("break_glass", decision.break_glass);
        let event = match &self.job.spec {
            Spec::Exec(_) | Spec::Workspace(_) => event,
            Spec::Script(script) => event.with_id("script", &script.sha256),
            // The URL is among its words.
            Spec::Fetch(fetch) => event.with_id("sha256", &fetch.sha256),
            Spec::Collect(_) => event,
        };
        let secrets: Vec<String> = self
            .job
            .secrets
            .iter()
            .map(|s| format!("{} {}", s.name, s.version))
            .collect();
        let event = match secrets.as_slice() {
            [] => event,
            some => event.with("secrets", some),
        };
        let event = match &decision.sandbox {
            Some(used) => event
                .with("sandbox", used.name.as_str())
                .with("sandbox_new", used.new),
            None => event,
        };
        let step = Step {
            entries: vec![Entry::Taken {
                job: self.digest,
                envelope: self.job.wire().to_owned(),
                expires_at: self.job.expires_at,
                decision: Box::new(decision.clone()),
            }],
            audit: vec![event],
            receipt: None,
        };
        self.core
            .journal
            .commit(step)
            .await
            .map(|_| ())
            .map_err(|e| (&e).into())
    }

    async fn deny(self, outcome: Outcome, denial: Denial) -> OfferReply {
        let decision = self.core.refusing("denied", &self.job.profile, denial.policy_ids);
        self.unstarted(outcome, denial.refusal, decision).await
    }

    /// Ends it with a receipt, before anything of it was started.
    async fn unstarted(self, outcome: Outcome, why: Refusal, decision: Decision) -> OfferReply {
        let end = End::unstarted(outcome, why);
        let wire = self.job.wire().to_owned();
        conclude(self.core, self.digest, wire, Owed::of(&self.job), decision, end).await
    }

    /// What a permitted job starts with; what the node itself has to fetch for it is fetched from now on.
    fn input(&self, input: Input, profile: &Profile) -> Result<StdinSource, NotHere> {
        let (url, content) = match (input, self.job.download()) {
            (Input::Here(stdin), _) => return Ok(stdin),
            (Input::ToFetch, Some((url, content))) => (url.clone(), content),
            (Input::ToFetch, None) => return Err(NotHere::Later(Code::StdinMissing.into())),
        };
        let rules = profile.fetch_rules(&self.job.profile, &url);
        let law = self.core.law.current();
        if !std::ptr::eq(Arc::as_ptr(&law), self.held) {
            let why = "newer law came while the job was judged";
            return Err(NotHere::Later(Refusal::new(Code::StaleBundle, why)));
        }
        let wanted = Wanted {
            job: self.job.clone(),
            url,
            content,
            rules: rules.map_err(NotHere::Failed)?,
            law,
        };
        let offer = Offer {
            job: self.job.wire().to_owned(),
            approvals: self.approvals.clone(),
            releases: self.releases.clone(),
            secrets: self.secrets.clone(),
        };
        self.core.downloaded(wanted, &offer)
    }

    /// A firing that somebody would have to look at first.
    async fn gated(self, policy_ids: Vec<String>) -> OfferReply {
        let refusal = Refusal::plain(Code::ScheduleGated);
        self.deny(Outcome::Denied, Denial { refusal, policy_ids }).await
    }

    /// Approvals that hold now, one per document; the others leave an audit event.
    async fn verified_approvals(&self) -> Vec<Verified<Approval>> {
        let mut counted: Vec<Verified<Approval>> = Vec::new();
        for wire in &self.approvals {
            let checked = self
                .held
                .trust
                .verify_approval(wire, self.core.now())
                .and_then(|a| a.check_for(&self.job).map(|()| a));
            match checked {
                Ok(a) if counted.iter().any(|c| c.digest() == a.digest()) => {}
                Ok(a) => counted.push(a),
                Err(refusal) => {
                    let event = Event::new(EventType::ApprovalRefused).with_id("job", &self.digest);
                    self.core.audit(event.refused(&refusal)).await;
                }
            }
        }
        counted
    }

    /// Releases that hold now, of this job and for this node; the others leave an audit event.
    async fn verified_releases(&self) -> Vec<Verified<Release>> {
        let mut counted = Vec::new();
        for wire in self.releases.iter().take(APPROVALS) {
            let trust = &self.held.trust;
            let checked = trust.verify_release(wire, self.core.now()).and_then(|r| {
                r.check_for(&self.digest, &self.core.issuer.node_id)?;
                Ok(r)
            });
            match checked {
                Ok(release) => counted.push(release),
                Err(refusal) => {
                    self.idle(Event::new(EventType::ReleaseRefused).refused(&refusal))
                        .await
                }
            }
        }
        counted
    }

    async fn idle(&self, event: Event) {
        self.core.audit(event.with_id("job", &self.digest)).await;
    }

    /// Signs the ask and keeps the job waiting, with the approvals that hold.
    async fn ask(self, asked: Box<Asked>, counted: Vec<Verified<Approval>>) -> OfferReply {
        let asked = *asked;
        let core = self.core;
        let waiting = {
            let state = core.journal.state();
            state
                .jobs()
                .filter(|(_, j)| matches!(j.phase, Phase::Waiting { .. }))
                .count()
        };
        if waiting >= core.config.max_waiting {
            let refusal = Refusal::new(Code::TooManyJobs, "too many jobs wait for approvals");
            return later(core, &self.digest, refusal).await;
        }
        for approval in &asked.ineligible {
            let event = Event::new(EventType::ApprovalRefused)
                .with_id("job", &self.digest)
                .with_id("approval", approval);
            core.audit(event.refused(&Code::ApprovalIneligible.into())).await;
        }
        let code = match asked.gates.iter().all(|g| g.release) {
            true => Code::ReleaseNeeded,
            false => Code::ApprovalNeeded,
        };
        let idle = asked.idle_releases.iter();
        for release in idle.filter(|_| asked.gates.iter().any(|g| g.release)) {
            let event = Event::new(EventType::ReleaseRefused).with_id("release", release);
            self.idle(event.refused(&Code::ReleaseIneligible.into())).await;
        }
        let facts = asked.facts.to_text();
        let gates: Vec<String> = asked.gates.iter().map(|g| g.policy_id.clone()).collect();
        let ask = Ask {
            tag: Default::default(),
            org: core.issuer.org.clone(),
            job_digest: self.digest,
            node_id: core.issuer.node_id.clone(),
            bundle_version: self.acting.law.version(),
            facts_digest: Digest::of(facts.as_bytes()),
            facts,
            gates: asked.gates,
            issued_at: self.acting.now,
        };
        let ask = to_wire(&sign(&ask, &[&core.identity]));
        let approvals = kept(counted, &asked.ineligible);
        let step = Step {
            entries: vec![Entry::Waiting {
                job: self.digest,
                envelope: self.job.wire().to_owned(),
                expires_at: self.job.expires_at,
                ask: ask.clone(),
                approvals,
            }],
            audit: vec![
                Event::new(EventType::JobAsked)
                    .with_id("job", &self.digest)
                    .with("operator", self.job.operator.as_str())
                    .with("gates", gates.as_slice())
                    .with("code", code),
            ],
            receipt: None,
        };
        match core.journal.commit(step).await {
            Ok(_) => OfferReply::Ask(ask),
            Err(e) => OfferReply::Later((&e).into()),
        }
    }
}

/// Why there are no facts to judge by.
enum Unresolved {
    /// Something outside the job.
    Later(Refusal),
    /// The job is over.
    Denied(Outcome, Refusal),
}

/// A permit in the journal's words; what it becomes on this machine is added when it is planned.
fn recorded(permit: &Permit, resolved: &Resolved) -> Decision {
    let text = if permit.break_glass() {
        "permit (break glass)"
    } else {
        "permit"
    };
    Decision {
        text: text.to_owned(),
        bundle_version: permit.bundle_version(),
        bundle_digest: permit.bundle_digest(),
        policy_ids: permit.policy_ids().to_vec(),
        approvals: permit.approvals().to_vec(),
        break_glass: permit.break_glass(),
        fired: permit.job().fired(),
        facts_digest: Some(resolved.facts().digest()),
        profile: permit.profile_name().clone(),
        backend: Some(resolved.facts().backend.clone()),
        engine: None,
        rootfs: None,
        capabilities: Vec::new(),
        plan_digest: None,
        sandbox: None,
    }
}

/// The approvals to keep with a waiting job: first those that some gate takes, and no more than an entry can hold.
/// Nothing that did not verify is among them, so a hub cannot fill the journal with texts of its own.
fn kept(mut counted: Vec<Verified<Approval>>, ineligible: &[Digest]) -> Vec<Wire> {
    counted.sort_by_key(|a| ineligible.contains(&a.digest()));
    let mut bytes = 0;
    counted.retain(|a| {
        let fits = bytes + a.wire().len() <= APPROVAL_BYTES;
        bytes += if fits { a.wire().len() } else { 0 };
        fits
    });
    counted
        .iter()
        .take(APPROVALS)
        .map(|a| a.wire().to_owned())
        .collect()
}
