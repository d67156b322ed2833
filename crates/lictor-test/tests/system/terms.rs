//! What a job says itself of its process: user, group, umask and limits, through command line, hub and node.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab, Split, can_make_namespaces, needs_root, skip};

use crate::fleet::Crew;
use crate::law::{change_law, second_operator, starter};
use crate::plain::Plain;
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
    let touch = |file: &str| format!("umask && id -un && id -gn && touch {at}/{file}");
    let own = run(cli, &[], &touch("own"))?;
    ensure!(own.code()? == 0 && own.text().contains("0022"), "{}", own.text());
    let mine = fs::metadata(place.path().join("own"))?;
    let options = ["--user", "daemon", "--group", "mail", "--umask", "027"];
    let other = run(cli, &options, &touch("other"))?;
    if mine.uid() != 0 {
        denied(&other, "unenforceable")?;
        return Ok(());
    }
    ensure!(other.code()? == 0, "{}", other.text());
    let words = [
        "run",
        "--profile",
        "lists",
        "--user",
        "daemon",
        "--group",
        "mail",
        "--umask",
        "027",
    ];
    let line = touch("other");
    let said = cli.ok(&[&words[..], &["local", "--", "sh", "-c", &line]].concat())?;
    assert_eq!(said, "0027\ndaemon\nmail\n");
    let made = fs::metadata(place.path().join("other"))?;
    let number = |file: &str, name: &str| -> Result<u32> {
        let text = fs::read_to_string(file)?;
        let line = text.lines().find(|l| l.starts_with(&format!("{name}:")));
        Ok(line
            .and_then(|l| l.split(':').nth(2))
            .context("a number")?
            .parse()?)
    };
    assert_eq!(
        (made.uid(), made.gid()),
        (number("/etc/passwd", "daemon")?, number("/etc/group", "mail")?)
    );
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
        let words = [&["run", "--profile", "lists"], options].concat();
        cli.ok(&[&words[..], &["local", "--", "sh", "-c", "ulimit -n"]].concat())
    };
    assert_eq!(open(&[])?, "256\n", "the profile's");
    assert_eq!(
        open(&["--limit", "open_files=64,memory=1GiB"])?,
        "64\n",
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
    assert_eq!(cli.ok(&words)?, "32\n", "of a script");
    Ok(())
}

#[test]
fn a_job_works_in_the_directory_that_it_names() -> Result<()> {
    let lab = Lab::start()?;
    let in_dir = |profile: &str, dir: &str| {
        let words = ["run", "--profile", profile, "--cwd", dir, "local", "--", "pwd"];
        lab.cli().run(&words)
    };
    for (profile, dir) in [("host", "/usr/bin"), ("sandbox", "/usr/lib")] {
        assert_eq!(in_dir(profile, dir)?.text(), format!("{dir}\n"), "{profile}");
    }
    for profile in ["host", "sandbox"] {
        let nowhere = in_dir(profile, "/usr/nowhere")?;
        ensure!(
            nowhere.code()? != 0 && nowhere.text().is_empty(),
            "{}",
            nowhere.stderr
        );
    }
    Ok(())
}

#[test]
fn an_agent_that_is_not_root_refuses_jobs_that_would_be_somebody_else() -> Result<()> {
    if let Err(missing) = needs_root("agents of other users") {
        skip(&missing);
        return Ok(());
    }
    let crew = Crew::of(&[])?;
    let cli = crew.cli();
    let _plain = Plain::of(&crew, "")?;
    let lists = "\n[profiles.plain]\nbackend = \"host\"\nnetwork = \"host\"\n\
                 run_as_users = [\"daemon\"]\nrun_as_groups = [\"mail\"]\n";
    add_profile(cli, lists)?;
    let run = |options: &[&str]| {
        let words = [&["run", "--json", "--profile", "plain"], options].concat();
        cli.run(&[&words[..], &["plain", "--", "id", "-u"]].concat())
    };
    let own = run(&[])?;
    ensure!(own.code()? == 0, "as itself: {}", own.text());
    denied(&run(&["--user", "daemon"])?, "unenforceable")?;
    denied(&run(&["--group", "mail"])?, "unenforceable")?;
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

/// The agent, where this host has the user `member` of the groups `member`, `crew` and `press`: in mounts of its own.
const AMONG_MEMBERS: &str = r#"#!/bin/sh
exec unshare --mount --propagation private sh -euc '
at=$1; shift
cp /etc/passwd /etc/group "$at"
echo "member:x:61235:61235::/tmp:/bin/sh" >> "$at/passwd"
printf "member:x:61235:\ncrew:x:61236:member\npress:x:61237:member\n" >> "$at/group"
for file in passwd group; do mount --bind "$at/$file" "/etc/$file"; done
exec @LICTOR@ "$@"' sh @AT@ "$@"
"#;

#[test]
fn a_job_has_all_groups_of_the_user_it_names_and_no_other() -> Result<()> {
    if let Err(missing) = can_make_namespaces() {
        skip(&missing);
        return Ok(());
    }
    let mut split = Split::start()?;
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755))?;
    let at = place.path().to_str().context("path")?;
    for (name, group) in [
        ("own", 61235),
        ("crew", 61236),
        ("press", 61237),
        ("other", 61238),
    ] {
        let file = place.path().join(name);
        fs::write(&file, name)?;
        chown(&file, Some(0), Some(group))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o040))?;
    }
    let (agent, files) = (place.path().join("agent"), place.path().join("files"));
    fs::create_dir(&files)?;
    let lictor = split.cli().binary().to_str().context("path")?;
    let text = AMONG_MEMBERS.replace("@LICTOR@", lictor);
    fs::write(&agent, text.replace("@AT@", files.to_str().context("path")?))?;
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755))?;
    split.agent()?.kill()?;
    split.set_agent_binary(&agent);
    split.start_agent()?;
    let cli = split.cli();
    for (backend, more) in [
        ("host", "network = \"host\""),
        ("landlock", "protect = []"),
        ("bubblewrap", "protect = []"),
    ] {
        let paths = match backend {
            "host" => String::new(),
            _ => format!("read_write = [{at:?}]"),
        };
        add_profile(
            cli,
            &format!(
                "\n[profiles.{backend}-as]\nbackend = {backend:?}\nrun_as_users = [\"member\", \"daemon\"]\n{more}\n{paths}\n"
            ),
        )?;
        let read = |user: &str| -> Result<String> {
            let line =
                format!("for f in own crew press other; do cat {at}/$f 2>/dev/null && echo; done; true");
            let profile = format!("{backend}-as");
            let words = [
                "run",
                "--profile",
                &profile,
                "--user",
                user,
                "local",
                "--",
                "sh",
                "-c",
                &line,
            ];
            cli.ok(&words)
        };
        assert_eq!(read("daemon")?, "", "{backend}: nobody else can");
        assert_eq!(read("member")?, "own\ncrew\npress\n", "{backend}");
    }
    // In numbers, where they are the host's.
    let words = [
        "run",
        "--profile",
        "host-as",
        "--user",
        "member",
        "local",
        "--",
        "id",
        "-G",
    ];
    assert_eq!(cli.ok(&words)?, "61235 61236 61237\n");
    Ok(())
}
