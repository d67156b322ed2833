//! What approvers of wide jobs are shown: equal asks once, who has not asked, whose signature is wanted, and why.

use anyhow::{Context as _, Result, ensure};
use lictor_test::Cli;
use serde_json::{Value, json};

use crate::fleet::Crew;
use crate::law::{asks_again, change_law, second_operator_at};
use crate::retired::node_is;
use crate::steps::id_of;

const THREE: [(&str, &[&str]); 3] = [("web-1", &["role=web"]), ("web-2", &["role=web"]), ("web-3", &[])];

/// A rule that jobs on several nodes wait for so many others of `ops`.
fn gate(crew: &Crew, n: u32) -> Result<()> {
    let rule = format!(
        "@id(\"several-need-another\") @approvals(\"{n}\") @approvers(\"ops\")\n\
         forbid (principal, action in [Action::\"exec\", Action::\"shell\"], resource) when {{ context.nodes > 1 }};\n"
    );
    change_law(crew.cli(), "policies/demo.cedar", &rule)
}

/// A job of several nodes that work in one directory, so that all of them find out the same.
fn asks(crew: &Crew, reason: &str, targets: &[&str]) -> Result<String> {
    let mut words = vec![
        "run",
        "--json",
        "--detach",
        "--profile",
        "host",
        "--valid",
        "1h",
        "--cwd",
        "/tmp",
        "--reason",
        reason,
    ];
    words.extend(targets);
    words.extend(["--", "sh", "-c", "echo done"]);
    id_of(&crew.cli().run(&words)?.result()?)
}

/// The only job that `lictor approvals` lists.
fn listed(cli: &Cli) -> Result<Value> {
    let all = cli.json(&["approvals"])?;
    ensure!(all.as_array().map(Vec::len) == Some(1), "{all}");
    Ok(all[0].clone())
}

#[test]
fn equal_asks_are_shown_once_and_nobody_signs_unawares_for_who_has_not_asked() -> Result<()> {
    let mut crew = Crew::of(&THREE)?;
    let bob = second_operator_at(crew.cli(), crew.lab.url(), "bob", "\"ops\"")?;
    gate(&crew, 1)?;
    asks_again(&bob)?;
    // Where all have asked, one look and one signature do.
    let all = asks(&crew, "", &["web-1", "web-2"])?;
    for name in ["web-1", "web-2"] {
        node_is(crew.cli(), &all, (name, "awaiting_approval"))?;
    }
    let shown = bob.ok(&["approve", "--yes", &all])?;
    ensure!(shown.contains("2 of 2 nodes have asked"), "{shown}");
    ensure!(
        shown.matches("nodes ask, under law").count() == 1 && shown.matches("\n    program = ").count() == 1,
        "{shown}"
    );
    for name in ["web-1", "web-2"] {
        node_is(crew.cli(), &all, (name, "succeeded"))?;
    }

    crew.stop(2)?;
    let id = asks(&crew, "ticket 4711", &["web-*"])?;
    for name in ["web-1", "web-2"] {
        node_is(crew.cli(), &id, (name, "awaiting_approval"))?;
    }
    let one = listed(&bob)?;
    assert_eq!(
        (&one["asked"], &one["of"], &one["reason"]),
        (&json!(2), &json!(3), &json!("ticket 4711"))
    );
    assert_eq!(one["nodes"], json!(["web-1", "web-2", "web-3"]));
    let waits = json!([{
        "policy_id": "several-need-another", "group": "ops", "release": false, "missing": 1, "nodes": 2, "yours": true,
    }]);
    assert_eq!(one["waits_for"], waits);
    assert_eq!(
        listed(crew.cli())?["waits_for"][0]["yours"],
        false,
        "who asks does not count"
    );
    let text = bob.ok(&["approvals"])?;
    for part in [
        "2 of 3 nodes",
        "1 of ops on 2 nodes (several-need-another, you may)",
        "ticket 4711",
    ] {
        ensure!(text.contains(part), "{part}: {text}");
    }

    for words in [
        &["approve", "--yes", &id][..],
        &["--json", "approve", "--yes", &id],
    ] {
        let refused = bob.run(words)?;
        ensure!(
            refused.code()? == 125 && refused.stderr.contains("--unasked"),
            "{}",
            refused.stderr
        );
        ensure!(refused.stderr.contains("web-3"), "{}", refused.stderr);
    }
    assert_eq!(
        crew.cli().json(&["job", &id])?["approvals"],
        json!([]),
        "nothing was signed"
    );
    let shown = bob.ok(&["approve", "--yes", "--unasked", &id])?;
    for part in [
        "reason     ticket 4711",
        "2 of 3 nodes have asked",
        "1 have not asked",
        ": web-3",
    ] {
        ensure!(shown.contains(part), "{part}: {shown}");
    }
    for name in ["web-1", "web-2"] {
        node_is(crew.cli(), &id, (name, "succeeded"))?;
    }
    crew.start(2)?;
    node_is(crew.cli(), &id, ("web-3", "succeeded"))
}

#[test]
fn each_approver_sees_how_many_verified_approvals_there_are_and_whether_theirs_is_wanted() -> Result<()> {
    let crew = Crew::of(&THREE)?;
    let cli = crew.cli();
    let bob = second_operator_at(cli, crew.lab.url(), "bob", "\"ops\"")?;
    let erin = second_operator_at(cli, crew.lab.url(), "erin", "\"ops\"")?;
    let dave = second_operator_at(cli, crew.lab.url(), "dave", "\"admins\"")?;
    gate(&crew, 2)?;
    for home in [&bob, &erin, &dave] {
        asks_again(home)?;
    }
    let id = asks(&crew, "", &["web-1", "web-2"])?;
    for name in ["web-1", "web-2"] {
        node_is(cli, &id, (name, "awaiting_approval"))?;
    }
    let sees = |home: &Cli| -> Result<(Value, Value, Value)> {
        let one = listed(home)?;
        let wanted = one["waits_for"][0].clone();
        Ok((
            one["approved_by"].clone(),
            wanted["missing"].clone(),
            wanted["yours"].clone(),
        ))
    };
    assert_eq!(sees(&bob)?, (json!([]), json!(2), json!(true)));
    // The same person twice is one of two.
    bob.ok(&["approve", "--yes", &id])?;
    bob.ok(&["approve", "--yes", &id])?;
    assert_eq!(
        sees(&bob)?,
        (json!(["bob"]), json!(1), json!(false)),
        "who has signed is not wanted again"
    );
    assert_eq!(sees(&erin)?, (json!(["bob"]), json!(1), json!(true)));
    assert_eq!(
        sees(&dave)?,
        (json!(["bob"]), json!(1), json!(false)),
        "nor who is of another group"
    );
    ensure!(erin.ok(&["approvals"])?.contains("1 so far"), "and in words");
    erin.ok(&["approve", "--yes", &id])?;
    for name in ["web-1", "web-2"] {
        node_is(cli, &id, (name, "succeeded"))?;
    }
    let receipts = cli.json(&["job", &id])?["receipts"].clone();
    let counted = receipts[0]["approvals"].as_array().context("approvals")?.len();
    assert_eq!(counted, 2, "{receipts}");
    Ok(())
}
