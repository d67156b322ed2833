//! `lictor cancel`: a signed end for a job, whether it waits or runs; or for all that waits for a node.
//!
//! # Invariants
//! - That a job waits is the hub's word, and a cancel ends it wherever it is: what a hub lists is shown as its requesters
//!   signed it, and somebody is asked, before anything is signed.
//! - One job that cannot be cancelled keeps no other from its end.

use std::collections::{BTreeMap, BTreeSet};

use lictor_client::{Hub, Signer, TrustStore};
use lictor_proto::api::{ExecutionState, JobView};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, Envelope, JobId, NodeId, limits};
use serde_json::{Value, json};

use crate::args::Cancel;
use crate::commands::dossier::Dossier;
use crate::commands::{confirm, jobs};
use crate::escape::{command_line, escape};
use crate::exit::{self, Status};
use crate::failure::{Failure, Result};
use crate::out::{Out, table};
use crate::session::{Session, failed};

/// Jobs of one page of a queue.
const PAGE: u32 = 500;
/// Pages of one queue: a hub may give fewer jobs than it is asked for, and may give no end of them.
const PAGES: usize = 200;
/// Jobs that are cancelled by one command; what a hub says that there are more of is for the next.
const MOST: usize = 10_000;
/// Where an execution stands that has not begun.
const WAITING: [ExecutionState; 4] = [
    ExecutionState::Queued,
    ExecutionState::Held,
    ExecutionState::AwaitingApproval,
    ExecutionState::AwaitingRelease,
];

/// What is said to wait, each job once, with the nodes that it waits for.
type Queue = BTreeMap<JobId, BTreeSet<NodeId>>;

pub(crate) async fn run(session: &Session, args: &Cancel) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let Some(id) = &args.id else {
        return purge(session, (&hub, &mut store), args).await;
    };
    let key = session.key(None)?;
    // The id alone is 160 bits of the digest; the signature has to be over all of it.
    let (of, see) = match Dossier::fetch(session, &hub, &mut store, id).await {
        Ok(dossier) => {
            let nodes = dossier.ids(&args.nodes)?;
            ((dossier.job.digest(), nodes), format!("`lictor job {id}`"))
        }
        Err(failure) if failure.is_about(Code::SignerUnknown) => {
            session.out.note(format!(
                "nobody who is in the roster has signed {id}, so nothing of it is shown; a cancel can only end it"
            ));
            let of = of_nobody(session, &hub, id, &args.nodes).await?;
            (of, "`lictor jobs` or `lictor schedule ls`".to_owned())
        }
        Err(failure) => return Err(failure),
    };
    let signer = Signer::new(store.trust(), &session.config.operator, &key);
    let value = hand_in(&hub, &signer, &args.reason, of).await?;
    session.out.either(&value, || {
        format!("the cancel of {id} is on its way; {see} shows what became of it")
    })?;
    Ok(Status::OK)
}

/// The digest of a job or a schedule whose signer has left the roster: by its bytes, which are those that have this id. Who
/// asked for it is nobody's to prove any more, and a cancel needs no more than what it is that is to end.
async fn of_nobody(
    session: &Session,
    hub: &Hub,
    id: &JobId,
    names: &[String],
) -> Result<(Digest, Vec<NodeId>)> {
    let docs = hub.documents(id).await;
    let docs = docs.map_err(|e| failed(&format!("fetch job {id}"), &e))?;
    let envelope = Envelope::parse(docs.job.as_bytes(), limits::JOB_ENVELOPE)
        .map_err(|e| Failure::new(format!("the hub's job {id} is none")).because(&e))?;
    let digest = envelope.digest();
    if JobId::from_digest(&digest) != *id {
        let refusal = Refusal::plain(Code::WrongJob);
        return Err(Failure::refused("the hub answered with another job", &refusal));
    }
    let mut nodes = BTreeSet::new();
    for name in names {
        nodes.insert(jobs::listed(session, hub, name).await?);
    }
    Ok((digest, nodes.into_iter().collect()))
}

/// Signs the cancel of one job on these of its nodes, or on all when none is named, and hands it in.
async fn hand_in(
    hub: &Hub,
    signer: &Signer<'_>,
    reason: &str,
    (job, nodes): (Digest, Vec<NodeId>),
) -> Result<Value> {
    let id = JobId::from_digest(&job);
    let cancel = signer
        .cancel(job, reason, nodes)
        .map_err(|r| Failure::refused(format!("could not sign the cancel of {id}"), &r))?;
    let view = hub
        .cancel(&id, &cancel.wire)
        .await
        .map_err(|e| failed(&format!("cancel job {id}"), &e))?;
    let states: Vec<_> = view.executions.iter().map(|e| e.state.as_str()).collect();
    Ok(json!({ "job_id": id, "cancel": cancel.digest, "states": states }))
}

/// Cancels all that waits for these nodes, there and nowhere else.
async fn purge(session: &Session, (hub, store): (&Hub, &mut TrustStore), args: &Cancel) -> Result {
    let out = session.out;
    if out.is_json() && !args.yes {
        return Err(
            Failure::new("nothing was signed: with --json nobody is shown the jobs and asked")
                .hint("Look at them with `lictor jobs --node NAME`, then use --yes."),
        );
    }
    let (mut found, mut canceled, mut failures) = (Vec::new(), Vec::new(), 0_usize);
    // All of them first: what is canceled stays queued until its node says otherwise.
    for (id, nodes) in listed(session, hub, &args.nodes).await? {
        match Waiting::of(session, (hub, &mut *store), &id, nodes).await {
            Ok(waiting) => found.push(waiting),
            Err(failure) => failures += left(out, &id, &failure),
        }
    }
    if !found.is_empty() {
        agreed(out, &found, args.yes)?;
        let key = session.key(None)?;
        let signer = Signer::new(store.trust(), &session.config.operator, &key);
        for one in found {
            let id = JobId::from_digest(&one.job);
            match hand_in(hub, &signer, &args.reason, (one.job, one.nodes)).await {
                Ok(mut value) => {
                    value["nodes"] = one.names.into();
                    canceled.push(value);
                }
                Err(failure) => failures += left(out, &id, &failure),
            }
        }
    }
    out.either(&canceled, || match (canceled.len(), failures) {
        (0, 0) => {
            let names: Vec<_> = args.nodes.iter().map(|name| escape(name)).collect();
            format!("nothing waits for {}; nothing was signed", names.join(" or "))
        }
        (0, n) => format!("nothing was cancelled: {n} could not be"),
        (done, n) => {
            let left = match n {
                0 => String::new(),
                n => format!("; {n} could not be cancelled"),
            };
            let jobs = match done {
                1 => "the cancel of 1 job is on its".to_owned(),
                n => format!("the cancels of {n} jobs are on their"),
            };
            format!("{jobs} way, for when the nodes are there{left}")
        }
    })?;
    Ok(match failures {
        0 => Status::OK,
        _ => Status(exit::OWN_ERROR),
    })
}

/// Says why a job was left as it is, and counts it.
fn left(out: Out, id: &JobId, failure: &Failure) -> usize {
    out.note(format!("{id} was not cancelled:"));
    out.failure(failure);
    1
}

/// What the hub says that waits for these nodes.
async fn listed(session: &Session, hub: &Hub, names: &[String]) -> Result<Queue> {
    let mut queue = Queue::new();
    for name in names {
        let node_id = jobs::listed(session, hub, name).await?;
        for state in WAITING {
            add(hub, (&node_id, state), &mut queue).await?;
        }
    }
    Ok(queue)
}

async fn add(hub: &Hub, (node_id, state): (&NodeId, ExecutionState), queue: &mut Queue) -> Result<()> {
    let waits = |job: &JobView| {
        let mut here = job.executions.iter().filter(|e| e.node_id == *node_id);
        here.any(|e| WAITING.contains(&e.state))
    };
    let mut cursor: Option<String> = None;
    for _ in 0..PAGES {
        let page = hub
            .jobs(PAGE, cursor.as_deref(), Some(state), Some(node_id))
            .await;
        let page = page.map_err(|e| failed("list what waits", &e))?;
        for job in page.items.into_iter().filter(waits) {
            if queue.len() < MOST || queue.contains_key(&job.job_id) {
                queue.entry(job.job_id).or_default().insert(node_id.clone());
            }
        }
        match page.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) && queue.len() < MOST => cursor = Some(next),
            _ => break,
        }
    }
    Ok(())
}

/// A job that is said to wait, and what of it is signed.
struct Waiting {
    job: Digest,
    nodes: Vec<NodeId>,
    /// What the nodes are called; by their ids those that nothing proves.
    names: Vec<String>,
    operator: String,
    command: String,
}

impl Waiting {
    async fn of(
        session: &Session,
        (hub, store): (&Hub, &mut TrustStore),
        id: &JobId,
        nodes: BTreeSet<NodeId>,
    ) -> Result<Self> {
        let dossier = Dossier::fetch(session, hub, store, id).await?;
        let words: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
        let nodes = dossier.ids(&words)?;
        let name = |id: &NodeId| {
            let node = dossier.nodes.iter().find(|n| n.id() == id);
            node.map_or_else(|| id.to_string(), |n| n.name().to_string())
        };
        Ok(Self {
            job: dossier.job.digest(),
            names: nodes.iter().map(name).collect(),
            nodes,
            operator: dossier.job.operator.to_string(),
            command: jobs::short(&command_line(&dossier.job.spec.words())),
        })
    }

    fn row(&self) -> Vec<String> {
        let id = JobId::from_digest(&self.job).to_string();
        let (names, operator) = (self.names.join(", "), self.operator.clone());
        vec![id, names, operator, self.command.clone()]
    }
}

/// Shows what is about to be signed, and asks.
fn agreed(out: Out, found: &[Waiting], yes: bool) -> Result<()> {
    if !out.is_json() {
        let rows: Vec<_> = found.iter().map(Waiting::row).collect();
        out.line(table(&["job", "nodes", "operator", "command"], &rows))?;
        out.line(format!(
            "\nThe hub says that these {} wait. A cancel ends a job there also when it has begun.",
            rows.len()
        ))?;
    }
    match yes {
        true => Ok(()),
        false => confirm::signing("Look at them with `lictor jobs --node NAME`, then use --yes."),
    }
}
