//! Clones: a commit of a repository that the profile may reach, brought by git in the job's sandbox, and what jobs make of it.

use std::fs;

use anyhow::{Result, ensure};
use lictor_test::Lab;

use crate::git_host::{Host, TOKEN, fails, git, succeeds, text, work, workspace};
use crate::law::change_law;
use crate::steps::{add_profile, audits_hold, id_of, receipt, result_of};

#[test]
fn a_commit_is_cloned_and_what_a_job_makes_of_it_is_a_signed_patch() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let url = host.url("shop.git/.git");
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    // The first commit's files, byte by byte, and nothing of the second.
    let there = work(
        cli,
        ("box", "shop"),
        "ls -A; od -An -tx1 a bytes; git -C /workspace log --oneline | wc -l",
    )?;
    let said = there.text();
    ensure!(there.code()? == 0, "{said}\n{}", there.stderr);
    ensure!(said.contains("6f 6e 65 0a 00 ff 0a 0d 0a"), "{said}");
    ensure!(!said.lines().any(|l| l == "b" || l == "hooked"), "{said}");
    let list = workspace(cli, "box", &["show", "local", "shop"])?;
    ensure!(list.text().contains(&first), "{}", list.text());
    fails(
        &workspace(cli, "box", &["clone", "local", "shop", &url, &first])?,
        "destination_exists",
    )?;

    succeeds(&work(
        cli,
        ("box", "shop"),
        "printf 'two\\n' > a; printf '\\000new\\377' > new; rm bytes; mkdir out; echo x > out/ignored",
    )?)?;
    let shown = cli.run(&["workspace", "--profile", "box", "diff", "local", "shop"])?;
    succeeds(&shown)?;
    ensure!(shown.stderr.contains(&first), "{}", shown.stderr);
    let copy = tempfile::tempdir()?;
    let at = copy.path().join("copy");
    git(
        copy.path(),
        &[
            "clone",
            "-q",
            "--no-checkout",
            text(&host.repository())?,
            text(&at)?,
        ],
    )?;
    fs::write(at.join(".git/info/attributes"), "* !text !eol !ident !filter\n")?;
    git(&at, &["checkout", "-q", &first])?;
    fs::write(copy.path().join("patch"), &shown.stdout)?;
    git(&at, &["apply", "../patch"])?;
    ensure!(fs::read(at.join("a"))? == b"two\n" && fs::read(at.join("new"))? == b"\0new\xff");
    ensure!(!at.join("bytes").exists() && !at.join("out").exists());
    // Whole into a file, and the receipt has its digest.
    let to = copy.path().join("whole");
    let whole = workspace(
        cli,
        "box",
        &["diff", "local", "shop", "--to", text(&to)?, "--ignored"],
    )?;
    succeeds(&whole)?;
    let signed = receipt(cli, &id_of(&result_of(&whole)?)?)?;
    let digest = lictor_proto::Digest::of(&fs::read(&to)?).to_string();
    ensure!(signed["artifacts"][0]["sha256"] == digest, "{signed}");
    ensure!(fs::read_to_string(&to)?.contains("out/ignored"));
    audits_hold(cli)
}

#[test]
fn a_clone_reaches_its_host_only_and_leaves_nothing_when_it_fails() -> Result<()> {
    let (host, other, lab) = (Host::start()?, Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    other.commits()?;
    add_profile(cli, &host.profile("box"))?;
    add_profile(cli, "\n[profiles.shut]\nbackend = \"bubblewrap\"\npersist = {}\n")?;
    let clone = |profile: &str, url: &str, commit: &str| {
        workspace(cli, profile, &["clone", "local", "shop", url, commit])
    };
    let url = host.url("shop.git/.git");
    fails(&clone("shut", &url, &first)?, "unenforceable")?;
    // What the profile does not list, a commit that is not there, and a host that sends elsewhere.
    fails(
        &clone("box", &other.url("shop.git/.git"), &first)?,
        "unenforceable",
    )?;
    fails(&clone("box", &url, &"0".repeat(40))?, "git_failed")?;
    fails(
        &clone("box", &host.url("elsewhere/shop.git/.git"), &first)?,
        "git_failed",
    )?;
    // Something that is there, and is no commit.
    let tree = git(&host.repository(), &["rev-parse", "HEAD^{tree}"])?;
    let done = clone("box", &url, &tree)?;
    ensure!(done.code()? != 0, "a tree was taken for a commit");
    let left = work(cli, ("box", "shop"), "ls -A | wc -l")?;
    ensure!(left.text().trim() == "0", "{}", left.text());
    succeeds(&clone("box", &url, &first)?)
}

#[test]
fn a_credential_is_shown_to_the_host_and_is_nowhere_afterwards() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let secret = format!("amy:{TOKEN}");
    let words = ["--json", "secret", "set", "git.shop", "--nodes", "local"];
    succeeds(&cli.run_with_input(&words, secret.into_bytes())?)?;
    let url = host.url("private/shop.git/.git");
    fails(
        &workspace(cli, "box", &["clone", "local", "shop", &url, &first])?,
        "git_failed",
    )?;
    let clone = ["clone", "local", "shop", &url, &first, "--credential", "git.shop"];
    succeeds(&workspace(cli, "box", &clone)?)?;
    let script = format!("cat a; env; grep -r '{}' /workspace | wc -l", &TOKEN[4..]);
    let done = work(cli, ("box", "shop"), &script)?;
    succeeds(&done)?;
    ensure!(
        done.text().contains("one") && !done.text().contains(TOKEN),
        "{}",
        done.text()
    );
    ensure!(done.text().trim().ends_with('0'), "{}", done.text());
    // Whoever may clone may not for that use a secret.
    let rule = "\n@id(\"no-secrets\") forbid (principal, action == Action::\"use_secret\", resource)\n\
                when { context.action == \"workspace\" };\n";
    change_law(cli, "policies/demo.cedar", rule)?;
    succeeds(&workspace(cli, "box", &["rm", "local", "shop"])?)?;
    fails(&workspace(cli, "box", &clone)?, "forbidden")
}

#[test]
fn policy_sees_what_is_cloned_from_where() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let rule = format!(
        "\n@id(\"reviewed-only\") forbid (principal, action == Action::\"workspace\", resource)\n\
         when {{ context.operation == \"clone\" }} unless {{ context.git_host == \"127.0.0.1\" && \
         context.git_port == {} && context.git_commit == \"{first}\" }};\n",
        host.port
    );
    change_law(cli, "policies/demo.cedar", &rule)?;
    let url = host.url("shop.git/.git");
    fails(
        &workspace(cli, "box", &["clone", "local", "shop", &url, &second])?,
        "forbidden",
    )?;
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)
}

/// A repository and a job do what they can to have something of theirs started by whoever looks.
#[test]
fn nothing_of_a_hostile_clone_is_started_by_looking_at_it() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let url = host.url("shop.git/.git");
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    let script = "printf '#!/bin/sh\\ntouch /workspace/started\\ncat\\n' > /workspace/evil; chmod 755 /workspace/evil\n\
        for key in core.fsmonitor diff.external diff.evil.textconv diff.evil.command filter.evil.clean filter.evil.smudge; \
        do git config $key /workspace/evil; done\n\
        echo '* filter=evil diff=evil' > .git/info/attributes\n\
        mkdir -p .git/hooks; for hook in post-checkout post-index-change pre-commit; do cp evil .git/hooks/$hook; done\n\
        echo changed > a; git diff > /dev/null; test -e started && rm started && echo it-works";
    let prepared = work(cli, ("box", "shop"), script)?;
    ensure!(
        prepared.text().contains("it-works"),
        "git itself starts nothing: {}\n{}",
        prepared.text(),
        prepared.stderr
    );
    let shown = cli.run(&["workspace", "--profile", "box", "diff", "local", "shop"])?;
    succeeds(&shown)?;
    ensure!(
        shown.text().contains("+changed") && !shown.text().contains("b/started"),
        "{}",
        shown.text()
    );
    succeeds(&workspace(cli, "box", &["snapshot", "local", "shop", "one"])?)?;
    succeeds(&workspace(cli, "box", &["restore", "local", "shop", "one"])?)?;
    succeeds(&workspace(cli, "box", &["show", "local", "shop"])?)?;
    let after = work(cli, ("box", "shop"), "test ! -e started && echo clean")?;
    ensure!(after.text().contains("clean"), "{}", after.text());
    Ok(())
}

#[test]
fn a_long_patch_is_for_a_file_and_a_short_one_for_the_terminal() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let url = host.url("shop.git/.git");
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    succeeds(&work(cli, ("box", "shop"), "head -c 2M /dev/urandom > large")?)?;
    fails(
        &workspace(cli, "box", &["diff", "local", "shop"])?,
        "source_too_large",
    )?;
    let dir = tempfile::tempdir()?;
    let to = dir.path().join("patch");
    succeeds(&workspace(
        cli,
        "box",
        &["diff", "local", "shop", "--to", text(&to)?],
    )?)?;
    ensure!(fs::metadata(&to)?.len() > 2 << 20, "it is not whole");
    succeeds(&work(cli, ("box", "shop"), "rm large; echo little > a")?)?;
    let shown = cli.run(&["workspace", "--profile", "box", "diff", "local", "shop"])?;
    ensure!(shown.text().contains("+little"), "{}", shown.stderr);
    Ok(())
}
