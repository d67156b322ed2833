//! `lictor run`: signs a job for one node or several, submits it, and follows it to its verified end.

use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use lictor_client::{Error, Expected, FrameStream, Hub, JobOptions, SignedDoc, Signer, TrustStore};
use lictor_proto::api::{JobView, RolloutPlan};
use lictor_proto::doc::{SecretUse, Spec, Stdin};
use lictor_proto::{Code, Digest, JobId, limits};
use lictor_trust::SecretKey;
use lictor_trust::directory::Node;
use serde_json::json;

use crate::args::Run;
use crate::commands::choice::{self, Choice};
use crate::commands::dossier::Dossier;
use crate::commands::fleet::{FleetUntil, FleetWatch};
use crate::commands::rollout;
use crate::commands::watch::{Shows, Until, Watch};
use crate::commands::work;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

/// How long a job may wait before it starts, where nobody says.
pub(crate) const VALID: Duration = Duration::from_secs(300);

pub(crate) async fn run(session: &Session, args: &Run) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let mut choice = choice::nodes(session, &mut store, &hub, &args.targets).await?;
    let plan = rollout::plan(&args.spread, &args.targets.targets, &mut choice);
    if args.dry_run {
        return choice.preview(session, &hub, plan.as_ref()).await;
    }
    choice.agreed(session, args.yes)?;
    let key = session.key(args.key.as_ref())?;
    let stdin = brought(&hub, args).await?;
    let spec = spec(&store, args)?;
    let after = former(session, &hub, &mut store, &args.after).await?;
    let mut secrets = super::secrets::uses(session, (&hub, &store), &args.secrets, &choice.nodes).await?;
    let work = (&spec, stdin.as_deref(), secrets.as_slice(), after.as_slice());
    let mut job = sign(session, &store, &key, &choice, args, work)?;
    let how = How {
        plan,
        detach: args.detach,
        until: until(args.wait),
    };
    if how.plan.is_some() || how.detach {
        let submitted = Submitted {
            session,
            hub: &hub,
            store: &store,
            key: &key,
            nodes: &choice.nodes,
            job: job.digest,
        };
        return submitted.send(&job, how).await;
    }
    let stream = match hub.submit_attached(&job.wire).await {
        // A machine may have been enrolled anew since this home last looked.
        Err(Error::Refused(r)) if r.code == Code::NodeUnknown => {
            session.refresh(&mut store, &hub).await?;
            choice = choice::nodes(session, &mut store, &hub, &args.targets).await?;
            secrets = super::secrets::uses(session, (&hub, &store), &args.secrets, &choice.nodes).await?;
            let work = (&spec, stdin.as_deref(), secrets.as_slice(), after.as_slice());
            job = sign(session, &store, &key, &choice, args, work)?;
            hub.submit_attached(&job.wire).await
        }
        answer => answer,
    };
    let stream = stream.map_err(|e| failed("submit the job", &e))?;
    let submitted = Submitted {
        session,
        hub: &hub,
        store: &store,
        key: &key,
        nodes: &choice.nodes,
        job: job.digest,
    };
    submitted.watch(stream, how.until).await
}

/// Standard input, where it is to go along; the hub has it then.
async fn brought(hub: &Hub, args: &Run) -> Result<Option<Bytes>> {
    if !args.stdin {
        return Ok(None);
    }
    if args.what.script.as_deref() == Some("-") {
        return Err(
            Failure::new("standard input is the script, or what it reads, not both")
                .hint("Put the script into a file: --script FILE --stdin."),
        );
    }
    let content = read_stdin()?;
    let Stdin::Bytes(described) = Stdin::bytes(&content) else {
        return Err(Failure::new("standard input has no digest"));
    };
    let stored = hub.put_blob(&described.sha256, content.clone()).await;
    stored.map_err(|e| failed("send standard input", &e))?;
    Ok(Some(content))
}

/// The jobs that it comes after: each fetched and verified, since what is signed is all of a digest, and an id is a part.
pub(crate) async fn former(
    session: &Session,
    hub: &Hub,
    store: &mut TrustStore,
    ids: &[JobId],
) -> Result<Vec<Digest>> {
    let mut digests = Vec::with_capacity(ids.len());
    for id in ids {
        digests.push(Dossier::fetch(session, hub, store, id).await?.job.digest());
    }
    Ok(digests)
}

/// How far a job is followed that was just handed in.
pub(crate) fn until(wait: bool) -> FleetUntil {
    if wait {
        FleetUntil::All
    } else {
        FleetUntil::Present
    }
}

/// How a job goes off.
pub(crate) struct How {
    /// Batch by batch, in place of all at once.
    pub(crate) plan: Option<RolloutPlan>,
    /// Left to itself once its id has been printed.
    pub(crate) detach: bool,
    pub(crate) until: FleetUntil,
}

/// A job that somebody hands in.
pub(crate) struct Submitted<'a> {
    pub(crate) session: &'a Session,
    pub(crate) hub: &'a Hub,
    pub(crate) store: &'a TrustStore,
    pub(crate) key: &'a SecretKey,
    pub(crate) nodes: &'a [Node],
    pub(crate) job: Digest,
}

impl Submitted<'_> {
    /// Hands it in, and follows it as far as was asked.
    pub(crate) async fn send(self, job: &SignedDoc, how: How) -> Result {
        if let Some(plan) = how.plan {
            let begun = rollout::submit(self, job, plan).await?;
            return begun.follow(how.detach, how.until).await;
        }
        if how.detach {
            return detach(self.session, self.hub, job).await;
        }
        let stream = self.hub.submit_attached(&job.wire).await;
        let stream = stream.map_err(|e| failed("submit the job", &e))?;
        self.watch(stream, how.until).await
    }

    /// Follows it to its verified end.
    pub(crate) async fn watch(&self, stream: FrameStream, until: FleetUntil) -> Result {
        let (session, hub, trust) = (self.session, self.hub, self.store.trust());
        let canceler = Some((&session.config.operator, self.key));
        if let [node] = self.nodes {
            let watch = Watch {
                session,
                hub,
                expected: Expected {
                    trust,
                    node,
                    job: self.job,
                },
                canceler,
                until: Until::End,
                shows: Shows::Output,
                into: None,
            };
            return watch.run(stream).await;
        }
        self.fleet(until).run(stream).await
    }

    /// As [`Self::watch`] in the form for several nodes, also where it is one.
    pub(crate) fn fleet(&self, until: FleetUntil) -> FleetWatch<'_> {
        FleetWatch {
            session: self.session,
            hub: self.hub,
            trust: self.store.trust(),
            nodes: self.nodes,
            job: self.job,
            canceler: Some((&self.session.config.operator, self.key)),
            until,
            into: None,
        }
    }

    /// Its id, for programs: the hub has it.
    pub(crate) fn say(&self, job: &SignedDoc) -> Result<()> {
        let out = self.session.out;
        if !out.is_json() {
            return Ok(());
        }
        out.object(&json!({ "event": "submitted", "job_id": job.job_id(), "nodes": self.nodes.len() }))
    }
}

/// The work, with what the command line says about its process.
fn spec(store: &TrustStore, args: &Run) -> Result<Spec> {
    let terms = work::ProcessTerms {
        env: &args.env,
        cwd: args.cwd.as_ref(),
        sandbox: args.sandbox.as_ref(),
        timeout: args.timeout,
        terms: args.terms.of_job(),
        git: args.git.as_ref(),
    };
    let spec = work::of(&args.what, || work::pinned(store))?;
    Ok(work::under(spec, &terms))
}

fn sign(
    session: &Session,
    store: &TrustStore,
    key: &SecretKey,
    choice: &Choice,
    args: &Run,
    (spec, stdin, secrets, after): (&Spec, Option<&[u8]>, &[SecretUse], &[Digest]),
) -> Result<SignedDoc> {
    let valid = rollout::valid(args.valid, VALID, &args.spread, store)?;
    let options = JobOptions {
        stdin: stdin.map_or(Stdin::NONE, Stdin::bytes),
        after: after.to_vec(),
        secrets: secrets.to_vec(),
        ..choice.job(&args.profile, valid, &args.reason)
    };
    Signer::new(store.trust(), &session.config.operator, key)
        .job(spec.clone(), options)
        .map_err(|r| Failure::refused("could not sign the job", &r))
}

async fn detach(session: &Session, hub: &Hub, job: &SignedDoc) -> Result {
    let view = hub
        .submit(&job.wire)
        .await
        .map_err(|e| failed("submit the job", &e))?;
    said_submitted(session, job, &view)
}

/// Holds the hub's answer against what was handed in, and prints the job's id.
pub(crate) fn said_submitted(session: &Session, job: &SignedDoc, view: &JobView) -> Result {
    if view.job_id != job.job_id() {
        let why = format!("it calls the job {}", escape(view.job_id.as_str()));
        return Err(Failure::new("the hub took another job than the one submitted").why(why));
    }
    let state = view.executions.first().map(|e| e.state);
    let nodes: Vec<_> = view.executions.iter().map(|e| &e.node_id).collect();
    let value = json!({ "event": "submitted", "job_id": job.job_id(), "state": state, "nodes": nodes });
    session.out.either(&value, || job.job_id().to_string())?;
    Ok(Status::OK)
}

fn read_stdin() -> Result<Bytes> {
    let mut content = Vec::new();
    let mut limited = std::io::stdin().lock().take(limits::STDIN + 1);
    limited.read_to_end(&mut content).doing("read standard input")?;
    if content.len() as u64 > limits::STDIN {
        return Err(Failure::new("standard input is over 256 MiB").code(Code::LimitExceeded));
    }
    Ok(content.into())
}
