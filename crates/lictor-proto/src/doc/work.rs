//! The work of a job: one shape for each kind, and what those that run a process have in common.
//!
//! A spec is read by the job's `kind`, never by what it looks like, so that an error names the field that is wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::terms::Terms;
use super::transfer::{Collect, Fetch};
use super::workspace::{GitCommit, Workspace};
use super::{Invalid, ensure};
use crate::ids::{Digest, JobId, Name};
use crate::{json, limits};

/// The kinds of job. A node refuses the others by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum JobKind {
    /// A program and its arguments.
    Exec,
    /// A script, by an interpreter.
    Script,
    /// A file to the node.
    Fetch,
    /// A file or a directory from the node.
    Collect,
    /// Something done with a workspace.
    Workspace,
}

impl JobKind {
    /// All there are.
    pub const ALL: &'static [Self] = &[
        Self::Exec,
        Self::Script,
        Self::Fetch,
        Self::Collect,
        Self::Workspace,
    ];

    /// The word in a job.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Script => "script",
            Self::Fetch => "fetch",
            Self::Collect => "collect",
            Self::Workspace => "workspace",
        }
    }

    /// The kind of this word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|k| k.as_str() == word)
    }
}

/// The work of a job; its shape goes with [`JobKind`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Spec {
    /// For [`JobKind::Exec`].
    Exec(Exec),
    /// For [`JobKind::Script`].
    Script(Script),
    /// For [`JobKind::Fetch`].
    Fetch(Fetch),
    /// For [`JobKind::Collect`].
    Collect(Collect),
    /// For [`JobKind::Workspace`].
    Workspace(Workspace),
}

impl Spec {
    /// Which kind it is of.
    #[must_use]
    pub const fn kind(&self) -> JobKind {
        match self {
            Self::Exec(_) => JobKind::Exec,
            Self::Script(_) => JobKind::Script,
            Self::Fetch(_) => JobKind::Fetch,
            Self::Collect(_) => JobKind::Collect,
            Self::Workspace(_) => JobKind::Workspace,
        }
    }

    /// What it says about the process that it runs: what carries files, or looks after a workspace, is one too, the node's
    /// own program in the profile's sandbox.
    #[must_use]
    pub fn process(&self) -> Process<'_> {
        match self {
            Self::Exec(exec) => exec.process(),
            Self::Script(script) => script.process(),
            Self::Fetch(fetch) => fetch.process(),
            Self::Collect(collect) => collect.process(),
            Self::Workspace(workspace) => workspace.process(),
        }
    }

    /// The commit that is brought into the directory of the job alone, before its process begins.
    #[must_use]
    pub fn git(&self) -> Option<&GitCommit> {
        match self {
            Self::Exec(exec) => exec.git.as_ref(),
            Self::Script(script) => script.git.as_ref(),
            Self::Fetch(_) | Self::Collect(_) | Self::Workspace(_) => None,
        }
    }

    /// The work as the words of one line, for people: the argv of a command; of a script its interpreter, its name or
    /// the beginning of its digest, and its arguments.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::Exec(exec) => exec.argv.clone(),
            Self::Script(script) => script.words(),
            Self::Fetch(fetch) => fetch.words(),
            Self::Collect(collect) => collect.words(),
            Self::Workspace(workspace) => workspace.words(),
        }
    }

    pub(super) fn read(kind: JobKind, spec: serde_json::Value) -> Result<Self, String> {
        Ok(match kind {
            JobKind::Exec => Self::Exec(json::from_value("spec", spec)?),
            JobKind::Script => Self::Script(json::from_value("spec", spec)?),
            JobKind::Fetch => Self::Fetch(json::from_value("spec", spec)?),
            JobKind::Collect => Self::Collect(json::from_value("spec", spec)?),
            JobKind::Workspace => Self::Workspace(json::from_value("spec", spec)?),
        })
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        if let Some(git) = self.git() {
            git.validate()?;
            ensure(self.process().sandbox.is_none(), || {
                let why =
                    "goes into a directory of the job's own; a kept one is cloned into by a job of its own";
                Invalid::field("spec.git", why)
            })?;
        }
        let is_a_jobs = |name: &Name| name.as_str().parse::<JobId>().is_ok();
        ensure(!self.process().sandbox.is_some_and(is_a_jobs), || {
            let why = "has the form of a job's id, and so the directory of one job is called";
            Invalid::field("spec.sandbox", why)
        })?;
        match self {
            Self::Exec(exec) => exec.validate(),
            Self::Script(script) => script.validate(),
            Self::Fetch(fetch) => fetch.validate(),
            Self::Collect(collect) => collect.validate(),
            Self::Workspace(workspace) => workspace.validate(),
        }
    }
}

impl From<Exec> for Spec {
    fn from(exec: Exec) -> Self {
        Self::Exec(exec)
    }
}

impl From<Fetch> for Spec {
    fn from(fetch: Fetch) -> Self {
        Self::Fetch(fetch)
    }
}

impl From<Collect> for Spec {
    fn from(collect: Collect) -> Self {
        Self::Collect(collect)
    }
}

impl From<Workspace> for Spec {
    fn from(workspace: Workspace) -> Self {
        Self::Workspace(workspace)
    }
}

impl From<Script> for Spec {
    fn from(script: Script) -> Self {
        Self::Script(script)
    }
}

/// Run one program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments. A program without `/` is looked up in the profile's `PATH`.
    pub argv: Vec<String>,
    /// The whole environment besides what the profile sets; nothing is inherited.
    pub env: BTreeMap<String, String>,
    /// Working directory; `null` means the profile's.
    pub cwd: Option<String>,
    /// Wall time after which the whole process tree is ended, in milliseconds; `null` means the profile's.
    pub timeout_ms: Option<u64>,
    /// Between SIGTERM and SIGKILL, in milliseconds; `null` means the profile's.
    pub grace_ms: Option<u64>,
    /// How many bytes of output to keep (head and tail), both streams together; `null` means the profile's.
    pub keep_bytes: Option<u64>,
    /// The kept sandbox of the profile to work in, by its name; left out for one of the job's own, which goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Name>,
    /// Who it runs as, its umask and its limits, where the job says so; left out for what the profile says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// A commit that is brought into its own directory before it begins, and goes with that; left out for an empty one. Not
    /// together with `sandbox`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitCommit>,
}

/// Run one script: the text that `sha256` names, by an interpreter. The text is in the job, or in the bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The text; left out with `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Which script of the bundle, `scripts/NAME`; left out with `content`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// SHA-256 of the text, wherever it is.
    pub sha256: Digest,
    /// Who reads it: a name, looked up in the profile's `PATH`. Where that leads must be an interpreter of this name.
    pub interpreter: Name,
    /// What it is called with, after its own name.
    pub args: Vec<String>,
    /// As of [`Exec`].
    pub env: BTreeMap<String, String>,
    /// As of [`Exec`].
    pub cwd: Option<String>,
    /// As of [`Exec`].
    pub timeout_ms: Option<u64>,
    /// As of [`Exec`].
    pub grace_ms: Option<u64>,
    /// As of [`Exec`].
    pub keep_bytes: Option<u64>,
    /// As of [`Exec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Name>,
    /// As of [`Exec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
    /// As of [`Exec`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitCommit>,
}

/// Where the text of a script is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScriptSource<'a> {
    /// In the job.
    Content(&'a str),
    /// In the bundle, under this name.
    Bundle(&'a Name),
}

/// What a job says about its process, besides what is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process<'a> {
    /// The whole environment besides what the profile sets.
    pub env: &'a BTreeMap<String, String>,
    /// Working directory, if the job names one.
    pub cwd: Option<&'a str>,
    /// The wall time limit, if the job sets one.
    pub timeout: Option<Duration>,
    /// Between SIGTERM and SIGKILL, in milliseconds, if the job says so.
    pub grace_ms: Option<u64>,
    /// How many bytes of output to keep, if the job says so.
    pub keep_bytes: Option<u64>,
    /// The kept sandbox to work in, if the job names one.
    pub sandbox: Option<&'a Name>,
    /// Who it runs as, its umask and its limits, if the job says so.
    pub terms: Option<&'a Terms>,
}

impl Exec {
    /// Just this command, everything else as the profile says.
    #[must_use]
    pub fn new(argv: Vec<String>) -> Self {
        Self {
            argv,
            env: BTreeMap::new(),
            cwd: None,
            timeout_ms: None,
            grace_ms: None,
            keep_bytes: None,
            sandbox: None,
            terms: None,
            git: None,
        }
    }

    /// What it says about its process.
    #[must_use]
    pub fn process(&self) -> Process<'_> {
        Process {
            env: &self.env,
            cwd: self.cwd.as_deref(),
            timeout: self.timeout_ms.map(Duration::from_millis),
            grace_ms: self.grace_ms,
            keep_bytes: self.keep_bytes,
            sandbox: self.sandbox.as_ref(),
            terms: self.terms.as_ref(),
        }
    }

    fn validate(&self) -> Result<(), Invalid> {
        ensure(self.argv.first().is_some_and(|p| !p.is_empty()), || {
            Invalid::field("spec.argv", "names a program")
        })?;
        self.process().validate(("spec.argv", &self.argv))
    }
}

impl Script {
    /// This text, everything else as the profile says.
    #[must_use]
    pub fn new(interpreter: Name, content: String, args: Vec<String>) -> Self {
        let sha256 = Digest::of(content.as_bytes());
        Self {
            content: Some(content),
            ..Self::named(interpreter, None, sha256, args)
        }
    }

    /// This script of the bundle, everything else as the profile says.
    #[must_use]
    pub fn of_bundle(interpreter: Name, (name, sha256): (Name, Digest), args: Vec<String>) -> Self {
        Self::named(interpreter, Some(name), sha256, args)
    }

    fn named(interpreter: Name, name: Option<Name>, sha256: Digest, args: Vec<String>) -> Self {
        Self {
            content: None,
            name,
            sha256,
            interpreter,
            args,
            env: BTreeMap::new(),
            cwd: None,
            timeout_ms: None,
            grace_ms: None,
            keep_bytes: None,
            sandbox: None,
            terms: None,
            git: None,
        }
    }

    /// Where its text is; `None` for a spec that does not validate.
    #[must_use]
    pub fn source(&self) -> Option<ScriptSource<'_>> {
        match (&self.content, &self.name) {
            (Some(content), None) => Some(ScriptSource::Content(content)),
            (None, Some(name)) => Some(ScriptSource::Bundle(name)),
            (None, None) | (Some(_), Some(_)) => None,
        }
    }

    /// What it says about its process.
    #[must_use]
    pub fn process(&self) -> Process<'_> {
        Process {
            env: &self.env,
            cwd: self.cwd.as_deref(),
            timeout: self.timeout_ms.map(Duration::from_millis),
            grace_ms: self.grace_ms,
            keep_bytes: self.keep_bytes,
            sandbox: self.sandbox.as_ref(),
            terms: self.terms.as_ref(),
        }
    }

    fn words(&self) -> Vec<String> {
        let short = |digest: &Digest| digest.to_string().chars().take(19).collect();
        let what = self
            .name
            .as_ref()
            .map_or_else(|| short(&self.sha256), Name::to_string);
        let mut words = vec![self.interpreter.to_string(), what];
        words.extend(self.args.iter().cloned());
        words
    }

    fn validate(&self) -> Result<(), Invalid> {
        match self.source() {
            None => {
                let why = "exactly one of content and name is there";
                return Err(Invalid::field("spec.content", why));
            }
            Some(ScriptSource::Bundle(_)) => {}
            Some(ScriptSource::Content(text)) => {
                ensure(text.len() <= limits::SCRIPT, || {
                    Invalid::limit("spec.content", "at most 1 MiB")
                })?;
                ensure(Digest::of(text.as_bytes()) == self.sha256, || {
                    Invalid::field("spec.sha256", "is not the digest of content")
                })?;
            }
        }
        self.process().validate(("spec.args", &self.args))
    }
}

impl<'a> Process<'a> {
    /// With this environment, everything else as the profile says.
    pub(super) fn plain(env: &'a BTreeMap<String, String>) -> Self {
        Self {
            env,
            cwd: None,
            timeout: None,
            grace_ms: None,
            keep_bytes: None,
            sandbox: None,
            terms: None,
        }
    }

    /// Checks these, and the words that the process is started with.
    fn validate(&self, (field, words): (&'static str, &[String])) -> Result<(), Invalid> {
        let nul = |s: &str| s.contains('\0');
        ensure(!words.iter().any(|a| nul(a)), || {
            Invalid::field(field, "contains a NUL byte")
        })?;
        let bad_name = |k: &str| k.is_empty() || k.contains('=') || nul(k);
        ensure(!self.env.iter().any(|(k, v)| bad_name(k) || nul(v)), || {
            Invalid::field(
                "spec.env",
                "a name is empty or contains `=`, or a NUL byte occurs",
            )
        })?;
        ensure(self.env.len() <= limits::ENV_VARS, || {
            Invalid::limit("spec.env", "at most 1024 variables")
        })?;
        let bytes: usize = words.iter().map(|a| a.len() + 1).sum::<usize>()
            + self.env.iter().map(|(k, v)| k.len() + v.len() + 2).sum::<usize>();
        ensure(bytes <= limits::ARGV_ENV, || {
            Invalid::limit(
                field,
                format!("arguments and environment are {bytes} bytes, at most 131072"),
            )
        })?;
        ensure(self.cwd.is_none_or(|c| c.starts_with('/') && !nul(c)), || {
            Invalid::field("spec.cwd", "an absolute path")
        })?;
        self.terms.map_or(Ok(()), Terms::validate)?;
        self.check_times()
    }

    pub(super) fn check_times(&self) -> Result<(), Invalid> {
        let possible = Duration::from_millis(1)..=limits::VALIDITY;
        ensure(self.timeout.is_none_or(|t| possible.contains(&t)), || {
            Invalid::limit("spec.timeout_ms", "1 ms to 30 days")
        })?;
        ensure(self.grace_ms.is_none_or(|g| g <= 600_000), || {
            Invalid::limit("spec.grace_ms", "at most 10 minutes")
        })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
