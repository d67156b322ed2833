//! Results that no hub took for a week.

use std::time::Duration;

use anyhow::{Result, ensure};
use lictor_proto::Timestamp;
use lictor_sandbox::Host;
use lictor_test::{Split, wait_until};
use lictor_warden::{Clock, Config, Warden, archive};

use crate::steps::{appears, mark, reach};

const SOON: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Lets the node's chores be done a week later; the agent itself has no clock that anybody could set.
fn a_week_later(split: &Split) -> Result<()> {
    let dir = split.home().join("agent");
    let runtime = tokio::runtime::Runtime::new()?;
    let host = Host::start(lictor_sandbox::Config::default())?;
    let mut config = Config::new(&dir);
    config.clock = Clock::new(|| Timestamp::now().plus(WEEK + Duration::from_secs(60)));
    let warden = runtime.block_on(Warden::start(config, host))?;
    wait_until("the chores of a week later", SOON, || {
        archive::list(&dir).is_ok_and(|all| !all.is_empty())
    })?;
    runtime.block_on(warden.close());
    warden.join();
    Ok(())
}

#[test]
fn an_archived_result_can_be_read_on_its_node_and_reaches_the_hub_when_it_is_back() -> Result<()> {
    let mut split = Split::start()?;
    let (started, gate, over) = (mark(), mark(), mark());
    let at = |name: &str| split.home().join(name);
    let (started, gate, over) = (at(&started), at(&gate), at(&over));
    let script =
        "touch \"$1\"; until [ -e \"$2\" ]; do sleep 0.05; done; echo hello; echo oh >&2; touch \"$3\"";
    let paths = [&started, &gate, &over].map(|p| p.to_string_lossy().into_owned());
    let words = [
        "run",
        "--json",
        "--detach",
        "--profile",
        "host",
        "local",
        "--",
        "sh",
        "-c",
        script,
        "sh",
    ];
    let all: Vec<&str> = words
        .into_iter()
        .chain(paths.iter().map(String::as_str))
        .collect();
    let id = crate::steps::id_of(&split.cli().run(&all)?.result()?)?;
    appears(&started)?;
    split.hub()?.kill()?;
    std::fs::write(&gate, "")?;
    appears(&over)?;
    let status = split.agent()?.terminate()?;
    ensure!(status.success(), "{status}");
    a_week_later(&split)?;

    let dir = split.home().join("agent").to_string_lossy().into_owned();
    let listed = split.cli().json(&["agent", "archive", "ls", "--dir", &dir])?;
    assert_eq!(
        (&listed[0]["job_id"], &listed[0]["outcome"]),
        (&id.as_str().into(), &"succeeded".into())
    );
    let shown = split
        .cli()
        .ok(&["agent", "archive", "show", &id, "--dir", &dir])?;
    ensure!(shown.contains("receipt    succeeded, exit status 0"), "{shown}");
    let printed = split
        .cli()
        .run(&["agent", "archive", "show", &id, "--output", "--dir", &dir])?;
    assert_eq!(
        (printed.text().as_str(), printed.stderr.as_str()),
        ("hello\n", "oh\n")
    );
    let files = archive::below(split.home().join("agent").as_path()).join(&id);
    let file = |name: &str| files.join(name).to_string_lossy().into_owned();
    let (receipt, job) = (file("receipt.json"), file("job.json"));
    split.cli().ok(&["receipt", "verify", &receipt, "--job", &job])?;
    let doctor = split.cli().run(&["doctor", "--dir", &dir])?;
    ensure!(
        doctor.text().contains("1 results that the hub has not taken"),
        "{}",
        doctor.text()
    );

    split.start_hub()?;
    split.start_agent()?;
    assert_eq!(reach(split.cli(), &id, &["succeeded"], SOON)?, "succeeded");
    let logs = split.cli().run(&["logs", &id])?;
    ensure!(logs.text().contains("hello"), "{}\n{}", logs.text(), logs.stderr);
    wait_until("it goes from the archive", SOON, || {
        archive::list(&split.home().join("agent")).is_ok_and(|all| all.is_empty())
    })?;
    split.cli().ok(&["receipt", "verify", &id])?;
    Ok(())
}
