//! `bench`: the figures of docs/performance.md, each beside its floor or peer, interleaved in one run.
//!
//! Started by `cargo xtask bench`, which builds everything with `--release` first. Rows:
//!
//! | file | rows |
//! |---|---|
//! | `latency.rs` | a, d, f: one `true`, warm and cold, against posix_spawn, bwrap and ssh |
//! | `bulk.rs` | b, d: bytes per second of one job's output, against ssh |
//! | `crowd.rs` | c: jobs per second, one and 32 at once |
//! | `memory.rs` | e: what hub and agent hold at rest |

// A measuring program: it starts processes and prints a table.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod bulk;
mod crowd;
mod latency;
mod memory;
mod sample;
mod spawner;
mod ssh;
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
}

impl Effort {
    fn from_arguments() -> Self {
        if std::env::args().any(|a| a == "--quick") {
            return Self {
                samples: 60,
                jobs: 300,
                bytes: 200_000_000,
            };
        }
        Self {
            samples: 500,
            jobs: 3_000,
            bytes: 1_000_000_000,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let effort = Effort::from_arguments();
    let lab = Lab::start()?;
    let operator = Operator::at(lab.home()).await?;
    let sshd = Sshd::start()?;
    let mut table = Table::default();
    let base = latency::measure(&mut table, &effort, &lab, &operator, &sshd).await?;
    bulk::measure(&mut table, &effort, &lab, &sshd)?;
    crowd::measure(&mut table, &effort, &base, &lab, operator).await?;
    memory::measure(&mut table)?;
    table.print();
    Ok(())
}
