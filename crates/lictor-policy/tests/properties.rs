//! Promises that hold for every law, tried on many.
//!
//! Removing `@binds` is left out of "removing an annotation never allows more": it is the one annotation that only
//! adds a demand to approvals (docs/policy.md says so).

mod common;

use std::collections::BTreeMap;

use cedar_policy::{Policy, PolicySet};
use common::{demo_files, files_of, full_files, org_with};
use lictor_policy::{Case, Law, Outcome, cases, run_cases};
use proptest::prelude::*;

/// How much an answer allows.
fn allows(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Deny(_) => 0,
        Outcome::Ask(_) => 1,
        Outcome::BreakGlass(_) | Outcome::Permit => 2,
    }
}

/// How much a law allows for each case; a law that does not load allows nothing.
fn answers(org: &BTreeMap<String, String>, cases: &[Case]) -> Vec<u8> {
    let files = files_of(org);
    match Law::load(&files) {
        Ok(law) => run_cases(&law, &files, cases)
            .results
            .iter()
            .map(|r| allows(&r.verdict.outcome))
            .collect(),
        Err(_) => vec![0; cases.len()],
    }
}

fn questions() -> Vec<Case> {
    let mut text = String::new();
    for operator in ["alice", "carol", "dave", "erin", "robo"] {
        for (profile, argv) in [
            ("host", r#"["ls"]"#),
            ("sandbox", r#"["sh", "-c", "ls; id"]"#),
            ("sandbox", r#"["python3", "x"]"#),
        ] {
            for approvals in [
                "",
                "\"bob\"",
                "\"alice\", \"bob\"",
                "\"robo\", \"bob\", \"carol\"",
            ] {
                let program = if argv.contains("sh") {
                    "program = \"/usr/bin/dash\"\n"
                } else {
                    ""
                };
                text.push_str(&format!(
                    "[[case]]\nname = \"x\"\nexpect = \"deny\"\noperator = \"{operator}\"\nprofile = \"{profile}\"\n\
                     argv = {argv}\n{program}approvals = [{approvals}]\n"
                ));
            }
        }
    }
    cases::parse("x", &text).expect("cases")
}

fn scope() -> impl Strategy<Value = String> {
    let principal = prop::sample::select(vec![
        "principal",
        "principal in Group::\"ops\"",
        "principal == Operator::\"alice\"",
    ]);
    let action = prop::sample::select(vec![
        "action",
        "action == Action::\"exec\"",
        "action in [Action::\"shell\", Action::\"shell_opaque\"]",
        "action in [Action::\"exec\", Action::\"shell\", Action::\"shell_opaque\"]",
    ]);
    (principal, action).prop_map(|(p, a)| format!("{p}, {a}, resource"))
}

fn condition() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "when { resource.kind == \"server\" }",
        "when { principal.kind == \"person\" }",
        "unless { principal in Group::\"leads\" }",
        "when { resource.labels.contains(\"a=b\") }",
    ])
}

const GATES: &[&str] = &[
    "@approvals(\"1\") @approvers(\"leads\")",
    "@approvals(\"2\") @approvers(\"leads\") @approver_kind(\"any\")",
    "@approvals(\"2\") @approvers(\"leads\") @approver_kind(\"person\") @reason(\"r\")",
    "@approvals(\"3\") @approvers(\"ops\")",
    "@releasers(\"ops\")",
];

fn policy() -> impl Strategy<Value = String> {
    let head = prop_oneof![
        3 => Just("permit".to_owned()),
        1 => Just("forbid".to_owned()),
        2 => prop::sample::select(GATES.to_vec()).prop_map(|g| format!("{g} forbid")),
    ];
    (head, scope(), condition()).prop_map(|(h, s, c)| format!("{h}({s}) {c};"))
}

fn law() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(policy(), 1..6).prop_map(|all| {
        all.iter()
            .enumerate()
            .map(|(n, p)| format!("@id(\"p{n}\") {p}"))
            .collect()
    })
}

fn org(policies: &[String]) -> BTreeMap<String, String> {
    org_with(&[("p", &policies.join("\n"))])
}

/// The policy without one of its annotations.
fn without(policy: &str, annotation: &str) -> String {
    let Some(start) = policy.find(&format!("@{annotation}(")) else {
        return policy.to_owned();
    };
    let end = policy[start..]
        .find("\")")
        .map_or(policy.len(), |e| start + e + 2);
    format!("{}{}", &policy[..start], &policy[end..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn adding_a_forbid_or_a_gate_never_allows_more(law in law(), gate in prop::option::of(prop::sample::select(GATES.to_vec())), scope in scope(), condition in condition()) {
        let asked = questions();
        let before = answers(&org(&law), &asked);
        let mut more = law;
        more.push(format!("@id(\"added\") {} forbid({scope}) {condition};", gate.unwrap_or_default()));
        let after = answers(&org(&more), &asked);
        prop_assert!(before.iter().zip(&after).all(|(b, a)| a <= b), "{more:#?}");
    }

    #[test]
    fn removing_an_annotation_never_allows_more(law in law(), annotation in prop::sample::select(vec!["id", "approvals", "approvers", "approver_kind", "releasers", "reason"]), which in any::<prop::sample::Index>()) {
        let asked = questions();
        let before = answers(&org(&law), &asked);
        let n = which.index(law.len());
        let mut less = law.clone();
        less[n] = without(&law[n], annotation);
        let after = answers(&org(&less), &asked);
        prop_assert!(before.iter().zip(&after).all(|(b, a)| a <= b), "{less:#?}");
    }

    #[test]
    fn removing_both_halves_of_a_gate_never_allows_more(law in law()) {
        let asked = questions();
        let before = answers(&org(&law), &asked);
        let plain: Vec<_> = law.iter().map(|p| without(&without(&without(&without(p, "approvals"), "approvers"), "approver_kind"), "releasers")).collect();
        let after = answers(&org(&plain), &asked);
        prop_assert!(before.iter().zip(&after).all(|(b, a)| a <= b), "{plain:#?}");
    }

    #[test]
    fn the_order_of_files_and_policies_means_nothing(law in law(), seed in any::<u64>()) {
        let asked = questions();
        let before = answers(&org(&law), &asked);
        let mut shuffled: Vec<_> = law.iter().enumerate().map(|(n, p)| (seed.rotate_left(n as u32 * 7), n, p)).collect();
        shuffled.sort();
        let named: Vec<_> = shuffled.iter().enumerate().map(|(n, (_, _, p))| (format!("f{n}"), p.as_str())).collect();
        let files: Vec<_> = named.iter().map(|(name, p)| (name.as_str(), *p)).collect();
        prop_assert_eq!(answers(&org_with(&files), &asked), before);
    }
}

/// Every policy that is shipped, made to fail before its first condition, denies whatever it would have decided.
#[test]
fn an_evaluation_error_in_any_shipped_policy_is_a_denial() {
    for org in [full_files(), demo_files()] {
        let tests: Vec<_> = org
            .iter()
            .filter(|(path, _)| path.starts_with("tests/"))
            .collect();
        let asked: Vec<Case> = tests
            .iter()
            .flat_map(|(path, text)| cases::parse(path, text).expect("cases"))
            .collect();
        for (path, text) in org.iter().filter(|(path, _)| path.starts_with("policies/")) {
            let ids: Vec<_> = text
                .parse::<PolicySet>()
                .expect("parses")
                .policies()
                .map(|p| p.id().clone())
                .collect();
            for id in ids {
                denies_when_it_fails(&org, path, text, id.as_ref(), &asked);
            }
        }
    }
}

fn denies_when_it_fails(
    org: &BTreeMap<String, String>,
    path: &str,
    text: &str,
    broken: &str,
    asked: &[Case],
) {
    let set: PolicySet = text.parse().expect("parses");
    let mut changed = String::new();
    let (mut name, mut scope_only) = (String::new(), String::new());
    for policy in set.policies() {
        if AsRef::<str>::as_ref(policy.id()) == broken {
            name = policy.annotation("id").expect("id").to_owned();
            let (failing, bare) = fail_first(policy);
            changed.push_str(&failing);
            scope_only = bare;
        } else {
            changed.push_str(&policy.to_string());
        }
        changed.push('\n');
    }
    let mut changed_org = org.clone();
    changed_org.insert(path.to_owned(), changed);
    let files = files_of(&changed_org);
    let law = Law::load(&files).expect("loads: the failure is one of evaluation");
    let applies = in_scope(org, &scope_only, asked);
    for (result, applies) in run_cases(&law, &files, asked).results.iter().zip(applies) {
        let Outcome::Deny(refusal) = &result.verdict.outcome else {
            assert!(
                !applies,
                "{name} failed and {} was allowed: {:?}",
                result.name, result.verdict
            );
            continue;
        };
        // A gate is not reached where law denies already.
        assert!(
            !applies
                || refusal.code == lictor_proto::Code::PolicyError
                || result.verdict.rules != [name.clone()]
        );
    }
}

/// Where a policy's scope alone matches.
fn in_scope(org: &BTreeMap<String, String>, permit: &str, asked: &[Case]) -> Vec<bool> {
    let mut only = org.clone();
    only.retain(|path, _| !path.starts_with("policies/"));
    only.insert("policies/only.cedar".into(), permit.to_owned());
    answers(&only, asked).into_iter().map(|a| a == 2).collect()
}

/// The policy with a condition in front that overflows, and its scope as a permit without conditions.
fn fail_first(policy: &Policy) -> (String, String) {
    let overflow = serde_json::json!({"kind": "when", "body": {">": {
        "left": {"+": {"left": {"Value": i64::MAX}, "right": {"Value": 1}}}, "right": {"Value": 0}}}});
    let mut json = policy.to_json().expect("json");
    json["conditions"]
        .as_array_mut()
        .expect("conditions")
        .insert(0, overflow);
    let failing = Policy::from_json(None, json.clone()).expect("policy").to_string();
    json["conditions"] = serde_json::json!([]);
    json["effect"] = "permit".into();
    json["annotations"] = serde_json::json!({"id": "only"});
    (
        failing,
        Policy::from_json(None, json).expect("policy").to_string(),
    )
}
