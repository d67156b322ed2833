//! `bench`: the figures of docs/performance.md, each beside its floor or peer, interleaved in one run.
//!
//! Started by `cargo xtask bench`, which builds everything with `--release` first. Rows:
//!
//! | file | rows |
//! |---|---|
//! | `latency.rs` | a, d, f: one `true`, warm and cold, against posix_spawn, bwrap and ssh |
//! | `bulk.rs` | b, d: bytes per second of one job's output, against ssh |
//! | `crowd.rs` | c: jobs per second, one and 32 at once |
//! | `memory.rs`, `idle.rs` | e: what hub and agent hold at rest, and thousands of idle agents cost |
//! | `stalled.rs` | g: requests beside unread streams |
//! | `egress.rs` | h: bytes and round trips through the egress proxy, against the bare sockets |
//! | `abuse.rs` | i: a neighbour's `true` while a sandboxed job does its worst, against the same without it |
//! | `fanout.rs` | k: one job on 200 nodes, to the last verified receipt |
//! | `transfer.rs` | l: one large file to a node and from one, against scp |
//! | `drain.rs` | m: a long queue, submitted and drained |
//! | `steps.rs` | which step of row a costs what |

// A measuring program: it starts processes and prints a table.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

mod abuse;
mod bulk;
mod crowd;
mod drain;
mod egress;
mod fanout;
mod idle;
mod latency;
mod memory;
mod sample;
mod spawner;
mod ssh;
mod stalled;
mod steps;
mod table;
mod transfer;

use anyhow::Result;

use crate::sample::Samples;
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
    /// Jobs in the long queue.
    pub(crate) queued: usize,
}

impl Effort {
    fn from_arguments() -> Self {
        if std::env::args().any(|a| a == "--quick") {
            return Self {
                samples: 60,
                jobs: 300,
                bytes: 200_000_000,
                agents: 200,
                queued: 300,
            };
        }
        Self {
            samples: 500,
            jobs: 3_000,
            bytes: 1_000_000_000,
            agents: 5_000,
            queued: 10_000,
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let effort = Effort::from_arguments();
    println!("load average at the start: {}", load()?);
    let mut table = Table::default();
    // What fails is said in the table, and the program fails at its end: the other figures are still worth having.
    let mut failed = Ok(());
    let mut base = None;
    for rows in Rows::ALL.into_iter().filter(|r| asked_for(*r)) {
        if let Err(e) = measure(rows, &mut table, &effort, &mut base).await {
            let (id, what) = rows.name();
            table.row(id, what, format!("FAILED: {e:#}"), String::new(), "");
            failed = Err(e);
        }
    }
    table.print();
    println!("\nload average at the end: {}", load()?);
    failed
}

/// What is measured together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rows {
    Latency,
    Bulk,
    Crowd,
    Memory,
    Stalled,
    Egress,
    Abuse,
    Fanout,
    Transfer,
    Drain,
    Steps,
}

impl Rows {
    const ALL: [Self; 11] = [
        Self::Latency,
        Self::Bulk,
        Self::Crowd,
        Self::Memory,
        Self::Stalled,
        Self::Egress,
        Self::Abuse,
        Self::Fanout,
        Self::Transfer,
        Self::Drain,
        Self::Steps,
    ];

    /// Its letters in the table, and a word for `--only`.
    fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Latency => ("a, d, f", "latency"),
            Self::Bulk => ("b, d", "bulk"),
            Self::Crowd => ("c", "crowd"),
            Self::Memory => ("e", "memory"),
            Self::Stalled => ("g", "stalled"),
            Self::Egress => ("h", "egress"),
            Self::Abuse => ("i", "abuse"),
            Self::Fanout => ("k", "fanout"),
            Self::Transfer => ("l", "transfer"),
            Self::Drain => ("m", "drain"),
            Self::Steps => ("a", "steps"),
        }
    }
}

/// Everything, unless `--only WORD` names something.
fn asked_for(rows: Rows) -> bool {
    let mut arguments = std::env::args().skip_while(|a| a != "--only").skip(1);
    arguments.next().is_none_or(|word| word == rows.name().1)
}

async fn measure(rows: Rows, table: &mut Table, effort: &Effort, base: &mut Option<Samples>) -> Result<()> {
    match rows {
        Rows::Latency => *base = Some(latency::measure(table, effort).await?),
        Rows::Bulk => bulk::measure(table, effort)?,
        Rows::Crowd => crowd::measure(table, effort).await?,
        Rows::Memory => {
            let mut split = memory::measure(table)?;
            idle::measure(table, &mut split, effort.agents).await?;
        }
        Rows::Stalled => stalled::measure(table, effort).await?,
        Rows::Egress => egress::measure(table, effort)?,
        Rows::Abuse => abuse::measure(table, effort).await?,
        Rows::Fanout => fanout::measure(table, effort).await?,
        Rows::Transfer => transfer::measure(table, effort)?,
        Rows::Drain => drain::measure(table, effort).await?,
        Rows::Steps => {
            let base = match base {
                Some(base) => base.p50(),
                None => latency::base(effort)?.p50(),
            };
            steps::measure(effort, base).await?;
        }
    }
    Ok(())
}

fn load() -> Result<String> {
    let line = std::fs::read_to_string("/proc/loadavg")?;
    Ok(line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}
