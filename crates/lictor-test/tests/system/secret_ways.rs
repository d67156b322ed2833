//! The ways by which a secret reaches a job: in each backend, by an agent that polls, after an approval, and as a file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cli, Done, Lab, Missing, Split, SplitOptions, skip};

use crate::law::{change_law, second_operator, starter};
use crate::steps::{SOON, add_profile, ended, gone, id_of, mark, reach};

const VALUE: &str = "gr8-Secr3t/of+the~lab%and \"more\"";

const BOXES: &str = "\n[profiles.landlock]\nbackend = \"landlock\"\n[profiles.container]\nbackend = \"container\"\n\
                     [profiles.gvisor]\nbackend = \"gvisor\"\n[profiles.run]\nbackend = \"bubblewrap\"\nread_only = [\"/run/lock\"]\n";

fn set(cli: &Cli, name: &str) -> Result<()> {
    let done = cli.run_with_input(&["secret", "set", name, "--nodes", "local"], VALUE.into())?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    Ok(())
}

fn sh(cli: &Cli, profile: &str, options: &[&str], script: &str) -> Result<Done> {
    let mut all = vec!["run", "--profile", profile];
    all.extend(options);
    all.extend(["local", "--", "sh", "-c", script]);
    cli.run(&all)
}

fn sum() -> String {
    let sum = Digest::of(VALUE.as_bytes()).to_string();
    sum.trim_start_matches("sha256:").to_owned()
}

fn said(done: &Done) -> String {
    done.text() + &done.stderr
}

/// Which of these profiles this machine can run anything in; the others say why not. Of several it can run one.
pub(crate) fn that_run<'a>(cli: &Cli, profiles: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut run = Vec::new();
    for profile in profiles {
        let done = sh(cli, profile, &[], "true")?;
        match done.code()? {
            0 => run.push(*profile),
            _ => skip(&Missing::new(format!("{profile}: {}", said(&done)))),
        }
    }
    ensure!(
        profiles.len() == 1 || !run.is_empty(),
        "this machine can run none of {profiles:?}"
    );
    Ok(run)
}

#[test]
fn a_secret_reaches_a_job_in_every_backend_by_what_that_has_and_no_output_has_it() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, BOXES)?;
    set(cli, "db")?;
    for profile in that_run(cli, &["landlock", "container", "gvisor"])? {
        let done = sh(
            cli,
            profile,
            &["--secret", "db=stdin"],
            "v=$(cat); printf %s \"$v\" | sha256sum; printf %s \"$v\" >&2",
        )?;
        ensure!(
            done.code()? == 0 && done.text().contains(&sum()),
            "{profile}: {}",
            said(&done)
        );
        ensure!(
            done.stderr.contains("[redacted:db]"),
            "{profile}: {}",
            done.stderr
        );
        let held = sh(
            cli,
            profile,
            &["--secret", "db"],
            "cat $LICTOR_SECRET_DB; sha256sum < $LICTOR_SECRET_DB",
        )?;
        if profile == "gvisor" {
            ensure!(
                held.code()? == 126 && said(&held).contains("unenforceable"),
                "{}",
                said(&held)
            );
        } else {
            ensure!(
                held.code()? == 0 && held.text().contains(&sum()),
                "{profile}: {}",
                said(&held)
            );
            ensure!(
                held.text().contains("[redacted:db]"),
                "{profile}: {}",
                said(&held)
            );
        }
    }
    Ok(())
}

/// Of an agent that is root; another one has mounts to make in bubblewrap alone, and says so.
#[test]
fn a_secret_as_a_file_is_on_a_private_tmpfs_in_every_backend_that_can_have_one() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, BOXES)?;
    set(cli, "db.key")?;
    let is_root = sh(cli, "host", &[], "id -u")?.text().trim() == "0";
    let script = "f=$LICTOR_SECRET_DB_KEY; stat -c '%a %u' \"$f\"; id -u; ls -A \"${f%/*}\"; stat -f -c %T \"$f\"; \
                  sha256sum < \"$f\"; cat \"$f\"; echo x >> \"$f\" || echo kept; rm \"$f\" 2>&1 || echo stays";
    for profile in that_run(cli, &["host", "landlock", "container", "gvisor"])? {
        let done = sh(cli, profile, &["--secret", "db.key=file"], script)?;
        if !is_root {
            ensure!(
                done.code()? == 126 && said(&done).contains("unenforceable"),
                "{profile}: {}",
                said(&done)
            );
            continue;
        }
        ensure!(done.code()? == 0, "{profile}: {}", said(&done));
        let text = done.text();
        let lines: Vec<&str> = text.lines().collect();
        // gVisor's kernel knows not all of what `stat` and `ls` of this host ask for.
        if profile != "gvisor" {
            let own = [&*format!("400 {}", lines[1]), lines[1], "db.key", "tmpfs"];
            ensure!(lines[..4] == own, "{profile}: {lines:?}");
        }
        ensure!(text.contains(&sum()), "{profile}: {lines:?}");
        ensure!(
            text.contains("[redacted:db.key]") && !text.contains(VALUE),
            "{profile}: {lines:?}"
        );
        // Root may try; what it is on is read-only.
        ensure!(
            text.contains("kept") && text.contains("stays"),
            "{profile}: {}",
            said(&done)
        );
    }
    Ok(())
}

#[test]
fn nobody_but_the_job_finds_the_file_of_its_secret_where_it_is() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    add_profile(&cli, BOXES)?;
    set(&cli, "db")?;
    let is_root = sh(&cli, "host", &[], "id -u")?.text().trim() == "0";
    if !is_root {
        skip(&Missing::new(
            "the agent is not root, so jobs of the host have no mounts of their own",
        ));
        return Ok(());
    }
    for profile in that_run(&cli, &["host", "landlock"])? {
        let sleep = mark();
        let script = format!("sha256sum < $LICTOR_SECRET_DB; echo $LICTOR_SECRET_DB; exec sleep {sleep}");
        let options = ["--json", "--detach", "--secret", "db=file"];
        let id = id_of(&sh(&cli, profile, &options, &script)?.result()?)?;
        reach(&cli, &id, &["running"], SOON)?;
        let said_path = || {
            let text = cli.ok(&["logs", &id]).ok().filter(|text| text.contains(&sum()))?;
            text.lines().find(|l| l.ends_with("/db")).map(str::to_owned)
        };
        let path = lictor_test::poll("the path of the file", SOON, said_path)?;
        let dir = Path::new(&path).parent().context("a directory")?;
        // Its place is there, and empty to everybody else.
        ensure!(
            fs::read_dir(dir)?.next().is_none(),
            "{profile}: {path} is there for all"
        );
        ensure!(
            !fs::read_to_string("/proc/self/mountinfo")?.contains(".lictor-secrets"),
            "{profile}: all see the mount"
        );
        let other = sh(&cli, "host", &[], &format!("cat {path} || echo nothing"))?;
        ensure!(other.text().trim() == "nothing", "{profile}: {}", said(&other));
        // Without namespaces it is the next agent that ends it.
        lab.kill()?;
        lab.start_again()?;
        gone(&sleep)?;
        assert_eq!(reach(lab.cli(), &id, &["interrupted"], SOON)?, "interrupted");
        ensure!(!dir.exists(), "{profile}: {} is left", dir.display());
    }
    Ok(())
}

#[test]
fn a_secret_as_a_file_is_in_memory_of_the_jobs_own_mounts_and_nowhere_else() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, BOXES)?;
    set(cli, "db.key")?;
    let script = "ls /run/secrets; stat -c '%a %u' /run/secrets/db.key; stat -f -c %T /run/secrets/db.key; id -u; \
                  cat $LICTOR_SECRET_DB_KEY; sha256sum < /run/secrets/db.key; echo x >> /run/secrets/db.key || echo kept";
    let without = sh(cli, "sandbox", &[], "ls /run/secrets")?;
    ensure!(without.code()? != 0, "there is none without: {}", said(&without));
    let done = sh(cli, "sandbox", &["--secret", "db.key=file"], script)?;
    ensure!(done.code()? == 0, "{}", said(&done));
    let lines: Vec<String> = done.text().lines().map(str::to_owned).collect();
    let id = lines.get(3).context("an id")?;
    ensure!(
        lines[0] == "db.key" && lines[1] == format!("400 {id}") && lines[2] == "tmpfs",
        "{lines:?}"
    );
    ensure!(
        done.text().contains(&sum()) && done.text().contains("kept"),
        "{lines:?}"
    );
    ensure!(
        done.text().contains("[redacted:db.key]") && !done.text().contains(VALUE),
        "{lines:?}"
    );
    // Elsewhere, where it would be in the way of what is shown.
    let script = "ls /dev/secrets /run; echo $LICTOR_SECRET_DB_KEY; sha256sum < $LICTOR_SECRET_DB_KEY";
    let beside = sh(cli, "run", &["--secret", "db.key=file"], script)?;
    ensure!(
        beside.code()? == 0
            && beside.text().contains("/dev/secrets/db.key\n")
            && beside.text().contains(&sum()),
        "{}",
        said(&beside)
    );
    Ok(())
}

#[test]
fn nothing_of_a_secrets_file_is_left_when_its_agent_is_killed() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    set(&cli, "db")?;
    let sleep = mark();
    let script = format!("cat /run/secrets/db; exec sleep {sleep}");
    let done = sh(
        &cli,
        "sandbox",
        &["--json", "--detach", "--secret", "db=file"],
        &script,
    )?;
    let id = id_of(&done.result()?)?;
    reach(&cli, &id, &["running"], SOON)?;
    let before = fs::read_to_string("/proc/self/mountinfo")?;
    ensure!(
        !before.contains("/run/secrets"),
        "the host sees no such mount: {before}"
    );
    ensure!(!Path::new("/run/secrets/db").exists(), "nor such a file");
    lab.kill()?;
    gone(&sleep)?;
    lab.start_again()?;
    assert_eq!(reach(lab.cli(), &id, &["interrupted"], SOON)?, "interrupted");
    Ok(())
}

/// Says it in every shape that is looked for, byte by byte, on both streams.
const SAYS: &str = r#"
import base64, json, os, sys, urllib.parse
value = open(os.environ['LICTOR_SECRET_DB']).read()
shapes = [value, ''.join('%%%02X' % b for b in value.encode()), urllib.parse.quote(value, safe=''),
    urllib.parse.quote_plus(value), urllib.parse.quote(value), value.encode().hex(), value.encode().hex().upper(),
    json.dumps(value)]
for before in ('', 'x', 'xy'):
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shapes.append(encode((before + value + 'z').encode()).decode())
folded = base64.encodebytes(('x' + value * 4).encode()).decode()
for said in [*shapes, folded]:
    for stream in (1, 2):
        for byte in said.encode() + b'\n': os.write(stream, bytes([byte]))
os.write(1, b'all-%d-said\n' % len(shapes))
"#;

#[test]
fn no_shape_of_a_secret_is_in_output_logs_or_what_is_kept_of_them() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    set(&cli, "db")?;
    let script = lab.home().join("says.py");
    fs::write(&script, SAYS)?;
    let path = script.to_str().context("a path")?;
    let words = [
        "--secret",
        "db",
        "--interpreter",
        "python3",
        "--script",
        path,
        "local",
    ];
    let done = cli.run(&[&["run", "--json", "--profile", "host"][..], &words].concat())?;
    ensure!(done.code()? == 0, "{}", said(&done));
    let id = id_of(&done.result()?)?;
    let logs = cli.ok(&["logs", &id])?;
    ensure!(logs.contains("all-14-said"), "{logs}");
    // In each line of it, and in what is folded.
    ensure!(logs.matches("[redacted:db]").count() >= 15, "{logs}");
    let base64 = |before: &str| {
        let text = lictor_proto::json::encode_base64(format!("{before}{VALUE}").as_bytes());
        // What its neighbours have no part in.
        text[4..text.len() - 4].to_owned()
    };
    let mut shapes = vec![VALUE.to_owned(), VALUE.replace(' ', "%20")];
    shapes.extend(["", "x", "xy"].map(base64));
    shapes.push(VALUE.bytes().map(|b| format!("{b:02x}")).collect());
    shapes.push(VALUE.bytes().map(|b| format!("%{b:02X}")).collect());
    lab.stop()?;
    let kept = files_below(lab.home())?;
    let all = kept.iter().map(|(path, bytes)| (path.as_str(), &bytes[..]));
    for (path, bytes) in all.chain([("the logs", logs.as_bytes()), ("the answer", &done.stdout)]) {
        for shape in &shapes {
            ensure!(
                memchr::memmem::find(bytes, shape.as_bytes()).is_none(),
                "{path} holds {shape}"
            );
        }
    }
    Ok(())
}

fn files_below(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            files.extend(files_below(&entry.path())?);
        } else if kind.is_file() {
            files.push((entry.path().display().to_string(), fs::read(entry.path())?));
        }
    }
    Ok(files)
}

/// A job asks its way out for a name that is its secret, and fails with it in its mouth.
#[test]
fn no_value_is_in_the_agents_own_log_or_among_the_names_that_were_asked_for() -> Result<()> {
    const NAME: &str = "not-to-be-told.lab.example";
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    add_profile(
        &cli,
        "\n[profiles.out]\nbackend = \"bubblewrap\"\nnetwork = \"egress\"\n[profiles.out.egress]\nmode = \"open\"\n",
    )?;
    let done = cli.run_with_input(&["secret", "set", "db", "--nodes", "local"], NAME.into())?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    let script = "import http.client, os, sys\nname = open(os.environ['LICTOR_SECRET_DB']).read()\n\
                  c = http.client.HTTPConnection('127.0.0.1', 3128, timeout=20)\n\
                  c.request('GET', f'http://{name}/')\nprint(c.getresponse().status)\nsys.exit(f'no {name}')";
    let words = ["--secret", "db", "local", "--", "python3", "-c", script];
    let failed = cli.run(&[&["run", "--profile", "out"][..], &words].concat())?;
    ensure!(failed.code()? == 1, "{}", said(&failed));
    ensure!(failed.stderr.contains("no [redacted:db]"), "{}", said(&failed));
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("a path")?;
    let audit = cli.ok(&["--json", "audit", "--agent", agent, "show"])?;
    ensure!(
        audit.contains("[redacted:db]"),
        "nobody has heard of the attempt: {audit}"
    );
    let said_itself = lab.program()?.stderr();
    lab.stop()?;
    ensure!(
        !said_itself.contains(NAME) && !audit.contains(NAME),
        "{said_itself}\n{audit}"
    );
    for (path, bytes) in files_below(lab.home())? {
        ensure!(
            memchr::memmem::find(&bytes, NAME.as_bytes()).is_none(),
            "{path} holds it"
        );
    }
    Ok(())
}

#[test]
fn a_secret_reaches_a_job_of_an_agent_that_polls() -> Result<()> {
    let split = Split::start_with(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })?;
    set(split.cli(), "db")?;
    let script = "sha256sum < $LICTOR_SECRET_DB; cat $LICTOR_SECRET_DB";
    let done = sh(split.cli(), "host", &["--secret", "db"], script)?;
    ensure!(
        done.code()? == 0 && done.text().contains(&sum()),
        "{}",
        said(&done)
    );
    ensure!(done.text().contains("[redacted:db]"), "{}", said(&done));
    Ok(())
}

#[test]
fn a_secret_reaches_a_job_that_was_approved_and_approvers_see_which() -> Result<()> {
    let lab = starter()?;
    let policy = "@id(\"test-secrets\")\npermit (principal in Group::\"ops\", action == Action::\"use_secret\", resource);\n";
    fs::write(lab.home().join("org/policies/secrets.cedar"), policy)?;
    let bob = second_operator(&lab, "bob", "\"ops\", \"leads\"")?;
    set(lab.cli(), "db")?;
    // A file that is opened by a variable's name is opaque to policy; an argument is not.
    let script = "cat $LICTOR_SECRET_DB | sha256sum";
    let done = sh(
        lab.cli(),
        "host",
        &["--json", "--detach", "--secret", "db"],
        script,
    )?;
    let id = id_of(&done.result()?)?;
    reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;
    let shown = bob.ok(&["approve", "--yes", &id])?;
    ensure!(shown.contains("secret     db version 1 as memfd"), "{shown}");
    assert_eq!(ended(lab.cli(), &id)?, "succeeded");
    ensure!(lab.cli().ok(&["logs", &id])?.contains(&sum()), "it had the value");
    Ok(())
}

#[test]
fn what_policy_says_of_a_secret_is_predicted_and_tested() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let rule = "@id(\"db-by-stdin\")\nforbid (principal, action == Action::\"use_secret\", resource)\n\
                when { context.name == \"db\" } unless { context.delivery == \"stdin\" && context.set_by == principal.name };\n";
    fs::write(lab.home().join("org/policies/secrets.cedar"), rule)?;
    change_law(cli, "profiles.toml", "")?;
    let explain = |secret: &str| cli.run(&["explain", "--profile", "host", "--secret", secret, "--", "cat"]);
    let (allowed, denied) = (explain("db=stdin")?, explain("db")?);
    ensure!(allowed.code()? == 0, "{}", said(&allowed));
    ensure!(
        denied.code()? == 126 && denied.text().contains("db-by-stdin"),
        "{}",
        said(&denied)
    );

    let operator = lictor_test_operator(&lab)?;
    let case = |secret: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{secret}\"\noperator = \"{operator}\"\nnode = \"local\"\nargv = [\"cat\"]\nprofile = \"host\"\n\
             secrets = [{secret}]\nexpect = \"{expect}\"\n"
        )
    };
    let cases = case("{ name = 'db', delivery = 'stdin' }", "permit")
        + &case("{ name = 'db' }", "deny")
        + &case("{ name = 'db', delivery = 'stdin', set_by = 'mallory' }", "deny")
        + &case("{ name = 'api', version = 3 }", "permit");
    let dir = lab.home().join("org/tests");
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("secrets.toml"), &cases)?;
    let tested = cli.run(&["org", "test"])?;
    ensure!(tested.code()? == 0, "{}", said(&tested));
    fs::write(dir.join("secrets.toml"), case("{ name = 'db' }", "permit"))?;
    let failed = cli.run(&["org", "test"])?;
    ensure!(
        failed.code()? != 0 && said(&failed).contains("expected permit, got deny"),
        "{}",
        said(&failed)
    );
    Ok(())
}

/// Who the lab's home is.
fn lictor_test_operator(lab: &Lab) -> Result<String> {
    let config = fs::read_to_string(lab.home().join("config.toml"))?;
    let line = config.lines().find_map(|l| l.strip_prefix("operator = "));
    Ok(line.context("an operator")?.trim_matches('"').to_owned())
}
