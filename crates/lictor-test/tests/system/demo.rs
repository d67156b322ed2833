//! The demo, ended in the middle.

mod whole_machine {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use anyhow::{Context as _, Result};
    use lictor_test::{Cli, Program, sibling, wait_until};
    use rustix::process::Signal;

    use crate::steps::{SOON, processes};

    /// Until a scene begins; those before it are shown in full.
    const PATIENCE: Duration = Duration::from_secs(90);
    /// The suite of scene 5 takes a minute; whoever ends the demo doesn't wait for it.
    const PROMPT: Duration = Duration::from_secs(15);

    /// A process, and when it was started: its number alone may mean another one later.
    #[derive(Debug, PartialEq, Eq)]
    struct Process(u32, String);

    fn stat(pid: u32) -> Option<(u32, Process)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may have blanks: state, parent, and the time of the start as the 20th.
        let words: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let is_alive = *words.first()? != "Z";
        let process = Process(pid, (*words.get(19)?).to_owned());
        is_alive.then_some((words.get(1)?.parse().ok()?, process))
    }

    /// A process with all its descendants.
    fn family(of: u32) -> Result<Vec<Process>> {
        let all = fs::read_dir("/proc")?.flatten();
        let pids = all.filter_map(|e| e.file_name().to_str()?.parse().ok());
        let mut rest: Vec<_> = pids.filter_map(stat).collect();
        let mut found = vec![stat(of).context("it has ended")?.1];
        loop {
            let is_child = |parent: u32| found.iter().any(|p| p.0 == parent);
            let (children, others): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(parent, _)| is_child(*parent));
            if children.is_empty() {
                return Ok(found);
            }
            found.extend(children.into_iter().map(|(_, p)| p));
            rest = others;
        }
    }

    /// Starts the demo, sends SIGTERM once it has printed such a line, and looks at what is left.
    fn ended_at(line: &str) -> Result<()> {
        let mut command = Command::new(sibling("demo")?);
        command.env("LICTOR_BIN", Cli::new(Path::new("/nonexistent"))?.binary());
        let mut demo = Program::start(command)?;
        let home = demo.line("where it lives", PATIENCE, |l| {
            Some(l.trim().strip_prefix("home ")?.trim().to_owned())
        })?;
        demo.line(line, PATIENCE, |l| l.contains(line).then_some(()))?;
        let family = family(demo.pid())?;
        assert!(family.len() > 1, "hub and agent run: {family:?}");
        let asked_at = Instant::now();
        demo.signal(Signal::TERM);
        let status = demo.wait(SOON)?;
        assert!(status.success(), "{status}\n{}", demo.stderr());
        assert!(asked_at.elapsed() < PROMPT, "it took {:?}", asked_at.elapsed());
        let left = || {
            family
                .iter()
                .filter(|p| stat(p.0).is_some_and(|(_, now)| now == **p))
                .collect::<Vec<_>>()
        };
        wait_until("everything that it started to be gone", PROMPT, || {
            left().is_empty()
        })
        .with_context(|| format!("{:?}", left()))?;
        let place = Path::new(&home).parent().context("a parent")?;
        assert_eq!(processes(place.to_str().context("path")?), Vec::<u32>::new());
        assert!(!place.exists(), "{} is left", place.display());
        Ok(())
    }

    #[test]
    fn the_demo_ends_at_sigterm_in_its_first_scene_and_leaves_nothing() -> Result<()> {
        ended_at("step 1")
    }

    #[test]
    fn the_demo_ends_at_sigterm_while_a_hub_attacks_and_leaves_nothing() -> Result<()> {
        ended_at("node's audit log")
    }
}
