//! Row c: jobs per second on one agent, one after another and 32 at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::Result;
use lictor_test::{Lab, Operator};
use tokio::task::JoinSet;

use crate::Effort;
use crate::latency;
use crate::table::Table;

/// Measures both.
pub(crate) async fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let lab = Lab::start()?;
    let operator = Arc::new(Operator::at(lab.home()).await?);
    let base = latency::base(effort)?;
    let spawn = format!(
        "posix_spawn, one at a time: {:.0}/s",
        1.0 / base.p50().as_secs_f64()
    );
    for (at_once, goal) in [(1, "say it"), (32, "700/s (1,000)")] {
        let rate = jobs_per_second(&operator, lab.node(), at_once, effort.jobs).await?;
        let what = format!("`true`, host, {at_once} at once");
        table.row("c", &what, format!("{rate:.0}/s"), spawn.clone(), goal);
    }
    Ok(())
}

async fn jobs_per_second(operator: &Arc<Operator>, node: &str, at_once: usize, jobs: usize) -> Result<f64> {
    let left = Arc::new(AtomicUsize::new(jobs));
    let started_at = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..at_once {
        let (operator, left, node) = (Arc::clone(operator), Arc::clone(&left), node.to_owned());
        workers.spawn(async move {
            let take = |n: usize| n.checked_sub(1);
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                .is_ok()
            {
                let (wire, _) = operator.sign(&operator.job(&node, "host", &["true"])?);
                operator.run(&wire).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done??;
    }
    Ok(jobs as f64 / started_at.elapsed().as_secs_f64())
}
