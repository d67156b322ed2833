//! A verified job in front of the law: facts, verdict, plan, and the entry in the journal that lets it start.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_policy::{Authorise, Decision as Verdict, Denial, Permit, authorise};
use lictor_proto::agent::{Offer, OfferReply, Wire};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Approval, Job, Outcome, Release, Spec, UsedSandbox};
use lictor_proto::{Code, Digest, JobId};
use lictor_sandbox::{Plan, Resolved, StartError, StdinSource, Work};
use lictor_trust::Verified;
use lictor_trust::profiles::Profile;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use super::input::Input;
use super::secrets::{Brought, Opened, Unusable};
use super::{APPROVALS, Owed, conclude, later};
use crate::core::Core;
use crate::downloads::{NotHere, Wanted};
use crate::execution::{Execution, run};
use crate::journal::Step;
use crate::journal::entry::{Decision, Entry};
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

/// What a job is judged with: the profile of the law, its secrets, still sealed, and the facts about its program.
struct Prepared<'a> {
    profile: &'a Profile,
    brought: Brought,
    resolved: Resolved,
}

impl<'a> Case<'a> {
    /// Decides it, and starts what is permitted.
    pub(super) async fn decide(
        self,
        stdin: Input,
        place: OwnedSemaphorePermit,
        times: &mut StepTimes,
    ) -> OfferReply {
        match self.settle(stdin, place, times).await {
            Ok(reply) | Err(reply) => reply,
        }
    }

    /// As [`Self::decide`]; whatever keeps it from starting leaves early.
    async fn settle(
        self,
        stdin: Input,
        place: OwnedSemaphorePermit,
        times: &mut StepTimes,
    ) -> Result<OfferReply, OfferReply> {
        let Prepared {
            profile,
            brought,
            resolved,
        } = self.prepared().await?;
        times.done(Timed::Facts);
        let permit = self.permitted(&resolved).await?;
        times.done(Timed::Authorise);
        let mut decision = recorded(&permit, &resolved);
        let stdin = match self.input(stdin, profile) {
            Ok(stdin) => stdin,
            Err(NotHere::Later(refusal)) => return Err(later(self.core, &self.digest, refusal).await),
            Err(NotHere::Failed(refusal)) => {
                decision.backend = None;
                let outcome = match refusal.code {
                    Code::UrlRefused | Code::Unenforceable => Outcome::Denied,
                    _ => Outcome::Failed,
                };
                return Err(self.over(decision, outcome, refusal).await);
            }
        };
        let (plan, opened) = match self.planned(permit, resolved, &brought).await {
            Ok(planned) => planned,
            Err(Unplanned::Later(refusal)) => return Err(later(self.core, &self.digest, refusal).await),
            Err(Unplanned::Over(outcome, refusal)) => {
                decision.backend = None;
                return Err(self.over(decision, outcome, refusal).await);
            }
            Err(Unplanned::Unclaimed(refusal)) => {
                return Err(self.over(decision, Outcome::Failed, refusal).await);
            }
        };
        tell_plan(&mut decision, &plan);
        self.take(&decision).await.map_err(OfferReply::Later)?;
        times.done(Timed::JournalStart);
        let execution = Execution {
            core: self.core.clone(),
            live: self.live.clone(),
            job: self.job,
            limits: profile.limits.clone(),
            decision,
            plan,
            stdin: opened.stdin.map_or(stdin, StdinSource::Secret),
            credential: opened.git,
            redactor: opened.redactor,
            times: *times,
            _place: place,
        };
        self.core.tasks.spawn(run(execution));
        Ok(OfferReply::Accepted)
    }

    /// What has to be there and known before anybody can judge.
    async fn prepared(&self) -> Result<Prepared<'a>, OfferReply> {
        let files = self.acting.files;
        let Some(profile) = files.profiles.profiles.get(&self.job.profile) else {
            let unknown = Refusal::plain(Code::ProfileUnknown);
            return Err(self.deny(Outcome::Denied, unknown.into()).await);
        };
        match self.core.awaits_rootfs(profile, &files.profiles) {
            None => {}
            Some(Awaited::Later(refusal)) => return Err(later(self.core, &self.digest, refusal).await),
            Some(Awaited::Denied(refusal)) => return Err(self.deny(Outcome::Denied, refusal.into()).await),
        }
        let brought = match Brought::verify(self.core, self.held, &self.job, &self.secrets) {
            Ok(brought) => brought,
            Err(Unusable::Later(refusal)) => return Err(later(self.core, &self.digest, refusal).await),
            Err(Unusable::Denied(refusal)) => return Err(self.deny(Outcome::Denied, refusal.into()).await),
        };
        let resolved = match self.look_at_program(profile).await {
            Ok(resolved) => resolved,
            Err(Unresolved::Later(refusal)) => return Err(later(self.core, &self.digest, refusal).await),
            Err(Unresolved::Denied(outcome, refusal)) => {
                return Err(self.deny(outcome, refusal.into()).await);
            }
        };
        match resolved.with_secrets(brought.uses()) {
            Ok(resolved) => Ok(Prepared {
                profile,
                brought,
                resolved,
            }),
            Err(refusal) => Err(self.deny(Outcome::Denied, refusal.into()).await),
        }
    }

    /// The verdict on these facts; what is not a permit has been answered.
    async fn permitted(&self, resolved: &Resolved) -> Result<Box<Permit>, OfferReply> {
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
        match verdict {
            // Nobody stands by a firing who could answer for what is broken.
            Verdict::Permit(permit) if permit.break_glass() && self.job.fired().is_some() => {
                let gates = permit.broken_gates().iter().map(|g| g.policy_id.clone());
                Err(self.gated(gates.collect()).await)
            }
            Verdict::Permit(permit) => Ok(permit),
            Verdict::Ask(asked) if self.job.fired().is_some() => Err(self.gated(asked.policy_ids).await),
            Verdict::Ask(asked) => Err(self.ask(asked, counted).await),
            Verdict::Deny(denial) => Err(self.deny(Outcome::Denied, denial).await),
        }
    }

    /// What the permit becomes on this machine: secrets opened, a plan, and the kept sandbox that it names claimed.
    async fn planned(
        &self,
        permit: Box<Permit>,
        resolved: Resolved,
        brought: &Brought,
    ) -> Result<(Plan, Opened), Unplanned> {
        let planned = brought.open(self.core, &self.job).and_then(|mut opened| {
            let resolved = resolved.hold(std::mem::take(&mut opened.held))?;
            Ok((self.core.sandboxes.plan(*permit, resolved)?, opened))
        });
        let (plan, opened) = planned.map_err(|refusal| {
            // What this machine could not do is no verdict on the job.
            let outcome = match refusal.code {
                Code::StartFailed => Outcome::Failed,
                _ => Outcome::Denied,
            };
            Unplanned::Over(outcome, refusal)
        })?;
        // Before it counts as taken: who waits for a sandbox has not been started.
        match self.claimed(plan).await {
            Ok(plan) => Ok((plan, opened)),
            Err(refusal) if refusal.code == Code::SandboxBusy => Err(Unplanned::Later(refusal)),
            Err(refusal) => Err(Unplanned::Unclaimed(refusal)),
        }
    }

    /// The end of what was permitted and cannot be started.
    async fn over(&self, decision: Decision, outcome: Outcome, refusal: Refusal) -> OfferReply {
        let end = End::unstarted(outcome, refusal);
        let wire = self.job.wire().to_owned();
        conclude(self.core, self.digest, wire, Owed::of(&self.job), decision, end).await
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

    async fn deny(&self, outcome: Outcome, denial: Denial) -> OfferReply {
        let decision = self.core.refusing("denied", &self.job.profile, denial.policy_ids);
        self.over(decision, outcome, denial.refusal).await
    }

    /// What a permitted job starts with; what the node itself has to fetch for it is fetched from now on.
    fn input(&self, input: Input, profile: &Profile) -> Result<StdinSource, NotHere> {
        let (url, content) = match (input, self.job.download()) {
            (Input::Here(stdin), _) => return Ok(stdin),
            (Input::ToFetch, Some((url, content))) => (url.clone(), content),
            (Input::ToFetch, None) => return Err(NotHere::Later(Code::StdinMissing.into())),
        };
        let rules = profile
            .fetch_rules(&self.job.profile, &url)
            .map_err(NotHere::Failed)?;
        if content.size > rules.limits.bytes_down {
            let why = format!(
                "fetch_from lets {} bytes through, and no more",
                rules.limits.bytes_down
            );
            return Err(NotHere::Failed(Refusal::new(Code::UrlRefused, why)));
        }
        let law = self.core.law.current();
        if !std::ptr::eq(Arc::as_ptr(&law), self.held) {
            let why = "newer law came while the job was judged";
            return Err(NotHere::Later(Refusal::new(Code::StaleBundle, why)));
        }
        let wanted = Wanted {
            job: self.job.clone(),
            url,
            content,
            rules,
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
    async fn gated(&self, policy_ids: Vec<String>) -> OfferReply {
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

    pub(super) async fn idle(&self, event: Event) {
        self.core.audit(event.with_id("job", &self.digest)).await;
    }
}

/// Why there are no facts to judge by.
enum Unresolved {
    /// Something outside the job.
    Later(Refusal),
    /// The job is over.
    Denied(Outcome, Refusal),
}

/// Why there is no plan to start.
enum Unplanned {
    /// Something outside the job.
    Later(Refusal),
    /// The job is over, and nothing is to be started for it.
    Over(Outcome, Refusal),
    /// The job is over: its sandbox could not be claimed.
    Unclaimed(Refusal),
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

/// What the permit has become on this machine.
fn tell_plan(decision: &mut Decision, plan: &Plan) {
    decision.sandbox = plan.kept().map(|kept| UsedSandbox {
        name: kept.name,
        made_at: kept.made_at,
        new: kept.is_new,
    });
    decision.engine = plan.applied().engine.clone();
    decision.rootfs = plan.applied().rootfs;
    decision.capabilities = plan.applied().capabilities.clone();
    decision.plan_digest = Some(plan.digest());
}
