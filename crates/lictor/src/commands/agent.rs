//! `lictor agent`: this machine becomes a node, and serves as one.

use std::io::Read as _;

use lictor_agent::{Enrolment, enroll};
use serde_json::json;

use crate::args::{Agent, AgentCommand, Enroll};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::block_on;

pub(crate) fn run(agent: &Agent, out: Out) -> Result {
    match &agent.command {
        AgentCommand::Enroll(args) => block_on(join(args, out)),
    }
}

async fn join(args: &Enroll, out: Out) -> Result {
    let mut token = args.token.clone();
    if token == "-" {
        token.clear();
        std::io::stdin()
            .take(64 * 1024)
            .read_to_string(&mut token)
            .doing("read the token")?;
    }
    let enrolment = Enrolment {
        token: token.trim(),
        dir: &args.dir,
        name: args.name.clone(),
    };
    let enrolled = enroll(enrolment).await.map_err(|e| {
        Failure::new("this machine could not enrol")
            .because(&e)
            .code(e.code())
    })?;
    let value = json!({ "name": enrolled.name, "node_id": enrolled.node_id, "hub": enrolled.hub_url });
    out.either(&value, || {
        format!(
            "this machine is node {} ({})\nnext: lictor agent run --dir {}",
            enrolled.name,
            enrolled.node_id,
            args.dir.display()
        )
    })?;
    Ok(Status::OK)
}
