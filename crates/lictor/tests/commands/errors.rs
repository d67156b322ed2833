//! Errors say what happened, why, and what to do; and every kind has its exit status.

use std::fs;

use crate::Home;

#[test]
fn wrong_arguments_are_lictors_own_error_and_not_a_remote_status() {
    let home = Home::new();
    for arguments in [
        &["run", "web-1"][..],
        &["frobnicate"],
        &["run", "--timeout", "soon", "n", "--", "true"],
    ] {
        let done = home.run(arguments);
        assert_eq!(done.status, Some(125), "{done:?}");
        assert!(done.stdout.is_empty() && !done.stderr.is_empty());
    }
    assert_eq!(home.run(&["--help"]).status, Some(0));
    assert_eq!(home.run(&["--version"]).status, Some(0));
}

#[test]
fn with_json_wrong_arguments_are_one_object_too() {
    let home = Home::new();
    for arguments in [
        &["--json", "run", "web-1"][..],
        &["frobnicate", "--json"],
        &["run", "--json", "--timeout", "soon", "n", "--", "true"],
    ] {
        let done = home.run(arguments);
        assert_eq!(done.status, Some(125), "{done:?}");
        let error: serde_json::Value = serde_json::from_str(&done.stderr).expect("one JSON object");
        assert!(
            error["error"]["message"].as_str().is_some_and(|m| !m.is_empty()),
            "{error}"
        );
    }
    let done = home.run(&["run", "--frobnicate", "web-1", "--", "--json"]);
    assert!(
        done.stderr.starts_with("error:"),
        "that one is the command's: {}",
        done.stderr
    );
}

#[test]
fn a_home_that_is_not_set_up_says_how_to_set_one_up() {
    let home = Home::new();
    let done = home.run(&["run", "web-1", "--", "true"]);
    assert_eq!(done.status, Some(125));
    insta::assert_snapshot!(home.plain(&done.stderr), @r"
    lictor: this home is not set up
      because: HOME is no home: it has no config.toml
      what to do: `lictor up --dir DIR` makes one with a hub and a node; `lictor org init` makes one for a new org; `lictor connect` joins an org; LICTOR_HOME names one that exists.
    ");
}

#[test]
fn a_hub_that_is_not_there_is_named() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    home.ok(&["org", "sign"]);
    let nowhere = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let config = fs::read_to_string(home.path("config.toml")).expect("there");
    fs::write(
        home.path("config.toml"),
        format!("{config}\n[hub]\nurl = \"http://{nowhere}\"\n"),
    )
    .expect("written");
    let done = home.run(&["jobs"]);
    assert_eq!(done.status, Some(125));
    let stderr = done.stderr.replace(&nowhere.to_string(), "HUB");
    insta::assert_snapshot!(stderr, @r"
    lictor: could not list the jobs [unavailable]
      because: the hub cannot be reached
      because: cannot connect to HUB
      because: Connection refused (os error 111)
      what to do: Check the address and that it runs: `lictor doctor`.
    ");
    let json = home.run(&["--json", "jobs"]);
    let error: serde_json::Value = serde_json::from_str(&json.stderr).expect("one JSON object");
    assert_eq!(error["error"]["code"], "unavailable");
    assert!(json.stdout.is_empty());
}

#[test]
fn an_https_hub_without_a_pin_is_refused() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    let config = fs::read_to_string(home.path("config.toml")).expect("there");
    fs::write(
        home.path("config.toml"),
        format!("{config}\n[hub]\nurl = \"https://127.0.0.1:1\"\n"),
    )
    .expect("written");
    let done = home.run(&["jobs"]);
    assert_eq!(done.status, Some(125));
    assert!(done.stderr.contains("[hub_pin]"), "{}", done.stderr);
}

#[test]
fn plain_http_to_another_machine_is_refused() {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    let config = fs::read_to_string(home.path("config.toml")).expect("there");
    fs::write(
        home.path("config.toml"),
        format!("{config}\n[hub]\nurl = \"http://192.0.2.1:1\"\n"),
    )
    .expect("written");
    let done = home.run(&["jobs"]);
    assert_eq!(done.status, Some(125));
    assert!(done.stderr.contains("192.0.2.1"), "{}", done.stderr);
}

#[test]
fn completions_are_printed_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        assert!(home.ok(&["completions", shell]).contains("lictor"), "{shell}");
    }
}

#[test]
fn a_changed_audit_record_is_found() {
    let home = Home::new();
    let mut chain = lictor_audit::Chain::new("demo");
    let lines: Vec<String> = (0..3)
        .map(|i| {
            let event = lictor_audit::Event::new(lictor_audit::EventType::ALL[0]);
            chain
                .append(lictor_proto::Timestamp::from_millis(i), event)
                .line()
        })
        .collect();
    let file = home.path("audit.jsonl");
    let path = file.to_str().expect("UTF-8");
    fs::write(&file, lines.join("\n") + "\n").expect("written");
    assert_eq!(home.json(&["audit", "verify", path])["records"], 3);
    fs::write(&file, [lines[0].clone(), lines[2].clone()].join("\n") + "\n").expect("written");
    let done = home.run(&["audit", "verify", path]);
    assert_eq!(done.status, Some(125));
    assert!(
        done.stderr.contains("the audit log does not hold"),
        "{}",
        done.stderr
    );
}
