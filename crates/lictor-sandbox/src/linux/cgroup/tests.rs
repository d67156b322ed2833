//! Version 2 over a directory with the kernel's file names: what is written, to the letter, and what is made of what is
//! read. Machines whose version 2 has controllers run the same code against the kernel (`tests/limits.rs`).
#![allow(clippy::expect_used)]

use std::fs;
use std::path::Path;

use super::{Bounds, Cgroup, Controller, unified};

const FILES: [&str; 15] = [
    "cgroup.events",
    "cgroup.freeze",
    "cgroup.kill",
    "cgroup.procs",
    "cpu.max",
    "cpu.stat",
    "io.max",
    "io.stat",
    "memory.events",
    "memory.max",
    "memory.oom.group",
    "memory.peak",
    "memory.swap.max",
    "pids.events",
    "pids.max",
];

/// A job's cgroup as the kernel makes it: all of its files are there, and nobody makes another.
fn made() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for file in FILES {
        fs::write(dir.path().join(file), "").expect("made");
    }
    dir
}

/// What was written: each file that is not empty.
fn written(dir: &Path) -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, fs::read_to_string(path).expect("text"))
        })
        .collect();
    assert_eq!(
        all.len(),
        FILES.len(),
        "the kernel lets nobody make a file: {all:?}"
    );
    all.retain(|(_, text)| !text.is_empty());
    all.sort();
    all
}

fn say(dir: &Path, file: &str, text: &str) {
    assert!(FILES.contains(&file));
    fs::write(dir.join(file), text).expect("written");
}

#[test]
fn each_limit_is_written_to_the_letter() {
    let bounds = Bounds {
        memory: Some(67_108_864),
        pids: Some(20),
        cpu_millis: Some(250),
        read_bytes_per_s: Some(1_048_576),
        write_bytes_per_s: Some(2_097_152),
    };
    let cases: [(Controller, &[(&str, &str)]); 3] = [
        (
            Controller::Memory,
            &[
                ("memory.max", "67108864"),
                ("memory.oom.group", "1"),
                ("memory.swap.max", "0"),
            ],
        ),
        (Controller::Pids, &[("pids.max", "20")]),
        (Controller::Cpu, &[("cpu.max", "25000 100000")]),
    ];
    for (controller, expected) in cases {
        let dir = made();
        unified::limit(controller, dir.path(), &bounds).expect("set");
        let found = written(dir.path());
        let found: Vec<_> = found.iter().map(|(f, t)| (f.as_str(), t.as_str())).collect();
        assert_eq!(found, expected, "{controller:?}");
    }
    let rates = [
        (bounds.clone(), "8:0 rbps=1048576 wbps=2097152"),
        (
            Bounds {
                read_bytes_per_s: None,
                ..bounds
            },
            "8:0 wbps=2097152",
        ),
    ];
    for (bounds, line) in rates {
        let dir = made();
        unified::limit_io(dir.path(), &bounds, &["253:1".to_owned(), "8:0".to_owned()]).expect("set");
        // Written one after the other; here the last one stays.
        assert_eq!(written(dir.path()), [("io.max".to_owned(), line.to_owned())]);
    }
}

#[test]
fn what_is_not_limited_is_not_written_and_a_rate_without_a_disk_is_an_error() {
    let dir = made();
    for controller in Controller::ALL {
        unified::limit(controller, dir.path(), &Bounds::default()).expect("nothing to do");
    }
    assert_eq!(written(dir.path()), []);
    assert!(unified::limit_io(dir.path(), &Bounds::PROBE, &[]).is_err());
}

#[test]
fn a_limit_counts_as_held_when_the_kernel_says_so() {
    let dir = made();
    let tables = [
        (Controller::Memory, "memory.max", "max\n", "67108864\n"),
        (Controller::Pids, "pids.max", "max\n", "64\n"),
        (Controller::Cpu, "cpu.max", "max 100000\n", "50000 100000\n"),
    ];
    for (controller, file, free, held) in tables {
        for (text, is_held) in [("", false), (free, false), (held, true)] {
            say(dir.path(), file, text);
            assert_eq!(
                unified::is_set(controller, dir.path()),
                is_held,
                "{file}: {text:?}"
            );
        }
    }
    let disks = ["8:0".to_owned(), "8:16".to_owned()];
    let one = "8:0 rbps=67108864 wbps=67108864 riops=max wiops=max\n";
    let both = format!("{one}8:16 rbps=67108864 wbps=67108864 riops=max wiops=max\n");
    for (text, is_held) in [("", false), (one, false), (both.as_str(), true)] {
        say(dir.path(), "io.max", text);
        assert_eq!(unified::is_io_set(dir.path(), &disks), is_held, "{text:?}");
    }
}

fn job(dir: &Path, controllers: &[Controller]) -> Cgroup {
    Cgroup {
        unified: Some(dir.to_owned()),
        controllers: controllers.to_vec(),
        legacy: Vec::new(),
    }
}

#[test]
fn what_the_kernel_counts_is_told_as_it_counts_it() {
    let dir = made();
    let job = job(dir.path(), &Controller::ALL);
    assert_eq!(
        (job.memory_peak(), job.cpu()),
        (None, None),
        "nothing is said yet"
    );
    say(dir.path(), "memory.peak", "104857600\n");
    say(
        dir.path(),
        "cpu.stat",
        "usage_usec 30\nuser_usec 10\nsystem_usec 20\nnr_periods 0\n",
    );
    assert_eq!(
        (job.memory_peak(), job.cpu()),
        (Some(104_857_600), Some((10, 20)))
    );
    for (text, populated) in [
        ("populated 1\nfrozen 0\n", true),
        ("populated 0\nfrozen 0\n", false),
    ] {
        say(dir.path(), "cgroup.events", text);
        assert_eq!(job.is_populated(), populated);
    }
    job.kill().expect("killed");
    assert_eq!(
        fs::read_to_string(dir.path().join("cgroup.kill")).expect("there"),
        "1"
    );
}

#[test]
fn only_a_limit_of_the_jobs_own_counts_as_met() {
    let dir = made();
    let all = job(dir.path(), &Controller::ALL);
    let tables = [
        (
            "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n",
            false,
        ),
        // Short of memory, and something was given back.
        (
            "low 0\nhigh 0\nmax 9\noom 1\noom_kill 0\noom_group_kill 0\n",
            false,
        ),
        // Killed for somebody further up.
        (
            "low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\noom_group_kill 1\n",
            false,
        ),
        (
            "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 1\n",
            true,
        ),
    ];
    for (text, is_out) in tables {
        say(dir.path(), "memory.events", text);
        assert_eq!(all.out_of_memory(), is_out, "{text}");
    }
    for (text, is_out) in [("max 0\n", false), ("max 3\n", true)] {
        say(dir.path(), "pids.events", text);
        assert_eq!(all.out_of_pids(), is_out, "{text}");
    }
    let none = job(dir.path(), &[]);
    assert!(
        !none.out_of_memory() && !none.out_of_pids(),
        "what it does not limit is not its own"
    );
}
