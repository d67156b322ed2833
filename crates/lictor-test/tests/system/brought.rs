//! Commits that are brought into the directory of one job, before it begins, and go with it.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use lictor_test::{Cli, Done, Lab, wait_until};

use crate::git_host::{Host, TOKEN, git, succeeds};
use crate::law::change_law;
use crate::steps::{SOON, add_profile, audits_hold, gone, id_of, mark, reach, receipt};

/// A profile that keeps nothing, and may reach the host.
fn profile(host: &Host, backend: &str) -> String {
    let network = match backend {
        "host" => "network = \"host\"\n".to_owned(),
        _ => format!(
            "network = \"egress\"\n[profiles.box.egress]\nmode = \"allowlist\"\nallow = [\"127.0.0.1/32:{} http\"]\n\
             private = [\"127.0.0.1/32\"]\n",
            host.port
        ),
    };
    format!("\n[profiles.box]\nbackend = \"{backend}\"\n{network}")
}

fn run(cli: &Cli, options: &[&str], script: &str) -> Result<Done> {
    let mut all = vec!["run", "--json", "--profile", "box"];
    all.extend(options);
    all.extend(["local", "--", "sh", "-c", script]);
    cli.run(&all)
}

fn at(url: &str, commit: &str) -> String {
    format!("{url}@{commit}")
}

/// The job's result has this code, and its program has said nothing.
fn never_began(cli: &Cli, done: &Done, code: &str) -> Result<()> {
    let result = done.result()?;
    ensure!(
        done.code()? != 0 && result["code"] == code,
        "not {code}: {}\n{}",
        done.text(),
        done.stderr
    );
    let logs = cli.ok(&["logs", &id_of(&result)?])?;
    ensure!(!logs.contains("it-ran"), "{logs}");
    Ok(())
}

/// Whether nothing of such directories is on the node.
fn nothing_is_left(home: &Path) -> bool {
    let kept = fs::read_dir(home.join("agent/work/.kept"));
    kept.into_iter().flatten().next().is_none()
}

#[test]
fn a_job_gets_a_commit_in_a_directory_of_its_own_and_nothing_stays() -> Result<()> {
    for backend in ["bubblewrap", "host"] {
        let (host, lab) = (Host::start()?, Lab::start()?);
        let cli = lab.cli();
        let (first, second) = host.commits()?;
        add_profile(cli, &profile(&host, backend))?;
        let url = host.url("shop.git/.git");
        let script = "cat a; git log --oneline | wc -l; test -e new && echo left; echo it-ran > new; exit 7";
        for (commit, commits) in [(&first, "1"), (&second, "2"), (&first, "1")] {
            let done = run(cli, &["--git", &at(&url, commit)], script)?;
            let result = done.result()?;
            ensure!(done.code()? == 7, "{backend}: {}\n{}", done.text(), done.stderr);
            let logs = cli.ok(&["logs", &id_of(&result)?])?;
            ensure!(
                logs.lines().eq(["one", commits]),
                "{backend}: {logs}\n{}",
                done.stderr
            );
            let signed = receipt(cli, &id_of(&result)?)?;
            ensure!(
                signed["sandbox"].is_null(),
                "{backend}: it is nobody else's: {signed}"
            );
        }
        ensure!(nothing_is_left(lab.home()), "{backend}: something is left");
        audits_hold(cli)?;
    }
    Ok(())
}

#[test]
fn a_program_does_not_begin_without_the_commit_that_was_signed() -> Result<()> {
    let (host, other, lab) = (Host::start()?, Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    other.commits()?;
    add_profile(cli, &profile(&host, "bubblewrap"))?;
    add_profile(
        cli,
        "\n[profiles.disk]\nbackend = \"bubblewrap\"\nlimits = { disk = \"64MiB\", memory = \"256MiB\" }\n",
    )?;
    let url = host.url("shop.git/.git");
    for (from, code) in [
        (at(&url, &"0".repeat(40)), "git_failed"),
        (at(&other.url("shop.git/.git"), &first), "unenforceable"),
        (at(&host.url("elsewhere/shop.git/.git"), &first), "git_failed"),
    ] {
        let done = run(cli, &["--git", &from], "echo it-ran")?;
        never_began(cli, &done, code)?;
    }
    let disk = [
        "run",
        "--json",
        "--profile",
        "disk",
        "--git",
        &at(&url, &first),
        "local",
        "--",
        "true",
    ];
    never_began(cli, &cli.run(&disk)?, "unenforceable")?;
    // Something that is there, and is no commit.
    let tree = git(&host.repository(), &["rev-parse", "HEAD^{tree}"])?;
    let done = run(cli, &["--git", &at(&url, &tree)], "echo it-ran")?;
    ensure!(done.code()? != 0, "a tree was taken for a commit");
    // A kept one is filled by a job of its own, and what is no commit's id is not even signed.
    for options in [
        &["--git", &at(&url, &first), "--sandbox", "shop"][..],
        &["--git", &at(&url, "main")],
        &["--git", &url],
    ] {
        let refused = run(cli, options, "echo it-ran")?;
        ensure!(
            refused.code()? == 125 || refused.code()? == 2,
            "{}",
            refused.stderr
        );
    }
    ensure!(nothing_is_left(lab.home()), "something is left");
    Ok(())
}

#[test]
fn the_host_is_shown_a_secret_that_the_job_never_has() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &profile(&host, "bubblewrap"))?;
    let secret = format!("amy:{TOKEN}");
    let words = ["--json", "secret", "set", "git.shop", "--nodes", "local"];
    succeeds(&cli.run_with_input(&words, secret.into_bytes())?)?;
    let from = at(&host.url("private/shop.git/.git"), &first);
    never_began(cli, &run(cli, &["--git", &from], "echo it-ran")?, "git_failed")?;
    let with = ["--git", &from, "--secret", "git.shop=git"];
    let script = format!(
        "cat a; cat | wc -c; env | grep -c LICTOR_SECRET; ls /proc/self/fd | wc -l; grep -r '{}' /workspace | wc -l",
        &TOKEN[4..]
    );
    let done = run(cli, &with, &script)?;
    succeeds(&done)?;
    let logs = cli.ok(&["logs", &id_of(&done.result()?)?])?;
    ensure!(logs.lines().eq(["one", "0", "0", "4", "0"]), "{logs}");
    // Without a repository there is nobody to show it to.
    let nobody = run(cli, &["--secret", "git.shop=git"], "echo it-ran")?;
    ensure!(nobody.code()? == 125, "{}", nobody.stderr);
    let rule = "\n@id(\"not-for-git\") forbid (principal, action == Action::\"use_secret\", resource)\n\
                when { context.delivery == \"git\" && context.name == \"git.shop\" };\n";
    change_law(cli, "policies/demo.cedar", rule)?;
    never_began(cli, &run(cli, &with, "echo it-ran")?, "forbidden")
}

#[test]
fn policy_and_approvers_see_what_is_brought_before_a_job() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    add_profile(cli, &profile(&host, "bubblewrap"))?;
    let rule = format!(
        "\n@id(\"reviewed-only\") forbid (principal, action in [Action::\"exec\", Action::\"shell\", Action::\"shell_opaque\"], resource)\n\
         when {{ context.git_url != \"\" }} unless {{ context.git_host == \"127.0.0.1\" && context.git_port == {} && \
         context.git_commit == \"{first}\" }};\n",
        host.port
    );
    change_law(cli, "policies/demo.cedar", &rule)?;
    let url = host.url("shop.git/.git");
    never_began(
        cli,
        &run(cli, &["--git", &at(&url, &second)], "echo it-ran")?,
        "forbidden",
    )?;
    let done = run(cli, &["--git", &at(&url, &first)], "echo it-ran")?;
    succeeds(&done)?;
    let shown = cli.ok(&["job", &id_of(&done.result()?)?])?;
    ensure!(shown.contains(&url) && shown.contains(&first), "{shown}");
    for (commit, status) in [(&first, 0), (&second, 126)] {
        let from = at(&url, commit);
        let words = [
            "explain",
            "--profile",
            "box",
            "--git",
            &from,
            "--",
            "sh",
            "-c",
            "echo it-ran",
        ];
        let explained = cli.run(&words)?;
        ensure!(
            explained.code()? == status,
            "{}\n{}",
            explained.text(),
            explained.stderr
        );
    }
    // And where nothing is brought, nothing is said.
    succeeds(&run(cli, &[], "echo it-ran")?)
}

#[test]
fn a_directory_with_a_commit_goes_with_its_job_when_the_agent_is_killed() -> Result<()> {
    let (host, mut lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli().clone();
    let (first, _) = host.commits()?;
    add_profile(&cli, &profile(&host, "bubblewrap"))?;
    let sleep = mark();
    let from = at(&host.url("shop.git/.git"), &first);
    let done = run(
        &cli,
        &["--detach", "--git", &from],
        &format!("exec sleep {sleep}"),
    )?;
    let id = id_of(&done.result()?)?;
    reach(&cli, &id, &["running"], SOON)?;
    ensure!(!nothing_is_left(lab.home()), "it works somewhere");
    lab.kill()?;
    gone(&sleep)?;
    lab.start_again()?;
    assert_eq!(reach(lab.cli(), &id, &["interrupted"], SOON)?, "interrupted");
    let home = lab.home().to_owned();
    wait_until("its directory to be gone", SOON, || nothing_is_left(&home))
}
