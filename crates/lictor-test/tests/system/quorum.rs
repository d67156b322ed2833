//! Who counts among those who approve, when they count, and what they are shown of each kind of job.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::doc::{Approval, ApprovalFacts, Ask};
use lictor_proto::{Envelope, Timestamp, limits};
use lictor_test::hostile::passkey;
use lictor_test::{Cli, Done, Lab, wait_until};
use serde_json::Value;

use crate::law::{change_law, second_operator, starter};
use crate::steps::{SOON, audits_hold, ended, id_of, reach, receipt, sh, state};

/// Besides what the starter asks for: two of leads for whatever a shell does on the host.
const TWO: &str = "\n@id(\"shells-need-two-leads\")\n@approvals(\"2\")\n@approvers(\"leads\")\n\
                   forbid (principal, action == Action::\"shell\", resource) when { !context.namespaced };\n";

/// How often the node has asked.
fn asked(cli: &Cli) -> Result<usize> {
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("path")?;
    let log = cli.ok(&["audit", "--agent", agent, "export"])?;
    Ok(log.matches("\"job_asked\"").count())
}

/// Approves, and waits until the node has judged anew and asked again.
fn is_not_enough(first: &Cli, approver: &Cli, id: &str, options: &[&str]) -> Result<()> {
    let before = asked(first)?;
    approver.ok(&[&["approve", "--yes"], options, &[id]].concat())?;
    wait_until("the node asks once more", SOON, || {
        asked(first).is_ok_and(|n| n > before)
    })?;
    assert_eq!(state(first, id)?, "awaiting_approval");
    Ok(())
}

fn waiting(cli: &Cli) -> Result<String> {
    let id = id_of(&sh(cli, &["--detach"], "echo changed")?.result()?)?;
    reach(cli, &id, &["awaiting_approval"], SOON)?;
    Ok(id)
}

fn approvers(cli: &Cli, id: &str) -> Result<usize> {
    let receipt = receipt(cli, id)?;
    Ok(receipt["approvals"].as_array().map_or(0, Vec::len))
}

/// What a service may approve, and what only a person.
const BY_KIND: &str = "\n@id(\"a-person\") @approvals(\"1\") @approvers(\"leads\")\n\
     forbid (principal, action == Action::\"exec\", resource) when { context.called == \"id\" };\n\
     @id(\"anybody\") @approvals(\"1\") @approvers(\"leads\") @approver_kind(\"any\")\n\
     forbid (principal, action == Action::\"exec\", resource) when { context.called == \"uname\" };\n";

#[test]
fn a_service_counts_where_the_gate_says_that_anybody_does_and_nowhere_else() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let (bot, bob) = (
        second_operator(&lab, "bot", "\"leads\"")?,
        second_operator(&lab, "bob", "\"leads\"")?,
    );
    let roster = cli.home().join("org/roster.toml");
    let person = "[operators.bot]\nkind = \"person\"";
    let text = fs::read_to_string(&roster)?;
    ensure!(text.contains(person), "{text}");
    fs::write(
        &roster,
        text.replace(person, &person.replace("person", "service")),
    )?;
    change_law(cli, "policies/host.cedar", BY_KIND)?;
    let waits = |program: &str| -> Result<String> {
        let words = [
            "run",
            "--json",
            "--detach",
            "--profile",
            "host",
            "local",
            "--",
            program,
        ];
        let id = id_of(&cli.run(&words)?.result()?)?;
        reach(cli, &id, &["awaiting_approval"], SOON)?;
        Ok(id)
    };
    let (by_a_person, by_anybody) = (waits("id")?, waits("uname")?);
    is_not_enough(cli, &bot, &by_a_person, &[])?;
    bot.ok(&["approve", "--yes", &by_anybody])?;
    ensure!(ended(cli, &by_anybody)? == "succeeded");
    assert_eq!(
        receipt(cli, &by_anybody)?["approvals"]
            .as_array()
            .map_or(0, Vec::len),
        1
    );
    assert_eq!(state(cli, &by_a_person)?, "awaiting_approval");
    bob.ok(&["approve", "--yes", &by_a_person])?;
    ensure!(ended(cli, &by_a_person)? == "succeeded");
    Ok(())
}

#[test]
fn two_of_a_group_are_two_people_who_are_in_it_by_the_law_at_the_start_and_never_the_requester() -> Result<()>
{
    let lab = starter()?;
    let cli = lab.cli();
    let leads = "\"ops\", \"leads\"";
    let (bob, carol) = (
        second_operator(&lab, "bob", leads)?,
        second_operator(&lab, "carol", leads)?,
    );
    let (dave, erin) = (
        second_operator(&lab, "dave", leads)?,
        second_operator(&lab, "erin", "\"ops\"")?,
    );
    change_law(cli, "policies/host.cedar", TWO)?;

    // Two of them are enough.
    let plain = waiting(cli)?;
    is_not_enough(cli, &bob, &plain, &[])?;
    carol.ok(&["approve", "--yes", &plain])?;
    assert_eq!(ended(cli, &plain)?, "succeeded");
    assert_eq!(approvers(cli, &plain)?, 2);

    let id = waiting(cli)?;
    is_not_enough(cli, &bob, &id, &[])?;
    is_not_enough(cli, &bob, &id, &["--valid", "30m"])?;
    is_not_enough(cli, &erin, &id, &[])?;
    let own = cli.run(&["approve", "--yes", &id])?;
    ensure!(
        own.code()? == 126 && own.stderr.contains("self_approval"),
        "{}",
        own.stderr
    );

    // Bob leaves the group while the job waits.
    let roster = lab.home().join("org/roster.toml");
    let text = fs::read_to_string(&roster)?;
    let of_bob = format!("[operators.bob]\nkind = \"person\"\ngroups = [{leads}]");
    ensure!(text.contains(&of_bob), "{text}");
    fs::write(&roster, text.replace(&of_bob, &of_bob.replace(leads, "\"ops\"")))?;
    cli.ok(&["org", "sign"])?;
    cli.ok(&["org", "push"])?;
    // A job is bound to its operator's law: once one has run, the node has it too, and Carol's word cannot overtake it.
    cli.ok(&["run", "--profile", "host", "local", "--", "uname"])?;
    is_not_enough(cli, &carol, &id, &[])?;
    dave.ok(&["approve", "--yes", &id])?;
    assert_eq!(ended(cli, &id)?, "succeeded");
    assert_eq!(approvers(cli, &id)?, 2, "of those who are in it now");
    audits_hold(cli)
}

#[test]
fn an_approval_that_has_expired_counts_no_more() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let leads = "\"ops\", \"leads\"";
    let (bob, carol) = (
        second_operator(&lab, "bob", leads)?,
        second_operator(&lab, "carol", leads)?,
    );
    change_law(cli, "policies/host.cedar", TWO)?;
    let id = waiting(cli)?;
    is_not_enough(cli, &bob, &id, &["--valid", "2s"])?;
    let documents = || cli.json(&["job", &id]).unwrap_or_default();
    wait_until("it to expire", SOON, || {
        // What does not hold any more is not shown.
        documents()["approvals"].as_array().is_none_or(Vec::is_empty)
    })?;
    is_not_enough(cli, &carol, &id, &[])?;
    bob.ok(&["approve", "--yes", &id])?;
    assert_eq!(ended(cli, &id)?, "succeeded");
    Ok(())
}

#[test]
fn an_approval_of_other_facts_than_those_at_the_start_denies_the_job() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    let dir = tempfile::tempdir()?;
    let tool = dir.path().canonicalize()?.join("tool");
    fs::copy("/bin/true", &tool)?;
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
    let path = tool.to_str().context("path")?;
    let asks = || -> Result<String> {
        let words = [
            "run",
            "--json",
            "--detach",
            "--profile",
            "host",
            "local",
            "--",
            path,
        ];
        let id = id_of(&cli.run(&words)?.result()?)?;
        reach(cli, &id, &["awaiting_approval"], SOON)?;
        Ok(id)
    };
    let unchanged = asks()?;
    let shown = bob.ok(&["approve", "--yes", &unchanged])?;
    ensure!(shown.contains("program") && shown.contains(path), "{shown}");
    assert_eq!(ended(cli, &unchanged)?, "succeeded");

    let changed = asks()?;
    fs::copy("/bin/false", &tool)?;
    bob.ok(&["approve", "--yes", &changed])?;
    assert_eq!(ended(cli, &changed)?, "denied");
    let job = cli.json(&["job", &changed])?;
    assert_eq!(job["executions"][0]["code"], "facts_changed", "{job}");
    Ok(())
}

/// Calls the hub's API as a program does that is not ours.
fn api(lab: &Lab, token: &str, path: &str, body: Option<&str>) -> Result<Value> {
    let url = format!("{}/api/v1/jobs/{path}", lab.url());
    let authorization = format!("Authorization: Bearer {token}");
    let mut words = vec!["-sS", "-H", &authorization, &url];
    words.extend(body.into_iter().flat_map(|b| ["--data-binary", b]));
    let done = std::process::Command::new("curl").args(words).output()?;
    serde_json::from_slice(&done.stdout).with_context(|| format!("{path}: {done:?}"))
}

/// What is signed in an envelope that stands in the answer of an API.
fn payload(wire: &Value) -> Result<Envelope> {
    let wire = wire.as_str().context("an envelope")?;
    Envelope::parse(wire.as_bytes(), limits::JOB_ENVELOPE).map_err(|e| anyhow::anyhow!("{e}"))
}

#[test]
fn what_a_passkey_signed_goes_through_the_hub_and_counts_on_the_node_for_its_own_page_only() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let erin = "\n[operators.erin]\nkind = \"person\"\ngroups = [\"ops\", \"leads\"]\n".to_owned();
    change_law(cli, "roster.toml", &(erin + &passkey::roster()))?;
    let made = cli.json(&["tokens", "new", "--scope", "submit", "page"])?;
    let token = made["secret"].as_str().context("a token")?;
    let id = waiting(cli)?;
    let documents = api(&lab, token, &format!("{id}/documents"), None)?;
    let job = payload(&documents["job"])?.digest();
    let ask: Ask = serde_json::from_slice(&payload(&documents["asks"][0])?.payload)?;
    let now = Timestamp::now();
    let approval = Approval {
        tag: Default::default(),
        org: ask.org.clone(),
        job_digest: job,
        approver: "erin".parse()?,
        facts: vec![ApprovalFacts {
            node_id: ask.node_id.clone(),
            facts_digest: ask.facts_digest,
        }],
        min_bundle: ask.bundle_version,
        issued_at: now,
        expires_at: now.plus(std::time::Duration::from_secs(600)),
    };
    let hand_in = |origin| {
        let wire = passkey::wire(&approval, passkey::signature(&approval, origin));
        api(&lab, token, &format!("{id}/approvals"), Some(&wire))
    };
    let elsewhere = hand_in("https://elsewhere.example")?;
    assert_eq!(elsewhere["code"], "assertion_invalid", "{elsewhere}");
    assert_eq!(state(cli, &id)?, "awaiting_approval");
    hand_in(passkey::ORIGIN)?;
    assert_eq!(ended(cli, &id)?, "succeeded");
    assert_eq!(approvers(cli, &id)?, 1);
    audits_hold(cli)
}

/// Starts a command that waits for an approval; gives the job that waits, and the command's end.
fn begun(cli: &Cli, words: &[&str]) -> Result<(String, thread::JoinHandle<Result<Done>>)> {
    let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
    let other = cli.clone();
    let doing = thread::spawn(move || {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        other.run(&words)
    });
    let mut id = String::new();
    let found = wait_until("it waits for approval", SOON, || {
        let listed = cli.json(&["approvals"]).unwrap_or_default();
        listed[0]["job_id"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut id);
        !id.is_empty()
    });
    if let Err(e) = found {
        let done = doing.join().ok().context("the command")??;
        return Err(e.context(format!("{}\n{}", done.text(), done.stderr)));
    }
    Ok((id, doing))
}

/// Bob approves what a command waits for; gives what he was shown, once that has ended well.
fn approved(lab: &Lab, bob: &Cli, words: &[&str]) -> Result<String> {
    let (id, doing) = begun(lab.cli(), words)?;
    let shown = bob.ok(&["approve", "--yes", &id])?;
    let done = doing.join().ok().context("the command")??;
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    assert_eq!(approvers(lab.cli(), &id)?, 1);
    Ok(shown)
}

fn shows(shown: &str, parts: &[&str]) -> Result<()> {
    for part in parts {
        ensure!(shown.contains(part), "{part:?} is not in:\n{shown}");
    }
    Ok(())
}

#[test]
fn files_and_workspaces_wait_for_approvals_too_and_approvers_see_all_of_what_they_sign() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    let dir = tempfile::tempdir()?;
    let at = dir.path().canonicalize()?;
    let text = |path: &Path| path.to_str().map(str::to_owned).context("path");
    let (here, there, back) = (
        text(&at.join("here"))?,
        text(&at.join("there"))?,
        text(&at.join("back"))?,
    );
    fs::write(&here, "first line\nsecond line\n")?;

    let put = ["cp", "--mode", "0640", &here, &format!("local:{there}")];
    let shown = approved(&lab, &bob, &put)?;
    let digest = lictor_proto::Digest::of(b"first line\nsecond line\n").to_string();
    let puts = format!("puts       {there}");
    let content = format!("content    23 bytes, {digest}");
    shows(
        &shown,
        &[
            &puts,
            &content,
            "mode       0640",
            "owner      the profile's user",
            "replaces   nothing",
            "  | first line",
            "  | second line",
            "1 of leads must approve (host-files-need-a-lead)",
            "it found out:",
        ],
    )?;
    assert_eq!(fs::read(&there)?, fs::read(&here)?);

    let shown = approved(
        &lab,
        &bob,
        &["cp", "--max-bytes", "1MiB", &format!("local:{there}"), &back],
    )?;
    let brings = format!("brings     {there}, and all below it");
    shows(
        &shown,
        &[&brings, "at most    1048576 bytes", "(host-files-need-a-lead)"],
    )?;
    assert_eq!(fs::read(&back)?, fs::read(&here)?);

    // Nobody has approved: nothing is there.
    let again = format!("local:{}", text(&at.join("never"))?);
    let waits = lab.cli().run(&["cp", "--valid", "3s", &here, &again])?;
    ensure!(
        waits.code()? != 0 && !at.join("never").exists(),
        "{}",
        waits.stderr
    );

    let profile = "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n";
    change_law(lab.cli(), "profiles.toml", profile)?;
    change_law(
        lab.cli(),
        "policies/sandbox.cedar",
        "\n@id(\"ops-workspaces\")\npermit (principal in Group::\"ops\", action == Action::\"workspace\", resource);\n\
         @id(\"removals-need-a-lead\")\n@approvals(\"1\")\n@approvers(\"leads\")\n\
         forbid (principal, action == Action::\"workspace\", resource) when { context.operation == \"remove\" };\n",
    )?;
    let make = [
        "run",
        "--profile",
        "keeps",
        "--sandbox",
        "shop",
        "local",
        "--",
        "true",
    ];
    lab.cli().ok(&make)?;
    let words = |word: &'static str| ["workspace", word, "--profile", "keeps", "local", "shop"];
    lab.cli().ok(&words("show"))?;
    let shown = approved(&lab, &bob, &words("rm"))?;
    shows(
        &shown,
        &[
            "workspace  remove shop",
            "1 of leads must approve (removals-need-a-lead)",
        ],
    )?;
    let gone = lab.cli().run(&words("show"))?;
    ensure!(
        gone.code()? != 0 && gone.text().contains("sandbox_unknown")
            || gone.stderr.contains("sandbox_unknown"),
        "{}",
        gone.stderr
    );
    audits_hold(lab.cli())
}
