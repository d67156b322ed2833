//! What a job says itself of its process: user, group, umask and limits, through command line, hub and node.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab};

use crate::law::{change_law, second_operator, starter};
use crate::steps::{SOON, add_profile, ended, id_of, reach};

const LISTS: &str = "\n[profiles.lists]\nbackend = \"host\"\nnetwork = \"host\"\n\
                     run_as_users = [\"daemon\", \"no-such-user\"]\nrun_as_groups = [\"mail\"]\n\
                     limits = { open_files = 256, memory = \"4GiB\" }\n";

fn run(cli: &Cli, options: &[&str], line: &str) -> Result<Done> {
    let mut all = vec!["run", "--json", "--profile", "lists"];
    all.extend(options);
    all.extend(["local", "--", "sh", "-c", line]);
    cli.run(&all)
}

/// The refusal of a job that must not run, by the receipt that its node has signed.
fn denied(done: &Done, code: &str) -> Result<()> {
    let result = done.result()?;
    ensure!(
        done.code()? == 126 && result["status"] == "denied" && result["code"] == code,
        "expected {code}: {}",
        done.text()
    );
    Ok(())
}

#[test]
fn a_job_runs_as_the_user_and_group_it_names_where_the_profile_lists_them() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, LISTS)?;
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777))?;
    let at = place.path().to_str().context("path")?;
    let touch = |file: &str| format!("umask && touch {at}/{file}");
    let own = run(cli, &[], &touch("own"))?;
    ensure!(own.code()? == 0 && own.text().contains("0022"), "{}", own.text());
    let mine = fs::metadata(place.path().join("own"))?;
    let options = ["--user", "daemon", "--group", "mail", "--umask", "027"];
    let other = run(cli, &options, &touch("other"))?;
    if mine.uid() != 0 {
        denied(&other, "unenforceable")?;
        return Ok(());
    }
    ensure!(
        other.code()? == 0 && other.text().contains("0027"),
        "{}",
        other.text()
    );
    let made = fs::metadata(place.path().join("other"))?;
    ensure!(made.uid() != mine.uid() && made.gid() != mine.gid(), "{made:?}");
    assert_eq!((made.mode() & 0o777, mine.mode() & 0o777), (0o640, 0o644));

    denied(&run(cli, &["--user", "nobody"], "true")?, "run_as_refused")?;
    denied(&run(cli, &["--group", "daemon"], "true")?, "run_as_refused")?;
    denied(&run(cli, &["--user", "no-such-user"], "true")?, "unenforceable")?;
    Ok(())
}

#[test]
fn a_job_narrows_the_limits_of_its_profile_and_widens_none() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, LISTS)?;
    let open = |options: &[&str]| -> Result<String> {
        let done = run(cli, options, "ulimit -n")?;
        ensure!(done.code()? == 0, "{}", done.text());
        Ok(done.text())
    };
    ensure!(open(&[])?.contains("256"), "the profile's");
    ensure!(
        open(&["--limit", "open_files=64,memory=1GiB"])?.contains("64"),
        "the job's"
    );
    denied(
        &run(cli, &["--limit", "open_files=257"], "true")?,
        "limit_exceeded",
    )?;
    denied(&run(cli, &["--limit", "memory=5GiB"], "true")?, "limit_exceeded")?;
    let unknown = run(cli, &["--limit", "colour=5"], "true")?;
    let said = unknown.text() + &unknown.stderr;
    ensure!(unknown.code()? == 125 && said.contains("open_files"), "{said}");
    // A script has the same terms.
    let script = lab.home().join("count");
    fs::write(&script, "#!/bin/sh\nulimit -n\n")?;
    let path = script.to_str().context("path")?;
    let words = [
        "run",
        "--profile",
        "lists",
        "--limit",
        "open_files=32",
        "--script",
        path,
        "local",
    ];
    ensure!(cli.ok(&words)?.contains("32"), "of a script");
    Ok(())
}

#[test]
fn policy_and_approvers_see_the_terms_of_a_job() -> Result<()> {
    let lab = starter()?;
    let policy = "\n@id(\"test-permit-lists\")\npermit (principal in Group::\"ops\", action == Action::\"exec\", resource)\n\
                  when { context.profile == \"lists\" };\n\
                  @id(\"test-no-daemon\")\nforbid (principal, action == Action::\"exec\", resource)\n\
                  when { context.user == \"daemon\" && context.umask != \"0077\" };\n\
                  @id(\"test-few-files\")\n@approvals(\"1\")\n@approvers(\"ops\")\n\
                  forbid (principal, action == Action::\"exec\", resource)\n\
                  when { context.limits has open_files && context.limits.open_files < 64 };\n";
    fs::write(lab.home().join("org/policies/terms.cedar"), policy)?;
    change_law(lab.cli(), "profiles.toml", LISTS)?;
    // With this law from the beginning.
    let bob = second_operator(&lab, "bob", "\"ops\"")?;
    let words = |options: &[&str]| -> Result<Done> {
        let mut all = vec!["run", "--json", "--detach", "--profile", "lists"];
        all.extend(options);
        all.extend(["local", "--", "id", "-u"]);
        lab.cli().run(&all)
    };
    let forbidden = id_of(&words(&["--user", "daemon"])?.result()?)?;
    assert_eq!(ended(lab.cli(), &forbidden)?, "denied");
    let explained = lab.cli().run(&[
        "explain",
        "--profile",
        "lists",
        "--user",
        "daemon",
        "--",
        "id",
        "-u",
    ])?;
    ensure!(
        explained.text().contains("test-no-daemon"),
        "{}",
        explained.text()
    );

    let few = ["--user", "daemon", "--umask", "0077", "--limit", "open_files=32"];
    let waits = id_of(&words(&few)?.result()?)?;
    let state = reach(lab.cli(), &waits, &["awaiting_approval", "denied"], SOON)?;
    if !rustix::process::geteuid().is_root() {
        assert_eq!(state, "denied");
        return Ok(());
    }
    let shown = bob.run(&["approve", &waits])?;
    for told in [
        "user       daemon",
        "umask      0077",
        "limit      open_files 32",
        "run_as_gid = ",
    ] {
        ensure!(
            shown.text().contains(told) || shown.stderr.contains(told),
            "{told}: {}{}",
            shown.text(),
            shown.stderr
        );
    }
    bob.ok(&["approve", "--yes", &waits])?;
    assert_eq!(ended(lab.cli(), &waits)?, "succeeded");
    Ok(())
}
