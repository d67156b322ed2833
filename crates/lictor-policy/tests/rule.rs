//! The load rules and the exact rule, one sentence each.

mod common;

use std::collections::BTreeMap;

use common::{files_of, org_with};
use lictor_policy::{Case, Law, Outcome, Verdict, cases, run_cases};
use lictor_proto::Code;

const OPS: &str = r#"@id("ops") permit(principal in Group::"ops", action, resource);"#;
const GATE: &str = r#"@id("two") @approvals("2") @approvers("leads") forbid(principal, action, resource);"#;

fn load(policies: &[(&str, &str)]) -> Result<Law, String> {
    Law::load(&files_of(&org_with(policies))).map_err(|e| e.to_string())
}

fn refused(policy: &str) -> String {
    load(&[("p", policy)]).expect_err(policy)
}

fn case(text: &str) -> Case {
    let head = "[[case]]\nname = \"x\"\nexpect = \"permit\"\n";
    let mut text = format!("{head}{text}\n");
    for (key, default) in [
        ("operator", "\"carol\""),
        ("profile", "\"sandbox\""),
        ("argv", "[\"uptime\"]"),
    ] {
        let given = text.contains(&format!("\n{key} ="));
        let cancel = text.contains("cancel = true") && key != "operator";
        if !given && !cancel {
            text.push_str(&format!("{key} = {default}\n"));
        }
    }
    cases::parse("x", &text).expect("case").remove(0)
}

fn verdict(policies: &[(&str, &str)], text: &str) -> Verdict {
    let files = files_of(&org_with(policies));
    let law = Law::load(&files).expect("loads");
    run_cases(&law, &files, &[case(text)]).results.remove(0).verdict
}

fn code(verdict: &Verdict) -> Code {
    match &verdict.outcome {
        Outcome::Deny(refusal) => refusal.code,
        other => panic!("{other:?}"),
    }
}

fn is_ask(verdict: &Verdict) -> bool {
    matches!(verdict.outcome, Outcome::Ask(_))
}

// Loading

#[test]
fn every_policy_needs_an_id_of_its_own() {
    assert!(refused("permit(principal, action, resource);").contains("@id"));
    assert!(refused(r#"@id("A b") permit(principal, action, resource);"#).contains("@id"));
    assert!(refused(&format!("{OPS}{OPS}")).contains("also in policies/p.cedar"));
    let two_files = load(&[("a", OPS), ("b", OPS)]).expect_err("twice");
    assert!(
        two_files.contains("policies/b.cedar: ops: this @id is also in policies/a.cedar"),
        "{two_files}"
    );
}

#[test]
fn only_known_annotations_load() {
    assert!(
        refused(r#"@id("x") @allow("y") permit(principal, action, resource);"#).contains("@allow is unknown")
    );
    load(&[(
        "p",
        r#"@id("x") @reason("y") permit(principal, action, resource);"#,
    )])
    .expect("reason");
}

#[test]
fn gates_are_whole_and_only_forbids() {
    let forbid = |a: &str| format!(r#"@id("x") {a} forbid(principal, action, resource);"#);
    for (annotations, why) in [
        (r#"@approvals("1")"#, "only together"),
        (r#"@approvers("leads")"#, "only together"),
        (r#"@approvals("0") @approvers("leads")"#, "must be \"1\" to \"9\""),
        (
            r#"@approvals("10") @approvers("leads")"#,
            "must be \"1\" to \"9\"",
        ),
        (
            r#"@approvals("+1") @approvers("leads")"#,
            "must be \"1\" to \"9\"",
        ),
        (r#"@approvals("1") @approvers("nobody")"#, "is no group"),
        (r#"@approvals("3") @approvers("leads")"#, "only 2 in leads"),
        (
            r#"@approvals("4") @approvers("leads") @approver_kind("any")"#,
            "only 3 in leads",
        ),
        (
            r#"@approvals("1") @approvers("leads") @approver_kind("service")"#,
            "must be \"person\" or \"any\"",
        ),
        (
            r#"@approvals("1") @approvers("leads") @binds("job")"#,
            "must be \"facts\"",
        ),
        (r#"@binds("facts")"#, "belongs to a gate"),
        (r#"@approver_kind("any")"#, "belongs to a gate"),
    ] {
        let got = refused(&forbid(annotations));
        assert!(got.contains(why), "{annotations}: {got}");
    }
    let permit = r#"@id("x") @approvals("1") @approvers("leads") permit(principal, action, resource);"#;
    assert!(refused(permit).contains("only a forbid"));
    load(&[(
        "p",
        &forbid(r#"@approvals("3") @approvers("leads") @approver_kind("any") @binds("facts")"#),
    )])
    .expect("whole");
}

#[test]
fn policies_are_validated_strictly_against_the_schema() {
    for condition in [
        "context.nothing == 1",
        "context.argc == \"1\"",
        "context.commands.contains(\"ls\")", // not there for exec
        "resource.owner == principal",
        "principal in Team::\"x\"",
    ] {
        let policy = format!(
            "@id(\"x\") permit(principal, action == Action::\"exec\", resource) when {{ {condition} }};"
        );
        assert!(!refused(&policy).is_empty(), "{condition}");
    }
    assert!(!refused(r#"@id("x") permit(principal, action == Action::"reboot", resource);"#).is_empty());
}

#[test]
fn templates_and_broken_files_do_not_load_and_say_where() {
    assert!(refused(r#"@id("x") permit(principal == ?principal, action, resource);"#).contains("templates"));
    let broken = refused("@id(\"x\")\npermit(principal, action, resource)\nwhen { };");
    assert!(broken.starts_with("policies/p.cedar: line "), "{broken}");
}

#[test]
fn one_bad_policy_keeps_the_whole_bundle_from_loading() {
    assert!(load(&[("good", OPS), ("bad", "permit(principal, action, resource);")]).is_err());
    let refusal: lictor_proto::code::Refusal = Law::load(&files_of(&org_with(&[("p", "x")])))
        .expect_err("broken")
        .into();
    assert_eq!(refusal.code, Code::BundleUnloadable);
}

// The rule

#[test]
fn nothing_permitted_is_no_match() {
    assert_eq!(code(&verdict(&[], "")), Code::NoMatch);
    assert_eq!(
        code(&verdict(&[("p", OPS)], "operator = \"dave\"")),
        Code::NoMatch
    );
}

#[test]
fn a_permit_names_the_policies_that_permit() {
    let v = verdict(
        &[
            ("p", OPS),
            ("q", r#"@id("also") permit(principal, action, resource);"#),
        ],
        "",
    );
    assert_eq!(
        (v.outcome, v.rules),
        (Outcome::Permit, vec!["also".into(), "ops".into()])
    );
}

#[test]
fn a_forbid_wins_and_is_named_with_its_reason() {
    let no =
        r#"@id("no") @reason("not today") forbid(principal, action, resource) when { context.argc == 1 };"#;
    let exec_only = no.replace("action,", "action == Action::\"exec\",");
    let v = verdict(&[("p", OPS), ("q", &exec_only)], "");
    assert_eq!(
        (code(&v), v.rules.as_slice()),
        (Code::Forbidden, ["no".to_owned()].as_slice())
    );
    assert!(matches!(v.outcome, Outcome::Deny(r) if r.message == "forbidden by no: not today"));
}

#[test]
fn an_error_in_any_relevant_policy_is_a_denial_even_if_others_permit() {
    let overflow = "when { 9223372036854775807 + context.argc > 0 }";
    for (effect, annotations) in [
        ("permit", ""),
        ("forbid", ""),
        ("forbid", r#"@approvals("1") @approvers("leads")"#),
    ] {
        let bad = format!(
            "@id(\"bad\") {annotations} {effect}(principal, action == Action::\"exec\", resource) {overflow};"
        );
        let v = verdict(&[("p", OPS), ("q", &bad)], "");
        assert_eq!(
            (code(&v), v.rules),
            (Code::PolicyError, vec!["bad".to_owned()]),
            "{effect} {annotations}"
        );
        // Of no matter for another action.
        let v = verdict(
            &[("p", OPS), ("q", &bad)],
            "argv = [\"sh\", \"x\"]\nprogram = \"/usr/bin/dash\"",
        );
        assert_eq!(v.outcome, Outcome::Permit);
    }
}

#[test]
fn a_gate_asks_until_enough_distinct_people_have_approved() {
    let with = |approvals: &str| verdict(&[("p", OPS), ("g", GATE)], &format!("approvals = [{approvals}]"));
    let open = with("");
    assert!(is_ask(&open));
    assert_eq!(open.rules, ["ops", "two"]);
    assert!(is_ask(&with("\"alice\"")));
    assert!(
        is_ask(&with("\"alice\", \"alice\"")),
        "one person twice is one person"
    );
    assert!(
        is_ask(&with("\"alice\", \"carol\"")),
        "carol asks herself, and is no lead"
    );
    assert!(is_ask(&with("\"alice\", \"dave\"")), "dave is no lead");
    assert!(is_ask(&with("\"alice\", \"robo\"")), "robo is no person");
    assert!(
        is_ask(&with("\"alice\", \"nobody\"")),
        "nobody is not in the roster"
    );
    let met = with("\"alice\", \"bob\"");
    assert_eq!((met.outcome, met.approvals.len()), (Outcome::Permit, 2));
    assert_eq!(met.rules, ["ops", "two"]);
}

#[test]
fn nobody_counts_for_a_job_of_their_own() {
    let text = "operator = \"alice\"\napprovals = [\"alice\", \"bob\"]";
    assert!(is_ask(&verdict(&[("p", OPS), ("g", GATE)], text)));
}

#[test]
fn services_count_only_where_the_gate_says_any() {
    let gate = GATE.replace("@approvers", "@approver_kind(\"any\") @approvers");
    let v = verdict(&[("p", OPS), ("g", &gate)], "approvals = [\"alice\", \"robo\"]");
    assert_eq!(v.outcome, Outcome::Permit);
}

#[test]
fn each_gate_is_counted_alone_and_one_person_may_satisfy_two() {
    let one = |id: &str| {
        format!(r#"@id("{id}") @approvals("1") @approvers("leads") forbid(principal, action, resource);"#)
    };
    let v = verdict(
        &[("p", OPS), ("a", &one("g1")), ("b", &one("g2"))],
        "approvals = [\"alice\"]",
    );
    assert_eq!(v.outcome, Outcome::Permit);
    let v = verdict(
        &[("p", OPS), ("a", &one("g1")), ("b", GATE)],
        "approvals = [\"alice\"]",
    );
    assert!(
        matches!(v.outcome, Outcome::Ask(open) if open.len() == 1 && open[0].policy_id == "two" && open[0].n == 2)
    );
}

#[test]
fn approvals_lift_gates_and_never_law() {
    let no = r#"@id("no") forbid(principal, action, resource);"#;
    let v = verdict(
        &[("p", OPS), ("g", GATE), ("n", no)],
        "approvals = [\"alice\", \"bob\"]",
    );
    assert_eq!(code(&v), Code::Forbidden);
    let v = verdict(&[("g", GATE)], "approvals = [\"alice\", \"bob\"]");
    assert_eq!(code(&v), Code::NoMatch);
}

#[test]
fn breaking_the_glass_turns_an_ask_into_a_permit_and_never_a_denial() {
    let v = verdict(&[("p", OPS), ("g", GATE)], "operator = \"erin\"");
    assert!(matches!(v.outcome, Outcome::BreakGlass(open) if open.len() == 1));
    let no = r#"@id("no") forbid(principal, action, resource);"#;
    assert_eq!(
        code(&verdict(&[("p", OPS), ("n", no)], "operator = \"erin\"")),
        Code::Forbidden
    );
    assert_eq!(
        code(&verdict(&[("g", GATE)], "operator = \"erin\"")),
        Code::NoMatch
    );
}

// Around the rule

#[test]
fn groups_and_labels_of_a_node_come_from_grant_and_fleet() {
    let web = r#"@id("web") permit(principal, action, resource in NodeGroup::"web")
        when { resource.labels.contains("role=web") && resource.kind == "desktop" && resource.name == "n1" };"#;
    let text = "node = \"n1\"\nkind = \"desktop\"\nlabels = { role = \"web\" }";
    assert_eq!(verdict(&[("p", web)], text).outcome, Outcome::Permit);
    assert_eq!(
        code(&verdict(&[("p", web)], "node = \"n1\"\nkind = \"desktop\"")),
        Code::NoMatch
    );
}

#[test]
fn every_attribute_of_the_context_says_what_was_signed_and_found() {
    let conditions = [
        r#"context.argc == 3"#,
        r#"context.arg1 == "-c""#,
        r#"context.arg2 == "ls > /tmp/x""#,
        r#"context.argv.contains("sh")"#,
        r#"context.line == "sh -c 'ls > /tmp/x'""#,
        r#"context.program.path == "/usr/bin/dash""#,
        r#"context.program.name == "dash""#,
        r#"context.program.sha256 == "sha256:0101010101010101010101010101010101010101010101010101010101010101""#,
        r#"context.any_writable"#,
        r#"context.program.writable"#,
        r#"context.interpreters.isEmpty()"#,
        r#"context.interpreter_digests.isEmpty()"#,
        r#"context.env == ["A"]"#,
        r#"context.job_env == ["A"]"#,
        r#"context.job_env_pairs == ["A=b"]"#,
        r#"context.network == "none""#,
        r#"context.profile == "sandbox""#,
        r#"context.profile_digest like "sha256:*""#,
        r#"context.backend == "bubblewrap""#,
        r#"context.namespaced"#,
        r#"context.rootfs == """#,
        r#"context.rootfs_index == """#,
        r#"context.run_as_uid == 7"#,
        r#"context.cwd == "/""#,
        r#"context.timeout_ms == 30000"#,
        r#"context.grace_ms == 5000"#,
        r#"context.keep_bytes == 67108864"#,
        r#"context.validity_ms == 120000"#,
        r#"context.delay_ms == 0"#,
        r#"context.nodes == 3"#,
        r#"!context.retry"#,
        r#"context.reason == "why""#,
        r#"context.sandbox == "work""#,
        r#"context.stdin == "bytes""#,
        r#"context.stdin_size == 5"#,
        r#"context.stdin_sha256 like "sha256:*""#,
        r#"context.code == "ls > /tmp/x""#,
        r#"context.commands == ["ls"]"#,
        r#"context.redirects == ["/tmp/x"]"#,
    ];
    let text = "argv = [\"sh\", \"-c\", \"ls > /tmp/x\"]\nprogram = \"/usr/bin/dash\"\nwritable = true\nuid = 7\n\
        env = { A = \"b\" }\ntimeout = \"30s\"\nvalid = \"2m\"\nnodes = 3\nreason = \"why\"\nsandbox = \"work\"\nstdin = \"hello\"\n\
        sha256 = \"sha256:0101010101010101010101010101010101010101010101010101010101010101\"";
    let policies = conditions.iter().enumerate().map(|(n, condition)| {
        format!(
            "@id(\"c{n}\") forbid(principal, action == Action::\"shell\", resource) unless {{ {condition} }};"
        )
    });
    let all: String = policies.chain([OPS.to_owned()]).collect();
    assert_eq!(verdict(&[("p", &all)], text).rules, ["ops"]);
}

#[test]
fn caps_and_unknown_profiles_are_refused_whatever_policy_says() {
    let code_of = |text: &str| code(&verdict(&[("p", OPS)], text));
    assert_eq!(code_of("valid = \"25h\""), Code::ValidityTooLong);
    assert_eq!(code_of("timeout = \"25h\""), Code::LimitExceeded);
    assert_eq!(code_of("profile = \"other\""), Code::ProfileUnknown);
    assert_eq!(code_of("operator = \"mallory\""), Code::SignerUnknown);
    assert_eq!(
        code_of("profile = \"host\"\nenv = { LD_PRELOAD = \"x\" }"),
        Code::VariableRefused
    );
    let inside = verdict(&[("p", OPS)], "env = { LD_PRELOAD = \"x\" }");
    assert_eq!(inside.outcome, Outcome::Permit);
}

#[test]
fn cancel_is_an_action_and_its_gates_cannot_be_met() {
    let own = r#"@id("own") permit(principal, action == Action::"cancel", resource) when { context.requester == principal };"#;
    let v = verdict(&[("p", own)], "cancel = true\noperator = \"dave\"");
    assert_eq!((v.outcome, v.rules), (Outcome::Permit, vec!["own".to_owned()]));
    let v = verdict(
        &[("p", own)],
        "cancel = true\noperator = \"dave\"\nrequester = \"carol\"",
    );
    assert_eq!(code(&v), Code::NoMatch);
    let v = verdict(&[("p", own), ("g", GATE)], "cancel = true\noperator = \"dave\"");
    assert_eq!((code(&v), v.rules), (Code::Forbidden, vec!["two".to_owned()]));
}

#[test]
fn law_and_files_of_different_bundles_are_never_mixed() {
    let mut files = files_of(&org_with(&[("p", OPS)]));
    let law = Law::load(&files).expect("loads");
    files.meta.digest = lictor_proto::Digest([9; 32]);
    let report = run_cases(&law, &files, &[case("")]);
    assert_eq!(code(&report.results[0].verdict), Code::PolicyError);
}

#[test]
fn warnings_name_what_is_no_boundary() {
    let org = org_with(&[(
        "p",
        r#"@id("deny-rm") forbid(principal, action == Action::"shell", resource) when { context.commands.contains("rm") };
           @id("allow-ls") permit(principal, action == Action::"shell", resource) when { ["ls"].containsAll(context.commands) };
           @id("opaque") permit(principal in Group::"opps", action, resource in NodeGroup::"db");
           @id("tight") @approvals("2") @approvers("leads") forbid(principal, action == Action::"exec", resource);"#,
    )]);
    let files = files_of(&org);
    let law = Law::load(&files).expect("loads");
    let by_policy =
        lictor_policy::lint(&law, &files)
            .into_iter()
            .fold(BTreeMap::<_, Vec<_>>::new(), |mut all, p| {
                all.entry(p.policy).or_default().push(p.why);
                all
            });
    assert!(by_policy["deny-rm"][0].contains("not a boundary"));
    assert!(by_policy["allow-ls"][0].contains("redirects"));
    assert!(
        by_policy["opaque"]
            .iter()
            .any(|w| w == "Group::\"opps\" is not in roster.toml")
    );
    assert!(
        by_policy["opaque"]
            .iter()
            .any(|w| w == "NodeGroup::\"db\" is not in fleet.toml")
    );
    assert!(by_policy["opaque"].iter().any(|w| w.contains("namespaced")));
    assert!(by_policy["tight"][0].contains("exactly 2"));
}

#[test]
fn a_case_about_a_workspace_is_judged_as_a_job_would_be() {
    let rule = r#"@id("pay-stays") forbid(principal, action == Action::"workspace", resource)
        when { context.sandbox == "pay" && context.operation == "remove" };
        @id("ours") forbid(principal, action == Action::"workspace", resource)
        when { context.operation == "clone" } unless { context.git_host == "git.example.org" };"#;
    let law = [("p", OPS), ("q", rule)];
    let of = |work: &str| {
        let text = format!("argv = []\nworkspace = {{ {work} }}");
        verdict(&law, &text)
    };
    let commit = "0123456789abcdef0123456789abcdef01234567";
    for allowed in [
        "operation = \"list\"".to_owned(),
        "operation = \"remove\", sandbox = \"shop\"".to_owned(),
        "operation = \"show\", sandbox = \"pay\"".to_owned(),
        format!(
            "operation = \"clone\", sandbox = \"a\", git = {{ url = \"https://git.example.org/a\", commit = \"{commit}\" }}"
        ),
    ] {
        assert!(matches!(of(&allowed).outcome, Outcome::Permit), "{allowed}");
    }
    for denied in [
        "operation = \"remove\", sandbox = \"pay\"".to_owned(),
        format!(
            "operation = \"clone\", sandbox = \"a\", git = {{ url = \"https://evil.example.org/a\", commit = \"{commit}\" }}"
        ),
    ] {
        assert_eq!(code(&of(&denied)), Code::Forbidden, "{denied}");
    }
    let both = "[[case]]\nname='x'\noperator='a'\nprofile='host'\nexpect='deny'\nargv=['x']\nworkspace={operation='list'}\n";
    assert!(cases::parse("x.toml", both).is_err());
}
