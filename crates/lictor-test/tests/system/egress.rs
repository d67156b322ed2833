//! The only way out of a sandbox: what the law lists is reached, nothing else, and every attempt is in the node's audit log.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
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
    let denied = records(cli, "egress_denied")?;
    let fields = &denied.first().context("a denial")?["fields"];
    assert_eq!(
        (&fields["host"], &fields["reason"]),
        (&json!("elsewhere.example.com"), &json!("not_listed"))
    );
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
