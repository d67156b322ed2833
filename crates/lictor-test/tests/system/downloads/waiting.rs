//! Jobs that wait for what they fetch: what goes on when the agent is killed, and what ends with the job.

use std::fs;

use anyhow::{Result, ensure};
use lictor_test::{Cli, Split, poll, wait_until};

use super::{MIB, comes, copy, fetch_from, noise, place, split, words};
use crate::origin::{Origin, held, honest};
use crate::steps::{SOON, add_profile, audits_hold, begin, ended, id_of, processes, receipt};

/// The newest job, once it downloads.
pub(super) fn downloading(cli: &Cli) -> Result<String> {
    poll("a job that downloads", SOON, || {
        let jobs = cli.json(&["jobs"]).ok()?;
        let job = jobs.as_array()?.first()?.clone();
        let id = id_of(&job).ok()?;
        let job = cli.json(&["job", &id]).ok()?;
        (job["executions"][0]["code"] == "downloading").then_some(id)
    })
}

/// The processes that ask for this URL.
pub(super) fn downloaders(url: &str) -> Vec<u32> {
    let mut found = processes(url);
    found.retain(|pid| line_of(*pid).contains("download-file"));
    found
}

/// How much of its only download the agent has.
pub(super) fn spooled(split: &Split) -> u64 {
    let files = fs::read_dir(split.home().join("agent/spool/url"));
    let sizes = files.into_iter().flatten().flatten();
    let sizes = sizes.filter_map(|entry| entry.metadata().ok());
    sizes.map(|meta| meta.len()).max().unwrap_or(0)
}

#[test]
fn an_agent_that_was_killed_goes_on_where_it_was() -> Result<()> {
    let mut split = split()?;
    let (_dir, to) = place()?;
    let content = noise(8 * MIB);
    let origin = Origin::start(held(content.clone(), 5 * MIB))?;
    fetch_from(split.cli(), &[origin.entry()], "")?;
    let copy = begin(split.cli(), &words(&origin.url("/file"), &to, &content, &[])?)?;
    wait_until("some of the file on the node", SOON, || {
        spooled(&split) >= MIB as u64
    })?;
    split.agent()?.kill()?;
    let before = spooled(&split);
    origin.answers(honest(content.clone()));
    let asked = origin.asked().len();
    split.start_agent()?;
    let done = copy.wait_with_output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    ensure!(fs::read(&to)? == *content, "another file");
    let from = origin.asked().get(asked).and_then(|asked| asked.from);
    ensure!(
        from.is_some_and(|from| from as u64 >= before),
        "{before} bytes were here, and it was asked for what comes after {from:?}"
    );
    audits_hold(split.cli())
}

#[test]
fn whoever_downloads_has_no_rights_and_goes_with_its_job() -> Result<()> {
    let split = Split::start()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(MIB);
    let origin = Origin::start(held(content.clone(), MIB / 2))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let url = origin.url("/held");
    let copy = begin(cli, &words(&url, &to, &content, &[])?)?;
    let id = downloading(cli)?;
    wait_until("half of it", SOON, || spooled(&split) == MIB as u64 / 2)?;

    let ours = downloaders(&url);
    let [pid] = ours.as_slice() else {
        anyhow::bail!("not one process: {ours:?}")
    };
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(|rest| rest.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    ensure!(of("Seccomp:") == ["2"] && of("NoNewPrivs:") == ["1"], "{status}");
    ensure!(of("CapEff:") == ["0000000000000000"], "{status}");
    if is_root()? {
        ensure!(of("Uid:") == ["65534"; 4] && of("Groups:").is_empty(), "{status}");
        // Of files it has none: a socket to the proxy, two pipes, and what waits for them.
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            let to = fs::read_link(entry?.path())?;
            let to = to.to_string_lossy().into_owned();
            let kinds = ["socket:", "pipe:", "anon_inode:"];
            ensure!(kinds.iter().any(|kind| to.starts_with(kind)), "it holds {to}");
        }
        let environment = fs::read(format!("/proc/{pid}/environ"))?;
        ensure!(
            environment.is_empty(),
            "{}",
            String::from_utf8_lossy(&environment)
        );
    }

    // A cancel ends it at once, and with it whoever downloads.
    cli.ok(&["cancel", &id])?;
    ensure!(ended(cli, &id)? == "canceled", "it ended otherwise");
    wait_until("nobody downloads any more", SOON, || downloaders(&url).is_empty())?;
    ensure!(!copy.wait_with_output()?.status.success() && !to.exists());
    // No place among those that run was held by it: the next one, which is honest, comes.
    origin.answers(honest(content.clone()));
    let done = self::copy(cli, &url, &to, &content)?;
    comes(&done, &to, &content)?;
    audits_hold(cli)
}

fn is_root() -> Result<bool> {
    let status = fs::read_to_string("/proc/self/status")?;
    Ok(status.lines().any(|line| line.starts_with("Uid:\t0\t")))
}

fn line_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

#[test]
fn a_job_that_expires_while_its_file_comes_ends_and_nothing_is_put() -> Result<()> {
    let split = Split::start()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(MIB);
    let origin = Origin::start(held(content.clone(), MIB / 2))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let copy = begin(
        cli,
        &words(&origin.url("/held"), &to, &content, &["--valid", "6s"])?,
    )?;
    let id = downloading(cli)?;
    ensure!(ended(cli, &id)? == "expired", "it ended otherwise");
    let url = origin.url("/held");
    wait_until("nobody downloads any more", SOON, || downloaders(&url).is_empty())?;
    ensure!(!copy.wait_with_output()?.status.success() && !to.exists());
    Ok(())
}

#[test]
fn law_that_changes_while_a_file_comes_has_the_job_judged_anew() -> Result<()> {
    let split = Split::start()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(MIB);
    let origin = Origin::start(held(content.clone(), MIB / 2))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let copy = begin(cli, &words(&origin.url("/held"), &to, &content, &[])?)?;
    let id = downloading(cli)?;
    wait_until("half of it", SOON, || spooled(&split) == MIB as u64 / 2)?;
    let profiles = cli.home().join("org/profiles.toml");
    let text = fs::read_to_string(&profiles)?;
    fs::write(
        &profiles,
        text.replace(&origin.entry(), "\"other.example.org:443\""),
    )?;
    add_profile(cli, "")?;
    ensure!(ended(cli, &id)? == "denied", "it ended otherwise");
    let said = receipt(cli, &id)?.to_string();
    ensure!(said.contains("url_refused"), "{said}");
    ensure!(!copy.wait_with_output()?.status.success() && !to.exists());
    Ok(())
}
