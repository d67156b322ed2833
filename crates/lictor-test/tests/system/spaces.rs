//! Workspaces: how much one holds, whose it is, what other backends have, and kills in the middle of copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Timestamp;
use lictor_test::{Cli, Done, Lab, Missing, Split, SplitOptions, poll, skip, wait_until};
use serde_json::{Value, json};

use crate::git_host::{fails, listed, succeeds, work, workspace};
use crate::steps::{SOON, add_profile, gone, id_of, mark, reach, receipt, result_of};

fn detached(cli: &Cli, words: &[&str]) -> Result<Done> {
    let mut all = vec!["run", "--json", "--detach"];
    all.extend(words);
    cli.run(&all)
}

#[test]
fn a_job_that_fills_its_workspace_is_ended_and_the_others_go_on() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let profile = |name: &str, bytes: &str| {
        format!("\n[profiles.{name}]\nbackend = \"bubblewrap\"\npersist = {{ {bytes} }}\n")
    };
    add_profile(cli, &profile("small", "bytes = \"8MiB\""))?;
    add_profile(cli, &profile("large", ""))?;
    let sleep = mark();
    let script = format!("trap '' TERM; head -c 32M /dev/zero > big; sleep {sleep}; true");
    // Without the limit nobody minds.
    let free = work(
        cli,
        ("large", "shop"),
        "head -c 32M /dev/zero > big; ls -l big | wc -l",
    )?;
    ensure!(free.text().trim() == "1", "{}", free.stderr);
    let words = [
        "--profile",
        "small",
        "--sandbox",
        "shop",
        "local",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let id = id_of(&detached(cli, &words)?.result()?)?;
    assert_eq!(reach(cli, &id, &["failed"], SOON)?, "failed");
    gone(&sleep)?;
    let signed = receipt(cli, &id)?;
    assert_eq!(
        (&signed["code"], &signed["limits_hit"]),
        (&json!("sandbox_limit"), &json!(["disk"])),
        "{signed}"
    );
    // Nobody else works there until there is room; whoever makes some may.
    let next = work(cli, ("small", "shop"), "true")?;
    ensure!(
        next.code()? != 0 && (next.text() + &next.stderr).contains("sandbox_limit"),
        "{}",
        next.stderr
    );
    succeeds(&work(cli, ("small", "other"), "echo fits > a")?)?;
    succeeds(&workspace(cli, "small", &["rm", "local", "shop"])?)?;
    succeeds(&work(cli, ("small", "shop"), "echo fits > a")?)
}

/// A directory in a directory, two hundred times and more: nobody looks through that.
#[test]
fn a_workspace_that_cannot_be_counted_is_nobody_elses_trouble() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(
        cli,
        "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n",
    )?;
    let deep = "i=0; while [ $i -lt 260 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done";
    succeeds(&work(cli, ("keeps", "deep"), deep)?)?;
    let one = listed(cli, "keeps", &["show", "local", "deep"])?;
    assert_eq!(one[0]["counted"], json!(false), "{one:?}");
    succeeds(&work(cli, ("keeps", "new"), "echo one > a")?)?;
    succeeds(&work(cli, ("keeps", "deep"), "rm -rf d")?)?;
    let one = listed(cli, "keeps", &["show", "local", "deep"])?;
    assert_eq!(one[0]["counted"], json!(true), "{one:?}");
    Ok(())
}

#[test]
fn the_workspace_of_a_user_that_a_job_chose_is_reached_by_that_user() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(
        cli,
        "\n[profiles.theirs]\nbackend = \"bubblewrap\"\npersist = {}\nrun_as_users = [\"daemon\", \"mail\"]\n",
    )?;
    let run = |user: &str, script: &str| {
        let words = ["run", "--profile", "theirs", "--sandbox", "shop", "--user", user];
        cli.run(&[&words[..], &["local", "--", "sh", "-c", script]].concat())
    };
    succeeds(&run("daemon", "echo daemons > a")?)?;
    succeeds(&run("mail", "echo mails > a")?)?;
    let all = listed(cli, "theirs", &["ls", "local"])?;
    ensure!(all.len() == 2 && all[0]["uid"] != all[1]["uid"], "{all:?}");
    let of = |user: &str, words: &[&str]| workspace(cli, "theirs", &[&["--user", user], words].concat());
    let one = listed(cli, "theirs", &["--user", "daemon", "show", "local", "shop"])?;
    assert_eq!(one.len(), 1, "{one:?}");
    // The profile's own user has none of that name, and nobody gets at one by leaving out whose it is.
    fails(
        &workspace(cli, "theirs", &["rm", "local", "shop"])?,
        "sandbox_unknown",
    )?;
    succeeds(&of("daemon", &["snapshot", "local", "shop", "before"])?)?;
    succeeds(&run("daemon", "echo more > a")?)?;
    succeeds(&of("daemon", &["restore", "local", "shop", "before"])?)?;
    fails(
        &of("mail", &["restore", "local", "shop", "before"])?,
        "sandbox_unknown",
    )?;
    assert_eq!(run("daemon", "cat a")?.text(), "daemons\n");
    succeeds(&of("mail", &["rm", "local", "shop"])?)?;
    let left = listed(cli, "theirs", &["ls", "local"])?;
    assert_eq!(left.len(), 1, "{left:?}");
    // Nobody whom the profile does not list.
    let other = of("nobody", &["rm", "local", "shop"])?;
    assert_eq!(result_of(&other)?["code"], "run_as_refused");
    Ok(())
}

#[test]
fn workspaces_of_every_backend_are_seen_copied_put_back_and_removed() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let backends = ["host", "landlock", "container"];
    for backend in backends {
        let network = if backend == "host" {
            "network = \"host\"\n"
        } else {
            ""
        };
        add_profile(
            cli,
            &format!("\n[profiles.of-{backend}]\nbackend = \"{backend}\"\n{network}persist = {{}}\n"),
        )?;
    }
    let mut tried = 0;
    for backend in backends {
        let profile = &*format!("of-{backend}");
        let first = work(cli, (profile, "shop"), "echo one > a")?;
        if first.code()? == 126 {
            skip(&Missing::new(format!("{backend}: {}", first.stderr)));
            continue;
        }
        succeeds(&first)?;
        tried += 1;
        for words in [
            &["show", "local", "shop"][..],
            &["snapshot", "local", "shop", "before"],
        ] {
            succeeds(&workspace(cli, profile, words)?)?;
        }
        succeeds(&work(cli, (profile, "shop"), "echo two > a; echo new > b")?)?;
        succeeds(&workspace(cli, profile, &["restore", "local", "shop", "before"])?)?;
        let restored = work(cli, (profile, "shop"), "cat a; test ! -e b && echo gone")?;
        assert_eq!(restored.text(), "one\ngone\n", "{backend}: {}", restored.stderr);
        succeeds(&workspace(cli, profile, &["rm", "local", "shop"])?)?;
        assert_eq!(
            listed(cli, profile, &["ls", "local"])?,
            Vec::<Value>::new(),
            "{backend}"
        );
    }
    ensure!(tried >= 2, "this machine can run too few of {backends:?}");
    Ok(())
}

/// The directory of the only workspace of a lab's node.
fn only(home: &Path) -> Result<PathBuf> {
    let all = home.join("agent/work/.kept");
    let first = fs::read_dir(&all)?.next().context("one")??;
    Ok(first.path())
}

/// So many files that a copy takes longer than it takes to see that it has begun.
const MANY: &str = "seq -f 'd%.0f' 1 60 | xargs mkdir; for d in d*; do (cd $d; seq -f 'f%.0f' 1 1000 | xargs touch); done; echo one > a";

#[test]
fn a_copy_that_is_cut_short_by_a_kill_is_none_and_nothing_of_it_is_left() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    add_profile(
        &cli,
        "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n",
    )?;
    succeeds(&work(&cli, ("keeps", "shop"), MANY)?)?;
    let place = only(lab.home())?;
    let cut = |lab: &mut Lab, words: &[&str], begun: &Path| -> Result<()> {
        let mut all = vec!["workspace", "--json", "--profile", "keeps"];
        all.extend(words);
        let mut waits = cli.command(&all);
        let mut waits = waits.stdout(std::process::Stdio::null()).spawn()?;
        let found = poll(&begun.display().to_string(), SOON, || {
            begun.exists().then_some(())
        });
        lab.kill()?;
        found?;
        ensure!(begun.exists(), "it was over before it could be cut short");
        // Nobody answers it any more.
        waits.kill()?;
        waits.wait()?;
        lab.start_again()
    };
    cut(
        &mut lab,
        &["snapshot", "local", "shop", "before"],
        &place.join("snapshots/.new"),
    )?;
    let one = listed(&cli, "keeps", &["show", "local", "shop"])?;
    assert_eq!(
        (&one[0]["snapshots"], &one[0]["held_by"]),
        (&json!([]), &Value::Null),
        "{one:?}"
    );
    fails(
        &workspace(&cli, "keeps", &["restore", "local", "shop", "before"])?,
        "sandbox_unknown",
    )?;
    let count = "find . -type f | wc -l; cat a";
    assert_eq!(work(&cli, ("keeps", "shop"), count)?.text(), "60001\none\n");
    succeeds(&workspace(
        &cli,
        "keeps",
        &["snapshot", "local", "shop", "before"],
    )?)?;
    ensure!(!place.join("snapshots/.new").exists(), "something is left");

    succeeds(&work(&cli, ("keeps", "shop"), "echo two > a; rm -r d1")?)?;
    cut(
        &mut lab,
        &["restore", "local", "shop", "before"],
        &place.join(".restored"),
    )?;
    // Whole as it was before it, and another try does it.
    assert_eq!(work(&cli, ("keeps", "shop"), count)?.text(), "59001\ntwo\n");
    succeeds(&workspace(
        &cli,
        "keeps",
        &["restore", "local", "shop", "before"],
    )?)?;
    assert_eq!(work(&cli, ("keeps", "shop"), count)?.text(), "60001\none\n");
    ensure!(!place.join(".restored").exists(), "something is left");
    Ok(())
}

/// What a killed agent's job had is free for the next one as soon as there is an agent again.
#[test]
fn a_workspace_that_is_held_by_a_job_of_a_killed_agent_is_free_again() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    add_profile(
        &cli,
        "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n",
    )?;
    let sleep = mark();
    let script = format!("echo one > a; exec sleep {sleep}");
    let words = [
        "--profile",
        "keeps",
        "--sandbox",
        "shop",
        "local",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let id = id_of(&detached(&cli, &words)?.result()?)?;
    reach(&cli, &id, &["running"], SOON)?;
    let held = listed(&cli, "keeps", &["show", "local", "shop"])?;
    assert_eq!(held[0]["held_by"], json!(id), "{held:?}");
    lab.kill()?;
    gone(&sleep)?;
    lab.start_again()?;
    let done = work(&cli, ("keeps", "shop"), "cat a")?;
    assert_eq!(done.text(), "one\n", "{}", done.stderr);
    let free = listed(&cli, "keeps", &["show", "local", "shop"])?;
    assert_eq!(free[0]["held_by"], Value::Null, "{free:?}");
    Ok(())
}

#[test]
fn a_workspace_that_has_been_idle_for_its_time_is_removed_by_the_agent_and_no_other_is() -> Result<()> {
    // At the first look, in place of ten minutes after it: here the clock is right.
    let mut split = Split::start_with(SplitOptions {
        agent_settings: "[sandbox]\nkept_patience_s = 0\n".to_owned(),
        ..SplitOptions::default()
    })?;
    let cli = split.cli().clone();
    let profile = |name: &str, persist: &str| {
        format!("\n[profiles.{name}]\nbackend = \"bubblewrap\"\npersist = {{ {persist} }}\n")
    };
    add_profile(&cli, &(profile("short", "idle = \"1s\"") + &profile("long", "")))?;
    let kept = split.home().join("agent/work/.kept");
    for name in ["short", "long"] {
        succeeds(&work(&cli, (name, "shop"), "echo one > a")?)?;
    }
    let count = || fs::read_dir(&kept).map_or(0, Iterator::count);
    let until = Timestamp::now().plus(Duration::from_secs(1));
    wait_until("its time to be over", SOON, || Timestamp::now() > until)?;
    split.agent()?.kill()?;
    split.spawn_agent()?;
    // Nobody asks for it, and it goes.
    wait_until("one to be gone", SOON, || count() == 1)?;
    ensure!(listed(&cli, "short", &["ls", "local"])?.is_empty());
    fails(
        &workspace(&cli, "short", &["show", "local", "shop"])?,
        "sandbox_unknown",
    )?;
    assert_eq!(work(&cli, ("long", "shop"), "cat a")?.text(), "one\n");
    Ok(())
}

#[test]
fn a_workspace_is_not_called_like_a_job_whose_own_directory_is_called_so() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(
        cli,
        "\n[profiles.keeps]\nbackend = \"bubblewrap\"\npersist = {}\n",
    )?;
    succeeds(&work(cli, ("keeps", "j_shop"), "true")?)?;
    let id = id_of(&detached(cli, &["--profile", "host", "local", "--", "true"])?.result()?)?;
    for refused in [
        work(cli, ("keeps", &id), "true")?,
        workspace(cli, "keeps", &["rm", "local", &id])?,
    ] {
        let said = refused.text() + &refused.stderr;
        ensure!(
            refused.code()? == 125 && said.contains("document_invalid") && said.contains("spec.sandbox"),
            "{said}"
        );
    }
    Ok(())
}
