//! How a command runs and ends, and what its result says.

use anyhow::Result;
use lictor_test::Lab;

use crate::steps::{assert_same, gone, mark, seq, sh};

#[test]
fn a_signal_is_reported_by_its_number() -> Result<()> {
    let lab = Lab::start()?;
    let result = sh(lab.cli(), &[], "kill -9 $$")?.result()?;
    assert_eq!(result["status"], "failed");
    assert_eq!(result["signal"], 9);
    assert!(result["exit_code"].is_null());
    Ok(())
}

#[test]
fn a_timeout_ends_the_tree_and_keeps_what_was_printed() -> Result<()> {
    let lab = Lab::start()?;
    let m = mark();
    let script = format!("echo kept; setsid sleep {m} & setsid -f sleep {m}; sleep {m}");
    let result = sh(lab.cli(), &["--timeout", "1s"], &script)?.result()?;
    assert_eq!(result["status"], "timed_out");
    assert_eq!(result["stdout_bytes"], 5);
    gone(&format!("sleep {m}"))?;
    let id = crate::steps::id_of(&result)?;
    assert_eq!(lab.cli().ok(&["logs", &id])?, "kept\n");
    Ok(())
}

#[test]
fn a_child_in_the_background_delays_nothing_and_is_ended() -> Result<()> {
    let lab = Lab::start()?;
    let m = mark();
    let result = sh(lab.cli(), &[], &format!("sleep {m} & echo done"))?.result()?;
    assert_eq!(result["status"], "succeeded");
    assert_eq!(result["stdout_bytes"], 5);
    gone(&format!("sleep {m}"))
}

#[test]
fn a_megabyte_of_input_reaches_the_command_that_reads_it_and_hinders_none_that_does_not() -> Result<()> {
    let lab = Lab::start()?;
    let input = seq(1, 160_000);
    let run = |command: &str| {
        let words = ["run", "--profile", "host", "--stdin", "local", "--", command];
        lab.cli().run_with_input(&words, input.clone())
    };
    let cat = run("cat")?;
    assert_eq!(cat.code()?, 0, "{}", cat.stderr);
    assert_same(&cat.stdout, &input);
    let ignored = run("true")?;
    assert_eq!(ignored.code()?, 0, "{}", ignored.stderr);
    Ok(())
}

#[test]
fn the_environment_is_exactly_what_profile_and_job_say() -> Result<()> {
    let lab = Lab::start()?;
    let words = [
        "run",
        "--profile",
        "host",
        "-e",
        "A=1",
        "-e",
        "B=x y=z",
        "local",
        "--",
        "env",
    ];
    let seen = lab.cli().ok(&words)?;
    let mut names: Vec<&str> = seen.lines().filter_map(|l| l.split('=').next()).collect();
    names.sort_unstable();
    assert!(seen.contains("A=1\n") && seen.contains("B=x y=z\n"), "{seen}");
    let unexpected: Vec<_> = names
        .iter()
        .filter(|n| {
            ![
                "A", "B", "PATH", "HOME", "LANG", "LOGNAME", "USER", "SHELL", "TMPDIR",
            ]
            .contains(n)
        })
        .collect();
    assert!(
        unexpected.is_empty(),
        "{unexpected:?} came from somewhere: {seen}"
    );
    Ok(())
}

#[test]
fn both_streams_arrive_apart_and_whole() -> Result<()> {
    let lab = Lab::start()?;
    let script = "seq 1 50000; seq 1 40000 >&2; printf last";
    let done = lab
        .cli()
        .run(&["run", "--profile", "host", "local", "--", "sh", "-c", script])?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    assert_same(&done.stdout, &[seq(1, 50_000), b"last".to_vec()].concat());
    assert_same(done.stderr.as_bytes(), &seq(1, 40_000));
    Ok(())
}

#[test]
fn a_sandboxed_job_has_no_network_and_a_workspace_of_its_own() -> Result<()> {
    let lab = Lab::start()?;
    let sandboxed = |script: &str| {
        let words = ["run", "--json", "local", "--", "sh", "-c", script];
        lab.cli().run(&words)
    };
    let done = sandboxed(
        "pwd; echo x > file && cat file; tail -n +3 /proc/net/dev | wc -l; id -u; ls -d /root/* 2>&1",
    )?;
    let result = done.result()?;
    assert_eq!(result["sandbox"], "bubblewrap", "{result}");
    let said: String = done
        .json_lines()?
        .iter()
        .filter(|l| l["event"] == "stdout")
        .filter_map(|l| l["data"].as_str().map(str::to_owned))
        .collect();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines[..3], ["/workspace", "x", "1"], "{said}");
    assert_ne!(lines[3], "0", "not root of the host");
    let url = lab.url().replace("http://", "").replace(':', "/");
    let reach = format!("exec 3<>/dev/tcp/{url}");
    let words = |profile| {
        [
            "run",
            "--json",
            "--profile",
            profile,
            "local",
            "--",
            "bash",
            "-c",
            &reach,
        ]
        .map(str::to_owned)
    };
    assert_eq!(
        lab.cli().run(&words("host"))?.code()?,
        0,
        "the hub can be reached from the host"
    );
    assert_ne!(
        lab.cli().run(&words("sandbox"))?.code()?,
        0,
        "and not from the sandbox"
    );
    Ok(())
}

mod whole_machine {
    use anyhow::{Context as _, Result, ensure};
    use lictor_test::{Lab, Split};

    use crate::steps::{FINAL, SOON, add_profile, detached, receipt, rss_anon, state};

    /// 400 MB.
    const BYTES: u64 = 400_000_000;

    /// Keeps 1 MiB of output.
    const SMALL: &str =
        "\n[profiles.small]\nbackend = \"host\"\nnetwork = \"host\"\nlimits = { keep = \"1MiB\" }\n";

    #[test]
    fn four_hundred_megabytes_of_output_cost_no_memory_and_leave_head_and_tail() -> Result<()> {
        let mut split = Split::start()?;
        let cli = split.cli().clone();
        add_profile(&cli, SMALL)?;
        // One job first: what is allocated once is not growth.
        let script = |n: u64| format!("echo head; head -c {n} /dev/zero; echo; echo tail");
        let words = |n: u64| {
            let words = [
                "run",
                "--json",
                "--detach",
                "--profile",
                "small",
                "local",
                "--",
                "sh",
                "-c",
            ];
            let mut all = words.map(str::to_owned).to_vec();
            all.push(script(n));
            all
        };
        let first = detached(&cli, "seq 1 200000")?;
        crate::steps::ended(&cli, &first)?;
        let pid = split.agent()?.pid();
        let before = rss_anon(pid)?;
        let id = crate::steps::id_of(&cli.run(&words(BYTES))?.result()?)?;
        let mut most = before;
        lictor_test::wait_until("the end of the job", SOON * 3, || {
            most = most.max(rss_anon(pid).unwrap_or_default());
            state(&cli, &id).is_ok_and(|s| FINAL.contains(&s.as_str()))
        })?;
        let grown = (most - before) / 1_000_000;
        assert!(grown < 16, "the agent grew by {grown} MB");
        let receipt = receipt(&cli, &id)?;
        let expected = BYTES + "head\n\ntail\n".len() as u64;
        assert_eq!(receipt["stdout"]["bytes"].as_u64(), Some(expected), "{receipt}");
        let kept = cli.run(&["logs", &id])?;
        assert_eq!(kept.code()?, 0, "{}", kept.stderr);
        // The hub stores what it saw of the first `keep` bytes, and the tail that the node kept.
        let length = kept.stdout.len();
        assert!(length <= 2 * 1024 * 1024, "{length} bytes are stored");
        assert!(kept.stdout.starts_with(b"head\n"), "the head is kept");
        assert!(kept.stdout.ends_with(b"\ntail\n"), "the tail is kept");
        Ok(())
    }

    /// What a program says of itself, as its last act: microseconds of user and system time, and bytes at the peak.
    const CONFESSION: &str = "
u = r.getrusage(r.RUSAGE_SELF)
print(int(u.ru_utime * 1e6), int(u.ru_stime * 1e6), u.ru_maxrss * 1024)";

    /// A second of counting, then half a second of asking the kernel.
    const BUSY: &str = "
import os, resource as r
while r.getrusage(r.RUSAGE_SELF).ru_utime < 1.0: sum(range(20000))
while r.getrusage(r.RUSAGE_SELF).ru_stime < 0.5: os.urandom(200000)";

    /// 200 MB, each page of them touched.
    const LARGE: &str = "
import resource as r
b = bytearray(200_000_000)
for i in range(0, len(b), 4096): b[i] = 1";

    /// Runs a program; gives the names and figures of its result beside what the program measured itself.
    fn measured(lab: &Lab, profile: &str, program: &str) -> Result<[(&'static str, u64, u64); 3]> {
        let program = format!("{program}{CONFESSION}");
        let words = [
            "run",
            "--json",
            "--profile",
            profile,
            "local",
            "--",
            "python3",
            "-c",
        ];
        let done = lab.cli().run(&[&words[..], &[&program]].concat())?;
        ensure!(done.code()? == 0, "{}{}", done.text(), done.stderr);
        let lines = done.json_lines()?;
        let said = lines
            .iter()
            .filter(|l| l["event"] == "stdout")
            .map(|l| l["data"].as_str());
        let said: Vec<u64> = said
            .flatten()
            .flat_map(str::split_whitespace)
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let result = done.result()?;
        let mut all = ["cpu_user_us", "cpu_system_us", "max_rss_bytes"].map(|name| (name, 0, 0));
        ensure!(said.len() == all.len(), "{said:?}");
        for ((name, reported, own), said) in all.iter_mut().zip(said) {
            *reported = result[*name]
                .as_u64()
                .with_context(|| format!("no {name} in {result}"))?;
            *own = said;
        }
        Ok(all)
    }

    #[test]
    fn processor_time_and_peak_memory_of_a_result_are_what_the_program_measured_itself() -> Result<()> {
        let lab = Lab::start()?;
        for profile in ["host", "sandbox"] {
            let [user, system, _] = measured(&lab, profile, BUSY)?;
            let [_, _, peak] = measured(&lab, profile, LARGE)?;
            for ((name, reported, own), least) in [(user, 1_000_000), (system, 500_000), (peak, 200_000_000)]
            {
                assert!(
                    own >= least,
                    "{profile}: the program did not use enough: {own} for {name}"
                );
                let off = reported.abs_diff(own) * 100 / own;
                assert!(
                    off <= 20,
                    "{profile}: {name} is {reported}, the program measured {own}"
                );
            }
        }
        // And what is used by the machine around it is not charged to a program that uses nothing.
        for profile in ["host", "sandbox"] {
            let [user, system, peak] = measured(&lab, profile, "import resource as r")?;
            for (name, reported, _) in [user, system] {
                assert!(reported < 400_000, "{profile}: {name} is {reported}");
            }
            assert!(peak.1 < 60_000_000, "{profile}: {peak:?}");
        }
        Ok(())
    }
}
