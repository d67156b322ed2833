//! Files of several nodes by one command: one signed job, and of each node its own, verified, in a place of its own.
//!
//! All nodes of these tests are on one machine, so what each has of its own is in a kept sandbox.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Done, Program};
use serde_json::Value;
use tempfile::TempDir;

use crate::fleet::{Crew, are, path, results};
use crate::steps::{SOON, add_profile, audits_hold, id_of};

const BOX: &str = "\n[profiles.box]\nbackend = \"bubblewrap\"\npersist = {}\n";
const BOXED: [&str; 6] = ["cp", "--json", "--profile", "box", "--sandbox", "work"];
const THREE: [(&str, &[&str]); 3] = [
    ("web-1", &["role=web"]),
    ("web-2", &["role=web"]),
    ("db-1", &["role=db"]),
];

struct Scene {
    crew: Crew,
    _dir: TempDir,
    at: PathBuf,
}

impl Scene {
    /// Each of the first so many has a log of its own, with its name in it.
    fn set(with_a_log: usize) -> Result<Self> {
        let crew = Crew::of(&THREE)?;
        add_profile(crew.cli(), BOX)?;
        let dir = tempfile::tempdir()?;
        let at = dir.path().canonicalize()?;
        let scene = Self { crew, _dir: dir, at };
        for (node, _) in &THREE[..with_a_log] {
            fs::write(scene.at("app.log"), log_of(node))?;
            let to = format!("{node}:/workspace/log/");
            scene.does(&[
                "run",
                "--profile",
                "box",
                "--sandbox",
                "work",
                node,
                "--",
                "mkdir",
                "log",
            ])?;
            scene.copies(&[], scene.at("app.log").to_str().context("path")?, &to)?;
        }
        Ok(scene)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn does(&self, words: &[&str]) -> Result<()> {
        self.crew.cli().ok(words).map(drop)
    }

    /// `lictor cp --json --profile box --sandbox work OPTIONS FROM TO`.
    fn copy(&self, options: &[&str], from: &str, to: &str) -> Result<Done> {
        let words = [&BOXED[..], options, &[from, to]].concat();
        self.crew.cli().run(&words)
    }

    fn copies(&self, options: &[&str], from: &str, to: &str) -> Result<Done> {
        let done = self.copy(options, from, to)?;
        ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
        Ok(done)
    }

    /// How many jobs have been signed.
    fn jobs(&self) -> Result<usize> {
        Ok(self.crew.cli().json(&["jobs"])?.as_array().map_or(0, Vec::len))
    }
}

/// More than one piece of it, so that streams lie beside each other.
fn log_of(node: &str) -> String {
    format!("{node}: all is well\n").repeat(100_000)
}

/// Where it is and nothing else: that of this node.
fn is_of(place: &Path, node: &str) -> Result<()> {
    ensure!(
        fs::read_to_string(place.join("app.log"))? == log_of(node),
        "another node's"
    );
    ensure!(names(place)? == ["app.log"], "{:?}", names(place)?);
    Ok(())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = entries.collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn of<'a>(lines: &'a [Value], event: &str, node: &str) -> Result<&'a Value> {
    let mut all = lines.iter().filter(|l| l["event"] == event && l["node"] == node);
    let first = all
        .next()
        .with_context(|| format!("no {event} of {node}: {lines:?}"))?;
    ensure!(all.next().is_none(), "two of {node}: {lines:?}");
    Ok(first)
}

#[test]
fn files_of_several_nodes_come_by_one_job_each_to_a_place_of_its_own() -> Result<()> {
    let scene = Scene::set(3)?;
    let before = scene.jobs()?;
    let logs = scene.at("logs");
    let to = path(&logs)?;
    let dry = scene.copies(&["--dry-run"], "role=web:/workspace/log/app.log", to)?;
    let meant = dry.json_lines()?[0]["nodes"].as_array().map(Vec::len);
    ensure!(
        meant == Some(2) && !logs.exists() && scene.jobs()? == before,
        "{}",
        dry.text()
    );

    let done = scene.copies(&[], "role=web:/workspace/log/app.log", to)?;
    ensure!(scene.jobs()? == before + 1, "it was not one job");
    for node in ["web-1", "web-2"] {
        is_of(&logs.join(node), node)?;
    }
    ensure!(names(&logs)? == ["web-1", "web-2"], "{:?}", names(&logs)?);
    let lines = done.json_lines()?;
    are(
        &results(&lines),
        &[("web-1", "succeeded"), ("web-2", "succeeded")],
    );
    for node in ["web-1", "web-2"] {
        let result = of(&lines, "result", node)?;
        ensure!(
            result["confirmed"] == true && result["artifacts"][0]["sha256"].is_string(),
            "{result}"
        );
        let unpacked = of(&lines, "unpacked", node)?;
        ensure!(
            unpacked["files"] == 1 && unpacked["to"] == path(&logs.join(node).join("app.log"))?,
            "{unpacked}"
        );
    }
    let last = lines.last().context("no lines")?;
    ensure!(last["event"] == "summary" && last["exit"] == 0, "{last}");
    // Nothing of it went to the screen.
    ensure!(!done.text().contains("all is well"));
    let id = id_of(last)?;
    scene.does(&["receipt", "verify", &id])?;

    // A directory goes beside what is there; a second time it would be in the way, which is said before anything is signed.
    let tree = scene.crew.cli().run(&[
        "cp",
        "--profile",
        "box",
        "--sandbox",
        "work",
        "web-*:/workspace/log",
        to,
    ])?;
    ensure!(
        tree.code()? == 0 && tree.stderr.contains("web-1: 1 files"),
        "{}",
        tree.stderr
    );
    ensure!(tree.stderr.contains("2 nodes: 2 succeeded"), "{}", tree.stderr);
    for node in ["web-1", "web-2"] {
        is_of(&logs.join(node).join("log"), node)?;
    }
    let before = scene.jobs()?;
    let again = scene.copy(&[], "web-*:/workspace/log", to)?;
    ensure!(
        again.code()? == 125 && again.stderr.contains("is there already"),
        "{}",
        again.stderr
    );
    ensure!(scene.jobs()? == before, "it was signed");
    // A file is no place for several.
    let file = logs.join("web-1/app.log");
    let onto = scene.copy(&[], "web-*:/workspace/log", path(&file)?)?;
    ensure!(
        onto.code()? == 125 && onto.stderr.contains("is no directory"),
        "{}",
        onto.stderr
    );

    // One named by itself is brought as ever, and all are `--all`.
    let one = scene.at("one.log");
    scene.copies(&[], "db-1:/workspace/log/app.log", path(&one)?)?;
    ensure!(fs::read_to_string(&one)? == log_of("db-1"));
    let all = scene.at("all");
    scene.copies(&["--all", "-x", "local"], ":/workspace/log/app.log", path(&all)?)?;
    ensure!(names(&all)? == ["db-1", "web-1", "web-2"], "{:?}", names(&all)?);
    audits_hold(scene.crew.cli())
}

/// Something is in the way: where that can be seen it is said before anything is signed; else what the node did is not in doubt, and
/// nothing of it is here.
fn places_that_cannot_be_one(scene: &Scene) -> Result<()> {
    let taken = scene.at("taken");
    let from = "web-*:/workspace/log/app.log";
    fs::create_dir(&taken)?;
    fs::write(taken.join("web-1"), "mine")?;
    let before = scene.jobs()?;
    let done = scene.copy(&[], from, path(&taken)?)?;
    ensure!(
        done.code()? == 125 && done.stderr.contains("is no directory"),
        "{}",
        done.stderr
    );
    ensure!(names(&taken)? == ["web-1"] && fs::read(taken.join("web-1"))? == b"mine");
    // A file that is asked for beside them, and has the name of one of them; and a node that is not there.
    let other = scene.at("other");
    let both = [&BOXED[..], &[from, "db-1:/workspace/web-2", path(&other)?]].concat();
    let done = scene.crew.cli().run(&both)?;
    ensure!(
        done.code()? == 125 && done.stderr.contains("two of them are called web-2"),
        "{}",
        done.stderr
    );
    let done = scene.copy(&[], "nobody-*:/workspace/log/app.log", path(&other)?)?;
    ensure!(done.code()? != 0 && !other.exists(), "it was made for nothing");
    ensure!(scene.jobs()? == before, "it was signed");

    // A directory in which nobody makes anything.
    fs::remove_file(taken.join("web-1"))?;
    std::os::unix::fs::symlink("/proc", taken.join("web-1"))?;
    let done = scene.copy(&[], from, path(&taken)?)?;
    ensure!(done.code()? == 125, "{}\n{}", done.text(), done.stderr);
    are(
        &results(&done.json_lines()?),
        &[("web-1", "not_brought"), ("web-2", "succeeded")],
    );
    is_of(&taken.join("web-2"), "web-2")
}

#[test]
fn what_goes_wrong_with_one_node_is_told_and_the_others_files_are_there() -> Result<()> {
    let mut scene = Scene::set(2)?;
    let from = "*-*:/workspace/log/app.log";

    // A node that has no such file.
    let logs = scene.at("logs");
    let done = scene.copy(&[], from, path(&logs)?)?;
    ensure!(done.code()? == 1, "{}\n{}", done.text(), done.stderr);
    let lines = done.json_lines()?;
    let ended = [("db-1", "failed"), ("web-1", "succeeded"), ("web-2", "succeeded")];
    are(&results(&lines), &ended);
    ensure!(of(&lines, "result", "db-1")?["code"].is_string(), "{lines:?}");
    ensure!(names(&logs)? == ["web-1", "web-2"], "{:?}", names(&logs)?);
    is_of(&logs.join("web-1"), "web-1")?;

    places_that_cannot_be_one(&scene)?;
    // More than may come is no more believed than of one node.
    let little = scene.at("little");
    let done = scene.copy(
        &["--max-bytes", "1KiB"],
        "web-*:/workspace/log/app.log",
        path(&little)?,
    )?;
    ensure!(done.code()? == 1, "{}\n{}", done.text(), done.stderr);
    ensure!(!little.exists(), "it was made for nothing: {:?}", names(&little)?);

    // A node that is away keeps nobody waiting, unless that is asked.
    scene.crew.stop(1)?;
    let some = scene.at("some");
    let done = scene.copy(&["--valid", "2m"], "web-*:/workspace/log/app.log", path(&some)?)?;
    ensure!(done.code()? == 125, "{}\n{}", done.text(), done.stderr);
    are(
        &results(&done.json_lines()?),
        &[("web-1", "succeeded"), ("web-2", "queued")],
    );
    ensure!(names(&some)? == ["web-1"], "{:?}", names(&some)?);
    let waits = scene.at("waits");
    let words = [
        "--json",
        "--profile",
        "box",
        "--sandbox",
        "work",
        "--wait",
        "web-*:/workspace/log/app.log",
    ];
    let words = [&["cp"][..], &words[..], &[path(&waits)?][..]].concat();
    let mut running = Program::start(scene.crew.cli().command(&words))?;
    running.line("what web-1 has", SOON, |line| {
        (line.contains("unpacked") && line.contains("web-1")).then_some(())
    })?;
    is_of(&waits.join("web-1"), "web-1")?;
    // A hub that was killed meanwhile, and is back: what has come does not come again, and the other does.
    scene.crew.lab.kill()?;
    scene.crew.lab.come_back()?;
    scene.crew.start(1)?;
    ensure!(running.wait(SOON)?.success(), "{}", running.stderr());
    is_of(&waits.join("web-2"), "web-2")
}
