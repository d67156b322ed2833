//! `bench`: the figures of docs/performance.md, each beside its floor or peer, interleaved in one run.
//!
//! Started by `cargo xtask bench`, which builds everything with `--release` first. Rows:
//!
//! | file | rows |
//! |---|---|
//! | `latency.rs` | a, d, f: one `true`, warm and cold, against posix_spawn, bwrap and ssh |
//! | `bulk.rs` | b, d: bytes per second of one job's output, against ssh |
//! | `crowd.rs` | c: jobs per second, one and 32 at once |
//! | `memory.rs`, `idle.rs` | e: what hub and agent hold at rest, and a thousand agents cost |
//! | `stalled.rs` | g: requests beside unread streams |
//! | `steps.rs` | which step of row a costs what |

// A measuring program: it starts processes and prints a table.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod bulk;
mod crowd;
mod idle;
mod latency;
mod memory;
mod sample;
mod spawner;
mod ssh;
mod stalled;
mod steps;
mod table;

use anyhow::Result;
use lictor_test::{Lab, Operator};

use crate::ssh::Sshd;
use crate::table::Table;

/// How much to measure.
pub(crate) struct Effort {
    /// Samples per latency row.
    pub(crate) samples: usize,
    /// Jobs per throughput row.
    pub(crate) jobs: usize,
    /// Bytes of the bulk rows.
    pub(crate) bytes: u64,
    /// Idle agents.
    pub(crate) agents: usize,
}

impl Effort {
    fn from_arguments() -> Self {
        if std::env::args().any(|a| a == "--quick") {
            return Self {
                samples: 60,
                jobs: 300,
                bytes: 200_000_000,
                agents: 200,
            };
        }
        Self {
            samples: 500,
            jobs: 3_000,
            bytes: 1_000_000_000,
            agents: 1_000,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let effort = Effort::from_arguments();
    println!("load average at the start: {}", load()?);
    let lab = Lab::start()?;
    let operator = Operator::at(lab.home()).await?;
    let sshd = Sshd::start()?;
    let mut table = Table::default();
    let base = latency::measure(&mut table, &effort, &lab, &operator, &sshd).await?;
    // What fails is said in the table, and the program fails at its end: the other figures are still worth having.
    let failed = bulk::measure(&mut table, &effort, &lab, &sshd).err();
    if let Some(e) = &failed {
        table.row(
            "b, d",
            "output of one `cat`",
            format!("FAILED: {e:#}"),
            String::new(),
            "200 MB/s (400)",
        );
    }
    // A connection that this thread did not look after for so long, the hub has closed.
    let operator = Operator::at(lab.home()).await?;
    crowd::measure(&mut table, &effort, &base, &lab, operator).await?;
    drop(lab);
    let mut split = memory::measure(&mut table)?;
    idle::measure(&mut table, &mut split, effort.agents).await?;
    drop(split);
    stalled::measure(&mut table, &effort).await?;
    steps::measure(&effort, base.p50()).await?;
    table.print();
    println!("\nload average at the end: {}", load()?);
    failed.map_or(Ok(()), Err)
}

fn load() -> Result<String> {
    let line = std::fs::read_to_string("/proc/loadavg")?;
    Ok(line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}
