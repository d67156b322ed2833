//! What people say and sign about jobs of others: rejections, reviews, cancels wherever a job is, questions at a terminal.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, wait_until};
use serde_json::Value;

use crate::fleet::Crew;
use crate::law::{second_operator, starter};
use crate::steps::{SOON, add_profile, detached, ended, id_of, mark, processes, reach, receipt, sh, state};

#[test]
fn a_rejection_is_shown_to_everybody_and_stops_nothing() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    let erin = second_operator(&lab, "erin", "\"ops\", \"leads\"")?;
    let id = id_of(&sh(lab.cli(), &["--detach"], "echo changed")?.result()?)?;
    reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;

    let own = lab.cli().run(&["reject", &id])?;
    ensure!(
        own.code()? == 126 && own.stderr.contains("lictor cancel"),
        "{}",
        own.stderr
    );
    let said = bob.ok(&["reject", "--reason", "not on a Friday", &id])?;
    ensure!(
        said.contains("It stops nothing") && said.contains("lictor cancel"),
        "{said}"
    );

    let shown = lab.cli().ok(&["job", &id])?;
    let words = "rejected   by bob at ";
    ensure!(
        shown.contains(words) && shown.contains("stops nothing: not on a Friday"),
        "{shown}"
    );
    let listed = erin.json(&["approvals"])?;
    assert_eq!(listed[0]["rejected_by"][0], "bob", "{listed}");
    ensure!(
        erin.ok(&["approvals"])?.contains("0 so far, 1 against"),
        "and in words"
    );
    let asked = erin.ok(&["approve", "--yes", &id])?;
    ensure!(asked.contains(words), "{asked}");
    assert_eq!(
        ended(lab.cli(), &id)?,
        "succeeded",
        "an approval counts all the same"
    );
    Ok(())
}

#[test]
fn an_expired_wait_is_over_and_no_longer_listed() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    let id = id_of(&sh(lab.cli(), &["--detach", "--valid", "8s"], "echo changed")?.result()?)?;
    reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;
    let listed = bob.json(&["approvals"])?;
    let job = lab.cli().json(&["job", &id])?;
    assert_eq!(listed[0]["expires_at"], job["job"]["expires_at"], "{listed}");
    let until = listed[0]["expires_at"].as_str().context("a time")?;
    ensure!(bob.ok(&["approvals"])?.contains(&until[..19]), "and in words");
    assert_eq!(ended(lab.cli(), &id)?, "expired");
    assert_eq!(bob.json(&["approvals"])?, serde_json::json!([]));
    let late = bob.run(&["approve", "--yes", &id])?;
    ensure!(
        late.code()? != 0 && late.stderr.contains("expired"),
        "{}",
        late.stderr
    );
    Ok(())
}

#[test]
fn a_run_that_broke_the_glass_is_listed_until_somebody_else_has_reviewed_it() -> Result<()> {
    let lab = starter()?;
    let roster = lab.home().join("org/roster.toml");
    let text = fs::read_to_string(&roster)?;
    fs::write(
        &roster,
        text.replace("\nbreak_glass = []", "\nbreak_glass = [\"leads\"]"),
    )?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    // Of two jobs one breaks the glass: the other needs no approval.
    let plain = ["run", "--json", "--profile", "host", "local", "--", "uname"];
    ensure!(bob.run(&plain)?.code()? == 0, "needs no approval");
    let id = id_of(&sh(&bob, &[], "echo urgent")?.result()?)?;
    ensure!(receipt(&bob, &id)?["break_glass"] == true, "it broke the glass");

    let listed = lab.cli().json(&["review"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(
        (&listed[0]["job_id"], &listed[0]["reviewed_by"]),
        (&id.as_str().into(), &serde_json::json!([]))
    );
    let own = bob.run(&["review", "--yes", &id])?;
    ensure!(
        own.code()? == 126 && own.stderr.contains("self_approval"),
        "{}",
        own.stderr
    );
    let unseen = lab.cli().run(&["--json", "review", &id])?;
    ensure!(
        unseen.code()? == 125 && unseen.stderr.contains("nobody is shown"),
        "{}",
        unseen.stderr
    );
    let shown = lab
        .cli()
        .ok(&["review", "--yes", "--reason", "it was burning", &id])?;
    ensure!(
        shown.contains("echo urgent") && shown.contains("has reviewed"),
        "{shown}"
    );
    assert_eq!(lab.cli().json(&["review", "--open"])?, serde_json::json!([]));
    let all = bob.ok(&["review"])?;
    ensure!(all.contains(&id) && !all.contains("not reviewed"), "{all}");
    ensure!(
        bob.ok(&["job", &id])?.contains(": it was burning"),
        "with its reason"
    );
    let none = lab
        .cli()
        .run(&["review", "--yes", &id_of(&bob.run(&plain)?.result()?)?])?;
    ensure!(
        none.code()? == 125 && none.stderr.contains("broke the glass"),
        "{}",
        none.stderr
    );
    Ok(())
}

/// Cancels it, twice; gives how it ended and how many receipts there are.
pub(crate) fn canceled_twice(cli: &Cli, id: &str) -> Result<(String, usize)> {
    cli.ok(&["cancel", id])?;
    let how = ended(cli, id)?;
    let before = cli.json(&["job", id])?["receipts"].clone();
    cli.ok(&["cancel", id])?;
    let after = cli.json(&["job", id])?["receipts"].clone();
    assert_eq!(before, after, "a second cancel changes nothing");
    Ok((how, after.as_array().map_or(0, Vec::len)))
}

#[test]
fn a_cancel_ends_a_job_wherever_it_is_and_a_second_one_changes_nothing() -> Result<()> {
    let lab = starter()?;
    let mark = mark();
    let waits = id_of(&sh(lab.cli(), &["--detach"], "echo changed")?.result()?)?;
    reach(lab.cli(), &waits, &["awaiting_approval"], SOON)?;
    assert_eq!(
        canceled_twice(lab.cli(), &waits)?,
        ("canceled".to_owned(), 1),
        "while it waits"
    );
    // In a sandbox nothing of ops waits for approval.
    let long = ["run", "--json", "--detach", "local", "--", "sleep", &mark];
    let runs = id_of(&lab.cli().run(&long)?.result()?)?;
    reach(lab.cli(), &runs, &["running"], SOON)?;
    assert_eq!(
        canceled_twice(lab.cli(), &runs)?,
        ("canceled".to_owned(), 1),
        "while it runs"
    );
    ensure!(
        processes(&format!("sleep {mark}")).is_empty(),
        "its tree is ended"
    );
    let over = id_of(
        &lab.cli()
            .run(&["run", "--json", "local", "--", "true"])?
            .result()?,
    )?;
    assert_eq!(
        canceled_twice(lab.cli(), &over)?,
        ("succeeded".to_owned(), 1),
        "what is over stays"
    );
    Ok(())
}

#[test]
fn a_cancel_ends_what_is_queued_for_a_node_that_is_away_or_busy_before_it_starts() -> Result<()> {
    let mut split = Split::start()?;
    let ran = split.home().join("ran");
    let script = format!("touch {}", ran.display());
    split.agent()?.kill()?;
    wait_until("the agent to be gone", SOON, || !split.is_connected())?;
    let queued = detached(split.cli(), &script)?;
    assert_eq!(state(split.cli(), &queued)?, "queued");
    split.cli().ok(&["cancel", &queued])?;
    split.cli().ok(&["cancel", &queued])?;
    split.start_agent()?;
    assert_eq!(ended(split.cli(), &queued)?, "canceled");
    assert_eq!(receipt(split.cli(), &queued)?["outcome"], "canceled");

    // One that was taken and waits for the other's sandbox: it was offered, and has not begun.
    add_profile(
        split.cli(),
        "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n",
    )?;
    let mark = mark();
    let work = |line: &str| -> Result<String> {
        let words = [
            "run",
            "--json",
            "--detach",
            "--profile",
            "keeps",
            "--sandbox",
            "shop",
        ];
        let rest = ["local", "--", "sh", "-c", line];
        id_of(&split.cli().run(&[&words[..], &rest[..]].concat())?.result()?)
    };
    let first = work(&format!("exec sleep {mark}"))?;
    reach(split.cli(), &first, &["running"], SOON)?;
    let second = work(&script)?;
    split.cli().ok(&["cancel", &second])?;
    assert_eq!(ended(split.cli(), &second)?, "canceled");
    split.cli().ok(&["cancel", &second])?;
    split.cli().ok(&["cancel", &first])?;
    assert_eq!(ended(split.cli(), &first)?, "canceled");
    ensure!(!ran.exists(), "neither of them has begun");
    Ok(())
}

/// What a command shows on a terminal of its own to somebody who types this.
pub(crate) fn at_a_terminal(cli: &Cli, words: &[&str], typed: &str) -> Result<String> {
    use std::io::Write as _;
    let inner = cli.command(words);
    let mut line = vec![inner.get_program().to_str().context("path")?.to_owned()];
    for word in inner.get_args() {
        line.push(format!("'{}'", word.to_str().context("word")?));
    }
    let mut command = Command::new("script");
    command.args(["-qec", &line.join(" "), "/dev/null"]).env_clear();
    command
        .env("PATH", "/usr/bin:/bin")
        .env("SHELL", "/bin/sh")
        .env("NO_COLOR", "1");
    command.env("LICTOR_HOME", cli.home());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    stdin.write_all(typed.as_bytes())?;
    let output = child.wait_with_output()?;
    drop(stdin);
    Ok(String::from_utf8(output.stdout)?)
}

const TWO: [(&str, &[&str]); 2] = [("web-1", &["role=web"]), ("web-2", &["role=web"])];

#[test]
fn before_a_job_runs_on_several_nodes_that_a_pattern_means_somebody_is_asked() -> Result<()> {
    let crew = Crew::of(&TWO)?;
    let words = ["run", "--profile", "host", "role=web", "--", "true"];
    let no = at_a_terminal(crew.cli(), &words, "no\n")?;
    ensure!(
        no.contains("2 nodes: web-1, web-2") && no.contains("Sign this? Type yes: "),
        "{no}"
    );
    ensure!(no.contains("nothing was signed"), "{no}");
    assert_eq!(
        crew.cli().json(&["jobs"])?,
        serde_json::json!([]),
        "and nothing was"
    );
    let yes = at_a_terminal(crew.cli(), &words, "yes\n")?;
    ensure!(
        yes.contains("2 of 2 succeeded") || yes.matches("succeeded").count() >= 2,
        "{yes}"
    );
    // Who names them, or says so, is not asked.
    for words in [
        &["run", "--profile", "host", "web-1", "web-2", "--", "true"][..],
        &["run", "--yes", "--profile", "host", "role=web", "--", "true"],
    ] {
        let shown = at_a_terminal(crew.cli(), words, "")?;
        ensure!(!shown.contains("Type yes"), "{shown}");
    }
    let jobs = crew.cli().json(&["jobs"])?;
    assert_eq!(jobs.as_array().map(Vec::len), Some(3), "{jobs}");
    Ok(())
}

#[test]
fn how_a_rollout_goes_on_is_told_at_a_terminal_and_not_to_programs() -> Result<()> {
    let crew = Crew::of(&TWO)?;
    let words = |tail: &'static str| {
        let options = ["run", "--profile", "host", "--batch", "1", "--max-failures", "1"];
        [&options[..], &["web-1", "web-2", "--", "sh", "-c", tail]].concat()
    };
    let shown = at_a_terminal(crew.cli(), &words("exit 3"), "")?;
    ensure!(shown.contains("the hub says that the rollout stopped"), "{shown}");
    ensure!(shown.contains("lictor rollout continue"), "{shown}");
    let id = crew.cli().json(&["jobs"])?[0]["job_id"]
        .as_str()
        .context("a job")?
        .to_owned();
    let rollout: Value = crew.cli().json(&["rollout", "show", &id])?;
    ensure!(rollout.to_string().contains("stopped"), "{rollout}");
    let good = at_a_terminal(crew.cli(), &words("true"), "")?;
    ensure!(
        !good.contains("stopped") && good.contains("batch 1 of 2 is at it"),
        "{good}"
    );
    let piped = crew.cli().run(&words("true"))?;
    ensure!(
        piped.code()? == 0 && !piped.stderr.contains("is at it"),
        "{}",
        piped.stderr
    );
    Ok(())
}

#[test]
fn an_approver_sees_what_a_job_brings_or_has_it_and_signs_for_nothing_else() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    let asks = |input: &[u8]| -> Result<String> {
        let words = [
            "run",
            "--json",
            "--profile",
            "host",
            "--detach",
            "--stdin",
            "local",
            "--",
            "sh",
            "-c",
            "cat",
        ];
        let id = id_of(&lab.cli().run_with_input(&words, input.to_vec())?.result()?)?;
        reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;
        Ok(id)
    };

    let text = asks(b"line one\nline \x1b[2Jtwo\n")?;
    let stored = stored_input(lab.home())?;
    let honest = fs::read(&stored)?;
    fs::write(&stored, b"line one\nline \x1b[2Jtoo\n")?;
    let lied_to = bob.run(&["approve", "--yes", &text])?;
    ensure!(
        lied_to.code()? != 0 && lied_to.stderr.contains("[stdin_mismatch]"),
        "{}",
        lied_to.stderr
    );
    ensure!(!lied_to.text().contains("line one"), "nothing of it is shown");
    fs::write(&stored, honest)?;
    let shown = bob.ok(&["approve", "--yes", &text])?;
    ensure!(shown.contains("  | line one\n"), "{shown}");
    ensure!(!shown.contains('\u{1b}') && shown.contains("[2Jtwo"), "{shown}");
    assert_eq!(ended(lab.cli(), &text)?, "succeeded");

    let binary = asks(b"\xff\xfe\x00")?;
    let unseen = bob.run(&["approve", "--yes", &binary])?;
    ensure!(
        unseen.code()? != 0 && unseen.stderr.contains("--input FILE"),
        "{}",
        unseen.stderr
    );
    let own = lab.home().join("own");
    let own_path = own.to_str().context("a path")?;
    fs::write(&own, b"\xff\xfe\x01")?;
    let other = bob.run(&["approve", "--yes", "--input", own_path, &binary])?;
    ensure!(
        other.code()? != 0 && other.stderr.contains("[stdin_mismatch]"),
        "{}",
        other.stderr
    );
    assert_eq!(
        state(lab.cli(), &binary)?,
        "awaiting_approval",
        "nobody has signed"
    );
    fs::write(&own, b"\xff\xfe\x00")?;
    bob.ok(&["approve", "--yes", "--input", own_path, &binary])?;
    assert_eq!(ended(lab.cli(), &binary)?, "succeeded");
    Ok(())
}

/// The only input that the hub has stored.
fn stored_input(home: &std::path::Path) -> Result<std::path::PathBuf> {
    let mut waiting = vec![home.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.is_dir() && !path.is_symlink() {
                waiting.push(path);
            } else if path.is_file() && path.to_string_lossy().contains("/objects/stdin/") {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("the hub has stored no input below {}", home.display())
}
