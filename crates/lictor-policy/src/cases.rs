//! An org's own test cases: `tests/*.toml`, run by `lictor org test`.
//!
//! A case names who asks for what, where, and what must come of it. What is left out has a plain default, so that a
//! case says only what it is about. Facts are assumed, not found: a case tests the policy, not a machine.

mod secrets;
mod signed;
mod work;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lictor_proto::doc::{Cancel, FileUrl, GitCommit, Job, NodeKind, Origin, Stdin, Workspace};
use lictor_proto::{Code, Digest, Name, NodeId, OrgId, Timestamp};
use lictor_trust::LawFiles;
use lictor_trust::profiles::parse_duration;
use serde::Deserialize;

pub use self::secrets::CaseSecret;
use self::signed::{approval, release};
use crate::entities::NodeContext;
use crate::evaluate::{Outcome, Question, Verdict, evaluate, evaluate_cancel};
use crate::facts::Facts;
use crate::law::Law;

/// One case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows, for people.
    pub name: String,
    /// Who asks.
    pub operator: Name,
    /// The node's name; `node` when left out.
    #[serde(default = "default_node")]
    pub node: Name,
    /// The node's kind; `server` when left out.
    #[serde(default = "default_kind")]
    pub kind: NodeKind,
    /// Labels of the node's grant.
    #[serde(default)]
    pub labels: BTreeMap<Name, Name>,
    /// The text of a script; `argv` are its arguments then.
    pub script: Option<String>,
    /// The name of a script of the bundle; `argv` are its arguments then.
    pub named_script: Option<Name>,
    /// Who reads the script; `sh` when left out.
    pub interpreter: Option<Name>,
    /// Where a file is put on the node; in place of a command.
    pub fetch: Option<String>,
    /// Where the node fetches it from; from the hub when left out.
    pub url: Option<FileUrl>,
    /// What is brought from the node; in place of a command.
    pub collect: Option<String>,
    /// What is done with a workspace, as the spec of a job has it; in place of a command.
    pub workspace: Option<Workspace>,
    /// Bytes of that file, or the most that may be brought.
    #[serde(default = "one_mib")]
    pub size: u64,
    /// Permission bits of the file that is put there; `"0644"` when left out.
    pub mode: Option<String>,
    /// Its owner.
    pub owner: Option<String>,
    /// Whether it may take the place of another.
    #[serde(default)]
    pub replace: bool,
    /// The command; needed unless `cancel`, a script or files.
    #[serde(default)]
    pub argv: Vec<String>,
    /// Variables that the job sets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The profile; needed unless `cancel`.
    pub profile: Option<Name>,
    /// Timeout that the job names, as `"30s"`.
    pub timeout: Option<String>,
    /// Validity that the job is signed with; `"5m"` when left out.
    #[serde(default = "default_valid")]
    pub valid: String,
    /// How many nodes the job names.
    #[serde(default = "one")]
    pub nodes: u32,
    /// Standard input sent along.
    pub stdin: Option<String>,
    /// The kept sandbox that the job names.
    pub sandbox: Option<Name>,
    /// The commit that is brought before it begins.
    pub git: Option<GitCommit>,
    /// The secrets that the job uses.
    #[serde(default)]
    pub secrets: Vec<CaseSecret>,
    /// The job's reason.
    #[serde(default)]
    pub reason: String,
    /// Whether it is the firing of a schedule.
    #[serde(default)]
    pub scheduled: bool,
    /// Canonical path that the program is found at; the program itself when absolute, else under `/usr/bin`.
    pub program: Option<String>,
    /// Digest of the program, or of the file that is put on the node, as `sha256:...`.
    pub sha256: Option<Digest>,
    /// Whether the job's user could write the program.
    #[serde(default)]
    pub writable: bool,
    /// Numeric id of the job's user; 1000 when left out.
    #[serde(default = "ordinary_uid")]
    pub uid: u32,
    /// Who has approved exactly this.
    #[serde(default)]
    pub approvals: Vec<Name>,
    /// Who has released it on this node.
    #[serde(default)]
    pub releases: Vec<Name>,
    /// Whether the case is about ending a job.
    #[serde(default)]
    pub cancel: bool,
    /// Who asked for the job that is to be ended; the operator when left out.
    pub requester: Option<Name>,
    /// What must come of it.
    pub expect: Expect,
    /// The code of the denial, where that matters.
    pub code: Option<Code>,
    /// The action that it must be judged as, where that matters.
    pub action: Option<String>,
    /// Exactly these policies must have decided, where that matters.
    pub rules: Option<BTreeSet<String>>,
}

/// What must come of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)] // the words say it
pub enum Expect {
    Permit,
    BreakGlass,
    Ask,
    Deny,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseFile {
    #[serde(default)]
    case: Vec<Case>,
}

/// A file that holds no cases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct CaseError {
    /// The file.
    pub file: String,
    /// What is wrong with it.
    pub why: String,
}

/// What came of all cases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the files.
    pub results: Vec<CaseResult>,
}

/// What came of one case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaseResult {
    /// The case's name.
    pub name: String,
    /// What policy said.
    pub verdict: Verdict,
    /// What differs from what was expected, for people; empty when nothing does.
    pub differences: Vec<String>,
}

impl Report {
    /// Whether every case came out as expected.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.results.iter().all(|r| r.differences.is_empty())
    }

    /// The cases that did not.
    pub fn failures(&self) -> impl Iterator<Item = &CaseResult> {
        self.results.iter().filter(|r| !r.differences.is_empty())
    }
}

impl Expect {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Permit => "permit",
            Self::BreakGlass => "break_glass",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }

    const fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Permit => Self::Permit,
            Outcome::BreakGlass(_) => Self::BreakGlass,
            Outcome::Ask(_) => Self::Ask,
            Outcome::Deny(_) => Self::Deny,
        }
    }
}

fn default_node() -> Name {
    name("node")
}
fn name(text: &'static str) -> Name {
    #[allow(clippy::expect_used)] // constants of this file
    text.parse().expect("a constant name")
}
fn default_kind() -> NodeKind {
    NodeKind::Server
}
fn default_valid() -> String {
    "5m".into()
}
const fn one_mib() -> u64 {
    1 << 20
}

fn one() -> u32 {
    1
}
const fn ordinary_uid() -> u32 {
    1000
}

/// Reads one file of cases.
///
/// # Errors
/// [`CaseError`] when it is not one.
pub fn parse(file: &str, text: &str) -> Result<Vec<Case>, CaseError> {
    let error = |why: String| CaseError {
        file: file.to_owned(),
        why,
    };
    let cases = toml::from_str::<CaseFile>(text)
        .map_err(|e| error(e.to_string()))?
        .case;
    for case in &cases {
        case.check()
            .map_err(|why| error(format!("{}: {why}", case.name)))?;
    }
    Ok(cases)
}

/// Runs cases against the law; `now` is when the bundle was issued.
#[must_use]
pub fn run_cases(law: &Law, files: &LawFiles, cases: &[Case]) -> Report {
    let results = cases.iter().map(|case| {
        let verdict = case.run(law, files);
        CaseResult {
            name: case.name.clone(),
            differences: case.differences(&verdict),
            verdict,
        }
    });
    Report {
        results: results.collect(),
    }
}

impl Case {
    fn check(&self) -> Result<(), String> {
        if self.nodes == 0 || self.nodes as usize > lictor_proto::limits::NODES {
            return Err("nodes is 1 to 10000".into());
        }
        let is_script = self.script.is_some() || self.named_script.is_some();
        let others = [
            self.fetch.is_some(),
            self.collect.is_some(),
            self.workspace.is_some(),
        ];
        let others = others.into_iter().filter(|is_there| *is_there).count();
        if others > 1 || (others == 1 && (is_script || !self.argv.is_empty())) {
            return Err("a case has one of argv, a script, fetch, collect and workspace".into());
        }
        let says_what = others == 1 || is_script || !self.argv.is_empty();
        if !self.cancel && (!says_what || self.profile.is_none()) {
            return Err(
                "a case names argv, a script, fetch, collect or workspace, and a profile; or it is a cancel"
                    .into(),
            );
        }
        if self.url.is_some() && self.fetch.is_none() {
            return Err("a url goes with fetch".into());
        }
        if self.script.is_some() && self.named_script.is_some() {
            return Err("a case has one of script and named_script".into());
        }
        if self.interpreter.is_some() && !is_script {
            return Err("an interpreter goes with a script".into());
        }
        let signed = !self.approvals.is_empty() || !self.releases.is_empty();
        if self.cancel && (says_what || self.profile.is_some() || signed) {
            return Err("a cancel has no argv, profile, approvals or releases".into());
        }
        self.timeout
            .iter()
            .chain([&self.valid])
            .try_for_each(|d| parse_duration(d).map(|_| ()))
    }

    fn run(&self, law: &Law, files: &LawFiles) -> Verdict {
        let now = files.meta.issued_at;
        let node = NodeContext {
            id: node_id(0),
            name: self.node.clone(),
            labels: self.labels.clone(),
            groups: files.fleet.groups_of(&self.node, &self.labels),
            kind: self.kind,
        };
        let job = self.job(files, now);
        if self.cancel {
            return evaluate_cancel(law, files, &self.cancel_doc(now), &job, &node);
        }
        let facts = self.facts(files, &job);
        let approvals: Vec<_> = self
            .approvals
            .iter()
            .map(|who| approval(who, &facts, now))
            .collect();
        let releases: Vec<_> = self.releases.iter().map(|who| release(who, now)).collect();
        let question = Question {
            files,
            job: &job,
            job_digest: JOB,
            node: &node,
            facts: &facts,
            approvals: &approvals,
            releases: &releases,
            now,
        };
        evaluate(law, &question)
    }

    fn job(&self, files: &LawFiles, now: Timestamp) -> Job {
        let spec = self.spec(files);
        let duration = |text: &String| parse_duration(text).unwrap_or_default();
        let operator = self.requester.as_ref().filter(|_| self.cancel);
        Job {
            tag: Default::default(),
            org: OrgId::from_root(&JOB),
            operator: operator.unwrap_or(&self.operator).clone(),
            nonce: vec![0; 16],
            nodes: (0..self.nodes)
                .map(node_id)
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect(),
            kind: spec.kind(),
            spec,
            profile: self.profile.clone().unwrap_or_else(default_node),
            stdin: self
                .stdin
                .as_ref()
                .map_or(Stdin::NONE, |text| Stdin::bytes(text.as_bytes())),
            secrets: secrets::in_order(&self.secrets),
            after: Default::default(),
            expect: Default::default(),
            output_to: Default::default(),
            reason: self.reason.clone(),
            retry_of: None,
            min_bundle: 0,
            issued_at: now,
            not_before: now,
            expires_at: now.plus(duration(&self.valid)),
            origin: Origin::assumed(self.scheduled),
        }
    }

    fn facts(&self, files: &LawFiles, job: &Job) -> Facts {
        let mut facts = Facts::assume(files.profiles.profiles.get(&job.profile), job);
        if let Some(path) = &self.program {
            facts.program.path.clone_from(path);
        }
        if let Some(digest) = self.sha256 {
            facts.program.sha256 = digest;
        }
        facts.program.writable = self.writable;
        facts.run_as_uid = self.uid;
        secrets::set_by(&self.secrets, &mut facts);
        facts
    }

    fn cancel_doc(&self, now: Timestamp) -> Cancel {
        Cancel {
            tag: Default::default(),
            org: OrgId::from_root(&JOB),
            job_digest: JOB,
            operator: self.operator.clone(),
            reason: self.reason.clone(),
            nodes: Vec::new(),
            min_bundle: 0,
            issued_at: now,
            expires_at: now.plus(Duration::from_secs(300)),
        }
    }

    fn differences(&self, verdict: &Verdict) -> Vec<String> {
        let mut found = Vec::new();
        let mut differ = |what: &str, wanted: &str, got: &str| {
            if wanted != got {
                found.push(format!("{what}: expected {wanted}, got {got}"));
            }
        };
        differ(
            "verdict",
            self.expect.as_str(),
            Expect::of(&verdict.outcome).as_str(),
        );
        if let Some(code) = self.code {
            let got = match &verdict.outcome {
                Outcome::Deny(refusal) => refusal.code.as_str(),
                _ => "none",
            };
            differ("code", code.as_str(), got);
        }
        if let Some(action) = &self.action {
            differ("action", action, verdict.action);
        }
        if let Some(rules) = &self.rules {
            let wanted: Vec<_> = rules.iter().map(String::as_str).collect();
            differ("rules", &wanted.join(", "), &verdict.rules.join(", "));
        }
        found
    }
}

/// Stands for the job that a case is about; its real digest would say nothing.
const JOB: Digest = Digest([7; 32]);

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn node_id(n: u32) -> NodeId {
    NodeId::derive(&OrgId::from_root(&JOB), &Digest::of(&n.to_le_bytes()).0)
}
