//! Hub and agent in network namespaces of their own, and a cable between them that is cut, half open, or long.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lictor_test::{
    Cable, Cli, Lab, LabOptions, Program, Split, SplitOptions, can_make_namespaces, skip, wait_until,
};

use crate::steps::{SOON, assert_same, detached, ended, seq, sh};

/// A dead connection is found within 30 s; the rest is for a slow machine.
const FOUND: Duration = Duration::from_secs(35);
/// How long both sides together may take to find a dead connection.
const PROMISED: Duration = Duration::from_secs(30);

/// Hub and agent with a cable between them, where this machine can.
fn over_a_cable(arguments: &[&str]) -> Result<Option<Split>> {
    if let Err(missing) = can_make_namespaces() {
        skip(&missing);
        return Ok(None);
    }
    let split = Split::start_with(SplitOptions {
        cable: Some(Cable::new()?),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        ..SplitOptions::default()
    })?;
    Ok(Some(split))
}

fn runs(split: &Split) -> Result<()> {
    let done = sh(split.cli(), &[], "echo through")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    Ok(())
}

/// Waits until the agent's own log speaks of the end of its link, after what it has said by now.
fn agent_notices(split: &mut Split, said_before: usize) -> Result<()> {
    let agent = split.agent()?;
    let notices = || {
        agent
            .stderr()
            .get(said_before..)
            .is_some_and(|s| s.contains("no connection to the hub") || s.contains("ended the connection"))
    };
    wait_until("the agent to notice", FOUND, notices).with_context(|| agent.stderr())
}

#[test]
fn a_cut_cable_is_mended_and_work_goes_on() -> Result<()> {
    let Some(split) = over_a_cable(&[])? else {
        return Ok(());
    };
    runs(&split)?;
    split.cable()?.cut()?;
    wait_until("the hub to notice", FOUND, || !split.is_connected())?;
    let waiting = detached(split.cli(), "seq 1 1000")?;
    split.cable()?.mend()?;
    wait_until("the agent to come back", FOUND, || split.is_connected())?;
    assert_eq!(ended(split.cli(), &waiting)?, "succeeded");
    assert_same(&split.cli().run(&["logs", &waiting])?.stdout, &seq(1, 1000));
    Ok(())
}

#[test]
fn a_job_goes_on_through_a_cut_and_loses_nothing() -> Result<()> {
    let Some(split) = over_a_cable(&[])? else {
        return Ok(());
    };
    let (started, go) = (split.home().join("started"), split.home().join("go"));
    let script = format!(
        "seq 1 50000; touch {}; while [ ! -e {} ]; do sleep 0.02; done; seq 50001 100000",
        started.display(),
        go.display()
    );
    let id = detached(split.cli(), &script)?;
    crate::steps::appears(&started)?;
    split.cable()?.cut()?;
    std::fs::write(&go, "")?;
    wait_until("the hub to notice", FOUND, || !split.is_connected())?;
    split.cable()?.mend()?;
    assert_eq!(ended(split.cli(), &id)?, "succeeded");
    let logs = split.cli().run(&["logs", &id])?;
    assert_eq!(logs.code()?, 0, "{}", logs.stderr);
    assert_same(&logs.stdout, &seq(1, 100_000));
    Ok(())
}

#[test]
fn an_agent_that_hears_nothing_is_found_by_both_sides() -> Result<()> {
    let Some(mut split) = over_a_cable(&[])? else {
        return Ok(());
    };
    let said = split.agent()?.stderr().len();
    let swallowed_at = Instant::now();
    split.cable()?.agent().swallow_incoming()?;
    wait_until("the hub to notice", FOUND, || !split.is_connected())?;
    agent_notices(&mut split, said)?;
    assert!(swallowed_at.elapsed() <= PROMISED);
    split.cable()?.agent().pass_incoming()?;
    wait_until("the agent to come back", FOUND, || split.is_connected())?;
    runs(&split)
}

#[test]
fn a_hub_that_hears_nothing_is_found_by_both_sides() -> Result<()> {
    let Some(mut split) = over_a_cable(&[])? else {
        return Ok(());
    };
    let said = split.agent()?.stderr().len();
    let swallowed_at = Instant::now();
    // Only what comes over the cable: commands reach the hub on its own loopback.
    split.cable()?.hub().swallow_incoming()?;
    wait_until("the hub to notice", FOUND, || !split.is_connected())?;
    agent_notices(&mut split, said)?;
    assert!(swallowed_at.elapsed() <= PROMISED);
    split.cable()?.hub().pass_incoming()?;
    wait_until("the agent to come back", FOUND, || split.is_connected())?;
    runs(&split)
}

/// Enrols and starts a second node on the hub's own end of the cable.
fn neighbour(split: &Split) -> Result<Program> {
    let grant = split.cli().json(&["nodes", "grant", "neighbour"])?;
    let token = grant["token"].as_str().context("token")?;
    let dir = split.home().join("neighbour");
    let dir = dir.to_str().context("path")?;
    let cli: &Cli = split.cli();
    cli.ok(&["agent", "enroll", "--token", token, "--dir", dir])?;
    let program = Program::start(cli.command(&["agent", "run", "--dir", dir]))?;
    let connected = || {
        let nodes = cli.json(&["nodes"]).unwrap_or_default();
        let mut all = nodes.as_array().into_iter().flatten();
        all.any(|n| n["name"] == "neighbour" && n["connected"] == true)
    };
    wait_until("the neighbour's link", SOON, connected).with_context(|| program.stderr())?;
    Ok(program)
}

#[test]
fn an_agent_behind_a_dead_cable_delays_no_other() -> Result<()> {
    let Some(split) = over_a_cable(&["--starter-policy"])? else {
        return Ok(());
    };
    let _neighbour = neighbour(&split)?;
    let run = |node: &str| {
        split
            .cli()
            .run(&["run", "--profile", "host", node, "--", "uname"])
    };
    assert_eq!(run("local")?.code()?, 0);
    assert_eq!(run("neighbour")?.code()?, 0);
    split.cable()?.agent().swallow_incoming()?;
    // Work for the dead one is under way and stuck all the while.
    for _ in 0..5 {
        split
            .cli()
            .ok(&["run", "--detach", "--profile", "host", "local", "--", "uname"])?;
        let started_at = Instant::now();
        let done = run("neighbour")?;
        assert_eq!(done.code()?, 0, "{}", done.stderr);
        assert!(
            started_at.elapsed() < Duration::from_secs(5),
            "{:?}",
            started_at.elapsed()
        );
    }
    Ok(())
}

#[test]
fn a_long_cable_carries_everything_whole() -> Result<()> {
    let Some(mut split) = over_a_cable(&[])? else {
        return Ok(());
    };
    split.agent()?.terminate()?;
    let cable = split.cable()?;
    let hub = SocketAddr::from((cable.hub().address(), split.port()));
    let (_relay, near) = cable.agent().slow_relay(hub, Duration::from_millis(100))?;
    split.point_agent_at(near)?;
    split.start_agent()?;
    let words = ["run", "--profile", "host", "local", "--", "seq", "1", "300000"];
    let done = split.cli().run(&words)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    assert_same(&done.stdout, &seq(1, 300_000));
    Ok(())
}

#[test]
fn a_second_machine_joins_a_hub_that_listens_on_all_addresses() -> Result<()> {
    if let Err(missing) = can_make_namespaces() {
        skip(&missing);
        return Ok(());
    }
    let cable = Cable::new()?;
    let lab = Lab::start_with(LabOptions {
        listen: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        netns: Some(cable.hub().name().to_owned()),
        arguments: vec!["--starter-policy".to_owned()],
        ..LabOptions::default()
    })?;
    let port = lab.url().rsplit(':').next().context("a port")?;
    let address = cable.hub().address();

    // No plain HTTP for another machine.
    let asks = format!(
        "exec 3<>/dev/tcp/{address}/{port} && printf 'GET /health HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n' >&3 && cat <&3"
    );
    let asked = cable.agent().command("bash".as_ref(), &["-c", &asks]).output()?;
    let heard = String::from_utf8_lossy(&asked.stdout);
    assert_eq!(heard, "", "{}", String::from_utf8_lossy(&asked.stderr));

    let url = format!("https://{address}:{port}");
    let granted = lab
        .cli()
        .run(&["--json", "nodes", "grant", "web-1", "--hub-url", &url])?;
    assert_eq!(granted.stderr, "", "nothing to warn of");
    let grant = granted.result()?;
    let token = grant["token"].as_str().context("token")?;
    let dir = lab.home().join("web-1");
    let dir = dir.to_str().context("path")?;
    let there = Cli::new(&lab.home().join("nobody's"))?.inside(cable.agent());
    there.ok(&["agent", "enroll", "--token", token, "--dir", dir])?;
    let mut agent = Program::start(there.command(&["agent", "run", "--dir", dir]))?;
    let done = lab
        .cli()
        .run(&["run", "--profile", "host", "web-1", "--", "uname"])?;
    assert_eq!(done.code()?, 0, "{}\n{}", done.stderr, agent.stderr());
    assert_eq!(done.text(), "Linux\n");
    assert!(agent.terminate()?.success());
    Ok(())
}
