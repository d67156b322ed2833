//! What is said about limits that a job met: on the terminal, in JSON, and later.

use anyhow::{Result, ensure};
use lictor_test::Lab;
use serde_json::json;

use crate::steps::{add_profile, id_of};

/// Held on every host: what does not take cgroup controllers.
const TIGHT: &str = "\n[profiles.tight]\nbackend = \"host\"\nnetwork = \"host\"\n\
                     limits = { cpu_seconds = 1, keep = \"1KiB\", timeout = \"1m\" }\n";

#[test]
fn limits_that_a_job_met_are_named_in_words_and_in_json() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    add_profile(cli, TIGHT)?;
    let run = |more: &[&str], script: &str| {
        let mut all = vec!["run", "--profile", "tight"];
        all.extend(more);
        all.extend(["local", "--", "sh", "-c", script]);
        cli.run(&all)
    };
    let busy = run(&[], "while :; do :; done")?;
    ensure!(
        busy.stderr
            .contains("limit met: processor time: a process had used all that it may"),
        "{}",
        busy.stderr
    );
    let result = run(&["--json"], "while :; do :; done")?.result()?;
    assert_eq!(result["limits_hit"], json!(["cpu"]), "{result}");
    for measured in ["memory_peak_bytes", "read_bytes", "written_bytes"] {
        ensure!(result.get(measured).is_some(), "{measured}: {result}");
    }
    let shown = cli.ok(&["job", &id_of(&result)?])?;
    ensure!(shown.contains("limit met  processor time: "), "{shown}");
    ensure!(shown.contains(" in user mode, "), "{shown}");

    let wordy = run(&["--json"], "head -c 10000 /dev/zero")?.result()?;
    assert_eq!(wordy["limits_hit"], json!(["output"]), "{wordy}");
    let late = run(&["--json", "--timeout", "200ms"], "sleep 60")?.result()?;
    assert_eq!(late["limits_hit"], json!(["wall_time"]), "{late}");
    let quick = run(&["--json"], "true")?.result()?;
    assert_eq!(quick["limits_hit"], json!([]), "{quick}");
    Ok(())
}
