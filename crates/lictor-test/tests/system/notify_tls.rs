//! Notifications over TLS, and after a login: each refusal first beside the same thing that works.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, poll, wait_until};

use crate::receivers::{Authority, Got, Http, Protection, Receiver, SOON, Smtp, hub_with};
use crate::steps::sh;

/// A file that the hub's configuration names.
struct Roots {
    _dir: tempfile::TempDir,
    file: PathBuf,
}

impl Roots {
    fn of(authority: &Authority) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("ca.pem");
        authority.write(&file)?;
        Ok(Self { _dir: dir, file })
    }

    fn setting(&self) -> String {
        format!("ca_file = {:?}\n", self.file)
    }
}

/// Has somebody told, and a test sent; gives the id.
fn tested(cli: &Cli, way: &str, address: &str) -> Result<String> {
    let made = cli.json(&["notify", way, address])?;
    let id = made["target_id"].as_str().context("an id")?.to_owned();
    cli.ok(&["notify", "test", &id])?;
    Ok(id)
}

/// Why the last one did not arrive, once one did not.
fn error_of(cli: &Cli, id: &str) -> Result<String> {
    poll("the reason", SOON, || {
        let targets = cli.json(&["notify", "ls"]).ok()?;
        let one = targets.as_array()?.iter().find(|t| t["target_id"] == id)?.clone();
        one["last_error"].as_str().map(str::to_owned)
    })
}

fn restarted(split: &mut Split, settings: &str) -> Result<()> {
    split.hub()?.terminate()?;
    split.set_hub_settings(settings);
    split.start_hub()
}

#[test]
fn a_webhook_over_https_goes_to_who_proves_to_be_its_host_and_to_nobody_else() -> Result<()> {
    let (authority, other) = (Authority::new("one")?, Authority::new("another")?);
    let (roots, others) = (Roots::of(&authority)?, Roots::of(&other)?);
    let private = "[notify]\nallow_private = true\n";
    let mut split = hub_with(&format!("{private}{}", roots.setting()), &[])?;
    let url = |receiver: &Receiver| format!("https://127.0.0.1:{}/hook", receiver.port);

    let honest = Receiver::start(Http::over_tls(authority.server("127.0.0.1")?))?;
    tested(split.cli(), "webhook", &url(&honest))?;
    honest.wait_for("\"test\"")?;

    let elsewhere = Receiver::start(Http::over_tls(authority.server("elsewhere.example.com")?))?;
    let id = tested(split.cli(), "webhook", &url(&elsewhere))?;
    let why = error_of(split.cli(), &id)?;
    ensure!(why.contains("TLS: ") && why.contains("certificate"), "{why}");

    let unknown = Receiver::start(Http::over_tls(other.server("127.0.0.1")?))?;
    let id = tested(split.cli(), "webhook", &url(&unknown))?;
    let why = error_of(split.cli(), &id)?;
    ensure!(
        why.contains("certificate") && why.contains("UnknownIssuer"),
        "{why}"
    );
    ensure!(elsewhere.begun() > 0 && unknown.begun() > 0, "they were reached");
    ensure!(
        elsewhere.all().is_empty() && unknown.all().is_empty(),
        "and told nothing"
    );

    // It waited: with its authority named it comes, and the first one's is then not believed.
    restarted(&mut split, &format!("{private}{}", others.setting()))?;
    unknown.wait_for("\"test\"")?;
    let id = tested(split.cli(), "webhook", &url(&honest))?;
    ensure!(
        error_of(split.cli(), &id)?.contains("UnknownIssuer"),
        "it is believed"
    );
    assert_eq!(honest.all().len(), 1);

    // A file without a certificate is no configuration.
    fs::write(&roots.file, "nothing\n")?;
    let started = restarted(&mut split, &format!("{private}{}", roots.setting()));
    let why = format!("{:#}", started.err().context("it started")?);
    ensure!(why.contains("ca_file"), "{why}");
    Ok(())
}

type Login = Arc<Mutex<(String, String)>>;

fn login(password: &str) -> Login {
    Arc::new(Mutex::new(("lictor".to_owned(), password.to_owned())))
}

/// The configuration for one server.
fn mail(server: &Receiver, tls: &str, roots: &Roots, password: &str) -> Result<String> {
    let file = roots.file.with_extension("password");
    fs::write(&file, format!("{password}\n"))?;
    Ok(format!(
        "[notify]\nallow_private = true\n{}[notify.smtp]\nhost = \"127.0.0.1\"\nport = {}\ntls = \"{tls}\"\n\
         username = \"lictor\"\npassword_file = {file:?}\nfrom = \"Lictor <lictor@example.com>\"\n",
        roots.setting(),
        server.port,
    ))
}

fn letter_to(server: &Receiver, address: &str) -> Result<Got> {
    poll("a letter", SOON, || {
        let to = format!("RCPT TO:<{address}>");
        server.all().into_iter().find(|g| g.head.contains(&to))
    })
}

#[test]
fn a_letter_goes_after_a_login_over_tls_and_a_wrong_one_is_told_and_tried_again() -> Result<()> {
    let authority = Authority::new("one")?;
    let roots = Roots::of(&authority)?;
    let tls = authority.server("127.0.0.1")?;
    let known = login("right");
    let starttls = Receiver::start(Smtp::new(Protection::Starttls(tls.clone()), known.clone()))?;
    let mut split = hub_with(&mail(&starttls, "starttls", &roots, "right")?, &[])?;
    tested(split.cli(), "email", "one@example.com")?;
    let letter = letter_to(&starttls, "one@example.com")?;
    let place = |word: &str| letter.head.find(word);
    ensure!(
        place("STARTTLS").is_some() && place("STARTTLS") < place("AUTH PLAIN"),
        "the password went over an open line: {}",
        letter.head
    );
    ensure!(letter.body.contains("a test of notifications"), "{}", letter.body);

    // The password is changed at the server: that is told, and once it is right again the letter comes by itself.
    "changed".clone_into(&mut known.lock().unwrap_or_else(PoisonError::into_inner).1);
    let id = tested(split.cli(), "email", "two@example.com")?;
    let why = error_of(split.cli(), &id)?;
    ensure!(why.contains("535"), "{why}");
    ensure!(starttls.all().len() == 1, "it was taken without a login");
    "right".clone_into(&mut known.lock().unwrap_or_else(PoisonError::into_inner).1);
    letter_to(&starttls, "two@example.com")?;
    wait_until("nothing waits", SOON, || {
        let targets = split.cli().json(&["notify", "ls"]).unwrap_or_default();
        let mut all = targets.as_array().into_iter().flatten();
        all.all(|t| t["waiting"] == 0 && t["last_error"].is_null())
    })?;

    let implicit = Receiver::start(Smtp::new(Protection::Tls(tls), known))?;
    restarted(&mut split, &mail(&implicit, "tls", &roots, "right")?)?;
    tested(split.cli(), "email", "three@example.com")?;
    letter_to(&implicit, "three@example.com")?;
    Ok(())
}

#[test]
fn no_letter_and_no_password_goes_to_a_mail_server_that_proves_nothing() -> Result<()> {
    let (authority, other) = (Authority::new("one")?, Authority::new("another")?);
    let roots = Roots::of(&authority)?;
    // The same server, known to the hub, takes it.
    let known = Smtp::new(
        Protection::Starttls(authority.server("127.0.0.1")?),
        login("right"),
    );
    let known = Receiver::start(known)?;
    let mut split = hub_with(&mail(&known, "starttls", &roots, "right")?, &[])?;
    tested(split.cli(), "email", "known@example.com")?;
    letter_to(&known, "known@example.com")?;

    let unknown = other.server("127.0.0.1")?;
    let elsewhere = authority.server("elsewhere.example.com")?;
    for (n, (protection, tls, says)) in [
        (Protection::Starttls(unknown.clone()), "starttls", "UnknownIssuer"),
        (Protection::Tls(unknown), "tls", "UnknownIssuer"),
        (Protection::Tls(elsewhere), "tls", "certificate"),
        (Protection::None, "starttls", "STARTTLS"),
    ]
    .into_iter()
    .enumerate()
    {
        let server = Receiver::start(Smtp::new(protection, login("right")))?;
        restarted(&mut split, &mail(&server, tls, &roots, "right")?)?;
        let id = tested(split.cli(), "email", &format!("nobody-{n}@example.com"))?;
        let why = error_of(split.cli(), &id)?;
        ensure!(why.contains(says), "{n}: {why}");
        ensure!(server.begun() > 0 && server.all().is_empty(), "{n}: it was told");
        ensure!(!server.heard().contains("AUTH"), "{n}: {}", server.heard());
        split.cli().ok(&["notify", "rm", &id])?;
    }
    Ok(())
}

#[test]
fn law_that_goes_stale_is_told_before_and_when_it_is_with_what_to_do() -> Result<()> {
    let split = hub_with("[notify]\nallow_private = true\n", &[])?;
    let cli = split.cli();
    let receiver = Receiver::start(Http::new())?;
    cli.ok(&["notify", "webhook", &receiver.url(), "--on", "law"])?;
    // The org gets a key for freshness statements.
    let root = split.home().join("next-root.json");
    let root = root.to_str().context("path")?;
    cli.ok(&["keys", "new", "freshness"])?;
    cli.ok(&[
        "org",
        "root",
        "new",
        "--out",
        root,
        "--add",
        "freshness=freshness",
    ])?;
    cli.ok(&["org", "root", "sign", "--yes", root])?;
    cli.ok(&["org", "root", "take", root])?;
    cli.ok(&["org", "sign", "--max-staleness", "28s"])?;
    cli.ok(&["org", "freshness"])?;
    cli.ok(&["org", "push"])?;
    ensure!(sh(cli, &[], "true")?.code()? == 0, "while it is fresh");
    let soon = receiver.wait_for("law.staling")?.json()?;
    assert_eq!(soon["data"]["what"], "freshness statement", "{soon}");
    let now = receiver.wait_for("law.stale\"")?.json()?;
    assert_eq!(now["data"]["until"], soon["data"]["until"], "{now}");
    let to_do = now["data"]["what_to_do"].as_str().context("what to do")?;
    ensure!(to_do == "lictor org freshness, then lictor org push", "{to_do}");
    cli.ok(&["org", "freshness"])?;
    cli.ok(&["org", "push"])?;
    ensure!(sh(cli, &[], "true")?.code()? == 0, "what was to be done helps");
    let all = receiver.all();
    let times = |kind: &str| all.iter().filter(|g| g.body.contains(kind)).count();
    assert_eq!((times("law.staling"), times("law.stale\"")), (1, 1), "each once");
    Ok(())
}
