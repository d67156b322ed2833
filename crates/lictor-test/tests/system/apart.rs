//! Hub and agent as processes of their own that stop, crash and come back.

use std::path::PathBuf;
use std::thread::{self, JoinHandle};

use anyhow::{Result, anyhow};
use lictor_test::{Cli, Done, Split, SplitOptions, poll};

use crate::steps::{
    SOON, appears, assert_same, audits_hold, detached, ended, gone, mark, reach, receipt, seq, state,
};

/// A job whose first half is printed at once, and whose second half when the test says so.
struct Halves {
    started: PathBuf,
    go: PathBuf,
}

impl Halves {
    fn new(split: &Split) -> Self {
        let name = mark();
        Self {
            started: split.home().join(format!("started-{name}")),
            go: split.home().join(format!("go-{name}")),
        }
    }

    fn script(&self) -> String {
        let (started, go) = (self.started.display(), self.go.display());
        format!("seq 1 60000; touch {started}; while [ ! -e {go} ]; do sleep 0.02; done; seq 60001 120000")
    }

    fn started(&self) -> Result<()> {
        appears(&self.started)
    }

    fn go(&self) -> Result<()> {
        Ok(std::fs::write(&self.go, "")?)
    }

    fn whole() -> Vec<u8> {
        seq(1, 120_000)
    }
}

/// `lictor run` in the background, its output as it comes to a person.
fn attached(cli: &Cli, script: &str) -> JoinHandle<Result<Done>> {
    let (cli, script) = (cli.clone(), script.to_owned());
    thread::spawn(move || cli.run(&["run", "--profile", "host", "local", "--", "sh", "-c", &script]))
}

fn join(running: JoinHandle<Result<Done>>) -> Result<Done> {
    running.join().map_err(|_| anyhow!("the client broke down"))?
}

fn polling() -> SplitOptions {
    SplitOptions {
        poll: true,
        ..SplitOptions::default()
    }
}

fn a_job_waits_for_its_agent(mut split: Split) -> Result<()> {
    split.agent()?.terminate()?;
    let id = detached(split.cli(), "seq 1 100")?;
    assert_eq!(state(split.cli(), &id)?, "queued");
    split.start_agent()?;
    assert_eq!(ended(split.cli(), &id)?, "succeeded");
    assert_same(&split.cli().run(&["logs", &id])?.stdout, &seq(1, 100));
    Ok(())
}

fn a_job_outlives_its_hub(mut split: Split, stop: fn(&mut Split) -> Result<()>) -> Result<()> {
    let job = Halves::new(&split);
    let client = attached(split.cli(), &job.script());
    job.started()?;
    stop(&mut split)?;
    split.start_hub()?;
    job.go()?;
    let done = join(client)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    assert_same(&done.stdout, &Halves::whole());
    audits_hold(split.cli())
}

fn a_result_waits_for_the_hub(mut split: Split) -> Result<()> {
    let job = Halves::new(&split);
    let over = split.home().join("over");
    let id = detached(
        split.cli(),
        &format!("{}; touch {}", job.script(), over.display()),
    )?;
    job.started()?;
    split.hub()?.kill()?;
    job.go()?;
    appears(&over)?;
    split.start_hub()?;
    assert_eq!(ended(split.cli(), &id)?, "succeeded");
    let logs = split.cli().run(&["logs", &id])?;
    assert_eq!(logs.code()?, 0, "{}", logs.stderr);
    assert_same(&logs.stdout, &Halves::whole());
    Ok(())
}

#[test]
fn a_job_for_an_agent_that_is_away_runs_when_it_comes() -> Result<()> {
    a_job_waits_for_its_agent(Split::start()?)
}

#[test]
fn a_job_for_a_polling_agent_that_is_away_runs_when_it_comes() -> Result<()> {
    a_job_waits_for_its_agent(Split::start_with(polling())?)
}

#[test]
fn a_hub_that_is_restarted_loses_no_output_and_doubles_none() -> Result<()> {
    a_job_outlives_its_hub(Split::start()?, |split| split.hub()?.terminate().map(drop))
}

#[test]
fn a_hub_that_is_killed_loses_no_output_and_doubles_none() -> Result<()> {
    a_job_outlives_its_hub(Split::start()?, |split| split.hub()?.kill().map(drop))
}

#[test]
fn a_hub_that_is_killed_under_a_polling_agent_loses_no_output_and_doubles_none() -> Result<()> {
    a_job_outlives_its_hub(Split::start_with(polling())?, |split| {
        split.hub()?.kill().map(drop)
    })
}

#[test]
fn a_result_that_the_hub_missed_is_delivered_later() -> Result<()> {
    a_result_waits_for_the_hub(Split::start()?)
}

#[test]
fn a_result_that_the_hub_missed_is_delivered_later_by_polling() -> Result<()> {
    a_result_waits_for_the_hub(Split::start_with(polling())?)
}

#[test]
fn an_agent_that_is_asked_to_end_lets_its_job_finish() -> Result<()> {
    let mut split = Split::start()?;
    let job = Halves::new(&split);
    let client = attached(split.cli(), &job.script());
    job.started()?;
    split.agent()?.signal(rustix::process::Signal::TERM);
    // No new work from now on: this one waits for the next start.
    let waiting = detached(split.cli(), "echo later")?;
    poll("the offer to be handed back", SOON, || {
        let job = split.cli().json(&["job", &waiting]).ok()?;
        (job["executions"][0]["code"] == "draining").then_some(())
    })?;
    assert_eq!(state(split.cli(), &waiting)?, "queued");
    job.go()?;
    assert!(split.agent()?.wait(SOON)?.success(), "it ends in order");
    let done = join(client)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    assert_same(&done.stdout, &Halves::whole());
    split.start_agent()?;
    assert_eq!(ended(split.cli(), &waiting)?, "succeeded");
    Ok(())
}

#[test]
fn a_killed_agent_says_interrupted_and_leaves_no_process() -> Result<()> {
    let mut split = Split::start()?;
    let m = mark();
    let started = split.home().join("started");
    let script = format!(
        "echo out; touch {}; setsid sleep {m} & sleep {m}",
        started.display()
    );
    let id = detached(split.cli(), &script)?;
    appears(&started)?;
    split.agent()?.kill()?;
    split.start_agent()?;
    assert_eq!(ended(split.cli(), &id)?, "interrupted");
    gone(&format!("sleep {m}"))?;
    assert_eq!(receipt(split.cli(), &id)?["outcome"], "interrupted");
    split.cli().ok(&["receipt", "verify", &id])?;
    audits_hold(split.cli())
}

#[test]
fn a_lapsed_lease_is_shown_as_lost_until_the_receipt_comes() -> Result<()> {
    let mut split = Split::start_with(SplitOptions {
        lease_seconds: Some(40),
        ..SplitOptions::default()
    })?;
    let started = split.home().join("started");
    let id = detached(split.cli(), &format!("touch {}; sleep 600", started.display()))?;
    appears(&started)?;
    reach(split.cli(), &id, &["running"], SOON)?;
    split.agent()?.kill()?;
    reach(split.cli(), &id, &["lost"], 2 * SOON)?;
    split.start_agent()?;
    assert_eq!(
        ended(split.cli(), &id)?,
        "interrupted",
        "the receipt is the truth"
    );
    Ok(())
}
