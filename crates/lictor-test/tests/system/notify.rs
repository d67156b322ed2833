//! Notifications: a real HTTP receiver and a real SMTP conversation, both in this process.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, SplitOptions, poll, wait_until, workspace_root};
use serde_json::Value;

use crate::steps::{id_of, reach, sh};

const SOON: Duration = Duration::from_secs(60);

/// What came to a receiver.
#[derive(Debug, Clone)]
struct Got {
    head: String,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(':'));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

/// A server for one kind of conversation, each in a thread of its own.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<Got>>>,
    /// How many of the next ones are refused.
    refuse: Arc<AtomicUsize>,
}

type Talk = fn(TcpStream, &Mutex<Vec<Got>>, &AtomicUsize) -> Result<()>;

impl Receiver {
    fn start(talk: Talk) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let refuse = Arc::new(AtomicUsize::new(0));
        let (kept, refusing) = (got.clone(), refuse.clone());
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, refusing) = (kept.clone(), refusing.clone());
                // A conversation that breaks off is the other side's affair, and shows in what came.
                thread::spawn(move || drop(talk(stream, &kept, &refusing)));
            }
        });
        Ok(Self { port, got, refuse })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?x=1", self.port)
    }

    fn all(&self) -> Vec<Got> {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for one of this kind that was taken in or refused.
    fn wait_for(&self, kind: &str) -> Result<Got> {
        poll(&format!("{kind} to come"), SOON, || {
            self.all().into_iter().find(|g| g.body.contains(kind))
        })
    }
}

fn keep(got: &Mutex<Vec<Got>>, one: Got) {
    got.lock().unwrap_or_else(PoisonError::into_inner).push(one);
}

fn takes_one(refuse: &AtomicUsize) -> bool {
    refuse
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_err()
}

/// Reads a request and answers 200, or 500 while it refuses.
fn http(stream: TcpStream, got: &Mutex<Vec<Got>>, refuse: &AtomicUsize) -> Result<()> {
    let status = |takes| if takes { "200 OK" } else { "500 No" };
    let one = request(&stream)?;
    let answer = status(takes_one(refuse));
    keep(got, one);
    write!(&stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n")?;
    Ok(())
}

/// Sends whoever comes elsewhere, on the same server.
fn redirects(stream: TcpStream, got: &Mutex<Vec<Got>>, _: &AtomicUsize) -> Result<()> {
    keep(got, request(&stream)?);
    write!(
        &stream,
        "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
    )?;
    Ok(())
}

/// Reads a request and never answers.
fn silent(stream: TcpStream, got: &Mutex<Vec<Got>>, _: &AtomicUsize) -> Result<()> {
    keep(got, request(&stream)?);
    let mut rest = Vec::new();
    (&stream).read_to_end(&mut rest)?;
    Ok(())
}

fn request(stream: &TcpStream) -> Result<Got> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the request ended early");
    }
    let mut got = Got {
        head,
        body: String::new(),
    };
    let length: u64 = got.header("content-length").context("a length")?.parse()?;
    reader.take(length).read_to_string(&mut got.body)?;
    Ok(got)
}

/// RFC 5321, as much as a client without extensions needs.
fn smtp(stream: TcpStream, got: &Mutex<Vec<Got>>, _: &AtomicUsize) -> Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut head = String::new();
    write!(&stream, "220 test ESMTP\r\n")?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        head += &line;
        let word = line.split_whitespace().next().unwrap_or_default().to_uppercase();
        match word.as_str() {
            "DATA" => {
                write!(&stream, "354 go on\r\n")?;
                let mut body = String::new();
                while !body.ends_with("\r\n.\r\n") {
                    ensure!(reader.read_line(&mut body)? > 0, "the letter ended early");
                }
                keep(
                    got,
                    Got {
                        head: head.clone(),
                        body,
                    },
                );
                write!(&stream, "250 taken\r\n")?;
            }
            "QUIT" => {
                write!(&stream, "221 bye\r\n")?;
                return Ok(());
            }
            _ => write!(&stream, "250 fine\r\n")?,
        }
    }
}

fn hub_with(settings: &str, arguments: &[&str]) -> Result<Split> {
    Split::start_with(SplitOptions {
        hub_settings: settings.to_owned(),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        ..SplitOptions::default()
    })
}

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
    let receiver = Receiver::start(http)?;
    receiver.refuse.store(1, Ordering::Relaxed);
    let secret = webhook(split.cli(), &receiver, "failure")?;
    let mute = Receiver::start(silent)?;
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
    let letters = Receiver::start(smtp)?;
    let settings = format!(
        "[notify]\nallow_private = true\nnode_lost_seconds = 2\nlaw_days = 365\n[notify.smtp]\nhost = \"127.0.0.1\"\n\
         port = {}\ntls = \"none\"\nfrom = \"Lictor <lictor@example.com>\"\n",
        letters.port
    );
    let mut split = hub_with(&settings, &["--starter-policy"])?;
    let receiver = Receiver::start(http)?;
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
    split.agent()?.kill()?;
    let lost = receiver.wait_for("node.lost")?.json()?;
    assert_eq!(lost["data"]["node"], "local");
    let all = receiver.all();
    let times = |kind: &str| all.iter().filter(|g| g.body.contains(kind)).count();
    assert_eq!(
        (times("node.lost"), times("law.expiring")),
        (1, 1),
        "each is told once"
    );
    Ok(())
}

#[test]
fn a_webhook_goes_to_public_addresses_only_and_follows_nobody() -> Result<()> {
    let mut split = hub_with("", &[])?;
    let receiver = Receiver::start(redirects)?;
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
