//! Secrets: how they reach a job, that no output and no disk has them, which version it is, and who is refused.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cli, Done, Lab};
use serde_json::Value;

use crate::law::change_law;
use crate::steps::{SOON, appears, audits_hold, gone, id_of, mark, reach};

const VALUE: &str = "gr8-Secr3t/of+the~lab%and ?more";
/// In the test that writes it where everybody can read it.
const EXPOSED: &str = "this one is said aloud";
/// Larger files are none that anybody of the test has written.
const MOST: u64 = 64 << 20;
const PROFILES: [&str; 2] = ["host", "sandbox"];

/// `lictor secret set NAME --nodes local`.
fn set(cli: &Cli, name: &str, value: &str) -> Result<Value> {
    let args = ["--json", "secret", "set", name, "--nodes", "local"];
    let done = cli.run_with_input(&args, value.as_bytes().to_vec())?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    done.result()
}

fn sh(cli: &Cli, profile: &str, options: &[&str], script: &str) -> Result<Done> {
    let mut all = vec!["run", "--profile", profile];
    all.extend(options);
    all.extend(["local", "--", "sh", "-c", script]);
    cli.run(&all)
}

fn refused(done: &Done, code: &str) -> Result<()> {
    let said = format!("{}{}", done.stderr, done.text());
    ensure!(
        done.code()? != 0 && said.contains(code),
        "{}: {said}",
        done.status
    );
    Ok(())
}

/// What to look for on disks and in answers: the value, as text and as base64.
fn holds_value(bytes: &[u8]) -> bool {
    let base64 = lictor_proto::json::encode_base64(VALUE.as_bytes());
    let shapes = [VALUE.as_bytes(), &base64.as_bytes()[..base64.len() - 4]];
    shapes.iter().any(|s| memchr::memmem::find(bytes, s).is_some())
}

#[test]
fn a_secret_reaches_a_job_in_memory_and_as_standard_input_and_no_output_has_it() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let first = set(cli, "db.password", VALUE)?;
    ensure!(first["version"] == 1, "{first}");
    let sum = Digest::of(VALUE.as_bytes()).to_string();
    let sum = sum.trim_start_matches("sha256:");
    for profile in PROFILES {
        let held = ["--secret", "db.password"];
        let script = "sha256sum < \"$LICTOR_SECRET_DB_PASSWORD\"; sha256sum < \"$LICTOR_SECRET_DB_PASSWORD\"";
        let done = sh(cli, profile, &held, script)?;
        ensure!(done.code()? == 0, "{profile}: {}", done.stderr);
        ensure!(
            done.text().matches(sum).count() == 2,
            "{profile}: {}",
            done.text()
        );
        let done = sh(cli, profile, &["--secret", "db.password=stdin"], "sha256sum; env")?;
        ensure!(done.code()? == 0, "{profile}: {}", done.stderr);
        ensure!(done.text().contains(sum), "{profile}: {}", done.text());
        ensure!(
            !done.text().contains("LICTOR_SECRET"),
            "{profile}: {}",
            done.text()
        );
        // Whatever it is said by, it does not come out; and the receipt holds, or the status would be another.
        let script = "v=$LICTOR_SECRET_DB_PASSWORD; cat $v; echo; cat $v >&2; base64 < $v; (printf x; cat $v) | base64 -w 7; \
                      od -An -v -tx1 < $v | tr -d ' '; head -c 9 $v; sleep 0.2; tail -c +10 $v; echo; echo all-said";
        let done = sh(cli, profile, &held, script)?;
        ensure!(done.code()? == 0, "{profile}: {}", done.stderr);
        let said = done.text();
        ensure!(said.contains("all-said"), "{profile}: {said}");
        ensure!(
            said.matches("[redacted:db.password]").count() == 5,
            "{profile}: {said}"
        );
        for output in [said.as_bytes(), done.stderr.as_bytes()] {
            ensure!(!holds_value(output), "{profile}: {said}\n{}", done.stderr);
        }
        ensure!(
            done.stderr.contains("[redacted:db.password]"),
            "{profile}: {}",
            done.stderr
        );
    }
    Ok(())
}

#[test]
fn nothing_of_a_secret_is_on_any_disk_not_even_after_a_kill() -> Result<()> {
    let began = SystemTime::now();
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    set(&cli, "db", VALUE)?;
    let (sleep, shown) = (mark(), format!("shown-{}", mark()));
    let flag = lab.home().join("said");
    let script = format!(
        "cat $LICTOR_SECRET_DB; echo; echo {}''{}; touch {}; exec sleep {sleep}",
        &shown[..6],
        &shown[6..],
        flag.display()
    );
    let done = sh(&cli, "host", &["--json", "--detach", "--secret", "db"], &script)?;
    let id = id_of(&done.result()?)?;
    appears(&flag)?;
    reach(&cli, &id, &["running"], SOON)?;
    lab.kill()?;
    let search = Search {
        since: began,
        is_such: holds_value,
    };
    let found = search.below(lab.home())?;
    ensure!(found.is_empty(), "while it ran: {found:?}");
    lab.start_again()?;
    let cli = lab.cli();
    gone(&sleep)?;
    ensure!(reach(cli, &id, &["interrupted"], SOON)? == "interrupted");
    // One that ends, with more than fits into the journal.
    let script = format!(
        "seq 1 200000; cat $LICTOR_SECRET_DB; echo {}''{}",
        &shown[..6],
        &shown[6..]
    );
    let done = sh(cli, "host", &["--json", "--secret", "db"], &script)?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    audits_hold(cli)?;
    // The hub keeps logs compressed, so these are read as people read them.
    for id in [id, id_of(&done.result()?)?] {
        let logs = cli.run(&["logs", &id])?;
        ensure!(logs.text().contains("shown-"), "{}", logs.stderr);
        ensure!(!holds_value(&logs.stdout) && !holds_value(logs.stderr.as_bytes()));
    }
    lab.stop()?;
    for dir in [lab.home(), &std::env::temp_dir()] {
        let found = search.below(dir)?;
        ensure!(found.is_empty(), "{found:?}");
    }
    // It is not that nothing could be found there: what is no secret is.
    let marked = Search {
        since: began,
        is_such: contains_name,
    };
    ensure!(!marked.below(lab.home())?.is_empty(), "nothing is found at all");
    Ok(())
}

fn contains_name(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"job_permitted").is_some()
}

/// Looks for content in files that were written since a time.
struct Search<F> {
    since: SystemTime,
    is_such: F,
}

impl<F: Fn(&[u8]) -> bool> Search<F> {
    fn below(&self, dir: &Path) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let Ok(entries) = fs::read_dir(dir) else {
            return Ok(found);
        };
        // Others have files there that come and go.
        for entry in entries.flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else {
                continue;
            };
            if meta.is_dir() {
                found.extend(self.below(&path)?);
            } else if meta.is_file() && meta.len() <= MOST && meta.modified()? >= self.since {
                let bytes = fs::read(&path).unwrap_or_default();
                if (self.is_such)(&bytes) {
                    found.push(path.display().to_string());
                }
            }
        }
        Ok(found)
    }
}

#[test]
fn a_job_that_says_the_value_itself_is_refused() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    set(cli, "db", EXPOSED)?;
    let with = |value: &str| {
        cli.run(&[
            "run",
            "--profile",
            "host",
            "--secret",
            "db",
            "local",
            "--",
            "true",
            value,
        ])
    };
    ensure!(with("another word")?.code()? == 0);
    refused(&with(EXPOSED)?, "secret_exposed")?;
    let variable = format!("PASSWORD={EXPOSED}");
    let done = sh(cli, "host", &["--secret", "db", "--env", &variable], "true")?;
    refused(&done, "secret_exposed")
}

#[test]
fn a_job_is_bound_to_the_version_that_was_newest_and_an_older_one_is_found_out() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    set(cli, "db", VALUE)?;
    ensure!(set(cli, "db", "another value, and longer")?["version"] == 2);
    let done = sh(cli, "host", &["--secret", "db"], "wc -c < $LICTOR_SECRET_DB")?;
    ensure!(done.text().trim() == "25", "{}", done.text());
    let listed = cli.json(&["secret", "ls"])?;
    ensure!(listed[0]["name"] == "db" && listed[0]["version"] == 2, "{listed}");
    let shown = cli.json(&["secret", "ls", "db"])?;
    ensure!(shown["nodes"][0] == "local", "{shown}");
    ensure!(!holds_value(cli.ok(&["secret", "ls", "db"])?.as_bytes()));
    cli.ok(&["secret", "rm", "db"])?;
    refused(&sh(cli, "host", &["--secret", "db"], "true")?, "secret_missing")?;
    refused(
        &sh(cli, "host", &["--secret", "never"], "true")?,
        "secret_missing",
    )?;
    ensure!(set(cli, "db", VALUE)?["version"] == 3);
    ensure!(sh(cli, "host", &["--secret", "db"], "true")?.code()? == 0);
    // A hub that goes back says what a home has seen newer ones of.
    let seen = lab.home().join("trust/secrets.json");
    let text = fs::read_to_string(&seen)?.replace("\"version\": 3", "\"version\": 4");
    fs::write(&seen, text)?;
    refused(&sh(cli, "host", &["--secret", "db"], "true")?, "secret_older")
}

#[test]
fn a_retry_uses_the_version_that_is_the_newest_then() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    set(cli, "db", VALUE)?;
    let script = "test $(wc -c < $LICTOR_SECRET_DB) = 25";
    let done = sh(cli, "host", &["--json", "--secret", "db"], script)?;
    ensure!(done.code()? == 1, "{}", done.stderr);
    let id = id_of(&done.result()?)?;
    set(cli, "db", "another value, and longer")?;
    let again = cli.run(&["retry", &id])?;
    ensure!(again.code()? == 0, "{}", again.stderr);
    ensure!(
        again
            .stderr
            .contains("uses secret db version 2; the job before had version 1"),
        "{}",
        again.stderr
    );
    Ok(())
}

#[test]
fn policy_decides_who_may_use_which_secret_on_what() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    set(cli, "db", VALUE)?;
    set(cli, "api", VALUE)?;
    let rule = "@id(\"db-only-for-sums\")\nforbid (principal, action == Action::\"use_secret\", resource)\n\
                when { context.name == \"db\" }\nunless { context.program.name == \"sha256sum\" && \
                context.delivery == \"stdin\" };\n";
    let policy = lab.home().join("org/policies/secrets.cedar");
    fs::write(&policy, rule)?;
    change_law(cli, "profiles.toml", "")?;
    let run = |secret: &str, program: &[&str]| {
        let mut all = vec!["run", "--profile", "host", "--secret", secret, "local", "--"];
        all.extend(program);
        cli.run(&all)
    };
    ensure!(run("db=stdin", &["sha256sum"])?.code()? == 0);
    refused(&run("db=stdin", &["cat"])?, "db-only-for-sums")?;
    refused(&run("db", &["sha256sum"])?, "db-only-for-sums")?;
    ensure!(run("api", &["cat"])?.code()? == 0);
    // What no rule permits is denied, whatever may be run without.
    let demo = lab.home().join("org/policies/demo.cedar");
    let with = fs::read_to_string(&demo)?;
    let without = with.replace(",\n    Action::\"use_secret\"", "");
    ensure!(without != with, "the law of the demo has other words");
    fs::write(&demo, without)?;
    fs::remove_file(&policy)?;
    change_law(cli, "profiles.toml", "")?;
    ensure!(
        cli.run(&["run", "--profile", "host", "local", "--", "cat"])?
            .code()?
            == 0
    );
    let done = run("api", &["cat"])?;
    refused(&done, "no_match")
}

#[test]
fn values_that_could_not_be_redacted_are_refused_and_none_is_an_argument() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let args = ["secret", "set", "db", "--nodes", "local"];
    refused(&cli.run_with_input(&args, b"short\n".to_vec())?, "limit_exceeded")?;
    refused(
        &cli.run_with_input(&args, vec![b'x'; 16 * 1024 + 1])?,
        "limit_exceeded",
    )?;
    let done = cli.run(&["secret", "set", "db", EXPOSED, "--nodes", "local"])?;
    refused(&done, "unexpected argument")?;
    let listed = cli.json(&["secret", "ls"])?;
    let listed = listed.as_array().context("a list")?;
    ensure!(listed.is_empty(), "{listed:?}");
    Ok(())
}
