//! Rows a, d and f: how long one `true` takes, warm and cold, beside what it cannot be faster than.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lictor_proto::doc::Outcome;
use lictor_test::{Lab, Operator};

use crate::Effort;
use crate::sample::{Samples, times};
use crate::spawner::Spawner;
use crate::ssh::Sshd;
use crate::table::Table;

/// What is not counted, so that caches are warm and connections open.
const WARM_UP: usize = 10;

/// The namespaces and mounts of the `sandbox` profile, by hand; only the four small files that are made for each
/// sandbox (`/etc/passwd` and the like) are left out.
const BARE_BWRAP: &str = include_str!("../../../../lictor-sandbox/tests/common/bare-bwrap");

#[derive(Default)]
struct Measured {
    base: Samples,
    bwrap: Samples,
    ssh: Samples,
    host: Samples,
    sandbox: Samples,
    cold: Samples,
}

/// Measures and gives the base for other rows.
pub(crate) async fn measure(table: &mut Table, effort: &Effort) -> Result<Samples> {
    let lab = &Lab::start()?;
    let operator = &Operator::at(lab.home()).await?;
    let sshd = Sshd::start()?;
    let mut base = Spawner::new(&Command::new("/bin/true"))?;
    let mut bwrap = Spawner::new(Command::new("bwrap").args(BARE_BWRAP.split_whitespace()))?;
    let mut ssh = Spawner::new(&sshd.command(&["true"]))?;
    let mut cold = Spawner::new(
        &lab.cli()
            .command(&["run", "-p", "host", lab.node(), "--", "true"]),
    )?;
    let mut all = Measured::default();
    for round in 0..WARM_UP + effort.samples {
        let counts = round >= WARM_UP;
        let note = |samples: &mut Samples, d: Duration| {
            if counts {
                samples.push(d);
            }
        };
        note(&mut all.base, base.once()?);
        note(&mut all.host, warm(operator, lab.node(), "host").await?);
        note(&mut all.bwrap, bwrap.once()?);
        note(&mut all.sandbox, warm(operator, lab.node(), "sandbox").await?);
        note(&mut all.ssh, ssh.once()?);
        note(&mut all.cold, cold.once()?);
    }
    rows(table, &all);
    Ok(all.base)
}

/// The base alone: posix_spawn and wait of `true`, from a small process.
pub(crate) fn base(effort: &Effort) -> Result<Samples> {
    let mut spawner = Spawner::new(&Command::new("/bin/true"))?;
    let mut samples = Samples::default();
    for round in 0..WARM_UP + effort.samples {
        let took = spawner.once()?;
        if round >= WARM_UP {
            samples.push(took);
        }
    }
    Ok(samples)
}

/// One warm job, from signing it to its verified receipt.
pub(crate) async fn warm(operator: &Operator, node: &str, profile: &str) -> Result<Duration> {
    let started_at = Instant::now();
    let job = operator.job(node, profile, &["true"])?;
    let (wire, _) = operator.sign(&job);
    let ran = operator.run(&wire).await?;
    let took = started_at.elapsed();
    ensure!(
        ran.receipt.outcome == Outcome::Succeeded,
        "`true` ended as {:?}",
        ran.receipt.outcome
    );
    Ok(took)
}

fn rows(table: &mut Table, all: &Measured) {
    let base = all.base.p50();
    let both = |s: &Samples| {
        format!(
            "p50 {:.2} x, p99 {:.2} x",
            times(s.p50(), base),
            times(s.p99(), base)
        )
    };
    let floor = format!(
        "posix_spawn p50 {} us, p99 {:.2} x",
        base.as_micros(),
        times(all.base.p99(), base)
    );
    let ssh = format!("ssh, warm: {}", both(&all.ssh));
    table.row(
        "a",
        "`true`, host, warm",
        both(&all.host),
        floor.clone(),
        "p50 2.7 x (2.4), p99 4.5 x",
    );
    let extra = all.sandbox.p50().saturating_sub(all.host.p50());
    let sandbox = format!(
        "{}; host + {:.2} x bwrap",
        both(&all.sandbox),
        times(extra, all.bwrap.p50())
    );
    let bwrap = format!("bare bwrap {}", both(&all.bwrap));
    table.row("a", "`true`, sandbox, warm", sandbox, bwrap, "host + 1.2 x bwrap");
    table.row(
        "d",
        "`true`, host, warm",
        both(&all.host),
        ssh.clone(),
        "below ssh",
    );
    table.row(
        "f",
        "`true`, host, one cold process",
        both(&all.cold),
        format!("{floor}; {ssh}"),
        "p50 6 x",
    );
}
