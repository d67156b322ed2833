//! The only way out of a sandbox: what the law lists is reached, nothing else, and every attempt is in the node's audit log.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Lab};
use serde_json::{Value, json};

use crate::steps::add_profile;

/// Somebody on this machine who answers every request with `hello`.
fn upstream() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.read(&mut [0; 4096]);
            let _ = connection
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello");
        }
    });
    Ok(port)
}

/// Asks the proxy for a page and prints status and body.
fn get(url: &str) -> String {
    format!(
        "import http.client as h\nc=h.HTTPConnection('127.0.0.1',3128,timeout=20)\n\
         c.request('GET','{url}')\nr=c.getresponse()\nprint(r.status, r.read().decode().split()[0])"
    )
}

fn records(cli: &Cli, kind: &str) -> Result<Vec<Value>> {
    let agent = cli.home().join("agent");
    let text = cli.ok(&[
        "--json",
        "audit",
        "--agent",
        agent.to_str().context("path")?,
        "show",
    ])?;
    let lines = text.lines().map(serde_json::from_str::<Value>);
    let all: Vec<Value> = lines.collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|r| r["type"] == kind).collect())
}

#[test]
fn a_sandbox_reaches_what_its_profile_lists_and_the_audit_log_says_so() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let port = upstream()?;
    let profile = format!(
        "\n[profiles.reach]\nbackend = \"bubblewrap\"\nnetwork = \"egress\"\n[profiles.reach.egress]\n\
         mode = \"allowlist\"\npresets = [\"near\"]\nprivate = [\"127.0.0.1/32\"]\n\
         [egress.presets.near]\nallow = [\"127.0.0.1/32:{port} plain\"]\n"
    );
    add_profile(cli, &profile)?;
    let run = |profile: &str, url: &str| {
        cli.run(&[
            "run",
            "--json",
            "--profile",
            profile,
            "local",
            "--",
            "python3",
            "-c",
            &get(url),
        ])
    };
    let url = format!("http://127.0.0.1:{port}/");
    // Without a way out there is nobody to ask.
    let closed = run("sandbox", &url)?;
    ensure!(closed.code()? == 1, "{}", closed.text());

    let open = run("reach", &url)?;
    ensure!(
        open.code()? == 0 && open.text().contains("200 hello"),
        "{}",
        open.text()
    );
    let result = open.result()?;
    let other = run("reach", "http://elsewhere.example.com/")?;
    ensure!(other.text().contains("403"), "{}", other.text());

    // Signed, and as many as the audit log has.
    let totals = &result["egress"];
    assert_eq!(
        (&totals["allowed"], &totals["denied"]),
        (&json!(1), &json!(0)),
        "{result}"
    );
    assert_eq!(closed.result()?["egress"], Value::Null);
    assert_eq!(
        other.result()?["egress"],
        json!({"allowed": 0, "denied": 1, "up": 0, "down": 0})
    );
    let id = &result["job_id"];
    let allowed = records(cli, "egress_allowed")?;
    let fields = &allowed.first().context("a record")?["fields"];
    assert_eq!(
        (&fields["job_id"], &fields["attempt"]),
        (id, &json!(1)),
        "{fields}"
    );
    assert_eq!(fields["dialled"], format!("127.0.0.1:{port}"), "{fields}");
    assert_eq!(fields["rule"], format!("127.0.0.1:{port} plain"), "{fields}");
    let ended = records(cli, "egress_ended")?;
    let fields = &ended.first().context("an end")?["fields"];
    let bytes = |name: &str| fields[name].as_u64().unwrap_or(0);
    ensure!(bytes("bytes_down") >= 5 && bytes("bytes_up") > 0, "{fields}");
    let moved = |name: &str| totals[name].as_u64().unwrap_or(0);
    assert_eq!(
        (moved("down"), moved("up")),
        (bytes("bytes_down"), bytes("bytes_up")),
        "{totals}"
    );
    let denied = records(cli, "egress_denied")?;
    let fields = &denied.first().context("a denial")?["fields"];
    assert_eq!(
        (&fields["host"], &fields["reason"]),
        (&json!("elsewhere.example.com"), &json!("not_listed"))
    );
    Ok(())
}

/// A profile called `reach` whose only way out is to this port of this machine.
fn add_reach(cli: &Cli, port: u16) -> Result<()> {
    let profile = format!(
        "\n[profiles.reach]\nbackend = \"bubblewrap\"\nnetwork = \"egress\"\n[profiles.reach.egress]\n\
         mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{port} plain\"]\nprivate = [\"127.0.0.1/32\"]\n"
    );
    add_profile(cli, &profile)
}

/// A program that asks for a page elsewhere, then for one that is listed, and then waits until it is told to end.
fn both_then_wait(port: u16) -> String {
    let elsewhere = get("http://elsewhere.example.com:8080/");
    let here = get(&format!("http://127.0.0.1:{port}/"));
    format!("{elsewhere}\n{here}\nprint('asked', flush=True)\nimport time\ntime.sleep(600)")
}

#[test]
fn attempts_are_watched_while_the_job_runs_and_are_still_there_when_it_has_ended() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let port = upstream()?;
    add_reach(cli, port)?;
    let program = both_then_wait(port);
    let job = cli.json(&[
        "run",
        "--detach",
        "--profile",
        "reach",
        "local",
        "--",
        "python3",
        "-c",
        &program,
    ])?;
    let id = job["job_id"].as_str().context("an id")?;
    let mut watch = cli.command(&["egress", "watch", id]);
    let mut watch = watch.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watch.stdout.take().context("piped")?).lines();
    let mut next = || lines.next().context("a line")?.context("text");
    let denied = next()?;
    ensure!(
        denied.contains("denied   elsewhere.example.com:8080  not_listed: "),
        "{denied}"
    );
    let allowed = next()?;
    ensure!(
        allowed.contains(&format!("allowed  127.0.0.1:{port}  at 127.0.0.1:{port} by ")),
        "{allowed}"
    );
    let ended = next()?;
    ensure!(ended.contains("ended    ") && ended.contains(" in: "), "{ended}");
    // It still runs: what was seen was live.
    cli.ok(&["cancel", id])?;
    let summary = next()?;
    ensure!(
        summary.starts_with("1 attempts were allowed, 1 denied; "),
        "{summary}"
    );
    ensure!(watch.wait()?.success(), "watching is no failure when the job is");

    let kept = cli.run(&["egress", "watch", "--json", id])?;
    let events: Vec<String> = kept
        .json_lines()?
        .iter()
        .map(|l| l["event"].as_str().unwrap_or_default().to_owned())
        .filter(|event| event.starts_with("egress"))
        .collect();
    assert_eq!(events, ["egress_denied", "egress_allowed", "egress_ended"]);
    // What is said in between is no output: receipt and digests hold.
    cli.ok(&["receipt", "verify", id])?;
    Ok(())
}

#[test]
fn whoever_runs_a_job_hears_once_of_each_destination_that_was_denied() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let port = upstream()?;
    add_reach(cli, port)?;
    let elsewhere = get("http://elsewhere.example.com/");
    let twice = format!("{elsewhere}\n{elsewhere}");
    let run = cli.run(&[
        "run",
        "--profile",
        "reach",
        "local",
        "--",
        "python3",
        "-c",
        &twice,
    ])?;
    ensure!(run.code()? == 0, "{}", run.text());
    let told = run
        .stderr
        .lines()
        .filter(|l| l.contains("no way out to elsewhere.example.com:80"));
    let told: Vec<_> = told.collect();
    ensure!(
        told.len() == 1 && told[0].contains("lictor egress watch j_"),
        "{}",
        run.stderr
    );
    Ok(())
}

#[test]
fn a_flood_of_attempts_is_listed_up_to_a_bound_and_counted_beyond_and_the_audit_log_has_all() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let port = upstream()?;
    add_reach(cli, port)?;
    const FLOOD: u64 = 1500;
    let program = format!(
        "import socket\nfor n in range({FLOOD}):\n s=socket.create_connection(('127.0.0.1',3128))\n \
         s.sendall(b'GET http://elsewhere.example.com/ HTTP/1.1\\r\\nHost: elsewhere.example.com\\r\\n\\r\\n')\n \
         s.recv(4096)\n s.close()"
    );
    let run = cli.run(&[
        "run",
        "--json",
        "--profile",
        "reach",
        "local",
        "--",
        "python3",
        "-c",
        &program,
    ])?;
    ensure!(run.code()? == 0, "{}", run.text());
    let lines = run.json_lines()?;
    let of = |event: &str| lines.iter().filter(|l| l["event"] == event).collect::<Vec<_>>();
    let (listed, left_out) = (of("egress_denied"), of("egress_left_out"));
    let counted = left_out.last().context("what was left out")?["denied"]
        .as_u64()
        .context("a count")?;
    assert_eq!(listed.len() as u64 + counted, FLOOD);
    ensure!(left_out.len() == 2 && counted > 0, "{left_out:?}");
    assert_eq!(records(cli, "egress_denied")?.len() as u64, FLOOD);
    Ok(())
}

#[test]
fn a_law_whose_egress_rules_make_no_sense_is_not_signed() -> Result<()> {
    let lab = Lab::start()?;
    let profiles = lab.home().join("org/profiles.toml");
    let before = fs::read_to_string(&profiles)?;
    for (rules, said) in [
        ("network = \"egress\"", "egress section"),
        (
            "network = \"none\"\negress = { mode = \"open\" }",
            "network = \"egress\"",
        ),
        (
            "network = \"egress\"\negress = { mode = \"allowlist\" }",
            "allows nothing",
        ),
        (
            "network = \"egress\"\negress = { mode = \"allowlist\", presets = [\"x\"] }",
            "egress.presets.x",
        ),
    ] {
        let text = format!("{before}\n[profiles.reach]\nbackend = \"bubblewrap\"\n{rules}\n");
        fs::write(&profiles, text)?;
        let done = lab.cli().run(&["org", "sign"])?;
        ensure!(
            done.code()? == 125 && done.stderr.contains(said),
            "{rules}: {}",
            done.stderr
        );
    }
    Ok(())
}
