//! Commands around the hub: grants and what they say, tokens, a hub that is set up by hand, logs and predictions.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::doc::{Grant, Token};
use lictor_proto::{Envelope, Timestamp, json, limits};
use lictor_test::{Cli, Done, Lab, LabOptions, Program, wait_until};
use serde_json::{Value, json};

use crate::steps::{SOON, add_profile, id_of, sh};

fn starter() -> Result<Lab> {
    Lab::start_with(LabOptions {
        arguments: vec!["--starter-policy".to_owned()],
        ..LabOptions::default()
    })
}

fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("{field} of {value}"))
}

fn str(path: &Path) -> Result<&str> {
    path.to_str().context("path")
}

/// Enrols a machine below `dir` and gives what it said.
fn enrol(dir: &Path, token: &str, options: &[&str]) -> Result<Done> {
    let machine = Cli::new(Path::new("/nonexistent"))?;
    let words = ["--json", "agent", "enroll", "--token", token, "--dir", str(dir)?];
    machine.run(&[&words, options].concat())
}

/// What the home's directory of nodes says about a node of this name.
fn node(cli: &Cli, name: &str) -> Result<Vec<Value>> {
    let nodes = cli.json(&["nodes"])?;
    let all = nodes.as_array().context("nodes")?;
    Ok(all.iter().filter(|n| n["name"] == name).cloned().collect())
}

/// The grant behind a node, as this home keeps it.
fn grant_of(cli: &Cli, prefix: &str) -> Result<Grant> {
    let kept = fs::read(cli.home().join("trust/nodes/all.json"))?;
    let kept: Vec<Value> = serde_json::from_slice(&kept)?;
    for docs in kept {
        let envelope = Envelope::parse(text(&docs, "grant")?.as_bytes(), limits::ENVELOPE)?;
        let grant: Grant = json::from_slice(&envelope.payload)?;
        if grant.name_prefix.as_ref().is_some_and(|p| p.as_str() == prefix) {
            return Ok(grant);
        }
    }
    anyhow::bail!("no grant for {prefix}")
}

#[test]
fn a_grant_says_what_was_asked_for_and_the_machine_chooses_its_name_within_it() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let granted = cli.json(&[
        "nodes",
        "grant",
        "--label",
        "role=web",
        "--label",
        "site=berlin",
        "--kind",
        "desktop",
        "--ttl",
        "2h",
        "--uses",
        "2",
        "web-",
    ])?;
    let token = text(&granted, "token")?;
    let elsewhere = enrol(&lab.home().join("m0"), token, &["--name", "db-1"])?;
    ensure!(elsewhere.code()? == 125, "{}", elsewhere.text());
    let joined = enrol(&lab.home().join("m1"), token, &["--name", "web-7"])?;
    assert_eq!(joined.code()?, 0, "{}", joined.stderr);
    assert_eq!(joined.result()?["name"], "web-7");

    let listed = node(cli, "web-7")?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["kind"], "desktop");
    assert_eq!(listed[0]["labels"], json!({ "role": "web", "site": "berlin" }));
    let grant = grant_of(cli, "web-")?;
    assert_eq!(grant.max_uses, 2);
    assert_eq!(grant.expires_at.since(grant.issued_at), Duration::from_secs(7200));
    Ok(())
}

#[test]
fn a_token_leads_to_the_hub_that_was_named() -> Result<()> {
    let lab = starter()?;
    let token = |options: &[&str]| -> Result<Token> {
        let words = [&["nodes", "grant", "web-1"], options].concat();
        let granted = lab.cli().json(&words)?;
        Ok(Token::decode(text(&granted, "token")?)?)
    };
    let own = lab.url().replace("http://", "https://");
    assert_eq!(token(&[])?.hub_url, own);
    let named = "https://hub.example:8443";
    assert_eq!(token(&["--hub-url", named])?.hub_url, named);
    let wrong = lab
        .cli()
        .run(&["nodes", "grant", "web-1", "--hub-url", "hub.example"])?;
    assert_eq!(wrong.code()?, 125);
    assert!(wrong.stderr.contains("https://HOST:PORT"), "{}", wrong.stderr);
    Ok(())
}

#[test]
fn an_address_that_only_this_machine_reaches_is_said_to_be_one() -> Result<()> {
    let lab = starter()?;
    let said = |options: &[&str]| -> Result<String> {
        let words = [&["nodes", "grant", "web-1"], options].concat();
        Ok(lab.cli().run(&words)?.stderr)
    };
    assert!(said(&[])?.contains("--hub-url https://ADDRESS:8420"));
    assert!(!said(&["--hub-url", "https://hub.example:8443"])?.contains("only this machine"));
    Ok(())
}

#[test]
fn a_replacement_takes_the_name_over() -> Result<()> {
    let lab = starter()?;
    let cli = lab.cli();
    let machine = |dir: &str, options: &[&str]| -> Result<String> {
        let words = [&["nodes", "grant", "web-1"], options].concat();
        let granted = cli.json(&words)?;
        let done = enrol(&lab.home().join(dir), text(&granted, "token")?, &[])?;
        ensure!(done.code()? == 0, "{}", done.stderr);
        Ok(text(&done.result()?, "node_id")?.to_owned())
    };
    let first = machine("m1", &[])?;
    let second = machine("m2", &["--replaces", &first])?;
    let listed = node(cli, "web-1")?;
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["node_id"], second.as_str());
    assert_eq!(listed[0]["ambiguous"], false);
    let third = machine("m3", &[]).expect_err("the name is taken");
    ensure!(third.to_string().contains("ambiguous_name"), "{third}");
    Ok(())
}

#[test]
fn a_token_opens_what_its_scope_says_until_it_is_revoked() -> Result<()> {
    let lab = Lab::start()?;
    let made = lab.cli().json(&["tokens", "new", "--ttl", "1h", "a reader"])?;
    let (id, secret) = (text(&made, "token_id")?, text(&made, "secret")?);
    let listed = lab.cli().json(&["tokens", "list"])?;
    let own = listed.as_array().context("tokens")?;
    let own = own.iter().find(|t| t["token_id"] == id).context("it is listed")?;
    assert_eq!(
        (&own["label"], &own["scope"]),
        (&json!("a reader"), &json!("read"))
    );
    assert!(own["expires_at"].is_string(), "{own}");
    ensure!(!listed.to_string().contains(secret), "the secret is shown once");
    let table = lab.cli().ok(&["tokens", "list"])?;
    assert!(table.starts_with("ID ") && table.contains("a reader"), "{table}");

    let reader = Cli::new(&lab.home().join("reader"))?;
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args(["config.toml", "trust", "keys"].map(|n| lab.home().join(n)))
        .arg({
            fs::create_dir(reader.home())?;
            reader.home()
        })
        .status()?;
    ensure!(copied.success());
    fs::write(reader.home().join("token"), secret)?;
    reader.ok(&["jobs"])?;
    let denied = reader.run(&["nodes", "grant", "web-1"])?;
    ensure!(denied.stderr.contains("[scope_missing]"), "{}", denied.stderr);
    lab.cli().ok(&["tokens", "revoke", id])?;
    let over = reader.run(&["jobs"])?;
    ensure!(over.stderr.contains("[unauthenticated]"), "{}", over.stderr);
    let strange = lab.cli().run(&["tokens", "revoke", "../nodes"])?;
    ensure!(strange.stderr.contains("is no token id"), "{}", strange.stderr);
    Ok(())
}

/// A hub as its documentation sets one up: configuration, org, then the program; and what it printed.
fn hub_by_hand(cli: &Cli, dir: &Path) -> Result<(Program, Value, String)> {
    let config = dir.join("hub.toml");
    fs::write(&config, "dir = \"hub\"\nlisten = \"127.0.0.1:0\"\n")?;
    let config = str(&config)?;
    let checked = cli.json(&["hub", "serve", "--config", config, "--check-config"])?;
    assert_eq!(checked["listen"], "127.0.0.1:0");
    let wrong = dir.join("wrong.toml");
    fs::write(&wrong, "dir = \".\"\nport = 1\n")?;
    let refused = cli.run(&["hub", "serve", "--check-config", "--config", str(&wrong)?])?;
    assert_eq!(refused.code()?, 125);
    ensure!(refused.stderr.contains("port"), "{}", refused.stderr);

    let root = cli.home().join("org/signed/root.1.json");
    let words = ["hub", "org", "create", "--config", config, "--root", str(&root)?];
    let created = cli.json(&words)?;
    let again = cli.json(&words)?;
    assert_eq!(again["org"], created["org"]);
    assert_ne!(
        again["token"], created["token"],
        "for an org that is there only the token is new"
    );
    let mut hub = Program::start(cli.command(&["hub", "serve", "--config", config]))?;
    let addr = hub.line("the hub's ready line", SOON, |line| {
        let ready: Value = serde_json::from_str(line).ok()?;
        ready["addr"].as_str().map(str::to_owned)
    })?;
    Ok((hub, created, addr))
}

#[test]
fn a_hub_set_up_by_hand_is_reached_over_https_by_its_pin() -> Result<()> {
    let dir = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o711))
        .tempdir()?;
    let cli = Cli::new(&dir.path().join("home"))?;
    let founded = cli.json(&["org", "init", "acme", "--operator", "alice"])?;
    cli.ok(&["org", "sign"])?;
    let (_hub, created, addr) = hub_by_hand(&cli, dir.path())?;
    assert_eq!(created["org"], founded["org"]);
    let token = dir.path().join("token");
    fs::write(&token, text(&created, "token")?)?;
    let (web, link) = (text(&created, "web_spki")?, text(&created, "link_spki")?);
    let url = format!("https://{addr}");
    let connect = |spki: &str| {
        cli.run(&[
            "connect",
            "--spki",
            spki,
            "--link-spki",
            link,
            "--org",
            text(&founded, "org")?,
            "--operator",
            "alice",
            "--key",
            "alice",
            "--token-file",
            str(&token)?,
            &url,
        ])
    };
    let other = connect(link)?;
    assert_eq!(other.code()?, 125);
    ensure!(other.stderr.contains("[hub_pin]"), "{}", other.stderr);
    let done = connect(web)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    cli.ok(&["org", "push"])?;

    let granted = cli.json(&["nodes", "grant", "web-1"])?;
    let node_dir = dir.path().join("node");
    let joined = enrol(&node_dir, text(&granted, "token")?, &[])?;
    assert_eq!(joined.code()?, 0, "{}", joined.stderr);
    let config = dir.path().join("agent.toml");
    fs::write(&config, format!("dir = {node_dir:?}\ntransport = \"poll\"\n"))?;
    let run = ["agent", "run", "--config", str(&config)?];
    let mut agent = Program::start(Cli::new(Path::new("/nonexistent"))?.command(&run))?;
    let connected = || node(&cli, "web-1").is_ok_and(|n| n.iter().any(|n| n["connected"] == true));
    wait_until("web-1", SOON, connected).with_context(|| agent.stderr())?;
    let done = cli.run(&["run", "--json", "--profile", "host", "web-1", "--", "uname"])?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    assert!(agent.terminate()?.success());
    Ok(())
}

#[test]
fn audit_logs_are_shown_to_people_and_to_programs() -> Result<()> {
    let lab = Lab::start()?;
    let id = id_of(&sh(lab.cli(), &[], "echo audited")?.result()?)?;
    let agent = lab.home().join("agent");
    for source in [
        vec!["audit", "show"],
        vec!["audit", "show", "--agent", str(&agent)?],
    ] {
        let people = lab.cli().ok(&source)?;
        let line = people.lines().find(|l| l.contains(&id)).context("the job")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        assert!(words[0].parse::<u64>().is_ok(), "a number: {line}");
        assert!(words[1].parse::<Timestamp>().is_ok(), "a time: {line}");
        assert!(line.contains(&format!("job_id={id}")), "its fields: {line}");
        let programs = lab.cli().ok(&[&["--json"], &source[..]].concat())?;
        assert_eq!(programs.lines().count(), people.lines().count());
        for line in programs.lines() {
            let record: Value = serde_json::from_str(line)?;
            assert!(record["seq"].is_u64() && record["prev"].is_string(), "{record}");
        }
    }
    Ok(())
}

#[test]
fn explain_predicts_for_the_node_profile_operator_variables_and_law_that_are_named() -> Result<()> {
    let lab = starter()?;
    let explain = |options: &[&str], argv: &[&str]| -> Result<Value> {
        let words = [&["--json", "explain"], options, &["--"], argv].concat();
        lab.cli().run(&words)?.result()
    };
    let python = ["python3", "-c", "1"];
    assert_eq!(
        explain(&[], &python)?["prediction"],
        "allow",
        "the default is the sandbox"
    );
    let host = ["--profile", "host", "--node", "local"];
    assert_eq!(explain(&host, &python)?["prediction"], "deny");
    assert_eq!(explain(&host, &["uname"])?["node"], "local");
    let stranger = explain(&[&host[..], &["--as", "mallory"]].concat(), &["uname"])?;
    assert_eq!(stranger["operator"], "mallory");
    assert_eq!(stranger["prediction"], "deny");
    let home = explain(&[&host[..], &["-e", "HOME=/tmp"]].concat(), &["uname"])?;
    assert_eq!(home["prediction"], "deny");
    assert_eq!(home["rules"][0]["id"], "host-home-is-the-profiles");

    let draft = lab.home().join("org");
    let rule = "@id(\"no-uname\")\nforbid (principal, action, resource) when { context has program };\n";
    fs::write(draft.join("policies/draft.cedar"), rule)?;
    let by_draft = explain(&[&host[..], &["--dir", str(&draft)?]].concat(), &["uname"])?;
    assert_eq!(by_draft["rules"][0]["id"], "no-uname", "{by_draft}");
    assert_eq!(
        explain(&host, &["uname"])?["prediction"],
        "allow",
        "which is not law yet"
    );

    // Of a job on many nodes, and what else a job says.
    let wide = explain(&["--nodes", "21"], &["uname"])?;
    assert_eq!((&wide["prediction"], &wide["nodes"]), (&"ask".into(), &21.into()));
    ensure!(
        wide["why"][0]
            .as_str()
            .is_some_and(|w| w.contains("wide-jobs-need-a-lead")),
        "{wide}"
    );
    assert_eq!(explain(&["--nodes", "20"], &["uname"])?["prediction"], "allow");
    let rules = "@id(\"d1\") forbid (principal, action == Action::\"exec\", resource) when { context.cwd == \"/src\" };\n\
         @id(\"d2\") forbid (principal, action == Action::\"exec\", resource) when { context.sandbox == \"shop\" };\n\
         @id(\"d3\") forbid (principal, action == Action::\"exec\", resource) when { context.stdin_size == 7 };\n\
         @id(\"d4\") forbid (principal, action == Action::\"fetch\", resource) when { context.replace };\n\
         @id(\"d5\") permit (principal, action == Action::\"workspace\", resource) when { context.operation == \"remove\" && context.sandbox == \"shop\" };\n\
         @id(\"d6\") permit (principal, action == Action::\"workspace\", resource) when { context.git_host == \"git.example\" };\n";
    fs::write(draft.join("policies/draft.cedar"), rules)?;
    let by = |options: &[&str]| -> Result<(Value, Value)> {
        let words = [&["--json", "explain", "--dir", str(&draft)?], options].concat();
        let told = lab.cli().run(&words)?.result()?;
        Ok((told["prediction"].clone(), told["rules"][0]["id"].clone()))
    };
    let allowed = (json!("allow"), json!("ops-in-sandbox"));
    let uname = ["--", "uname"];
    assert_eq!(by(&uname)?, allowed);
    for (options, rule) in [
        (&["--cwd", "/src"][..], "d1"),
        (&["--sandbox", "shop"], "d2"),
        (&["--stdin", "--size", "7"], "d3"),
    ] {
        assert_eq!(by(&[options, &uname].concat())?, (json!("deny"), json!(rule)));
    }
    assert_eq!(by(&["--fetch", "/workspace/f"])?.0, "allow");
    assert_eq!(by(&["--fetch", "/workspace/f", "--replace"])?.1, "d4");
    assert_eq!(
        by(&["--workspace", "remove", "--sandbox", "shop"])?,
        (json!("allow"), json!("d5"))
    );
    assert_eq!(by(&["--workspace", "remove", "--sandbox", "other"])?.0, "deny");
    let commit = "0123456789012345678901234567890123456789";
    let clone = [
        "--workspace",
        "clone",
        "--sandbox",
        "shop",
        "--git-commit",
        commit,
        "--git-url",
        "https://git.example/shop",
    ];
    assert_eq!(by(&clone)?, (json!("allow"), json!("d6")));
    let unnamed = lab.cli().run(&["explain", "--workspace", "remove"])?;
    ensure!(
        unnamed.stderr.contains("such a job cannot be signed"),
        "{}",
        unnamed.stderr
    );
    fs::remove_file(draft.join("policies/draft.cedar"))?;

    // Files, too.
    let file = |words: &[&str]| -> Result<Value> {
        let words = [&["--json", "explain"], words].concat();
        lab.cli().run(&words)?.result()
    };
    let inside = file(&["--fetch", "/workspace/file", "--size", "1GiB"])?;
    assert_eq!(inside["prediction"], "allow", "{inside}");
    assert_eq!(inside["action"], "fetch");
    let key = file(&["--profile", "host", "--fetch", "/root/.ssh/authorized_keys"])?;
    assert_eq!(key["rules"][0]["id"], "no-files-among-keys-and-users", "{key}");
    let log = file(&["--profile", "host", "--collect", "/var/log/syslog"])?;
    assert_eq!(log["prediction"], "allow", "{log}");
    let other = file(&["--profile", "host", "--collect", "/etc/shadow"])?;
    assert_eq!(other["prediction"], "ask", "{other}");

    let unknown = lab.cli().run(&["explain", "--node", "nowhere", "--", "uname"])?;
    ensure!(unknown.stderr.contains("[node_unknown]"), "{}", unknown.stderr);
    let profile = lab.cli().run(&["explain", "--profile", "none", "--", "uname"])?;
    ensure!(profile.stderr.contains("[profile_unknown]"), "{}", profile.stderr);
    Ok(())
}

#[test]
fn a_job_is_valid_for_five_minutes_unless_more_is_said() -> Result<()> {
    let lab = Lab::start()?;
    let validity = |options: &[&str]| -> Result<Duration> {
        let id = id_of(&sh(lab.cli(), options, "true")?.result()?)?;
        let job = lab.cli().json(&["job", &id])?["job"].clone();
        let time = |name: &str| serde_json::from_value::<Timestamp>(job[name].clone());
        Ok(time("expires_at")?.since(time("issued_at")?))
    };
    assert_eq!(validity(&[])?, Duration::from_secs(300));
    assert_eq!(validity(&["--valid", "90s"])?, Duration::from_secs(90));
    Ok(())
}

#[test]
fn output_that_was_not_kept_is_said_of_the_stream_that_it_is_missing_from() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let narrow =
        "\n[profiles.narrow]\nbackend = \"host\"\nnetwork = \"host\"\nlimits = { keep = \"64KiB\" }\n";
    add_profile(cli, narrow)?;
    let script = "head -c 3000000 /dev/zero";
    let words = [
        "run",
        "--json",
        "--profile",
        "narrow",
        "local",
        "--",
        "sh",
        "-c",
        script,
    ];
    let done = cli.run(&words)?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let result = done.result()?;
    assert_eq!(
        (&result["stdout_bytes"], &result["stderr_bytes"]),
        (&json!(3_000_000), &json!(0))
    );
    assert_eq!(
        (&result["stdout_truncated"], &result["stderr_truncated"]),
        (&json!(true), &json!(false))
    );
    Ok(())
}

/// The same command on a terminal of its own: what appears there.
fn on_a_terminal(cli: &Cli, arguments: &[&str]) -> Result<String> {
    let plain = cli.command(arguments);
    let words: Vec<_> = std::iter::once(plain.get_program())
        .chain(plain.get_args())
        .map(|w| format!("'{}'", w.to_string_lossy()))
        .collect();
    let mut command = std::process::Command::new("script");
    command.args(["-qec", &words.join(" "), "/dev/null"]);
    let envs = plain.get_envs().filter_map(|(k, v)| Some((k, v?)));
    command.env_clear().envs(envs).env("SHELL", "/bin/sh");
    let output = command.stdin(std::process::Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn progress_is_for_whoever_watches() -> Result<()> {
    let lab = Lab::start()?;
    let progress = "the hub had older law than this home";
    let behind = || -> Result<()> {
        lab.cli().ok(&["org", "sign"])?;
        Ok(fs::remove_file(lab.home().join("trust/refreshed"))?)
    };
    behind()?;
    let watched = on_a_terminal(lab.cli(), &["approvals"])?;
    assert!(watched.contains(progress), "{watched}");
    behind()?;
    let unwatched = lab.cli().run(&["approvals"])?;
    assert_eq!(unwatched.code()?, 0);
    ensure!(!unwatched.stderr.contains(progress), "{}", unwatched.stderr);
    behind()?;
    let by_program = on_a_terminal(lab.cli(), &["--json", "approvals"])?;
    ensure!(
        !by_program.contains(progress),
        "programs are not told: {by_program}"
    );
    Ok(())
}
