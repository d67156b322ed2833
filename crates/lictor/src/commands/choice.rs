//! Which nodes a command is for: targets from the command line, decided here, from signed records alone.
//!
//! # Invariants
//! - Who is chosen by what machines say about themselves (`--fact`) runs a job only if it says so again: the facts are
//!   signed into it.
//! - Nothing that may be meant is left out without a word.

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_client::target::{Chosen, choose};
use lictor_client::{Hub, JobOptions, Target, TrustStore};
use lictor_proto::api::{NodeView, RolloutPlan};
use lictor_proto::doc::Expect;
use lictor_proto::{Code, Name, NodeId};
use lictor_trust::directory::Node;
use serde_json::json;

use crate::args::{Fact, Targets};
use crate::commands::confirm;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

/// Names in one line of a preview.
const NAMED: usize = 12;

/// The nodes of a command, by name.
pub(crate) struct Choice {
    pub(crate) nodes: Vec<Node>,
    /// What they were chosen for.
    pub(crate) expect: Expect,
    /// Whether the person has named each of them.
    named: bool,
}

/// Decides. One name alone is found without looking at all nodes.
pub(crate) async fn nodes(
    session: &Session,
    store: &mut TrustStore,
    hub: &Hub,
    args: &Targets,
) -> Result<Choice> {
    let narrow = &args.narrow;
    let expect = expect(&narrow.facts)?;
    if let ([only], true, true) = (
        args.targets.as_slice(),
        narrow.except.is_empty(),
        expect.is_empty(),
    ) && let Some(text) = only.exact()
        && !args.all
    {
        return Ok(Choice {
            nodes: vec![session.node(store, hub, text).await?],
            expect,
            named: true,
        });
    }
    let targets = if args.all {
        vec![Target::all()]
    } else {
        args.targets.clone()
    };
    // A pattern means those that are there now, not those of some minutes ago.
    session.refresh(store, hub).await?;
    let directory = store.directory().map_err(|e| failed("read the nodes", &e))?;
    let chosen = choose(&directory, &targets, &narrow.except)
        .map_err(|r| Failure::refused("could not choose the nodes", &r))?;
    settle(session, &chosen, args)?;
    let nodes = if expect.is_empty() {
        chosen.nodes
    } else {
        fitting(session, hub, chosen.nodes, &expect).await?
    };
    if nodes.is_empty() {
        return Err(Failure::new("no node is left")
            .code(Code::NodeUnknown)
            .why("--except takes out all that the targets mean"));
    }
    Ok(Choice {
        nodes,
        expect,
        named: targets.iter().all(|t| t.exact().is_some()),
    })
}

/// What is not proven stops the command, until the person says that it may be left out.
fn settle(session: &Session, chosen: &Chosen, args: &Targets) -> Result<()> {
    let Some(first) = chosen.unproven.first() else {
        return Ok(());
    };
    if args.narrow.skip_unproven {
        for refusal in &chosen.unproven {
            let text = escape(&refusal.to_string());
            session.out.note(format!("left out: {text}"));
        }
        return Ok(());
    }
    let what = "the targets may mean nodes that nothing proves";
    let mut failure = Failure::new(what).code(first.code);
    for refusal in &chosen.unproven {
        failure = failure.why(&refusal.message);
    }
    Err(failure.hint("Settle it (`lictor nodes` shows them), or leave them out with --skip-unproven."))
}

/// The facts as they are signed.
fn expect(facts: &[Fact]) -> Result<Expect> {
    let mut expect = Expect::default();
    for Fact { name, value } in facts {
        let place = match name.as_str() {
            "os" => &mut expect.os,
            "arch" => &mut expect.arch,
            _ => &mut expect.version,
        };
        if place.as_ref().is_some_and(|before| before != value) {
            return Err(Failure::new(format!(
                "--fact {name} is there twice, and no node is both"
            )));
        }
        *place = Some(value.clone());
    }
    Ok(expect)
}

/// Those that say they are what is expected. Whoever lies about it refuses the job, or is not asked.
async fn fitting(session: &Session, hub: &Hub, nodes: Vec<Node>, expect: &Expect) -> Result<Vec<Node>> {
    let views = hub
        .nodes()
        .await
        .map_err(|e| failed("ask what the nodes are", &e))?;
    let views: BTreeMap<&NodeId, &NodeView> = views.iter().map(|v| (&v.node_id, v)).collect();
    let (mut fitting, mut silent, mut others) = (Vec::new(), Vec::new(), BTreeMap::new());
    for node in nodes {
        let beat = views.get(node.id()).and_then(|v| v.heartbeat.as_ref());
        let Some(beat) = beat else {
            silent.push(node.name().to_string());
            continue;
        };
        match expect.differs(&beat.host.os, &beat.host.arch, &beat.agent_version) {
            None => fitting.push(node),
            Some(differs) => {
                let what = format!("{}={}", differs.fact, escape(&differs.found));
                *others.entry(what).or_insert(0_usize) += 1;
            }
        }
    }
    if !silent.is_empty() {
        let text = format!(
            "left out, since nothing is known of what they are: {}",
            silent.join(", ")
        );
        session.out.note(text);
    }
    if fitting.is_empty() {
        let wanted: Vec<_> = expect
            .each()
            .map(|(fact, value)| format!("{fact}={value}"))
            .collect();
        let found: Vec<_> = others.iter().map(|(what, n)| format!("{n} {what}")).collect();
        return Err(
            Failure::new(format!("none of the nodes is {}", wanted.join(" and ")))
                .code(Code::NodeUnknown)
                .why(format!("they say: {}", found.join(", "))),
        );
    }
    Ok(fitting)
}

impl Choice {
    /// These nodes and no others.
    pub(crate) fn of(mut nodes: Vec<Node>, expect: Expect) -> Self {
        nodes.sort_by(|a, b| (a.name(), a.id()).cmp(&(b.name(), b.id())));
        Self {
            nodes,
            expect,
            named: false,
        }
    }

    /// What a job for these nodes says besides its work, where nothing else is said.
    pub(crate) fn job(&self, profile: &Name, valid: Duration, reason: &str) -> JobOptions {
        let nodes = self.nodes.iter().map(|n| n.id().clone()).collect();
        JobOptions {
            reason: reason.to_owned(),
            expect: self.expect.clone(),
            ..JobOptions::new(nodes, profile.clone(), valid)
        }
    }

    /// Who would run it, and in which batch of a rollout, for `--dry-run`.
    pub(crate) async fn preview(&self, session: &Session, hub: &Hub, plan: Option<&RolloutPlan>) -> Result {
        let views = hub.nodes().await.map_err(|e| failed("list the nodes", &e))?;
        let is_there = |node: &Node| views.iter().any(|v| v.node_id == *node.id() && v.connected);
        let value = |node: &Node| {
            json!({
                "name": node.name(), "node_id": node.id(), "labels": node.labels, "groups": node.groups,
                "connected": is_there(node),
                "batch": plan.map(|p| batch_of(p, node)),
            })
        };
        let values = json!({
            "event": "dry_run",
            "nodes": self.nodes.iter().map(value).collect::<Vec<_>>(),
            "expect": self.expect,
            "plan": plan,
        });
        session.out.either(&values, || {
            let mut rows: Vec<_> = self.nodes.iter().map(|n| cells(n, is_there(n))).collect();
            let mut head = vec!["name", "state", "labels", "groups", "id"];
            if let Some(plan) = plan {
                head.insert(0, "batch");
                for (row, node) in rows.iter_mut().zip(&self.nodes) {
                    row.insert(0, batch_of(plan, node).to_string());
                }
            }
            format!(
                "{}\n{} nodes; nothing was signed",
                table(&head, &rows),
                rows.len()
            )
        })?;
        Ok(Status::OK)
    }

    /// Says who will run it where a person watches, and asks where they have not named each node.
    pub(crate) fn agreed(&self, session: &Session, yes: bool) -> Result<()> {
        if self.nodes.len() < 2 {
            return Ok(());
        }
        let names: Vec<_> = self.nodes.iter().take(NAMED).map(|n| n.name().as_str()).collect();
        let more = match self.nodes.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more (--dry-run lists them)"),
        };
        let out = session.out;
        out.progress(format!("{} nodes: {}{more}", self.nodes.len(), names.join(", ")));
        if self.named || yes || !out.can_ask() {
            return Ok(());
        }
        confirm::signing("Use --yes where nobody can be asked.")
    }
}

/// From 1 on.
fn batch_of(plan: &RolloutPlan, node: &Node) -> usize {
    let place = plan.batches.iter().position(|b| b.contains(node.id()));
    place.map_or(0, |at| at + 1)
}

fn cells(node: &Node, is_there: bool) -> Vec<String> {
    let labels: Vec<_> = node.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    let groups: Vec<_> = node.groups.iter().map(ToString::to_string).collect();
    vec![
        node.name().to_string(),
        if is_there { "connected" } else { "away" }.to_owned(),
        labels.join(","),
        groups.join(","),
        node.id().to_string(),
    ]
}
