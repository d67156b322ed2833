//! The ways by which a secret reaches a job: in each backend, by an agent that polls, after an approval, and as a file.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cli, Done, Lab, Split, SplitOptions};

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

/// Which of these profiles this machine can run anything in; the others say why not.
fn that_run<'a>(cli: &Cli, profiles: &[&'a str]) -> Result<Vec<&'a str>> {
    let mut run = Vec::new();
    for profile in profiles {
        let done = sh(cli, profile, &[], "true")?;
        match done.code()? {
            0 => run.push(*profile),
            _ => eprintln!("skipped: {profile}: {}", said(&done)),
        }
    }
    ensure!(!run.is_empty(), "this machine can run none of {profiles:?}");
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
        let file = sh(cli, profile, &["--secret", "db=file"], "true")?;
        ensure!(
            file.code()? == 126 && said(&file).contains("unenforceable"),
            "{profile}: {}",
            said(&file)
        );
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
    // Nor where it could not be hidden from others, or would be in the way of what is shown.
    for profile in ["host", "run"] {
        let refused = sh(cli, profile, &["--secret", "db.key=file"], "true")?;
        ensure!(
            refused.code()? == 126 && said(&refused).contains("unenforceable"),
            "{profile}: {}",
            said(&refused)
        );
    }
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
