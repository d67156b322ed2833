//! Cancels wherever a job is: in time, of whole trees, in every sandbox, before a start and in the middle of a copy.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Lab, Split, SplitOptions, wait_until};

use crate::approvals::canceled_twice;
use crate::secret_ways::that_run;
use crate::steps::{SOON, add_profile, detached, ended, id_of, mark, processes, reach, receipt, sh};

const BOXES: [&str; 5] = ["t-host", "t-landlock", "t-bubblewrap", "t-container", "t-gvisor"];
/// Longer than the five seconds of a profile that says nothing of it.
const GRACE: Duration = Duration::from_secs(8);
/// What ending takes beside the grace, of all of them at once, on a machine that has more to do.
const ENDING: Duration = Duration::from_secs(20);

/// Profiles of these names for each backend, whose jobs would run for an hour and have [`GRACE`] to end; and for each one
/// called `p-` in place of `t-`, whose grace is longer than anybody waits here.
fn add_boxes(cli: &Cli) -> Result<()> {
    let one = |name: &str, grace: u64| {
        let backend = name.trim_start_matches("t-").trim_start_matches("p-");
        let network = if backend == "host" { "host" } else { "none" };
        format!(
            "\n[profiles.{name}]\nbackend = \"{backend}\"\nnetwork = \"{network}\"\n\
             limits = {{ grace = \"{grace}s\", timeout = \"1h\" }}\n"
        )
    };
    let both = |name: &&str| one(name, GRACE.as_secs()) + &one(&patient(name), 2 * SOON.as_secs());
    add_profile(cli, &BOXES.iter().map(both).collect::<String>())
}

fn patient(profile: &str) -> String {
    profile.replacen("t-", "p-", 1)
}

/// What runs of a job, seen from outside: its own processes, or the kernel that they run on and who serves it files.
fn seen(profile: &str, mark: &str, agent: u32) -> Vec<u32> {
    match profile {
        "t-gvisor" => processes(&format!("/run/lictor/{agent}.")),
        _ => processes(&format!("sleep {mark}")),
    }
}

/// A job of this line that has said `up`.
fn up(cli: &Cli, profile: &str, line: &str) -> Result<String> {
    let words = [
        "run",
        "--json",
        "--detach",
        "--profile",
        profile,
        "local",
        "--",
        "sh",
        "-c",
        line,
    ];
    let id = id_of(&cli.run(&words)?.result()?)?;
    wait_until("what it prints", SOON, || {
        cli.ok(&["logs", &id]).is_ok_and(|said| said.contains("up"))
    })?;
    Ok(id)
}

#[test]
fn a_cancel_ends_a_tree_that_heeds_no_signal_when_its_grace_is_over_in_every_sandbox() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_boxes(cli)?;
    let boxes = that_run(cli, &BOXES)?;
    let mark = mark();
    let tree = |profile: &str| seen(profile, &mark, lab.pid().unwrap_or_default());
    let mut begun = Vec::new();
    // gVisor, which is the last, before there is another runtime's process that could be taken for its.
    for profile in boxes.iter().rev() {
        // A child in a session of its own, and nobody who listens.
        let line = format!(
            "trap '' TERM; setsid sleep {mark} & sleep {mark} & echo up; while :; do sleep {mark}; done"
        );
        let id = up(cli, profile, &line)?;
        // Three sleep; of a kernel of its own one sees that, and those who serve it.
        let least = if *profile == "t-gvisor" { 2 } else { 3 };
        wait_until(&format!("all of it in {profile} to be seen"), SOON, || {
            tree(profile).len() >= least
        })?;
        begun.push((*profile, id));
    }
    // All at once, so that each grace is waited for beside the others.
    let mut asked = Vec::new();
    for (_, id) in &begun {
        asked.push(Instant::now());
        cli.ok(&["cancel", id])?;
    }
    for ((profile, id), at) in begun.iter().zip(asked) {
        // In an hour it would end by itself: that it ends now is the cancel, and not before the grace is over.
        ensure!(ended(cli, id)? == "canceled", "{profile}");
        let took = at.elapsed();
        ensure!(took >= GRACE, "{profile}: it had not its whole grace, {took:?}");
        ensure!(took < GRACE + ENDING, "{profile}: it had another grace, {took:?}");
    }
    for profile in &boxes {
        wait_until(&format!("nothing of it in {profile}"), SOON, || {
            tree(profile).is_empty()
        })?;
    }
    Ok(())
}

/// Nobody waits here for as long as the grace is: whoever has ended has ended by itself.
#[test]
fn a_cancel_asks_first_and_one_that_listens_ends_by_itself_in_every_sandbox() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_boxes(cli)?;
    for profile in that_run(cli, &BOXES)? {
        let line = "trap 'echo heard; exit 3' TERM; echo up; while :; do sleep 0.1; done";
        let id = up(cli, &patient(profile), line)?;
        cli.ok(&["cancel", &id])?;
        ensure!(ended(cli, &id)? == "canceled", "{profile}");
        ensure!(
            cli.ok(&["logs", &id])?.contains("heard"),
            "{profile}: it was not asked to end"
        );
    }
    Ok(())
}

#[test]
fn a_cancel_of_a_job_that_is_leased_and_not_begun_ends_it_before_its_program_runs() -> Result<()> {
    // A bwrap that waits while a file is there: the node has taken the job, and its sandbox is being made.
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
    let (bwrap, hold) = (place.path().join("bwrap"), place.path().join("hold"));
    let text = format!(
        "#!/bin/sh\nwhile [ -e {} ]; do /bin/sleep 0.05; done\nexec /usr/bin/bwrap \"$@\"\n",
        hold.display()
    );
    fs::write(&bwrap, text)?;
    fs::set_permissions(&bwrap, fs::Permissions::from_mode(0o755))?;
    let split = Split::start_with(SplitOptions {
        agent_settings: format!("[sandbox]\nbwrap = {bwrap:?}\n"),
        ..SplitOptions::default()
    })?;
    let cli = split.cli();
    let at = place.path().to_str().context("path")?;
    fs::create_dir(place.path().join("own"))?;
    fs::set_permissions(place.path().join("own"), fs::Permissions::from_mode(0o777))?;
    add_profile(
        cli,
        &format!("\n[profiles.writes]\nbackend = \"bubblewrap\"\nread_write = [\"{at}/own\"]\n"),
    )?;
    let work = |name: &str| -> Result<String> {
        let file = format!("{at}/own/{name}");
        let words = [
            "run",
            "--json",
            "--detach",
            "--profile",
            "writes",
            "local",
            "--",
            "touch",
            &file,
        ];
        id_of(&cli.run(&words)?.result()?)
    };
    assert_eq!(ended(cli, &work("control")?)?, "succeeded");
    ensure!(place.path().join("own/control").exists(), "such a job runs");
    fs::write(&hold, "")?;
    let leased = work("leased")?;
    reach(cli, &leased, &["leased"], SOON)?;
    cli.ok(&["cancel", &leased])?;
    cli.ok(&["cancel", &leased])?;
    fs::remove_file(&hold)?;
    assert_eq!(ended(cli, &leased)?, "canceled");
    let receipt = receipt(cli, &leased)?;
    ensure!(
        receipt["code"] == "canceled" && receipt["started_at"].is_null(),
        "{receipt}"
    );
    assert_eq!(canceled_twice(cli, &leased)?, ("canceled".to_owned(), 1));
    ensure!(!place.path().join("own/leased").exists(), "its program ran");
    assert_eq!(ended(cli, &work("after")?)?, "succeeded", "and the next one runs");
    Ok(())
}

#[test]
fn a_cancel_ends_a_job_that_comes_after_another_and_leaves_that_one() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let mark = mark();
    let ran = lab.home().join("ran");
    let first = detached(cli, &format!("exec sleep {mark}"))?;
    reach(cli, &first, &["running"], SOON)?;
    let done = sh(
        cli,
        &["--detach", "--after", &first],
        &format!("touch {}", ran.display()),
    )?;
    let second = id_of(&done.result()?)?;
    wait_until("it is said to wait", SOON, || {
        cli.ok(&["job", &second])
            .is_ok_and(|shown| shown.contains("[after_waiting]"))
    })?;
    assert_eq!(canceled_twice(cli, &second)?, ("canceled".to_owned(), 1));
    assert_eq!(canceled_twice(cli, &first)?, ("canceled".to_owned(), 1));
    ensure!(
        !ran.exists() && receipt(cli, &second)?["started_at"].is_null(),
        "it began"
    );
    Ok(())
}

#[test]
fn a_cancel_ends_a_copy_in_the_middle_and_nothing_of_it_is_at_its_place() -> Result<()> {
    let split = Split::start()?;
    let cli = split.cli();
    let place = tempfile::tempdir()?;
    let at = place.path().canonicalize()?;
    let (file, back) = (at.join("here"), at.join("there/back"));
    fs::create_dir(at.join("there"))?;
    // Of noughts, so that reading and sending takes the time, and no disk.
    fs::File::create(&file)?.set_len(4_000_000_000)?;
    let from = format!("local:{}", file.to_str().context("path")?);
    let to = back.to_str().context("path")?;
    let mut command = cli.command(&["cp", "--max-bytes", "4GiB", "--timeout", "1h", &from, to]);
    let copy = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let running = || {
        let jobs = cli.json(&["jobs"]).ok()?;
        (jobs[0]["executions"][0]["state"] == "running").then(|| id_of(&jobs[0]).ok())?
    };
    let id = lictor_test::poll("the copy to run", SOON, running)?;
    cli.ok(&["cancel", &id])?;
    assert_eq!(ended(cli, &id)?, "canceled");
    let done = copy.wait_with_output()?;
    ensure!(!done.status.success(), "the copy succeeded");
    ensure!(
        fs::read_dir(at.join("there"))?.next().is_none(),
        "something is left"
    );
    Ok(())
}
