//! Downloads of other agents, and of jobs that wait for more than a file: not root, polling, with a full disk, after an approval.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{SmallDisk, Split, SplitOptions, needs_root, skip, wait_until};

use super::waiting::downloaders;
use super::{MIB, comes, copy, events, fetch_from, noise, place, refused, split, words};
use crate::fleet::Crew;
use crate::law::{change_law, second_operator_at};
use crate::origin::{Gate, Origin, gated, honest};
use crate::plain::{Plain, UID};
use crate::steps::{SOON, audits_hold, begin, ended, id_of, reach, receipt};

#[test]
fn a_disk_that_is_full_in_the_middle_is_told_and_given_back_and_with_room_the_file_comes() -> Result<()> {
    if let Err(missing) = SmallDisk::possible() {
        skip(&missing);
        return Ok(());
    }
    let mut split = split()?;
    split.agent()?.kill()?;
    let spool = split.home().join("agent/spool/url");
    let disk = SmallDisk::over(&spool, "6m")?;
    split.start_agent()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(16 * MIB);
    let origin = Origin::start(honest(content.clone()))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let url = origin.url("/file");
    let result = refused(&copy(cli, &url, &to, &content)?, &to, "disk_full")?;
    ensure!(result.to_string().contains("given up"), "{result}");
    let failed = events(cli, "download_failed")?;
    ensure!(failed.len() == 1, "{failed:?}");
    // What had come is not kept from those who need room, and nothing else of the node is in trouble.
    let left: Vec<_> = fs::read_dir(&spool)?.collect();
    ensure!(left.is_empty(), "{left:?}");
    cli.ok(&["run", "--profile", "host", "local", "--", "true"])?;

    disk.resize("64m")?;
    comes(&copy(cli, &url, &to, &content)?, &to, &content)?;
    audits_hold(cli)?;
    drop(split);
    drop(disk);
    Ok(())
}

#[test]
fn a_node_that_polls_asks_nobody_for_a_file_before_its_job_is_approved() -> Result<()> {
    let split = Split::start_with(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(MIB);
    let origin = Origin::start(honest(content.clone()))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let hub = format!("http://127.0.0.1:{}", split.port());
    let bob = second_operator_at(cli, &hub, "bob", "\"leads\"")?;
    // First without the gate.
    comes(&copy(cli, &origin.url("/file"), &to, &content)?, &to, &content)?;
    let gate = "\n@id(\"from-outside\")\n@approvals(\"1\")\n@approvers(\"leads\")\n\
                forbid (principal, action == Action::\"fetch\", resource) when { context.source == \"url\" };\n";
    change_law(cli, "policies/demo.cedar", gate)?;
    let content = noise(MIB + 1);
    origin.answers(honest(content.clone()));
    let asked = origin.asked().len();
    let done = cli.run(&words(&origin.url("/other"), &to, &content, &["--detach"])?)?;
    let id = id_of(&done.result()?)?;
    reach(cli, &id, &["awaiting_approval"], SOON)?;
    ensure!(origin.asked().len() == asked, "{:?}", origin.asked());
    crate::law::asks_again(&bob)?;
    let shown = bob.ok(&["approve", "--yes", &id])?;
    ensure!(shown.contains(&origin.url("/other")), "{shown}");
    ensure!(ended(cli, &id)? == "succeeded", "{}", receipt(cli, &id)?);
    ensure!(fs::read(&to)? == *content, "another file");
    let receipt = receipt(cli, &id)?;
    ensure!(
        receipt["approvals"].as_array().map(Vec::len) == Some(1),
        "{receipt}"
    );
    ensure!(origin.asked().len() == asked + 1, "{:?}", origin.asked());
    audits_hold(cli)
}

#[test]
fn an_agent_that_is_not_root_fetches_as_itself_and_holds_its_process_as_well() -> Result<()> {
    if let Err(missing) = needs_root("agents of other users") {
        skip(&missing);
        return Ok(());
    }
    let crew = Crew::of(&[])?;
    let cli = crew.cli();
    let plain = Plain::of(&crew, "[downloads]\ntries = 2\n")?;
    let to = plain.own().join("file");
    let (content, gate) = (noise(MIB), Gate::default());
    let origin = Origin::start(gated(content.clone(), MIB / 2, gate.clone()))?;
    let elsewhere = Origin::start(honest(content.clone()))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let to_plain = |url: &str| -> Result<Vec<String>> {
        let all = words(url, &to, &content, &[])?;
        Ok(all.iter().map(|word| word.replace("local:", "plain:")).collect())
    };
    refused(&cli.run(&to_plain(&elsewhere.url("/file"))?)?, &to, "url_refused")?;
    ensure!(elsewhere.asked().is_empty(), "{:?}", elsewhere.asked());

    let url = origin.url("/file");
    let copy = begin(cli, &to_plain(&url)?)?;
    wait_until("it is asked for", SOON, || downloaders(&url).len() == 1)?;
    let pid = downloaders(&url).first().copied().context("a process")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    ensure!(
        of("Seccomp:") == Some("2") && of("NoNewPrivs:") == Some("1"),
        "{status}"
    );
    ensure!(of("CapEff:") == Some("0000000000000000"), "{status}");
    ensure!(
        of("Uid:").is_some_and(|ids| ids.starts_with(&UID.to_string())),
        "{status}"
    );
    gate.open();
    let done = copy.wait_with_output()?;
    ensure!(
        done.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&done.stderr),
        plain.agent.stderr()
    );
    ensure!(fs::read(&to)? == *content, "another file");
    ensure!(fs::metadata(&to)?.uid() == UID, "somebody else's");
    ensure!(downloaders(&url).is_empty(), "it is still there");
    Ok(())
}
