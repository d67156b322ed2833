//! Gates that a release lifts, beside those that approvals lift.

mod common;

use common::{files_of, org_with};
use lictor_policy::{Law, Outcome, Verdict, cases, run_cases};

const OPS: &str = r#"@id("ops") permit(principal in Group::"ops", action, resource);"#;
const GATE: &str = r#"@id("two") @approvals("2") @approvers("leads") forbid(principal, action, resource);"#;
const RELEASE: &str = r#"@id("batch") @releasers("ops") forbid(principal, action == Action::"exec", resource) when { context.nodes > 1 };"#;

fn refused(policy: &str) -> String {
    let files = files_of(&org_with(&[("p", policy)]));
    Law::load(&files).expect_err(policy).to_string()
}

fn verdict(policies: &[(&str, &str)], text: &str) -> Verdict {
    let operator = if text.contains("operator =") {
        ""
    } else {
        "operator = \"carol\"\n"
    };
    let case = format!(
        "[[case]]\nname = \"x\"\nexpect = \"permit\"\nprofile = \"sandbox\"\nargv = [\"uptime\"]\n{operator}{text}\n"
    );
    let case = cases::parse("x", &case).expect("case").remove(0);
    let files = files_of(&org_with(policies));
    let law = Law::load(&files).expect("loads");
    run_cases(&law, &files, &[case]).results.remove(0).verdict
}

fn open_gates(verdict: &Verdict) -> Vec<(&str, bool)> {
    match &verdict.outcome {
        Outcome::Ask(open) => open.iter().map(|g| (g.policy_id.as_str(), g.release)).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_release_lifts_its_gate_by_anybody_of_the_group_and_no_approval_does() {
    let law = [("p", OPS), ("r", RELEASE)];
    assert_eq!(verdict(&law, "nodes = 1").outcome, Outcome::Permit);
    assert_eq!(open_gates(&verdict(&law, "nodes = 2")), [("batch", true)]);
    // Carol asked for it, and is of the group.
    let released = verdict(&law, "nodes = 2\nreleases = [\"carol\"]");
    assert_eq!((released.outcome, released.approvals.len()), (Outcome::Permit, 1));
    let approved = verdict(&law, "nodes = 2\napprovals = [\"alice\", \"bob\"]");
    assert_eq!(open_gates(&approved), [("batch", true)]);
    let both = [("p", OPS), ("g", GATE), ("r", RELEASE)];
    let half = verdict(&both, "nodes = 2\nreleases = [\"carol\"]");
    assert_eq!(open_gates(&half), [("two", false)], "a release is no approval");
}

#[test]
fn breaking_the_glass_lifts_approvals_and_no_release() {
    let law = [("p", OPS), ("g", GATE), ("r", RELEASE)];
    let waits = verdict(&law, "operator = \"erin\"\nnodes = 2");
    assert_eq!(open_gates(&waits), [("batch", true)]);
    let released = verdict(&law, "operator = \"erin\"\nnodes = 2\nreleases = [\"carol\"]");
    assert!(matches!(released.outcome, Outcome::BreakGlass(open) if open.len() == 1));
}

#[test]
fn a_demand_for_a_release_is_a_forbid_of_its_own_with_a_group_that_exists() {
    for (policy, words) in [
        (
            r#"@id("x") @releasers("ops") permit(principal, action, resource);"#,
            "only a forbid",
        ),
        (
            r#"@id("x") @releasers("nobody") forbid(principal, action, resource);"#,
            "no group",
        ),
        (
            r#"@id("x") @releasers("ops") @approvals("1") @approvers("leads") forbid(principal, action, resource);"#,
            "two policies",
        ),
        (
            r#"@id("x") @releasers("ops") @binds("facts") forbid(principal, action, resource);"#,
            "@binds",
        ),
    ] {
        assert!(refused(policy).contains(words), "{}", refused(policy));
    }
}
