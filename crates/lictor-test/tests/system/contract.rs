//! `lictor up` and what scripts may rely on.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Lab, LabOptions};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process_group};

use crate::steps::{SOON, gone, mark, sh};

/// The names that a result has and keeps.
const KEPT: [&str; 20] = [
    "status",
    "exit_code",
    "signal",
    "stdout_bytes",
    "stderr_bytes",
    "stdout_truncated",
    "stderr_truncated",
    "cpu_user_us",
    "cpu_system_us",
    "max_rss_bytes",
    "sandbox",
    "decision",
    "rules",
    "job_id",
    "started_at",
    "finished_at",
    "limits_hit",
    "artifacts",
    "code",
    "message",
];

#[test]
fn up_is_ready_when_a_job_can_run() -> Result<()> {
    let lab = Lab::start()?;
    assert_eq!(lab.node(), "local");
    let port = lab.url().strip_prefix("http://127.0.0.1:").context("url")?;
    assert_ne!(port.parse::<u16>()?, 0, "port 0 is any free port");
    let done = sh(lab.cli(), &[], "echo done")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    Ok(())
}

#[test]
fn a_result_has_the_names_that_are_kept() -> Result<()> {
    let lab = Lab::start()?;
    let done = sh(lab.cli(), &[], "echo out; echo err >&2")?;
    for line in done.json_lines()? {
        assert!(line["event"].is_string(), "every line is an event: {line}");
    }
    let result = done.result()?;
    for name in KEPT {
        assert!(result.get(name).is_some(), "{name} is missing in {result}");
    }
    assert_eq!(result["status"], "succeeded");
    assert_eq!(result["exit_code"], 0);
    assert!(result["signal"].is_null());
    assert_eq!(result["stdout_bytes"], 4);
    assert_eq!(result["stderr_bytes"], 4);
    assert_eq!(result["stdout_truncated"], false);
    assert_eq!(result["sandbox"], "host");
    assert_eq!(result["decision"], "allow");
    assert_eq!(result["rules"][0], "demo-run-anything");
    assert!(result["max_rss_bytes"].as_u64() > Some(0));
    assert!(result["started_at"].as_str() < result["finished_at"].as_str());
    Ok(())
}

#[test]
fn up_ends_at_sigterm_and_leaves_no_process() -> Result<()> {
    let mut lab = Lab::start()?;
    let group = i32::try_from(lab.pid()?)
        .ok()
        .and_then(Pid::from_raw)
        .context("pid")?;
    assert_eq!(sh(lab.cli(), &[], "true")?.code()?, 0);
    lab.stop()?;
    assert_eq!(
        test_kill_process_group(group),
        Err(Errno::SRCH),
        "processes of `up` are left"
    );
    gone(lab.home().to_str().context("path")?)
}

#[test]
fn up_starts_again_on_the_same_directory() -> Result<()> {
    let mut lab = Lab::start()?;
    assert_eq!(sh(lab.cli(), &[], "echo first")?.code()?, 0);
    let (before, nodes) = (lab.cli().json(&["jobs"])?, lab.cli().json(&["nodes"])?);
    lab.stop()?;
    lab.start_again()?;
    assert_eq!(lab.cli().json(&["jobs"])?, before, "jobs are kept");
    let again = lab.cli().json(&["nodes"])?;
    assert_eq!(again[0]["node_id"], nodes[0]["node_id"], "it is the same node");
    assert_eq!(sh(lab.cli(), &[], "echo second")?.code()?, 0);
    Ok(())
}

#[test]
fn up_starts_again_after_a_kill() -> Result<()> {
    let mut lab = Lab::start()?;
    let mark = mark();
    let id = crate::steps::detached(lab.cli(), &format!("sleep {mark}"))?;
    crate::steps::reach(lab.cli(), &id, &["running"], crate::steps::SOON)?;
    lab.kill()?;
    lab.start_again()?;
    assert_eq!(crate::steps::ended(lab.cli(), &id)?, "interrupted");
    gone(&format!("sleep {mark}"))?;
    assert_eq!(sh(lab.cli(), &[], "true")?.code()?, 0);
    crate::steps::audits_hold(lab.cli())
}

/// What a listener answers to plain HTTP; nothing when it takes none.
fn plainly(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nhost: lictor\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer) {
        // It was closed with the request unread.
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        read => drop(read?),
    }
    Ok(answer)
}

fn on_all_addresses() -> Result<Lab> {
    Lab::start_with(LabOptions {
        listen: Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
        ..LabOptions::default()
    })
}

#[test]
fn up_on_all_addresses_takes_tls_only_and_works() -> Result<()> {
    let lab = Lab::start()?;
    let port = lab.url().rsplit(':').next().context("a port")?.parse()?;
    assert!(plainly(port)?.starts_with("HTTP/1.1 200"), "on loopback it does");
    let lab = on_all_addresses()?;
    let port = lab
        .url()
        .strip_prefix("https://127.0.0.1:")
        .context("url")?
        .parse()?;
    assert_ne!(port, 0);
    assert_eq!(
        plainly(port)?,
        "",
        "also for this machine: nobody can tell who forwards"
    );
    let done = sh(lab.cli(), &[], "echo over tls")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    Ok(())
}

#[test]
fn a_grant_warns_of_an_address_that_only_this_machine_reaches() -> Result<()> {
    let lab = on_all_addresses()?;
    let warned = |more: &[&str]| -> Result<bool> {
        let done = lab.cli().run(&[&["nodes", "grant", "web-1"], more].concat())?;
        ensure!(done.code()? == 0, "{}", done.stderr);
        Ok(done.stderr.contains("only this machine reaches"))
    };
    assert!(
        warned(&[])?,
        "by which address another machine reaches it, nobody knows"
    );
    assert!(warned(&["--hub-url", "https://localhost:8420"])?);
    assert!(!warned(&["--hub-url", "https://192.0.2.7:8420"])?);
    Ok(())
}

#[test]
fn the_home_is_found_by_variable_and_by_option() -> Result<()> {
    let lab = Lab::start()?;
    let by_variable = lab.cli().json(&["jobs"])?;
    let home = lab.home().to_str().context("path")?;
    let elsewhere = lictor_test::Cli::new(Path::new("/nonexistent"))?;
    assert_eq!(elsewhere.json(&["--home", home, "jobs"])?, by_variable);
    assert_eq!(
        elsewhere.run(&["jobs"])?.code()?,
        125,
        "no home is an error of our own"
    );
    Ok(())
}

#[test]
fn exit_codes_are_those_of_the_contract() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    let code = |options: &[&str], script: &str| sh(&cli, options, script)?.code();
    assert_eq!(code(&[], "exit 3")?, 3);
    assert_eq!(code(&[], "kill -9 $$")?, 128 + 9);
    assert_eq!(code(&[], "kill -15 $$")?, 128 + 15);
    assert_eq!(code(&["--timeout", "300ms"], "sleep 60")?, 124);
    assert_eq!(code(&["--env", "LD_PRELOAD=/tmp/x.so"], "true")?, 126);
    lab.stop()?;
    assert_eq!(code(&[], "true")?, 125, "there is no hub");
    Ok(())
}

#[test]
fn private_files_are_for_their_owner_only() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fn look(dir: &Path, found: &mut usize) -> Result<()> {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                look(&path, found)?;
                continue;
            }
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let secret = name.ends_with(".pem") || name.ends_with(".key") || name == "token";
            let mode = fs::metadata(&path)?.permissions().mode() & 0o777;
            ensure!(!secret || mode == 0o600, "{} has mode {mode:o}", path.display());
            *found += usize::from(secret);
        }
        Ok(())
    }
    let lab = Lab::start_with(LabOptions::default())?;
    let mut found = 0;
    look(lab.home(), &mut found)?;
    assert!(found >= 5, "only {found} private files were found");
    Ok(())
}

#[test]
fn doctor_finds_nothing_wrong_with_what_up_made() -> Result<()> {
    let lab = Lab::start()?;
    let report = lab.cli().json(&["doctor"])?;
    assert_eq!(report["healthy"], true, "{report}");
    let findings = report["findings"].as_array().context("findings")?;
    for (what, says) in [
        ("sandbox host", ""),
        ("sandbox bubblewrap", ""),
        ("egress proxy", ""),
        ("agent's cgroup", ""),
        ("profile host", "runs in host"),
        ("profile sandbox", "runs in bubblewrap"),
        ("node local", ""),
        ("hub", ""),
        ("law", ""),
    ] {
        let found = findings.iter().find(|f| f["what"] == what);
        let found = found.with_context(|| format!("{what}: {report}"))?;
        let said = found["says"].as_str().context("words")?;
        assert!(said.starts_with(says), "{what}: {said}");
    }
    Ok(())
}
