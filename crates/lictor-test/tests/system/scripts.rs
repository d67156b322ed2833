//! Scripts: by which interpreter, under which law, what people are shown, and what is left of them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab, Missing, skip, wait_until};

use crate::law::{asks_again, change_law, second_operator, starter};
use crate::secret_ways::that_run;
use crate::steps::{SOON, add_profile, ended, gone, id_of, mark, reach};

fn file(lab: &Lab, name: &str, text: &str) -> Result<String> {
    let path = lab.home().join(name);
    fs::write(&path, text)?;
    Ok(path.to_str().context("path")?.to_owned())
}

fn run(cli: &Cli, options: &[&str], args: &[&str]) -> Result<Done> {
    let mut all = vec!["run", "--json"];
    all.extend(options);
    all.extend(["local", "--"]);
    all.extend(args);
    cli.run(&all)
}

const SCRIPTS: [(&str, &str); 5] = [
    ("/bin/sh", "#!/bin/sh\necho \"$1-$2\"\n"),
    (
        "/usr/bin/bash",
        "#!/usr/bin/env bash\na=(\"$@\"); echo \"${a[0]}-${a[1]}\"\n",
    ),
    (
        "/usr/bin/python3",
        "#!/usr/bin/python3\nimport sys\nprint('-'.join(sys.argv[1:]))\n",
    ),
    (
        "/usr/bin/perl",
        "#!/usr/bin/perl\nprint join('-', @ARGV), \"\\n\";\n",
    ),
    (
        "/usr/bin/node",
        "#!/usr/bin/env node\nconsole.log(process.argv.slice(2).join('-'));\n",
    ),
];

#[test]
fn scripts_run_by_the_interpreter_of_their_first_line() -> Result<()> {
    let lab = Lab::start()?;
    let mut tried = 0;
    for (at, (interpreter, text)) in SCRIPTS.iter().enumerate() {
        if !Path::new(interpreter).exists() {
            skip(&Missing::new(format!("this machine has no {interpreter}")));
            continue;
        }
        tried += 1;
        let script = file(&lab, &format!("script-{at}"), text)?;
        for profile in ["host", "sandbox"] {
            let done = run(
                lab.cli(),
                &["--profile", profile, "--script", &script],
                &["one two", "-x"],
            )?;
            ensure!(
                done.code()? == 0,
                "{interpreter} in {profile}: {}\n{}",
                done.stderr,
                done.text()
            );
            let job = lab.cli().json(&["job", &id_of(&done.result()?)?])?;
            ensure!(
                done.text().contains("one two--x"),
                "{interpreter} in {profile}: {job}"
            );
        }
    }
    ensure!(tried >= 2, "there is no interpreter to speak of");
    Ok(())
}

#[test]
fn a_script_of_the_law_runs_by_its_name_as_it_was_when_it_was_signed() -> Result<()> {
    let lab = Lab::start()?;
    fs::create_dir_all(lab.home().join("org/scripts"))?;
    change_law(lab.cli(), "profiles.toml", "")?;
    fs::write(
        lab.home().join("org/scripts/greet"),
        "#!/bin/sh\necho \"hello $1\"\n",
    )?;
    change_law(lab.cli(), "profiles.toml", "")?;
    let named = ["--profile", "host", "--named-script", "greet"];
    let done = run(lab.cli(), &named, &["world"])?;
    ensure!(
        done.code()? == 0 && done.text().contains("hello world"),
        "{}",
        done.stderr
    );
    let unknown = run(
        lab.cli(),
        &["--profile", "host", "--named-script", "nowhere"],
        &[],
    )?;
    ensure!(unknown.code()? == 125, "{}", unknown.stderr);
    ensure!(
        unknown.text().contains("script_unknown") || unknown.stderr.contains("script_unknown"),
        "{}",
        unknown.stderr
    );
    Ok(())
}

#[test]
fn a_script_cannot_change_what_its_interpreter_reads() -> Result<()> {
    let lab = Lab::start()?;
    let text = "echo first\n( echo 'echo changed' > /dev/fd/3 ) 2>/dev/null && echo was-changed\n\
                ( : > \"$0\" ) 2>/dev/null && echo was-emptied\nrm -f \"$0\" 2>/dev/null\necho last\n";
    let script = file(&lab, "script", text)?;
    for profile in ["host", "sandbox"] {
        let options = ["--profile", profile, "--interpreter", "bash", "--script", &script];
        let done = run(lab.cli(), &options, &[])?;
        ensure!(done.code()? == 0, "{profile}: {}", done.stderr);
        let text = done.text();
        ensure!(
            text.contains("first") && text.contains("last"),
            "{profile}: {text}"
        );
        ensure!(!text.contains("was-"), "{profile}: {text}");
    }
    Ok(())
}

#[test]
fn what_is_no_interpreter_by_its_path_reads_no_script() -> Result<()> {
    let lab = Lab::start()?;
    let script = file(&lab, "script", "echo hi\n")?;
    let options = ["--profile", "host", "--interpreter", "env", "--script", &script];
    let done = run(lab.cli(), &options, &[])?;
    ensure!(done.code()? == 126, "{}", done.stderr);
    ensure!(done.result()?["code"] == "interpreter_refused", "{}", done.text());
    let none = run(lab.cli(), &["--profile", "host", "--script", &script], &[])?;
    ensure!(none.code()? == 125, "without a #! line nobody is guessed");
    Ok(())
}

#[test]
fn the_starter_runs_scripts_in_the_sandbox_only_and_explain_says_so() -> Result<()> {
    let lab = starter()?;
    let script = file(&lab, "script", "#!/bin/sh\necho hi\n")?;
    let inside = run(lab.cli(), &["--profile", "sandbox", "--script", &script], &[])?;
    ensure!(inside.code()? == 0, "{}", inside.stderr);
    let outside = run(lab.cli(), &["--profile", "host", "--script", &script], &[])?;
    ensure!(outside.code()? == 126, "{}", outside.text());
    ensure!(
        outside.result()?["rules"][0] == "nothing-opaque-outside-sandboxes",
        "{}",
        outside.text()
    );
    let said = lab
        .cli()
        .json(&["explain", "--profile", "sandbox", "--script", &script, "--", "x"])?;
    ensure!(
        said["prediction"] == "allow" && said["action"] == "script",
        "{said}"
    );
    Ok(())
}

const READING_ONLY: &str = r#"
@id("reading-scripts") permit (principal, action == Action::"script", resource)
when { context has commands && context has redirects && ["ls", "uptime", "echo"].containsAll(context.commands)
       && context.redirects.isEmpty() && context.interpreter.name == "sh" };
"#;

#[test]
fn a_rule_sees_the_commands_of_a_readable_script_and_none_of_an_unreadable_one() -> Result<()> {
    let lab = starter()?;
    let policy = lab.home().join("org/policies/sandbox.cedar");
    fs::remove_file(&policy)?;
    fs::remove_file(lab.home().join("org/tests/day-one.toml"))?;
    change_law(lab.cli(), "policies/host.cedar", READING_ONLY)?;
    for (text, code) in [
        ("ls /\necho done\n", 0),
        ("ls / > list\n", 126),
        ("rm x\n", 126),
        ("$(echo rm) x\n", 126),
    ] {
        let script = file(&lab, "script", text)?;
        let done = run(lab.cli(), &["--interpreter", "sh", "--script", &script], &[])?;
        ensure!(done.code()? == code, "{text}: {}\n{}", done.stderr, done.text());
    }
    Ok(())
}

const GATE: &str = r#"
@id("scripts-need-another") @approvals("1") @approvers("ops")
forbid (principal, action == Action::"script", resource);
"#;

#[test]
fn approvers_see_the_whole_script_and_nothing_hidden_in_it() -> Result<()> {
    let lab = starter()?;
    let bob = second_operator(&lab, "bob", "\"ops\"")?;
    change_law(lab.cli(), "policies/host.cedar", GATE)?;
    let filler = "# nothing to see\n".repeat(2000);
    let script = file(
        &lab,
        "script",
        &format!("#!/bin/sh\n{filler}echo \u{202e}evil\u{1b}[2J\n"),
    )?;
    let asked = run(
        lab.cli(),
        &["--detach", "--valid", "10m", "--script", &script],
        &[],
    )?;
    let id = id_of(&asked.result()?)?;
    reach(lab.cli(), &id, &["awaiting_approval"], SOON)?;
    asks_again(&bob)?;
    let shown = bob.ok(&["approve", "--yes", &id])?;
    ensure!(
        shown.matches("# nothing to see").count() == 2000,
        "it is shown in full"
    );
    ensure!(
        shown.contains("\\u{202e}evil\\u{1b}[2J"),
        "what is hidden is written out"
    );
    ensure!(ended(lab.cli(), &id)? == "succeeded");
    Ok(())
}

/// Where anything of a job could lie, besides the lab's own home.
const PLACES: [&str; 4] = ["/run/lictor", "/dev/shm", "/tmp", "/var/tmp"];
/// No script of these tests is larger.
const SMALL: u64 = 64 << 10;

/// What is looked for of a script of the operator's.
struct Search<'a> {
    words: &'a str,
    /// The file that the operator has, by its device and number, whatever it is called.
    own: (u64, u64),
    /// When that was written, in seconds: nothing that is older was made of it.
    since: i64,
}

impl<'a> Search<'a> {
    fn of(words: &'a str, own: &Path) -> Result<Self> {
        let own = fs::metadata(own)?;
        Ok(Self {
            words,
            own: (own.dev(), own.ino()),
            since: own.ctime(),
        })
    }

    fn holds(&self, path: &Path, about: &fs::Metadata) -> bool {
        let could =
            about.len() <= SMALL && about.ctime() >= self.since && (about.dev(), about.ino()) != self.own;
        let words = self.words.as_bytes();
        could && fs::read(path).is_ok_and(|b| memchr::memmem::find(&b, words).is_some())
    }

    /// Small files below a directory that contain the words, so many directories deep.
    fn below(&self, dir: &Path, deep: u32) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let (path, Ok(about)) = (entry.path(), entry.metadata()) else {
                continue;
            };
            if about.is_dir() && deep > 0 {
                found.extend(self.below(&path, deep - 1));
            } else if about.is_file() && self.holds(&path, &about) {
                found.push(path);
            }
        }
        found
    }

    /// The same everywhere, each place once, under whatever names it is known.
    fn left(&self, lab: &Lab) -> Vec<PathBuf> {
        let places = PLACES.iter().filter_map(|place| fs::canonicalize(place).ok());
        let places: BTreeSet<PathBuf> = places.collect();
        let mut found = self.below(lab.home(), 32);
        found.extend(places.iter().flat_map(|place| self.below(place, 5)));
        found
    }
}

/// In gVisor, to which no descriptor is handed on, the script is a file for as long as it runs.
#[test]
fn nothing_of_a_script_is_left_in_gvisor_however_it_ends() -> Result<()> {
    let mut lab = Lab::start()?;
    let cli = lab.cli().clone();
    add_profile(&cli, "\n[profiles.gvisor]\nbackend = \"gvisor\"\n")?;
    if that_run(&cli, &["gvisor"])?.is_empty() {
        return Ok(());
    }
    let mark = mark();
    let words = format!("only-in-the-script-{mark}");
    let outside = tempfile::tempdir()?;
    let path = outside.path().join("script");
    let text = "case $1 in good) exit 0;; bad) exit 3;; esac\necho up\nexec sleep 600\n";
    fs::write(&path, format!("#!/bin/sh\n# {words}\n{text}"))?;
    let script = path.to_str().context("path")?.to_owned();
    let search = Search::of(&words, &path)?;
    let options = ["--detach", "--profile", "gvisor", "--script", &script];
    let begin = |cli: &Cli, how: &str| id_of(&run(cli, &options, &[how])?.result()?);
    let nothing = |lab: &Lab, when: &str| {
        wait_until(&format!("nothing of the script {when}"), SOON, || {
            search.left(lab).is_empty()
        })
        .with_context(|| format!("{:?}", search.left(lab)))
    };
    for (how, outcome) in [("good", "succeeded"), ("bad", "failed")] {
        ensure!(ended(&cli, &begin(&cli, how)?)? == outcome, "{how}");
        nothing(&lab, how)?;
    }
    let canceled = begin(&cli, "long")?;
    let prints = |cli: &Cli, id: &str| {
        wait_until("what it prints", SOON, || {
            cli.ok(&["logs", id]).is_ok_and(|said| said == "up\n")
        })
    };
    prints(&cli, &canceled)?;
    // It is found where it is.
    ensure!(!search.left(&lab).is_empty(), "while it runs it is somewhere");
    cli.ok(&["cancel", &canceled])?;
    ensure!(ended(&cli, &canceled)? == "canceled");
    nothing(&lab, "after a cancel")?;
    let killed = begin(&cli, "long")?;
    prints(&cli, &killed)?;
    lab.kill()?;
    lab.start_again()?;
    ensure!(ended(lab.cli(), &killed)? == "interrupted");
    nothing(&lab, "after a kill")
}

#[test]
fn nothing_of_a_script_is_left_when_everything_is_killed() -> Result<()> {
    let mut lab = Lab::start()?;
    let mark = mark();
    let outside = tempfile::tempdir()?;
    let own = outside.path().join("script");
    let words = format!("only-in-the-script-{mark}");
    fs::write(&own, format!("#!/bin/sh\n# {words}\nsleep {mark}\n"))?;
    let search = Search::of(&words, &own)?;
    let script = own.to_str().context("path")?.to_owned();
    let mut ids = Vec::new();
    for profile in ["host", "sandbox"] {
        let done = run(
            lab.cli(),
            &["--detach", "--profile", profile, "--script", &script],
            &[],
        )?;
        ids.push(id_of(&done.result()?)?);
    }
    for id in &ids {
        reach(lab.cli(), id, &["running"], SOON)?;
    }
    lab.kill()?;
    lab.start_again()?;
    for id in &ids {
        ensure!(ended(lab.cli(), id)? == "interrupted");
    }
    gone(&format!("sleep {mark}"))?;
    let left = search.left(&lab);
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}
