//! What a case sees of the machine from outside.

#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

/// Live processes of this machine whose command line contains `mark`.
pub fn processes_with(mark: &str) -> Vec<String> {
    let proc = std::fs::read_dir("/proc").expect("/proc");
    let pids = proc
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (pid != std::process::id() && line.contains(mark)).then(|| format!("{pid} {line}"))
    })
    .collect()
}

/// A number of this process's own status, in KiB.
pub fn own_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|l| l.strip_prefix(key)).expect("the key");
    line.trim_start_matches(':')
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

/// A line of `/proc/PID/stat`: pid, name, state, parent.
pub fn processes() -> Vec<(u32, String, String, u32)> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| {
        let text = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (pid, rest) = text.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next()?, fields.next()?.parse().ok()?);
        Some((pid.parse().ok()?, name.to_owned(), state.to_owned(), parent))
    })
    .collect()
}

/// Those of this name that somebody has started.
pub fn children(parent: u32, name: &str) -> Vec<u32> {
    let own = processes().into_iter().filter(|p| p.3 == parent && p.1 == name);
    own.map(|p| p.0).collect()
}

/// Waits for what processes of others will have done soon.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        // Between two looks at /proc, which are dear, whoever is waited for gets the processor.
        std::thread::park_timeout(Duration::from_millis(2));
    }
}
