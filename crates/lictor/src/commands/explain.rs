//! `lictor explain`: what policy would say about a command. A prediction: only the node's own verdict counts.
//!
//! The node resolves programs in the profile's root and hashes them; this machine cannot. So facts are assumed,
//! and shown as assumed: a bare name is taken to be below the first directory of the profile's path that has it
//! here, and not writable.

mod job;

use lictor_client::{Hub, TrustStore};
use lictor_policy::evaluate::{Outcome, Question, Verdict, evaluate};
use lictor_policy::facts::Facts;
use lictor_policy::{Law, NodeContext};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::OpenGate;
use lictor_proto::{Digest, Timestamp};
use lictor_trust::LawFiles;
use lictor_trust::directory::Node;
use serde_json::{Value, json};

use self::job::{PREDICTION, assume, job};
use crate::args::Explain;
use crate::commands::approvals::gate_text;
use crate::commands::org;
use crate::escape::{command_line, escape};
use crate::exit::{self, Status};
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Explain) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let node = node(session, &hub, &mut store, args).await?;
    let files = files(&store, args)?;
    let law = Law::load(&files).doing("load the policies")?;
    let profile = files.profiles.profiles.get(&args.profile);
    let profile = profile.ok_or_else(|| super::unknown_profile(&files, &args.profile))?;
    let operator = args.operator.as_ref().unwrap_or(&session.config.operator);
    let job = job(session, args, operator, (node.id(), &files))?;
    let facts = Facts {
        secrets: Facts::assume(Some(profile), &job).secrets,
        ..assume(&args.profile, profile, &job.spec)
    };
    let context = NodeContext::from(&node);
    let question = Question {
        files: &files,
        job: &job,
        job_digest: Digest::of(PREDICTION),
        node: &context,
        facts: &facts,
        approvals: &[],
        releases: &[],
        now: Timestamp::now(),
    };
    let verdict = evaluate(&law, &question);
    let told = Told {
        law: &law,
        question: &question,
        verdict: &verdict,
    };
    session.out.either(&told.json(), || told.text())?;
    Ok(match told.outcome().0 {
        "deny" => Status(exit::DENIED),
        _ => Status::OK,
    })
}

/// The node that is named, or the only one there is.
async fn node(session: &Session, hub: &Hub, store: &mut TrustStore, args: &Explain) -> Result<Node> {
    if let Some(name) = &args.node {
        return session.node(store, hub, name).await;
    }
    let directory = store.directory().map_err(|e| failed("read the nodes", &e))?;
    let mut nodes = directory.iter().filter(|n| !n.replaced);
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node.clone()),
        (None, _) => Err(Failure::new("there is no node yet")),
        _ => Err(Failure::new("there are several nodes").hint("Name one with --node.")),
    }
}

/// The law to predict by: the pinned one, or a directory as if it were signed now.
fn files(store: &TrustStore, args: &Explain) -> Result<LawFiles> {
    if let Some(dir) = &args.dir {
        return org::load_dir(dir, store.trust());
    }
    let law = store.trust().law(Timestamp::now());
    let law = law.map_err(|r| Failure::refused("the pinned law is not in force", &r))?;
    Ok(LawFiles::clone(law))
}

/// A verdict, with what it was asked about.
struct Told<'a> {
    law: &'a Law,
    question: &'a Question<'a>,
    verdict: &'a Verdict,
}

impl Told<'_> {
    /// The prediction in a word, and why it is not simply allowed.
    fn outcome(&self) -> (&'static str, Vec<String>) {
        let gated = |gates: &[OpenGate]| {
            let why = Refusal::plain(Code::ScheduleGated);
            let why = format!("[{}] {}", why.code, escape(&why.message));
            (
                "deny",
                std::iter::once(why).chain(gates.iter().map(gate_text)).collect(),
            )
        };
        match &self.verdict.outcome {
            // Nobody stands by a firing: what others would have to sign for is refused.
            Outcome::BreakGlass(gates) | Outcome::Ask(gates) if self.question.job.fired().is_some() => {
                gated(gates)
            }
            Outcome::Permit => ("allow", Vec::new()),
            Outcome::BreakGlass(gates) => ("allow by break-glass", gates.iter().map(gate_text).collect()),
            Outcome::Ask(gates) => ("ask", gates.iter().map(gate_text).collect()),
            Outcome::Deny(r) => ("deny", vec![format!("[{}] {}", r.code, escape(&r.message))]),
        }
    }

    fn json(&self) -> Value {
        let (word, why) = self.outcome();
        let rule = |id: &String| {
            let found = self.law.policy(id);
            json!({ "id": id, "file": found.as_ref().map(|(f, _)| f), "text": found.as_ref().map(|(_, t)| t) })
        };
        let rules: Vec<_> = self.verdict.rules.iter().map(rule).collect();
        json!({
            "prediction": word, "action": self.verdict.action, "why_opaque": self.verdict.why_opaque, "rules": rules,
            "why": why, "assumed_facts": self.question.facts, "node": self.question.node.name,
            "nodes": self.question.job.nodes.len(), "operator": self.question.job.operator, "scheduled": self.question.job.fired().is_some(),
            "bundle_version": self.question.files.meta.version,
        })
    }

    fn text(&self) -> String {
        let (word, why) = self.outcome();
        let (job, facts) = (self.question.job, self.question.facts);
        let by = if job.fired().is_some() {
            " by a schedule"
        } else {
            ""
        };
        let mut lines = vec![
            format!("prediction: {word} (only the node's own verdict counts)"),
            format!(
                "  {} asks for {}{} on {} in {}",
                job.operator, self.verdict.action, by, self.question.node.name, job.profile
            ),
            format!("  command: {}", command_line(&job.spec.words())),
            format!("  nodes: {}", job.nodes.len()),
            format!("  assumed: the program is {}", escape(&facts.program.path)),
        ];
        lines.extend(
            self.verdict
                .why_opaque
                .iter()
                .map(|w| format!("  opaque, because {w}")),
        );
        lines.extend(why.iter().map(|w| format!("  {w}")));
        for id in &self.verdict.rules {
            let place = self
                .law
                .policy(id)
                .map_or_else(String::new, |(file, _)| format!(" ({file})"));
            lines.push(format!("  decided by: {}{place}", escape(id)));
        }
        lines.join("\n")
    }
}
