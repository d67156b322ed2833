//! `lictor run`: signs a job for one node, submits it, and follows it to its verified end.

use std::io::Read as _;

use bytes::Bytes;
use lictor_client::{Error, Expected, Hub, JobOptions, SignedDoc, Signer, TrustStore};
use lictor_proto::doc::{Exec, Stdin};
use lictor_proto::{Code, limits};
use lictor_trust::SecretKey;
use lictor_trust::directory::Node;
use serde_json::json;

use crate::args::Run;
use crate::commands::watch::{Shows, Until, Watch};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Run) -> Result {
    let hub = session.hub()?;
    let key = session.key(args.key.as_ref())?;
    let stdin = if args.stdin { Some(read_stdin()?) } else { None };
    let mut store = session.fresh_trust(&hub).await?;
    let node = session.node(&mut store, &hub, &args.node).await?;
    if let Some(content) = &stdin {
        let Stdin::Bytes(described) = Stdin::bytes(content) else {
            return Err(Failure::new("standard input has no digest"));
        };
        hub.put_blob(&described.sha256, content.clone())
            .await
            .map_err(|e| failed("send standard input", &e))?;
    }
    let job = sign(session, &store, &key, &node, args, stdin.as_deref())?;
    if args.detach {
        return detach(session, &hub, &job).await;
    }
    let (job, node, stream) = match hub.submit_attached(&job.wire).await {
        Ok(stream) => (job, node, stream),
        // The machine may have been enrolled anew since this home last looked.
        Err(Error::Refused(r)) if r.code == Code::NodeUnknown => {
            session.refresh(&mut store, &hub).await?;
            let node = session.node(&mut store, &hub, &args.node).await?;
            let job = sign(session, &store, &key, &node, args, stdin.as_deref())?;
            let stream = hub
                .submit_attached(&job.wire)
                .await
                .map_err(|e| failed("submit the job", &e))?;
            (job, node, stream)
        }
        Err(e) => return Err(failed("submit the job", &e)),
    };
    let watch = Watch {
        session,
        hub: &hub,
        expected: Expected {
            trust: store.trust(),
            node: &node,
            job: job.digest,
        },
        canceler: Some((&session.config.operator, &key)),
        until: Until::End,
        shows: Shows::Output,
    };
    watch.run(stream).await
}

fn sign(
    session: &Session,
    store: &TrustStore,
    key: &SecretKey,
    node: &Node,
    args: &Run,
    stdin: Option<&[u8]>,
) -> Result<SignedDoc> {
    let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let mut exec = Exec::new(args.command.clone());
    exec.env = args.env.iter().cloned().collect();
    exec.cwd.clone_from(&args.cwd);
    exec.sandbox.clone_from(&args.sandbox);
    exec.timeout_ms = args.timeout.map(millis);
    let options = JobOptions {
        nodes: vec![node.id().clone()],
        profile: args.profile.clone(),
        stdin: stdin.map_or(Stdin::NONE, Stdin::bytes),
        reason: args.reason.clone(),
        valid: args.valid,
        retry_of: None,
    };
    Signer::new(store.trust(), &session.config.operator, key)
        .job(exec, options)
        .map_err(|r| Failure::refused("could not sign the job", &r))
}

async fn detach(session: &Session, hub: &Hub, job: &SignedDoc) -> Result {
    let view = hub
        .submit(&job.wire)
        .await
        .map_err(|e| failed("submit the job", &e))?;
    if view.job_id != job.job_id() {
        let why = format!("it calls the job {}", escape(view.job_id.as_str()));
        return Err(Failure::new("the hub took another job than the one submitted").why(why));
    }
    let state = view.executions.first().map(|e| e.state);
    let value = json!({ "event": "submitted", "job_id": job.job_id(), "state": state });
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
