//! Notifications: who is told of what, and how often.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, poll, wait_until, workspace_root};
use serde_json::Value;

use crate::law::change_law;
use crate::receivers::{Got, Http, Post, Receiver, SOON, Smtp, hub_with};
use crate::steps::{id_of, reach, sh};

fn webhook(cli: &Cli, receiver: &Receiver, on: &str) -> Result<String> {
    let made = cli.json(&["notify", "webhook", &receiver.url(), "--on", on])?;
    Ok(made["secret"].as_str().context("a secret")?.to_owned())
}

/// Whether the snippet in the documentation takes it.
fn verifies(got: &Got, secret: &str) -> Result<bool> {
    let docs = std::fs::read_to_string(workspace_root().join("docs/notifications.md"))?;
    let snippet = docs
        .split("```python\n")
        .nth(1)
        .and_then(|s| s.split("```").next());
    let program = format!(
        "{}\nimport json, sys\nt = json.load(sys.stdin)\nprint(verify(t['secret'], t['headers'], t['body'].encode()))\n",
        snippet.context("a snippet in docs/notifications.md")?
    );
    let header = |name: &str| got.header(name).unwrap_or_default().to_owned();
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature"];
    let headers: serde_json::Map<String, Value> = names
        .iter()
        .map(|n| ((*n).to_owned(), header(n).into()))
        .collect();
    let input = serde_json::json!({ "secret": secret, "headers": headers, "body": got.body });
    let mut python = Command::new("python3")
        .args(["-c", &program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3")?;
    python
        .stdin
        .take()
        .context("stdin")?
        .write_all(input.to_string().as_bytes())?;
    let done = python.wait_with_output()?;
    ensure!(done.status.success(), "{done:?}");
    Ok(done.stdout == b"True\n")
}

#[test]
fn a_webhook_is_told_of_a_failure_signed_and_again_after_the_hub_was_killed_until_it_takes_it() -> Result<()>
{
    let mut split = hub_with("[notify]\nallow_private = true\n", &[])?;
    let receiver = Receiver::start(Http::new())?;
    receiver.refuse(1);
    let secret = webhook(split.cli(), &receiver, "failure")?;
    let mute = Receiver::start(Http::which(Post::Silent))?;
    webhook(split.cli(), &mute, "failure")?;
    split
        .cli()
        .ok(&["run", "--profile", "host", "local", "--", "true"])?;
    let words = [
        "run",
        "--json",
        "--profile",
        "host",
        "local",
        "--",
        "sh",
        "-c",
        "echo very-private; exit 3",
    ];
    let id = id_of(&split.cli().run(&words)?.result()?)?;
    // One that never answers holds up no other.
    mute.wait_for("job.failed")?;
    let first = receiver.wait_for("job.failed")?;
    split.hub()?.kill()?;
    split.start_hub()?;
    wait_until("it comes again", SOON, || receiver.all().len() >= 2)?;
    let second = receiver.all().pop().context("two")?;
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    let said = second.json()?;
    assert_eq!(
        (
            &said["type"],
            &said["data"]["job_id"],
            &said["data"]["node"],
            &said["data"]["state"]
        ),
        (
            &"job.failed".into(),
            &id.as_str().into(),
            &"local".into(),
            &"failed".into()
        )
    );
    assert_eq!(said["data"]["verify"], format!("lictor job {id}"));
    ensure!(!second.body.contains("very-private"), "{}", second.body);
    ensure!(
        second.head.starts_with("POST /hook?x=1 HTTP/1.1\r\n"),
        "{}",
        second.head
    );
    ensure!(
        verifies(&second, &secret)?,
        "the signature does not verify: {second:?}"
    );
    let mut forged = second.clone();
    forged.body = forged.body.replace("failed", "passed");
    ensure!(!verifies(&forged, &secret)?, "a changed body verifies");
    wait_until("it is delivered, and the mute one's waits", SOON, || {
        let targets = split.cli().json(&["notify", "ls"]).unwrap_or_default();
        let waiting = |url: &str| {
            let mut all = targets.as_array().into_iter().flatten();
            all.find(|t| t["address"] == url).map(|t| t["waiting"].clone())
        };
        waiting(&receiver.url()) == Some(0.into()) && waiting(&mute.url()) == Some(1.into())
    })?;
    ensure!(
        receiver.all().iter().all(|g| !g.body.contains("\"succeeded\"")),
        "no word of what went well"
    );
    Ok(())
}

#[test]
fn who_may_approve_is_told_by_mail_and_lost_nodes_and_ending_law_by_webhook() -> Result<()> {
    let letters = Receiver::start(Smtp::plain())?;
    let settings = format!(
        "[notify]\nallow_private = true\nnode_lost_seconds = 2\nlaw_days = 365\n[notify.smtp]\nhost = \"127.0.0.1\"\n\
         port = {}\ntls = \"none\"\nfrom = \"Lictor <lictor@example.com>\"\n",
        letters.port
    );
    let mut split = hub_with(&settings, &["--starter-policy"])?;
    let receiver = Receiver::start(Http::new())?;
    webhook(split.cli(), &receiver, "node,law")?;
    split
        .cli()
        .ok(&["notify", "email", "leads@example.com", "--on", "approval"])?;
    let id = id_of(&sh(split.cli(), &["--detach"], "echo change")?.result()?)?;
    reach(split.cli(), &id, &["awaiting_approval"], SOON)?;
    let letter = letters.wait_for("a job waits for approval")?;
    ensure!(
        letter.head.contains("RCPT TO:<leads@example.com>"),
        "{}",
        letter.head
    );
    let says = letter.body.replace("=\r\n", "");
    for part in [
        id.as_str(),
        "To check it: lictor job",
        "This is what the hub says",
        "text/plain",
    ] {
        ensure!(says.contains(part), "{part}: {says}");
    }
    let law = receiver.wait_for("law.expiring")?.json()?;
    ensure!(
        law["data"]["what"]
            .as_str()
            .is_some_and(|w| w.starts_with("bundle ")),
        "{law}"
    );
    // What waits for a release is told to the same people, as what it is.
    let rule = "@id(\"released\") @releasers(\"ops\")\n\
                forbid (principal, action == Action::\"exec\", resource) when { context.called == \"id\" };\n";
    change_law(split.cli(), "policies/host.cedar", rule)?;
    let words = [
        "run",
        "--json",
        "--detach",
        "--profile",
        "host",
        "local",
        "--",
        "id",
    ];
    let id = id_of(&split.cli().run(&words)?.result()?)?;
    reach(split.cli(), &id, &["awaiting_release"], SOON)?;
    let letter = letters.wait_for("a job waits to be released")?;
    ensure!(
        letter.body.replace("=\r\n", "").contains(id.as_str()),
        "{letter:?}"
    );
    wait_until("the law that says so is told of", SOON, || {
        let all = receiver.all();
        all.iter().filter(|g| g.body.contains("law.expiring")).count() == 2
    })?;
    split.agent()?.kill()?;
    let lost = receiver.wait_for("node.lost")?.json()?;
    assert_eq!(lost["data"]["node"], "local");
    let all = receiver.all();
    let times = |kind: &str| all.iter().filter(|g| g.body.contains(kind)).count();
    assert_eq!(
        (times("node.lost"), times("law.expiring")),
        (1, 2),
        "each is told once, and each bundle is one"
    );
    split.cli().ok(&["org", "sign", "--valid", "2s"])?;
    split.cli().ok(&["org", "push"])?;
    let expired = receiver.wait_for("law.expired")?.json()?;
    assert_eq!(
        expired["data"]["what_to_do"],
        "lictor org sign, then lictor org push"
    );
    Ok(())
}

#[test]
fn a_webhook_goes_to_public_addresses_only_and_follows_nobody() -> Result<()> {
    let mut split = hub_with("", &[])?;
    let receiver = Receiver::start(Http::which(Post::Redirects))?;
    for url in [
        receiver.url(),
        "https://10.0.0.1/".to_owned(),
        "https://[::1]/".to_owned(),
    ] {
        let refused = split.cli().run(&["notify", "webhook", &url])?;
        assert_eq!(refused.code()?, 125, "{url}");
        ensure!(refused.stderr.contains("bad_request"), "{}", refused.stderr);
    }
    let mail = split.cli().run(&["notify", "email", "a@example.com"])?;
    ensure!(mail.stderr.contains("no [notify.smtp]"), "{}", mail.stderr);
    // A name is not looked up before something is sent to it.
    let by_name = format!("https://localhost:{}/hook", receiver.port);
    let made = split.cli().json(&["notify", "webhook", &by_name])?;
    let id = made["target_id"].as_str().context("an id")?;
    split.cli().ok(&["notify", "test", id])?;
    let error_of = |split: &Split, address: &str| {
        poll("the reason", SOON, || {
            let targets = split.cli().json(&["notify", "ls"]).ok()?;
            let one = targets
                .as_array()?
                .iter()
                .find(|t| t["address"] == address)?
                .clone();
            one["last_error"].as_str().map(str::to_owned)
        })
    };
    let why = error_of(&split, &by_name)?;
    ensure!(why.contains("no public address"), "{why}");
    ensure!(receiver.all().is_empty(), "it was reached");

    // With leave to go there: it is reached, once, and nothing goes where it points.
    split.hub()?.terminate()?;
    split.set_hub_settings("[notify]\nallow_private = true\n");
    split.start_hub()?;
    let made = split.cli().json(&["notify", "webhook", &receiver.url()])?;
    split
        .cli()
        .ok(&["notify", "test", made["target_id"].as_str().context("an id")?])?;
    let why = error_of(&split, &receiver.url())?;
    ensure!(why.contains("redirects are not followed"), "{why}");
    ensure!(
        receiver.all().iter().all(|g| g.head.starts_with("POST /hook")),
        "it followed"
    );
    split.cli().ok(&["notify", "rm", id])?;
    let left = split.cli().json(&["notify", "ls"])?;
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    Ok(())
}
