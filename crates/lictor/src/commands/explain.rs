//! `lictor explain`: what policy would say about a command. A prediction: only the node's own verdict counts.
//!
//! The node resolves programs in the profile's root and hashes them; this machine cannot. So facts are assumed,
//! and shown as assumed: a bare name is taken to be below the first directory of the profile's path that has it
//! here, and not writable.

use lictor_client::{Hub, TrustStore};
use lictor_policy::evaluate::{Outcome, Question, Verdict, evaluate};
use lictor_policy::facts::{Facts, ProgramFacts};
use lictor_policy::{Law, NodeContext};
use lictor_proto::Digest;
use lictor_proto::doc::{Collect, Exec, Fetch, Job, Script, SecretUse, Spec, Stdin};
use lictor_proto::{Name, NodeId, Timestamp};
use lictor_trust::LawFiles;
use lictor_trust::directory::Node;
use lictor_trust::profiles::Profile;
use serde_json::{Value, json};

use crate::args::{Explain, UsedSecret};
use crate::commands::approvals::gate_text;
use crate::commands::{org, work};
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
        job_digest: Digest::of(b"prediction"),
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
    Ok(match verdict.outcome {
        Outcome::Deny(_) => Status(exit::DENIED),
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
        match &self.verdict.outcome {
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
            "operator": self.question.job.operator, "bundle_version": self.question.files.meta.version,
        })
    }

    fn text(&self) -> String {
        let (word, why) = self.outcome();
        let (job, facts) = (self.question.job, self.question.facts);
        let mut lines = vec![
            format!("prediction: {word} (only the node's own verdict counts)"),
            format!(
                "  {} asks for {} on {} in {}",
                job.operator, self.verdict.action, self.question.node.name, job.profile
            ),
            format!("  command: {}", command_line(&job.spec.words())),
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

fn job(session: &Session, args: &Explain, operator: &Name, (node, law): (&NodeId, &LawFiles)) -> Result<Job> {
    let now = Timestamp::now();
    let spec = spec(args, law)?;
    Ok(Job {
        tag: Default::default(),
        org: session.config.org.clone(),
        operator: operator.clone(),
        nonce: vec![0; 16],
        nodes: vec![node.clone()],
        kind: spec.kind(),
        spec,
        profile: args.profile.clone(),
        stdin: Stdin::NONE,
        secrets: assumed(&args.secrets),
        after: Default::default(),
        expect: Default::default(),
        output_to: Default::default(),
        reason: String::new(),
        retry_of: None,
        min_bundle: 1,
        issued_at: now,
        not_before: now,
        expires_at: now.plus(std::time::Duration::from_secs(300)),
        origin: Default::default(),
    })
}

fn spec(args: &Explain, law: &LawFiles) -> Result<Spec> {
    let (env, terms) = (args.env.iter().cloned().collect(), args.terms.of_job());
    Ok(match (&args.fetch, &args.collect) {
        (Some(to), _) => Spec::Fetch(Fetch {
            to: to.clone(),
            url: args.url.clone(),
            sha256: Digest::of(b"prediction"),
            size: args.size,
            mode: args.mode.clone(),
            owner: None,
            group: None,
            replace: false,
            timeout_ms: None,
            sandbox: None,
        }),
        (None, Some(from)) => Spec::Collect(Collect::new(from.clone(), args.size)),
        (None, None) => match work::of(&args.what(), || Ok(law.clone()))? {
            Spec::Exec(exec) => Spec::Exec(Exec { env, terms, ..exec }),
            Spec::Script(script) => Spec::Script(Script { env, terms, ..script }),
            other @ (Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_)) => other,
        },
    })
}

/// The secrets of a job, as far as a prediction goes: no version and no value of any.
fn assumed(named: &[UsedSecret]) -> Vec<SecretUse> {
    let mut uses: Vec<SecretUse> = named
        .iter()
        .map(|used| SecretUse {
            name: used.name.clone(),
            version: 1,
            digest: Digest::of(b"prediction"),
            delivery: used.delivery,
        })
        .collect();
    uses.sort_by(|a, b| a.name.cmp(&b.name));
    uses
}

fn assume(name: &Name, profile: &Profile, spec: &Spec) -> Facts {
    let program = match spec {
        Spec::Exec(exec) => exec.argv.first().cloned().unwrap_or_default(),
        Spec::Script(script) => script.interpreter.to_string(),
        Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => "lictor".to_owned(),
    };
    let path = if program.contains('/') {
        program
    } else {
        let here = profile.path.iter().map(|d| format!("{d}/{program}"));
        here.into_iter()
            .find(|p| std::path::Path::new(p).exists())
            .unwrap_or_else(|| format!("/usr/bin/{program}"))
    };
    let canonical = std::fs::canonicalize(&path)
        .ok()
        .and_then(|p| p.to_str().map(str::to_owned));
    let content = std::fs::read(&path).unwrap_or_default();
    let names = profile
        .variables()
        .chain(spec.process().env.keys().map(String::as_str));
    let mut env_names: Vec<String> = names.map(str::to_owned).collect();
    env_names.sort();
    env_names.dedup();
    Facts {
        program: ProgramFacts {
            path: canonical.unwrap_or(path),
            sha256: Digest::of(&content),
            writable: false,
        },
        interpreters: Vec::new(),
        env_names,
        network: profile.network_word().to_owned(),
        profile: name.clone(),
        profile_digest: profile.digest(),
        backend: profile.backend.preferred().as_str().to_owned(),
        namespaced: profile.backend.preferred().is_namespaced(),
        rootfs: profile.rootfs,
        rootfs_index: None,
        run_as_uid: 0,
        run_as_gid: None,
        run_as_groups: Vec::new(),
        cwd: profile.cwd.clone().unwrap_or_else(|| "/workspace".to_owned()),
        secrets: Vec::new(),
    }
}
