//! The story, scene by scene.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::{Envelope, limits};
use lictor_test::{Cli, Lab, Program, wait_until};

use crate::stage::{Stage, check};

/// The rule that the second scene runs into.
const RULE: &str = r#"@id("nobody-writes-disks")
@reason("raw disks are written by the install team, not from here")
forbid (principal, action == Action::"exec", resource)
when { context.program.name == "dd" };
"#;

/// Tells it all; the lab goes on running.
pub(crate) fn tell(stopped: &AtomicBool) -> Result<Lab> {
    println!("Starting a hub and an agent on this machine, with an org, its keys and a first law ...");
    let mut lab = Lab::start()?;
    check(stopped)?;
    let cli = lab.cli().clone();
    let stage = Stage::new(&cli, stopped);
    println!(
        "  hub:  {}\n  node: {}\n  home: {}",
        lab.url(),
        lab.node(),
        lab.home().display()
    );
    let node = lab.node().to_owned();
    sandbox(&stage, &node)?;
    denial(&stage, &cli, &node)?;
    tampering(&stage, &mut lab, &cli)?;
    receipt(&stage, &cli, &node)?;
    going_on(&lab);
    Ok(lab)
}

fn sandbox(stage: &Stage<'_>, node: &str) -> Result<()> {
    stage.scene("1. A signed job in a sandbox, its output live")?;
    let script = "id -u; ls /home /root 2>&1 | head -3; cat /proc/net/dev | wc -l; \
                  for i in 1 2 3; do echo step $i; sleep 0.4; done; touch /etc/passwd";
    let done = stage.live(&[
        "run",
        "--profile",
        "sandbox",
        node,
        "--",
        "sh",
        "-c",
        &format!("{script} || true"),
    ]);
    println!("  The last line is the sandbox: its root is read-only, its network empty.");
    done
}

fn denial(stage: &Stage<'_>, cli: &Cli, node: &str) -> Result<()> {
    stage.scene("2. A rule of yours, signed, and a job that it denies")?;
    let policies = cli.home().join("org/policies");
    fs::write(policies.join("no-disks.cedar"), RULE)?;
    for line in RULE.lines() {
        println!("    {line}");
    }
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

fn tampering(stage: &Stage<'_>, lab: &mut Lab, cli: &Cli) -> Result<()> {
    stage.scene("3. Somebody with the hub's database changes a waiting job")?;
    let token = cli.ok(&["nodes", "grant", "web-1"])?;
    let token = token
        .split_whitespace()
        .rfind(|w| w.len() > 100)
        .context("no token was printed")?;
    println!("  $ lictor nodes grant web-1     (a second node, enrolled on this machine too)");
    let dir = cli.home().with_file_name("web-1");
    let path = dir.to_str().context("path is not UTF-8")?;
    cli.ok(&["agent", "enroll", "--token", token, "--dir", path])?;
    let done = stage.expect(0, &["run", "--detach", "web-1", "--", "echo", "backup finished"])?;
    let job = done.text().trim().to_owned();

    let database = lab.home().join("hub/hub.db");
    change_job(&database, &job)?;
    println!("    -- in hub.db, job {job}: `backup finished` is now `backup deleted!`");

    let mut command = cli.command(&["agent", "run", "--dir", path]);
    command.env("RUST_LOG", "info");
    let mut agent = Program::start(command)?;
    let refused = || {
        let audit = cli
            .run(&["audit", "--agent", path, "show"])
            .map(|d| d.text())
            .unwrap_or_default();
        audit.contains("signature_invalid")
    };
    wait_until(
        "the agent's refusal in its audit log",
        Duration::from_secs(30),
        refused,
    )
    .with_context(|| agent.stderr())?;
    stage.expect(0, &["audit", "--agent", path, "show"])?;
    println!("  The agent checked the signature itself, refused, and wrote it down. Nothing ran.");
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

fn receipt(stage: &Stage<'_>, cli: &Cli, node: &str) -> Result<()> {
    stage.scene("4. Proof, afterwards")?;
    let done = cli.run(&["--json", "run", node, "--", "uname", "-srm"])?;
    let result = done.result()?;
    let job = result["job_id"]
        .as_str()
        .context("no job id in the result")?
        .to_owned();
    stage.expect(0, &["receipt", "verify", &job])?;
    stage.expect(0, &["audit", "verify"])?;
    Ok(())
}

fn going_on(lab: &Lab) {
    println!("\n\x1b[1mHow to go on\x1b[0m");
    println!(
        "  API:  {}/api/v1  (described at {0}/api/v1/openapi.json)",
        lab.url()
    );
    println!("  $ export LICTOR_HOME={}", lab.home().display());
    println!("  $ lictor run {} -- uname -a", lab.node());
    println!("  A second machine: `lictor nodes grant web-2` here prints a token; there,");
    println!("  `lictor agent enroll --token ...` and `lictor agent run`.");
}
