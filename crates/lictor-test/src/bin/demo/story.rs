//! The story, scene by scene.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::{Envelope, limits};
use lictor_test::{Cli, Lab, LabOptions, Program, sibling, wait_until};
use tempfile::TempDir;

use crate::stage::{Stage, Stop, heading, typed};

/// The rule that the second scene runs into.
const RULE: &str = r#"@id("nobody-writes-disks")
@reason("raw disks are written by the install team, not from here")
forbid (principal, action == Action::"exec", resource)
when { context.program.name == "dd" };
"#;

/// What goes on when the story is told. Ends in this order.
pub(crate) struct Told {
    pub(crate) lab: Lab,
    _dir: TempDir,
}

/// Tells it all; the lab goes on running.
pub(crate) fn tell(stop: &Stop) -> Result<Told> {
    println!("Starting a hub and an agent on this machine, with an org, its keys and a first law ...");
    let dir = place()?;
    let lab = Lab::start_with(LabOptions {
        dir: Some(dir.path().join("home")),
        ..LabOptions::default()
    })?;
    let cli = lab.cli().clone();
    let stage = Stage::new(&cli, stop);
    println!("  hub   {}", lab.url());
    println!("  node  {}", lab.node());
    println!("  home  {}", lab.home().display());
    sandbox(&stage, lab.node())?;
    denial(&stage, &cli, lab.node())?;
    tampering(&stage, &cli)?;
    receipt(&stage, lab.node())?;
    hostile(&stage, &cli)?;
    going_on(&lab);
    Ok(Told { lab, _dir: dir })
}

/// A directory that others may pass through, as `/var/lib` is: a sandbox's user has to reach its workspace.
fn place() -> Result<TempDir> {
    let mut builder = tempfile::Builder::new();
    builder
        .prefix("lictor-demo-")
        .permissions(fs::Permissions::from_mode(0o711));
    Ok(builder.tempdir()?)
}

fn sandbox(stage: &Stage<'_>, node: &str) -> Result<()> {
    stage.scene(
        "1. A signed job in a sandbox, its output as it comes",
        "Signed here, passed on by the hub, checked and run by the agent: as nobody, on a read-only root, offline.",
    )?;
    let script = "id -un; for i in 1 2 3; do echo step $i; sleep 0.4; done; \
                  echo network: $(tail -n +3 /proc/net/dev | cut -d: -f1); echo gone > /etc/passwd";
    stage.live(
        2,
        &["run", "--profile", "sandbox", node, "--", "sh", "-c", script],
    )
}

fn denial(stage: &Stage<'_>, cli: &Cli, node: &str) -> Result<()> {
    stage.scene(
        "2. A rule of yours, signed, and a job that it denies",
        "Policies are files in a directory of yours. This is a new one:",
    )?;
    fs::write(cli.home().join("org/policies/no-disks.cedar"), RULE)?;
    for line in RULE.lines() {
        println!("    {line}");
    }
    println!();
    stage.expect(0, &["org", "sign"])?;
    stage.expect(0, &["org", "push"])?;
    let done = stage.expect(
        126,
        &["run", node, "--", "dd", "if=/dev/zero", "of=/dev/null", "count=1"],
    )?;
    let said = format!("{}{}", done.text(), done.stderr);
    ensure!(
        said.contains("nobody-writes-disks"),
        "the denial doesn't name its rule"
    );
    Ok(())
}

fn tampering(stage: &Stage<'_>, cli: &Cli) -> Result<()> {
    stage.scene(
        "3. Somebody with the hub's database changes a waiting job",
        "A second node, web-1, enrols and goes away. A job waits for it in the hub.",
    )?;
    let token = cli.ok(&["nodes", "grant", "web-1"])?;
    let token = token
        .split_whitespace()
        .rfind(|w| w.len() > 100)
        .context("no token was printed")?;
    typed(&["nodes", "grant", "web-1"]);
    let dir = cli.home().with_file_name("web-1");
    let path = dir.to_str().context("path is not UTF-8")?;
    typed(&["agent", "enroll", "--token", "...", "--dir", path]);
    cli.ok(&["agent", "enroll", "--token", token, "--dir", path])?;
    let done = stage.expect(0, &["run", "--detach", "web-1", "--", "echo", "backup finished"])?;
    let job = done.text().trim().to_owned();

    change_job(&cli.home().join("hub/hub.db"), &job)?;
    println!("  In the hub's database, `backup finished` is now `backup deleted!`. Then web-1 comes back:\n");
    typed(&["agent", "run", "--dir", path]);
    let mut agent = Program::start(cli.command(&["agent", "run", "--dir", path]))?;
    let refused = || {
        if stage.stop().check().is_err() {
            return true;
        }
        let audit = cli.run(&["audit", "--agent", path, "show"]);
        audit.is_ok_and(|d| d.text().contains("signature_invalid"))
    };
    let patience = Duration::from_secs(30);
    wait_until("the agent's refusal in its audit log", patience, refused).with_context(|| agent.stderr())?;
    stage.only(0, &["audit", "--agent", path, "show"], |l| {
        l.contains("signature_invalid")
    })?;
    println!("  The agent checks the signature itself. It refused, wrote that down, and nothing ran.");
    agent.terminate()?;
    Ok(())
}

/// What an attacker with the hub's disk would do: another command in the same signed envelope.
fn change_job(database: &Path, job: &str) -> Result<()> {
    let wire = sqlite(
        database,
        &format!("select envelope from jobs where job_id = '{job}';"),
    )?;
    let mut envelope = Envelope::parse(wire.trim().as_bytes(), limits::ENVELOPE)?;
    let payload = String::from_utf8(envelope.payload)?;
    let changed = payload.replace("backup finished", "backup deleted!");
    ensure!(changed != payload, "the job doesn't contain its command");
    envelope.payload = changed.into_bytes();
    let wire = String::from_utf8(envelope.to_bytes())?.replace('\'', "''");
    sqlite(
        database,
        &format!("update jobs set envelope = '{wire}' where job_id = '{job}';"),
    )?;
    Ok(())
}

fn sqlite(database: &Path, statement: &str) -> Result<String> {
    let output = Command::new("sqlite3")
        .args(["-cmd", ".timeout 5000"])
        .arg(database)
        .arg(statement)
        .output()?;
    ensure!(
        output.status.success(),
        "sqlite3: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

fn receipt(stage: &Stage<'_>, node: &str) -> Result<()> {
    stage.scene(
        "4. Proof, afterwards",
        "The node signs what it ran, under which law, and every byte that came out.",
    )?;
    let result_line = |l: &str| l.contains("\"event\":\"result\"");
    let done = stage.only(0, &["run", "--json", node, "--", "uname", "-srm"], result_line)?;
    let result = done.result()?;
    let job = result["job_id"].as_str().context("no job id in the result")?;
    stage.expect(0, &["receipt", "verify", job])?;
    stage.expect(0, &["audit", "verify"])?;
    Ok(())
}

/// The suite's own summary: every lie, the code that it ends in, and who saw it.
fn hostile(stage: &Stage<'_>, cli: &Cli) -> Result<()> {
    stage.scene(
        "5. A hub in an attacker's hands",
        "A hub that lies on purpose, against the real agent and the real client; about a minute.",
    )?;
    let mut suite = Command::new(sibling("hostile-hub")?);
    let status = stage.stop().run(suite.env("LICTOR_BIN", cli.binary()))?;
    ensure!(status.success(), "a lie of the hub got through");
    Ok(())
}

fn going_on(lab: &Lab) {
    heading("How to go on");
    println!(
        "  API   {0}/api/v1, described at {0}/api/v1/openapi.json",
        lab.url()
    );
    println!("  home  export LICTOR_HOME={}", lab.home().display());
    println!(
        "  try   {} run {} -- uname -a",
        lab.cli().binary().display(),
        lab.node()
    );
    println!("  A second machine: `lictor nodes grant web-2` here prints what to type there:");
    println!("  `lictor agent enroll --token ...`, then `lictor agent run`.");
    println!("  (The hub must be where that machine reaches it: `lictor up --listen ADDRESS:PORT`.)");
}
