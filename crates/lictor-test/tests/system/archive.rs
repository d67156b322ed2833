//! Results that no hub took for a week.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{SmallDisk, Split, SplitOptions, poll, skip, wait_until};
use lictor_warden::archive;

use crate::steps::{appears, audits_hold, gone, id_of, mark, reach, sh};

const SOON: Duration = Duration::from_secs(60);

/// A node's chores, done a week later by a process that can be killed.
pub(crate) struct Later {
    child: Child,
    log: PathBuf,
}

impl Later {
    pub(crate) fn start(split: &Split) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_week-later"));
        command.arg(dir(split));
        Self::by(split, command)
    }

    /// In a mount namespace of its own, in which the archive is on a file system of this size.
    fn with_disk(split: &Split, size: &str) -> Result<Self> {
        let archive = archive::below(&dir(split));
        fs::create_dir_all(&archive)?;
        let script = "mount -t tmpfs -o mode=0700,size=\"$1\" tmpfs \"$2\" && exec \"$3\" \"$4\"";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script, "sh", size])
            .arg(archive);
        command.arg(env!("CARGO_BIN_EXE_week-later")).arg(dir(split));
        Self::by(split, command)
    }

    fn by(split: &Split, mut command: Command) -> Result<Self> {
        let log = split.home().join("later.log");
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("the chores of a week later")?;
        Ok(Self { child, log })
    }

    /// What it says, as far as it has said it.
    fn says(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.log)?)
    }

    /// SIGKILL.
    fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends in order.
    pub(crate) fn end(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}\n{}", self.says()?);
        Ok(())
    }
}

impl Drop for Later {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dir(split: &Split) -> PathBuf {
    split.home().join("agent")
}

/// Lets the node's chores be done a week later.
fn a_week_later(split: &Split) -> Result<()> {
    let later = Later::start(split)?;
    wait_until("the chores of a week later", SOON, || {
        archive::list(&dir(split)).is_ok_and(|all| !all.is_empty())
    })?;
    later.end()
}

/// Jobs that end while the hub is dead, each having printed this many bytes; gives their ids. The agent is ended, too.
fn ended_without_a_hub(split: &mut Split, jobs: usize, printed: usize) -> Result<Vec<String>> {
    let at = |name: &str| split.home().join(name);
    let (gate, over) = (at(&mark()), at(&mark()));
    fs::create_dir(&over)?;
    let mut ids = Vec::new();
    for n in 0..jobs {
        let script = format!(
            "touch {over}/started-{n}; until [ -e {gate} ]; do sleep 0.05; done; head -c {printed} /dev/zero; echo hello; \
             echo oh >&2; touch {over}/{n}",
            over = over.display(),
            gate = gate.display(),
        );
        ids.push(id_of(&sh(split.cli(), &["--detach"], &script)?.result()?)?);
    }
    for n in 0..jobs {
        appears(&over.join(format!("started-{n}")))?;
    }
    split.hub()?.kill()?;
    fs::write(&gate, "")?;
    for n in 0..jobs {
        appears(&over.join(format!("{n}")))?;
    }
    // They have ended, and not only printed.
    gone(&gate.to_string_lossy())?;
    let status = split.agent()?.terminate()?;
    ensure!(status.success(), "{status}");
    Ok(ids)
}

/// Hub and agent are back, and the hub gets everything, from wherever it is.
fn all_arrive(split: &mut Split, ids: &[String], printed: usize) -> Result<()> {
    split.start_hub()?;
    split.start_agent()?;
    for id in ids {
        assert_eq!(reach(split.cli(), id, &["succeeded"], SOON)?, "succeeded");
        let logs = split.cli().run(&["logs", id])?;
        ensure!(logs.code()? == 0, "{}", logs.stderr);
        assert_eq!(logs.stdout.len(), printed + "hello\n".len(), "{}", logs.stderr);
        split.cli().ok(&["receipt", "verify", id])?;
    }
    wait_until("they go from the archive", SOON, || {
        archive::list(&dir(split)).is_ok_and(|all| all.is_empty())
    })?;
    audits_hold(split.cli())
}

#[test]
fn an_archived_result_can_be_read_on_its_node_and_reaches_the_hub_when_it_is_back() -> Result<()> {
    late(SplitOptions::default())
}

#[test]
fn an_archived_result_of_an_agent_that_polls_reaches_the_hub_when_it_is_back() -> Result<()> {
    late(SplitOptions {
        poll: true,
        ..SplitOptions::default()
    })
}

fn late(options: SplitOptions) -> Result<()> {
    let mut split = Split::start_with(options)?;
    let ids = ended_without_a_hub(&mut split, 1, 0)?;
    let id = ids.first().context("a job")?;
    a_week_later(&split)?;

    let dir = dir(&split).to_string_lossy().into_owned();
    let listed = split.cli().json(&["agent", "archive", "ls", "--dir", &dir])?;
    assert_eq!(
        (&listed[0]["job_id"], &listed[0]["outcome"]),
        (&id.as_str().into(), &"succeeded".into())
    );
    let shown = split.cli().ok(&["agent", "archive", "show", id, "--dir", &dir])?;
    ensure!(shown.contains("receipt    succeeded, exit status 0"), "{shown}");
    let printed = split
        .cli()
        .run(&["agent", "archive", "show", id, "--output", "--dir", &dir])?;
    assert_eq!(
        (printed.text().as_str(), printed.stderr.as_str()),
        ("hello\n", "oh\n")
    );
    let files = archive::below(Path::new(&dir)).join(id);
    let file = |name: &str| files.join(name).to_string_lossy().into_owned();
    let (receipt, job) = (file("receipt.json"), file("job.json"));
    split.cli().ok(&["receipt", "verify", &receipt, "--job", &job])?;
    let doctor = split.cli().run(&["doctor", "--dir", &dir])?;
    ensure!(
        doctor.text().contains("1 results that the hub has not taken"),
        "{}",
        doctor.text()
    );
    all_arrive(&mut split, &ids, 0)
}

/// What is in the archive, begun ones too.
fn entries(split: &Split) -> Vec<String> {
    let entries = fs::read_dir(archive::below(&dir(split)));
    let names = entries.into_iter().flatten().flatten();
    names
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn no_kill_in_the_middle_of_archiving_loses_a_result_or_leaves_a_part_of_one() -> Result<()> {
    const JOBS: usize = 6;
    const PRINTED: usize = 700_000;
    let mut split = Split::start()?;
    let ids = ended_without_a_hub(&mut split, JOBS, PRINTED)?;
    let mut in_the_middle = 0;
    for _ in 0..JOBS + 2 {
        let before = entries(&split);
        let later = Later::start(&split)?;
        let until = Instant::now() + Duration::from_secs(5);
        // As soon as anything is new there, or an older one is done once more; without a pause, for it is quick.
        let is_new = || {
            entries(&split)
                .iter()
                .any(|e| e.starts_with(".new-") || !before.contains(e))
        };
        while !is_new() && Instant::now() < until {
            std::thread::yield_now();
        }
        later.kill()?;
        in_the_middle += usize::from(entries(&split).iter().any(|e| e.starts_with(".new-")));
        // What has its name is whole.
        for name in entries(&split).iter().filter(|n| n.starts_with("j_")) {
            let place = archive::below(&dir(&split)).join(name);
            let result = archive::read(&place).with_context(|| name.clone())?;
            let log: u64 = result.log.kept.iter().map(|k| k.to - k.from).sum();
            assert_eq!(fs::metadata(place.join("output.log"))?.len(), log, "{name}");
            for file in ["job.json", "receipt.json"] {
                ensure!(!archive::wire(&place, file)?.is_empty(), "{name}/{file}");
            }
        }
    }
    eprintln!("{in_the_middle} kills fell in the middle of one");
    all_arrive(&mut split, &ids, PRINTED)?;
    ensure!(entries(&split).is_empty(), "{:?}", entries(&split));
    Ok(())
}

#[test]
fn a_result_that_the_disk_has_no_room_to_archive_stays_where_it_is_and_is_archived_later() -> Result<()> {
    const PRINTED: usize = 700_000;
    if let Err(missing) = SmallDisk::possible() {
        skip(&missing);
        return Ok(());
    }
    let mut split = Split::start()?;
    let ids = ended_without_a_hub(&mut split, 2, PRINTED)?;
    let later = Later::with_disk(&split, "400k")?;
    let says = "could not be archived; it is tried again";
    poll("both to be tried", SOON, || {
        let text = later.says().ok()?;
        (text.matches(says).count() >= 2).then_some(())
    })?;
    let text = later.says()?;
    ensure!(text.contains("No space left"), "{text}");
    // As it sees it: nothing of them is left there.
    let seen = format!(
        "/proc/{}/root{}",
        later.child.id(),
        archive::below(&dir(&split)).display()
    );
    let left: Vec<_> = fs::read_dir(&seen)?.flatten().map(|e| e.file_name()).collect();
    ensure!(left.is_empty(), "{left:?}");
    later.kill()?;
    ensure!(entries(&split).is_empty(), "it was its own file system");

    // With room they go there, and from there to the hub.
    let later = Later::start(&split)?;
    wait_until("both to be archived", SOON, || {
        archive::list(&dir(&split)).is_ok_and(|all| all.len() == 2)
    })?;
    later.end()?;
    all_arrive(&mut split, &ids, PRINTED)
}
