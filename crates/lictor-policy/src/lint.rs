//! What `lictor org check` warns of: policies that load, and probably do not mean what their author thinks.

use std::collections::BTreeSet;

use cedar_policy::{ActionConstraint, Effect};
use lictor_trust::LawFiles;
use serde_json::Value;

use crate::law::{Law, Problem, Rule, uid};

/// Everything worth a warning, sorted by file and policy.
#[must_use]
pub fn lint(law: &Law, files: &LawFiles) -> Vec<Problem> {
    let mut found = law.warnings.clone();
    for (id, rule) in &law.rules {
        let warn = |why: String| Problem::new(&rule.file, id, why);
        // Policies that loaded can be written as JSON; if one could not, it would only go without warnings.
        let json = rule.policy.to_json().unwrap_or_default();
        found.extend(
            boundaries(rule, &json)
                .into_iter()
                .map(|why| warn(why.to_owned())),
        );
        found.extend(unknown_names(&json, files).into_iter().map(warn));
        found.extend(gate_problems(law, files, id).into_iter().map(warn));
    }
    if law.rules.values().all(|r| r.policy.effect() == Effect::Forbid) {
        found.push(Problem::new(
            "",
            "",
            "no policy permits anything: everything is denied",
        ));
    }
    found.sort_by(|a, b| (&a.file, &a.policy, &a.why).cmp(&(&b.file, &b.policy, &b.why)));
    found
}

fn boundaries(rule: &Rule, json: &Value) -> Vec<&'static str> {
    let mut found = Vec::new();
    let mentions = |attribute: &str| uses(json, attribute);
    match rule.policy.effect() {
        Effect::Forbid if mentions("commands") => found.push(
            "a forbid by `commands` is a list of names, not a boundary: the same can be done under other names; the sandbox is the boundary",
        ),
        Effect::Permit if mentions("commands") && !mentions("redirects") => found
            .push("permits by `commands` without a look at `redirects`: `echo x > FILE` needs no command but echo"),
        Effect::Permit if covers(rule, "shell_opaque") && !mentions("namespaced") && !mentions("profile") => {
            found.push("permits opaque code without asking for `context.namespaced`: it can do whatever its user can");
        }
        _ => {}
    }
    found
}

fn covers(rule: &Rule, action: &str) -> bool {
    let Ok(wanted) = uid("Action", action) else {
        return true;
    };
    match rule.policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::In(uids) => uids.contains(&wanted),
        ActionConstraint::Eq(only) => only == wanted,
    }
}

fn gate_problems(law: &Law, files: &LawFiles, id: &str) -> Vec<String> {
    let Some(gate) = law.gates.get(id) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let able = files.roster.operators().filter(|o| gate.takes(o)).count();
    if able == gate.n as usize && !gate.release {
        found.push(format!(
            "exactly {able} in {} may approve, so none of them can ask for such a job themselves",
            gate.group
        ));
    }
    if law.rules.get(id).is_some_and(|rule| covers(rule, "cancel")) {
        let word = if gate.release { "release" } else { "approve" };
        found.push(format!(
            "covers cancel, which nobody can {word}: there it is a plain forbid"
        ));
    }
    found
}

/// Operators and groups that policies name and the bundle does not have: a typing error in a forbid forbids nothing.
fn unknown_names(json: &Value, files: &LawFiles) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(json, &mut |value| {
        let (Some(kind), Some(id)) = (value["type"].as_str(), value["id"].as_str()) else {
            return;
        };
        let known = match (kind, id.parse()) {
            ("Group", Ok(name)) => files.roster.groups().contains(&name),
            ("Operator", Ok(name)) => files.roster.operator(&name).is_some(),
            ("NodeGroup", Ok(name)) => files.fleet.groups.contains_key(&name),
            ("Group" | "Operator" | "NodeGroup", Err(_)) => false,
            _ => true,
        };
        if !known {
            let file = if kind == "NodeGroup" {
                "fleet.toml"
            } else {
                "roster.toml"
            };
            found.insert(format!("{kind}::{id:?} is not in {file}"));
        }
    });
    found
}

fn uses(json: &Value, attribute: &str) -> bool {
    let mut found = false;
    visit(json, &mut |value| {
        found |= value["attr"].as_str() == Some(attribute)
    });
    found
}

/// Calls `see` for every object. Policies are as deep as their author wrote them, so no recursion.
fn visit(json: &Value, see: &mut impl FnMut(&Value)) {
    let mut waiting = vec![json];
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(fields) => {
                see(value);
                waiting.extend(fields.values());
            }
            Value::Array(items) => waiting.extend(items),
            _ => {}
        }
    }
}
