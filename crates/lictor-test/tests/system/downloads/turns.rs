//! Downloads beside each other: whose turn it is, and what of the law cuts one.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Split, SplitOptions, poll, wait_until};

use super::waiting::{downloaders, downloading, spooled};
use super::{MIB, comes, copy, events, fetch_from, noise, place, words};
use crate::origin::{Gate, Origin, cut, gated, held, honest};
use crate::steps::{SOON, audits_hold, begin, ended, id_of, state};

/// Hub and agent; the agent downloads like this.
fn split_with(text: &str) -> Result<Split> {
    Split::start_with(SplitOptions {
        agent_settings: format!("[downloads]\n{text}\n"),
        ..SplitOptions::default()
    })
}

#[test]
fn a_server_that_is_slow_holds_up_no_other_file_and_not_the_same_from_elsewhere() -> Result<()> {
    let split = split_with("at_once = 1\nturn_s = 1\n")?;
    let cli = split.cli();
    let (dir, to) = place()?;
    let at = |name: &str| dir.path().join(name);
    let (slow, other) = (noise(MIB), noise(MIB + 1));
    // It would have a minute for its next 64 KiB, and after these the next.
    let first = Origin::start(held(slow.clone(), MIB / 2))?;
    let second = Origin::start(honest(other.clone()))?;
    fetch_from(cli, &[first.entry(), second.entry()], "")?;
    let waits = begin(cli, &words(&first.url("/slow"), &to, &slow, &[])?)?;
    let id = downloading(cli)?;
    wait_until("half of it", SOON, || spooled(&split) == MIB as u64 / 2)?;

    comes(
        &copy(cli, &second.url("/other"), &at("other"), &other)?,
        &at("other"),
        &other,
    )?;
    // It goes on where it was, once nobody else waits.
    wait_until("its next turn", SOON, || first.asked().len() == 2)?;
    ensure!(first.asked()[1].from == Some(MIB / 2), "{:?}", first.asked());

    // The same file by another way.
    second.answers(honest(slow.clone()));
    comes(
        &copy(cli, &second.url("/slow"), &at("same"), &slow)?,
        &at("same"),
        &slow,
    )?;
    let from = second.asked().last().and_then(|asked| asked.from);
    ensure!(from == Some(MIB / 2), "not from where the other was: {from:?}");
    // With that the first has it, too.
    ensure!(ended(cli, &id)? == "succeeded", "it waits for what is here");
    ensure!(waits.wait_with_output()?.status.success());
    comes(
        &copy(cli, &first.url("/slow"), &at("again"), &slow)?,
        &at("again"),
        &slow,
    )?;
    audits_hold(cli)
}

#[test]
fn a_server_that_breaks_off_again_and_again_holds_up_nobody_who_knows_another() -> Result<()> {
    let split = split_with("turn_s = 1\n")?;
    let cli = split.cli();
    let (dir, to) = place()?;
    let same = dir.path().join("same");
    let content = noise(8 * MIB);
    // Something comes each time, so that it is never given up: 128 tries, a second apart.
    let first = Origin::start(cut(content.clone(), MIB / 16))?;
    let second = Origin::start(honest(content.clone()))?;
    fetch_from(cli, &[first.entry(), second.entry()], "")?;
    let id = detached(cli, &first.url("/file"), &to, &content)?;
    wait_until("it breaks off again and again", SOON, || first.asked().len() > 2)?;
    comes(
        &copy(cli, &second.url("/file"), &same, &content)?,
        &same,
        &content,
    )?;
    ensure!(
        first.asked().len() < 64 && second.asked().len() == 1,
        "it came from the first: {} and {:?}",
        first.asked().len(),
        second.asked()
    );
    let from = second.asked()[0].from;
    ensure!(from > Some(MIB / 16), "not from where the other was: {from:?}");
    ensure!(ended(cli, &id)? == "succeeded", "it waits for what is here");
    audits_hold(cli)
}

/// Submits a copy and leaves; gives the job's id.
fn detached(cli: &Cli, url: &str, to: &std::path::Path, content: &[u8]) -> Result<String> {
    let done = cli.run(&words(url, to, content, &["--detach"])?)?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    id_of(&done.result()?)
}

#[test]
fn no_more_come_at_once_than_may_and_each_has_its_turn() -> Result<()> {
    let split = split_with("at_once = 2\n")?;
    let cli = split.cli();
    let (dir, _) = place()?;
    let gate = Gate::default();
    let contents: Vec<Arc<Vec<u8>>> = (0..4).map(|n| noise(MIB + n)).collect();
    let (all, waits) = (contents.clone(), gate.clone());
    let origin = Origin::start(move |asked, talk| {
        let n: usize = asked.path[1..].parse().unwrap_or_default();
        gated(all[n].clone(), MIB / 4, waits.clone())(asked, talk)
    })?;
    fetch_from(cli, &[origin.entry()], "")?;
    let mut ids = Vec::new();
    for (n, content) in contents.iter().enumerate() {
        let to = dir.path().join(n.to_string());
        ids.push(detached(cli, &origin.url(&format!("/{n}")), &to, content)?);
    }
    let says = |id: &String, what: &str| {
        let job = cli.json(&["job", id]).unwrap_or_default();
        let execution = &job["executions"][0];
        execution["code"] == "downloading" && execution.to_string().contains(what)
    };
    wait_until("two that come, and two that say that they wait", SOON, || {
        let wait = ids.iter().filter(|id| says(id, "waits for its turn")).count();
        wait == 2 && ids.iter().all(|id| says(id, "bytes from")) && origin.asked().len() == 2
    })?;
    // A job without a download is in nobody's way, and they are not in its.
    cli.ok(&["run", "--profile", "host", "local", "--", "true"])?;
    ensure!(origin.asked().len() == 2, "{:?}", origin.asked());
    gate.open();
    for id in &ids {
        ensure!(ended(cli, id)? == "succeeded", "{id}");
    }
    ensure!(origin.asked().len() == 4, "{:?}", origin.asked());
    audits_hold(cli)
}

/// Signs a freshness statement, and waits until the node has it.
fn freshen(cli: &Cli) -> Result<()> {
    let before = events(cli, "law_accepted")?.len();
    cli.ok(&["org", "freshness"])?;
    cli.ok(&["org", "push"])?;
    wait_until("the node to have it", SOON, || {
        events(cli, "law_accepted").is_ok_and(|all| all.len() > before)
    })
}

#[test]
fn newer_freshness_cuts_no_download_and_without_any_it_does_not_go_on() -> Result<()> {
    let split = Split::start()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let root = split.home().join("next-root.json");
    let root = root.to_str().context("path")?;
    cli.ok(&["keys", "new", "freshness"])?;
    let adds = [
        "org",
        "root",
        "new",
        "--out",
        root,
        "--add",
        "freshness=freshness",
    ];
    cli.ok(&adds)?;
    cli.ok(&["org", "root", "sign", "--yes", root])?;
    cli.ok(&["org", "root", "take", root])?;
    cli.ok(&["org", "sign"])?;
    cli.ok(&["org", "freshness"])?;
    cli.ok(&["org", "push"])?;

    // A server without ranges: whoever is cut off begins anew.
    let rangeless = |content: Arc<Vec<u8>>, gate: Gate| {
        move |_: &crate::origin::Asked, talk: &mut dyn crate::origin::Talk| {
            let whole = crate::origin::Asked {
                path: String::new(),
                from: None,
            };
            gated(content.clone(), MIB / 2, gate.clone())(&whole, talk)
        }
    };
    let (content, gate) = (noise(MIB), Gate::default());
    let origin = Origin::start(rangeless(content.clone(), gate.clone()))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let url = origin.url("/file");
    let waits = begin(cli, &words(&url, &to, &content, &[])?)?;
    let id = downloading(cli)?;
    wait_until("half of it", SOON, || spooled(&split) == MIB as u64 / 2)?;
    freshen(cli)?;
    freshen(cli)?;
    gate.open();
    ensure!(ended(cli, &id)? == "succeeded", "it did not come");
    ensure!(waits.wait_with_output()?.status.success());
    ensure!(origin.asked().len() == 1, "it was cut off: {:?}", origin.asked());

    // Law that goes stale while one comes. It takes its time in any case: all of this is done while it is fresh.
    let (content, gate) = (noise(MIB + 1), Gate::default());
    origin.answers(rangeless(content.clone(), gate.clone()));
    cli.ok(&["org", "sign", "--max-staleness", "20s"])?;
    freshen(cli)?;
    let to = to.with_extension("stale");
    let waits = begin(cli, &words(&url, &to, &content, &["--valid", "10m"])?)?;
    let id = downloading(cli)?;
    wait_until("it is asked for", SOON, || !downloaders(&url).is_empty())?;
    wait_until("nobody asks under law that is stale", SOON, || {
        downloaders(&url).is_empty()
    })?;
    ensure!(!to.exists() && !crate::steps::FINAL.contains(&state(cli, &id)?.as_str()));
    let asked = origin.asked().len();
    gate.open();
    cli.ok(&["org", "sign", "--max-staleness", "1h"])?;
    freshen(cli)?;
    let end = poll("its end", SOON, || {
        let now = state(cli, &id).ok()?;
        crate::steps::FINAL.contains(&now.as_str()).then_some(now)
    })?;
    ensure!(
        end == "succeeded" && origin.asked().len() == asked + 1,
        "{end}: {:?}",
        origin.asked()
    );
    ensure!(waits.wait_with_output()?.status.success());
    audits_hold(cli)
}
