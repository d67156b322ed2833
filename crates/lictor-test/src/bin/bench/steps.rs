//! Which step of row a costs what, as the warden tells it (`lictor::steps`, docs/performance.md).

use std::time::Duration;

use anyhow::{Result, ensure};
use lictor_test::{Lab, LabOptions, Operator};

use crate::Effort;
use crate::latency::warm;
use crate::sample::{Samples, times};

/// The warden's words, in the order of a job.
const STEPS: [(&str, &str); 7] = [
    ("verify_us", "verify signature and law"),
    ("facts_us", "resolve the program"),
    ("authorise_us", "policy, plan"),
    ("journal_us", "journal that it is taken, synced"),
    ("spawn_us", "start"),
    ("wait_us", "run, to its end"),
    ("receipt_us", "receipt, journalled and synced"),
];

/// Runs jobs on an agent that tells its steps, and prints the medians.
pub(crate) async fn measure(effort: &Effort, base: Duration) -> Result<()> {
    for profile in ["host", "sandbox"] {
        let mut lab = Lab::start_with(LabOptions {
            environment: vec![("RUST_LOG".to_owned(), "lictor::steps=debug".to_owned())],
            ..LabOptions::default()
        })?;
        let operator = Operator::at(lab.home()).await?;
        let mut whole = Samples::default();
        for _ in 0..effort.samples {
            whole.push(warm(&operator, lab.node(), profile).await?);
        }
        lab.program()?.terminate()?;
        let said = lab.program()?.stderr();
        println!(
            "\nSteps of `true`, {profile}, warm (p50; the whole is {} us):\n",
            whole.p50().as_micros()
        );
        let mut sum = Duration::ZERO;
        for (name, what) in STEPS {
            let all = samples(&said, name);
            ensure!(!all.is_empty(), "the agent said nothing about {name}");
            sum += all.p50();
            line(what, all.p50(), base);
        }
        line("client, hub, both hops", whole.p50().saturating_sub(sum), base);
    }
    println!();
    Ok(())
}

fn line(what: &str, d: Duration, base: Duration) {
    println!("  {what:<34} {:>6} us  {:.2} x", d.as_micros(), times(d, base));
}

fn samples(said: &str, name: &str) -> Samples {
    let mut all = Samples::default();
    for line in said.lines() {
        let value = line
            .split_whitespace()
            .find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
        if let Some(us) = value.and_then(|v| v.parse().ok()) {
            all.push(Duration::from_micros(us));
        }
    }
    all
}
