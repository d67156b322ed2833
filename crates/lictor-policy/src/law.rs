//! The law, loaded: policies parsed once, split into law and gates, ready to be asked.
//!
//! ```text
//! files --parse, ids, annotations--> rules --strict validation--> per action: law (permits, plain forbids) + gates
//! ```
//!
//! # Invariants
//! - All of it loads or none of it: a policy that is left out could be the forbid that mattered.
//! - A policy whose scope names other actions can neither match nor fail, so leaving it out of an action's sets
//!   changes no decision. Everything else is in.
//! - The order of files and of policies within them means nothing.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{
    ActionConstraint, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, ValidationMode,
    Validator,
};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest, Name};
use lictor_trust::LawFiles;
use miette::Diagnostic as _;

use crate::entities::EntityCache;
use crate::gate::Gate;
use crate::schema;

/// Every action that policies can speak of.
pub const ACTIONS: &[&str] = &[
    "exec",
    "shell",
    "shell_opaque",
    "script",
    "use_secret",
    "fetch",
    "collect",
    "workspace",
    "command",
    "terminal",
    "file_read",
    "file_write",
    "forward",
    "service",
    "cancel",
];

/// Most policies in a bundle.
const MAX_POLICIES: usize = 2_000;

/// A bundle's policies, loaded.
#[derive(Debug)]
pub struct Law {
    pub(crate) version: u64,
    pub(crate) digest: Digest,
    pub(crate) actions: HashMap<&'static str, ActionLaw>,
    pub(crate) rules: BTreeMap<String, Rule>,
    pub(crate) gates: BTreeMap<String, Gate>,
    pub(crate) profile_digests: BTreeMap<Name, Digest>,
    pub(crate) entities: EntityCache,
    pub(crate) warnings: Vec<Problem>,
}

/// What can matter for one action.
#[derive(Debug)]
pub(crate) struct ActionLaw {
    pub(crate) uid: EntityUid,
    pub(crate) law: PolicySet,
    pub(crate) gates: PolicySet,
}

/// One policy.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) file: String,
    pub(crate) policy: Policy,
}

/// Something about one policy, or about all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as `policies/NAME.cedar`; empty when it is about all.
    pub file: String,
    /// The policy's `@id`; empty when it is about the file.
    pub policy: String,
    /// What is wrong.
    pub why: String,
}

impl Problem {
    pub(crate) fn new(file: &str, policy: &str, why: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            policy: policy.to_owned(),
            why: why.into(),
        }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in [&self.file, &self.policy] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.why)
    }
}

/// Why a bundle's policies do not load; a node that holds such a bundle denies everything.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct LoadError {
    /// Everything that was found wrong.
    pub problems: Vec<Problem>,
}

impl LoadError {
    fn one(why: impl Into<String>) -> Self {
        Self {
            problems: vec![Problem::new("", "", why)],
        }
    }

    fn text(&self) -> String {
        let shown: Vec<_> = self.problems.iter().take(5).map(ToString::to_string).collect();
        let more = self.problems.len().saturating_sub(shown.len());
        let rest = if more == 0 {
            String::new()
        } else {
            format!("; and {more} more")
        };
        format!("{}{rest}", shown.join("; "))
    }
}

impl From<LoadError> for Refusal {
    fn from(e: LoadError) -> Self {
        let text: String = e
            .to_string()
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        Self::new(Code::BundleUnloadable, text)
    }
}

impl Law {
    /// Loads the policies of a bundle.
    ///
    /// # Errors
    /// [`LoadError`] with everything that is wrong.
    pub fn load(files: &LawFiles) -> Result<Self, LoadError> {
        if files.meta.schema_version != schema::VERSION {
            return Err(LoadError::one(format!(
                "policy schema {} is unknown",
                files.meta.schema_version
            )));
        }
        let rules = parse(&files.policies)?;
        let gates = gates(&rules, files)?;
        let warnings = validate(&rules)?;
        let actions = ACTIONS
            .iter()
            .map(|name| Ok((*name, ActionLaw::select(name, &rules, &gates)?)))
            .collect::<Result<_, LoadError>>()?;
        Ok(Self {
            version: files.meta.version,
            digest: files.meta.digest,
            actions,
            rules,
            gates,
            profile_digests: files
                .profiles
                .profiles
                .iter()
                .map(|(n, p)| (n.clone(), p.digest()))
                .collect(),
            entities: EntityCache::default(),
            warnings,
        })
    }

    /// Version of the bundle.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Digest of the bundle.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The gates, by policy id.
    #[must_use]
    pub fn gates(&self) -> &BTreeMap<String, Gate> {
        &self.gates
    }

    /// Ids of all policies, sorted.
    pub fn policy_ids(&self) -> impl Iterator<Item = &str> {
        self.rules.keys().map(String::as_str)
    }

    /// The text of a policy and the file that it is in, for showing.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<(&str, String)> {
        self.rules
            .get(id)
            .map(|r| (r.file.as_str(), r.policy.to_string()))
    }

    pub(crate) fn reason(&self, id: &str) -> Option<&str> {
        self.rules.get(id)?.policy.annotation("reason")
    }
}

/// All policies by `@id`.
fn parse(files: &BTreeMap<String, String>) -> Result<BTreeMap<String, Rule>, LoadError> {
    let mut rules = BTreeMap::new();
    let mut problems = Vec::new();
    for (name, text) in files {
        let file = format!("policies/{name}.cedar");
        match text.parse::<PolicySet>() {
            Ok(set) => add_file(&file, &set, &mut rules, &mut problems),
            Err(e) => problems.extend(e.iter().map(|e| Problem::new(&file, "", describe(e, text)))),
        }
    }
    if rules.len() > MAX_POLICIES {
        problems.push(Problem::new(
            "",
            "",
            format!("{} policies, at most {MAX_POLICIES}", rules.len()),
        ));
    }
    if problems.is_empty() {
        Ok(rules)
    } else {
        Err(LoadError { problems })
    }
}

fn add_file(file: &str, set: &PolicySet, rules: &mut BTreeMap<String, Rule>, problems: &mut Vec<Problem>) {
    if set.templates().next().is_some() {
        problems.push(Problem::new(file, "", "templates are not supported"));
    }
    for policy in set.policies() {
        let Some(id) = policy
            .annotation("id")
            .filter(|id| id.parse::<Name>().is_ok())
            .map(str::to_owned)
        else {
            let text: String = policy.to_string().chars().take(60).collect();
            problems.push(Problem::new(
                file,
                "",
                format!("a policy has no @id(\"name\"): {text} ..."),
            ));
            continue;
        };
        let rule = Rule {
            file: file.to_owned(),
            policy: policy.new_id(PolicyId::new(&id)),
        };
        if let Some(other) = rules.insert(id.clone(), rule) {
            problems.push(Problem::new(
                file,
                &id,
                format!("this @id is also in {}", other.file),
            ));
        }
    }
}

/// The parser's words and the line; its own report spans many lines.
fn describe(e: &cedar_policy::ParseError, text: &str) -> String {
    let at = e
        .labels()
        .and_then(|mut labels| labels.next())
        .map(|label| label.offset());
    match at.and_then(|at| text.get(..at)) {
        Some(before) => format!("line {}: {e}", before.matches('\n').count() + 1),
        None => e.to_string(),
    }
}

fn gates(rules: &BTreeMap<String, Rule>, files: &LawFiles) -> Result<BTreeMap<String, Gate>, LoadError> {
    let mut gates = BTreeMap::new();
    let mut problems = Vec::new();
    for (id, rule) in rules {
        match Gate::read(id, &rule.policy).and_then(|gate| gate.map(|g| staffed(g, files)).transpose()) {
            Ok(Some(gate)) => _ = gates.insert(id.clone(), gate),
            Ok(None) => {}
            Err(why) => problems.push(Problem::new(&rule.file, id, why)),
        }
    }
    if problems.is_empty() {
        Ok(gates)
    } else {
        Err(LoadError { problems })
    }
}

/// The group exists, with as many people as the gate asks for.
fn staffed(gate: Gate, files: &LawFiles) -> Result<Gate, String> {
    if !files.roster.groups().contains(&gate.group) {
        let word = if gate.release { "releasers" } else { "approvers" };
        return Err(format!(
            "@{word}({:?}) is no group of roster.toml",
            gate.group.as_str()
        ));
    }
    let able = files.roster.operators().filter(|o| gate.takes(o)).count();
    if able < gate.n as usize && gate.release {
        return Err(format!("@releasers({:?}) has no member", gate.group.as_str()));
    }
    if able < gate.n as usize {
        return Err(format!(
            "@approvals(\"{}\"), and only {able} in {} may approve",
            gate.n, gate.group
        ));
    }
    Ok(gate)
}

/// Strict validation of every policy against the schema; gives warnings back.
fn validate(rules: &BTreeMap<String, Rule>) -> Result<Vec<Problem>, LoadError> {
    let schema = schema::schema().ok_or_else(|| LoadError::one("the shipped schema is broken"))?;
    let set = set_of(rules.values())?;
    let result = Validator::new(schema.clone()).validate(&set, ValidationMode::Strict);
    let at = |id: &PolicyId, why: String| {
        let id: &str = id.as_ref();
        Problem::new(rules.get(id).map_or("", |r| &r.file), id, why)
    };
    let problems: Vec<_> = result
        .validation_errors()
        .map(|e| at(e.policy_id(), e.to_string()))
        .collect();
    if !problems.is_empty() {
        return Err(LoadError { problems });
    }
    Ok(result
        .validation_warnings()
        .map(|w| at(w.policy_id(), w.to_string()))
        .collect())
}

fn set_of<'a>(rules: impl Iterator<Item = &'a Rule>) -> Result<PolicySet, LoadError> {
    PolicySet::from_policies(rules.map(|r| r.policy.clone())).map_err(|e| LoadError::one(e.to_string()))
}

impl ActionLaw {
    fn select(
        name: &str,
        rules: &BTreeMap<String, Rule>,
        gates: &BTreeMap<String, Gate>,
    ) -> Result<Self, LoadError> {
        let uid = uid("Action", name)?;
        let relevant = |rule: &&Rule| match rule.policy.action_constraint() {
            ActionConstraint::Any => true,
            ActionConstraint::In(uids) => uids.contains(&uid),
            ActionConstraint::Eq(only) => only == uid,
        };
        let (gated, plain): (Vec<_>, Vec<_>) = rules.iter().partition(|(id, _)| gates.contains_key(*id));
        let law = set_of(plain.into_iter().map(|(_, r)| r).filter(relevant))?;
        let gates = set_of(gated.into_iter().map(|(_, r)| r).filter(relevant))?;
        Ok(Self { uid, law, gates })
    }
}

/// The id of an entity.
pub(crate) fn uid(kind: &str, id: &str) -> Result<EntityUid, LoadError> {
    let kind: EntityTypeName = kind
        .parse()
        .map_err(|_| LoadError::one(format!("{kind} is no type of the schema")))?;
    Ok(EntityUid::from_type_name_and_id(kind, EntityId::new(id)))
}
