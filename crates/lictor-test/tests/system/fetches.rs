//! Another commit into a clone that jobs have worked in, and clones by https, from an agent of the host's own programs, and of
//! other users.

use anyhow::{Result, ensure};
use lictor_test::Lab;

use crate::git_host::{Host, TOKEN, fails, succeeds, work, workspace};
use crate::law::change_law;
use crate::steps::{add_profile, audits_hold, id_of, result_of};

/// What a job does that would like to have something of its own started by whoever fetches.
const EVIL: &str = "printf '#!/bin/sh\\ntouch /workspace/started\\ncat\\n' > evil; chmod 755 evil; \
    for key in core.fsmonitor diff.external filter.evil.clean filter.evil.smudge; do git config $key /workspace/evil; done; \
    echo '* filter=evil' > .git/info/attributes; \
    for hook in post-checkout post-index-change; do cp evil .git/hooks/$hook 2>/dev/null || \
    { mkdir -p .git/hooks; cp evil .git/hooks/$hook; }; done";

#[test]
fn another_commit_comes_into_a_clone_and_what_is_in_neither_stays() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let url = host.url("shop.git/.git");
    let fetch = |commit: &str| workspace(cli, "box", &["fetch", "local", "shop", &url, commit]);
    // There has to be one, and something has to have been cloned into it.
    fails(&fetch(&second)?, "sandbox_unknown")?;
    succeeds(&work(cli, ("box", "shop"), "touch here")?)?;
    fails(&fetch(&second)?, "sandbox_unknown")?;
    succeeds(&workspace(cli, "box", &["rm", "local", "shop"])?)?;
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    let prepare = format!(
        "{EVIL}; echo mine > a; mkdir out; echo built > out/it; echo new > new; stat -c %Y .gitignore"
    );
    let prepared = work(cli, ("box", "shop"), &prepare)?;
    succeeds(&prepared)?;
    // What is not there changes nothing.
    fails(&fetch(&"0".repeat(40))?, "git_failed")?;
    let before = work(
        cli,
        ("box", "shop"),
        "cat a bytes out/it new | wc -c; ls -d .lictor* 2>/dev/null; true",
    )?;
    ensure!(before.text().trim() == "20", "{}", before.text());

    succeeds(&fetch(&second)?)?;
    let after = work(
        cli,
        ("box", "shop"),
        "cat a b out/it new; test ! -e bytes && test ! -e started && echo clean; stat -c %Y .gitignore; \
         ls -A | grep -c lictor; git log --oneline | wc -l",
    )?;
    let said = after.text();
    let lines: Vec<&str> = said.lines().collect();
    let touched = prepared.text().trim().to_owned();
    assert_eq!(
        lines,
        ["one", "second", "built", "new", "clean", &touched, "0", "2"],
        "{}",
        after.stderr
    );
    let shown = cli.run(&["workspace", "--profile", "box", "diff", "local", "shop"])?;
    succeeds(&shown)?;
    ensure!(
        shown.stderr.contains(&second) && shown.stderr.contains("0 changed, 2 new, 0 gone"),
        "{}",
        shown.stderr
    );
    // And back again.
    succeeds(&fetch(&first)?)?;
    let back = work(cli, ("box", "shop"), "test ! -e b && wc -c < bytes")?;
    ensure!(back.text().trim() == "5", "{}", back.text());
    audits_hold(cli)
}

#[test]
fn policy_sees_what_is_fetched_from_where() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let rule = format!(
        "\n@id(\"not-that-one\") forbid (principal, action == Action::\"workspace\", resource)\n\
         when {{ context.operation == \"fetch\" && context.git_port == {} && context.git_commit == \"{second}\" }};\n",
        host.port
    );
    let url = host.url("shop.git/.git");
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    let fetch = ["fetch", "local", "shop", &url, &second];
    succeeds(&workspace(cli, "box", &fetch)?)?;
    succeeds(&workspace(cli, "box", &["fetch", "local", "shop", &url, &first])?)?;
    change_law(cli, "policies/demo.cedar", &rule)?;
    fails(&workspace(cli, "box", &fetch)?, "forbidden")
}

#[test]
fn a_clone_by_https_asks_who_the_host_is_and_shows_it_a_secret() -> Result<()> {
    let (host, lab) = (Host::start_with_tls()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    let trusted = host.authorities();
    let profile = |name: &str, more: &str| {
        format!(
            "\n[profiles.{name}]\nbackend = \"bubblewrap\"\npersist = {{}}\nnetwork = \"egress\"\n\
             read_only = [\"{}\"]\n{more}\n[profiles.{name}.egress]\nmode = \"allowlist\"\n\
             allow = [\"localhost:{}\"]\nprivate = [\"127.0.0.1/32\", \"::1/128\"]\n",
            trusted.display(),
            host.port
        )
    };
    let own = format!("env = {{ GIT_SSL_CAINFO = \"{}/ca.pem\" }}", trusted.display());
    add_profile(cli, &profile("stranger", ""))?;
    add_profile(cli, &profile("box", &own))?;
    let secret = format!("amy:{TOKEN}");
    let words = ["--json", "secret", "set", "git.shop", "--nodes", "local"];
    succeeds(&cli.run_with_input(&words, secret.into_bytes())?)?;
    let url = host.url("private/shop.git/.git");
    let with = |operation, commit| {
        [
            operation,
            "local",
            "shop",
            &url,
            commit,
            "--credential",
            "git.shop",
        ]
    };
    let stranger = workspace(cli, "stranger", &with("clone", &first))?;
    fails(&stranger, "git_failed")?;
    let logs = cli.run(&["logs", &id_of(&result_of(&stranger)?)?])?;
    ensure!(logs.stderr.contains("certificate"), "{}", logs.stderr);
    let bare = workspace(cli, "box", &["clone", "local", "shop", &url, &first])?;
    fails(&bare, "git_failed")?;
    succeeds(&workspace(cli, "box", &with("clone", &first))?)?;
    succeeds(&workspace(cli, "box", &with("fetch", &second))?)?;
    let script = format!("cat b; grep -r '{}' /workspace | wc -l", &TOKEN[4..]);
    let done = work(cli, ("box", "shop"), &script)?;
    succeeds(&done)?;
    assert_eq!(done.text(), "second\n0\n");
    Ok(())
}

/// Of an agent that is root: as the profile's user on the host as it is, where nothing narrows the way out.
#[test]
fn a_clone_works_on_the_host_as_it_is() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    add_profile(
        cli,
        "\n[profiles.plain]\nbackend = \"host\"\nnetwork = \"host\"\npersist = {}\n",
    )?;
    let url = host.url("shop.git/.git");
    succeeds(&workspace(
        cli,
        "plain",
        &["clone", "local", "shop", &url, &first],
    )?)?;
    let changed = work(cli, ("plain", "shop"), "echo two > a; pwd")?;
    succeeds(&changed)?;
    let shown = cli.run(&["workspace", "--profile", "plain", "diff", "local", "shop"])?;
    ensure!(
        shown.text().contains("+two"),
        "{}\n{}",
        shown.text(),
        shown.stderr
    );
    succeeds(&workspace(
        cli,
        "plain",
        &["fetch", "local", "shop", &url, &second],
    )?)?;
    let done = work(cli, ("plain", "shop"), "cat a b")?;
    assert_eq!(done.text(), "one\nsecond\n", "{}", done.stderr);
    // Behind Landlock there is no network at all, and whoever asks for a clone is told so.
    add_profile(cli, "\n[profiles.fence]\nbackend = \"landlock\"\npersist = {}\n")?;
    let none = workspace(cli, "fence", &["clone", "local", "shop", &url, &first])?;
    ensure!(result_of(&none)?["code"] == "unenforceable", "{}", none.text());
    Ok(())
}
