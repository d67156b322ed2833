//! Cancels, acknowledgements, leases: what a hub says about jobs that run or have run.

use std::fs;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hyper::Method;
use lictor_agent::routes::{ROUTES, Route};
use lictor_audit::EventType;
use lictor_proto::agent::{
    Ack, CancelJob, LawDocs, Offer, OfferReply, ReadOutput, Reply, Request, StdinPiece,
};
use lictor_proto::{Code, Digest, Envelope, NodeId, limits};

use super::attacks;
use crate::hostile::org::{digest, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_cancels_without_a_signature => Some(Code::SignatureCount),
    hub_signs_a_cancel_itself => Some(Code::SignerUnknown),
    hub_has_somebody_cancel_who_may_not => Some(Code::NoMatch),
    hub_sends_the_cancel_of_another_job => Some(Code::NotFound),
    hub_sends_the_cancel_of_another_node => Some(Code::WrongNode),
    hub_lets_the_lease_lapse_while_a_job_runs => None,
    hub_acknowledges_a_result_before_there_is_one => Some(Code::NotFound),
    hub_acknowledges_another_receipt => Some(Code::ResultConflict),
    hub_calls_every_route_without_a_signature => Some(Code::SignatureCount),
    hub_offers_more_jobs_than_the_node_takes => Some(Code::TooManyJobs),
}

/// The envelope without its signatures.
fn unsigned(wire: &str) -> Result<String> {
    let mut envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE)?;
    envelope.signatures.clear();
    Ok(String::from_utf8(envelope.to_bytes())?)
}

/// A job that runs until the file that it waits for is there.
async fn lasting(scene: &Scene) -> Result<(String, Digest, std::path::PathBuf)> {
    let gate = scene.node.dir().join("gate");
    let wait = format!("until test -e {}; do sleep 0.02; done", gate.display());
    let job = scene.signed(&["sh", "-c", &wait]);
    let reply = scene.offer(&job, &[]).await?;
    ensure!(reply == OfferReply::Accepted, "{reply:?}");
    let id = scene.started(&job).await?;
    Ok((job, id, gate))
}

async fn running(scene: &Scene, job: Digest) -> Result<bool> {
    match scene.hub.ask(&Request::Status).await? {
        Reply::Status(status) => Ok(status.executions.iter().any(|e| e.job == job && e.running)),
        other => bail!("no status: {other:?}"),
    }
}

/// A cancel that must be refused; the job goes on, and a true one then ends it.
async fn refused_cancel(code: Code, forge: impl FnOnce(&Scene, Digest) -> Result<String>) -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, id, gate) = lasting(&scene).await?;
    let forged = forge(&scene, id)?;
    let seen = scene.refuses_request(&Request::Cancel(forged), code).await?;
    ensure!(running(&scene, id).await?, "IT GOT THROUGH: the job has ended");
    fs::write(gate, "")?;
    scene.succeeded(&job).await?;
    Ok(seen)
}

async fn hub_cancels_without_a_signature() -> Result<Seen> {
    refused_cancel(Code::SignatureCount, |scene, job| {
        unsigned(&signed(&scene.org.cancel(job, "alice"), &["alice"]))
    })
    .await
}

async fn hub_signs_a_cancel_itself() -> Result<Seen> {
    refused_cancel(Code::SignerUnknown, |scene, job| {
        Ok(signed(&scene.org.cancel(job, "alice"), &["the hub"]))
    })
    .await
}

async fn hub_has_somebody_cancel_who_may_not() -> Result<Seen> {
    refused_cancel(Code::NoMatch, |scene, job| {
        Ok(signed(&scene.org.cancel(job, "dave"), &["dave"]))
    })
    .await
}

async fn hub_sends_the_cancel_of_another_job() -> Result<Seen> {
    refused_cancel(Code::NotFound, |scene, _| {
        let other = digest(&scene.signed(&["true"]))?;
        Ok(signed(&scene.org.cancel(other, "alice"), &["alice"]))
    })
    .await
}

/// The cancel is of this job, and for others of its nodes.
async fn hub_sends_the_cancel_of_another_node() -> Result<Seen> {
    refused_cancel(Code::WrongNode, |scene, job| {
        let mut cancel = scene.org.cancel(job, "alice");
        cancel.nodes = vec![NodeId::derive(&scene.org.id, &Digest::of(b"another").0)];
        Ok(signed(&cancel, &["alice"]))
    })
    .await
}

/// The hub drops the link and everything it knew; the job neither ends nor starts again, and its result arrives.
async fn hub_lets_the_lease_lapse_while_a_job_runs() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, id, gate) = lasting(&scene).await?;
    let links = scene.hub.links();
    scene.hub.cut();
    scene.hub.forget();
    scene.hub.link_after(links).await?;
    ensure!(running(&scene, id).await?, "IT GOT THROUGH: the job has ended");
    let again = scene.offer(&job, &[]).await?;
    ensure!(again == OfferReply::Known, "offered again, it is {again:?}");
    fs::write(gate, "")?;
    let finished = scene.succeeded(&job).await?;
    ensure!(
        finished.envelope == job,
        "a hub that has lost the job gets it back"
    );
    scene.without_effect(EventType::JobFinished).await
}

async fn hub_acknowledges_a_result_before_there_is_one() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (job, id, gate) = lasting(&scene).await?;
    let early = Ack::Result {
        job: id,
        receipt: Digest([0; 32]),
    };
    let seen = scene
        .refuses_request(&Request::Ack(early), Code::NotFound)
        .await?;
    fs::write(gate, "")?;
    let finished = scene.succeeded(&job).await?;
    scene.acknowledge(&finished).await?;
    Ok(seen)
}

async fn hub_acknowledges_another_receipt() -> Result<Seen> {
    let scene = Scene::set().await?;
    let job = scene.signed(&["true"]);
    let finished = scene.runs(&job, &[]).await?;
    let other = Ack::Result {
        job: finished.job,
        receipt: Digest::of(b"another"),
    };
    let seen = scene
        .refuses_request(&Request::Ack(other), Code::ResultConflict)
        .await?;
    // It is kept, and said again to whoever connects next.
    let links = scene.hub.links();
    scene.hub.cut();
    scene.hub.forget();
    scene.hub.link_after(links).await?;
    ensure!(scene.succeeded(&job).await? == finished, "another result");
    scene.acknowledge(&finished).await?;
    Ok(seen)
}

/// Walks the agent's own list of routes. What takes a document refuses one without signatures; what takes none only
/// reads, or is not for a hub at all.
async fn hub_calls_every_route_without_a_signature() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (runs, command) = scene.counter();
    let job = scene.signed(&["sh", "-c", &command]);
    let bare = unsigned(&job)?;
    let mut asked = 0;
    for (method, path, route) in ROUTES {
        let method: Method = method.parse()?;
        match route {
            // Reads: they answer, or have nothing to say; the event stream is the one that is open already.
            Route::Health | Route::Events => {}
            Route::Output => {
                let path = path.replace("{job}", &digest(&job)?.to_string());
                let answer = scene.hub.call(method, &path, Bytes::new()).await?;
                ensure!(!answer.status.is_success(), "output of a job that never ran");
            }
            // Bytes of what no signature names are no digest's.
            Route::Input => {
                let path = path.replace("{sha256}", &digest(&job)?.to_string());
                let body = Bytes::from_static(b"something");
                let answer = scene.hub.call(method, &path, body).await?;
                let reply = lictor_proto::json::from_slice(&answer.body)?;
                ensure!(
                    matches!(&reply, Reply::Refused(why) if why.code == Code::StdinMismatch),
                    "{reply:?}"
                );
            }
            Route::Ask => {
                for request in requests(&bare, digest(&job)?) {
                    refuses_bare(&scene, &request).await?;
                    asked += 1;
                }
            }
        }
    }
    ensure!(asked == 10, "every kind of request was sent");
    let seen = scene.noted(Code::SignatureCount).await?;
    ensure!(!runs.exists(), "IT GOT THROUGH: it ran");
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

/// One request of each kind, none of which carries a signature.
fn requests(bare: &str, job: Digest) -> Vec<Request> {
    let bare = bare.to_owned();
    vec![
        Request::Offer(Offer {
            job: bare.clone(),
            approvals: vec![bare.clone()],
            releases: Vec::new(),
            secrets: vec![bare.clone()],
        }),
        Request::Law(LawDocs {
            roots: vec![bare.clone()],
            bundle: Some(bare.clone()),
            freshness: Some(bare.clone()),
            revocations: vec![bare.clone()],
        }),
        Request::Approval(bare.clone()),
        Request::Cancel(bare.clone()),
        Request::CancelJob(CancelJob {
            cancel: bare.clone(),
            job: bare,
        }),
        Request::Stdin(StdinPiece {
            sha256: Digest::of(b"no"),
            at: 0,
            last: true,
            bytes: b"yes".to_vec(),
        }),
        Request::Ack(Ack::Output {
            job,
            upto: u64::MAX >> 11,
        }),
        Request::ReadOutput(ReadOutput {
            job,
            from: 0,
            max: 1,
            wait: false,
        }),
        Request::Drain { grace_ms: 0 },
        Request::Status,
    ]
}

async fn refuses_bare(scene: &Scene, request: &Request) -> Result<()> {
    let reply = scene.hub.ask(request).await?;
    let refused = match (request, &reply) {
        // About a job that is not here there is nothing to acknowledge, and a status is a read.
        (Request::Ack(_), Reply::Done) | (Request::Status, Reply::Status(_)) => return Ok(()),
        (Request::Offer(_), Reply::Offer(OfferReply::Refused(r))) | (_, Reply::Refused(r)) => r,
        other => bail!("IT GOT THROUGH: {other:?}"),
    };
    let wanted = match request {
        Request::Offer(_)
        | Request::Law(_)
        | Request::Approval(_)
        | Request::Cancel(_)
        | Request::CancelJob(_) => Code::SignatureCount,
        Request::Stdin(_) => Code::StdinMismatch,
        // For this machine's own processes.
        _ => Code::BadRequest,
    };
    ensure!(
        refused.code == wanted || wrong_kind(request, refused.code),
        "{request:?}: {refused}"
    );
    Ok(())
}

/// A bare job offered as law, approval or cancel may also be refused for what it is.
fn wrong_kind(request: &Request, code: Code) -> bool {
    matches!(
        request,
        Request::Law(_) | Request::Approval(_) | Request::Cancel(_) | Request::CancelJob(_)
    ) && code == Code::WrongType
}

async fn hub_offers_more_jobs_than_the_node_takes() -> Result<Seen> {
    let scene = Scene::with(|config| {
        config.max_jobs = 1;
        config.max_queued = 0;
    })
    .await?;
    let (job, _, gate) = lasting(&scene).await?;
    let others: Vec<String> = (0..50).map(|_| scene.signed(&["true"])).collect();
    for other in &others {
        let code = scene.refused_offer(other).await?;
        ensure!(code == Code::TooManyJobs, "{code}");
    }
    let seen = scene.noted(Code::TooManyJobs).await?;
    fs::write(gate, "")?;
    scene.succeeded(&job).await?;
    let first = others.first().context("there are fifty")?;
    // Put off, not refused for good.
    let deadline = tokio::time::Instant::now() + crate::hostile::hub::PATIENCE;
    while scene.offer(first, &[]).await? != OfferReply::Accepted {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "its place never came free"
        );
    }
    scene.succeeded(first).await?;
    Ok(seen)
}
