//! Row m: a long queue. Jobs are submitted while their node is away, one after another; then it comes back.
//!
//! What is to be seen is that neither a submission nor a job costs more the longer the queue is, so the first and the last
//! tenth stand beside each other.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lictor_proto::Timestamp;
use lictor_proto::api::ExecutionState;
use lictor_test::{Operator, Split, SplitOptions};

use crate::Effort;
use crate::sample::Samples;
use crate::table::Table;

/// All of them ran within this, or something is wrong.
const WITHIN: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(500);

/// Measures it.
pub(crate) async fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let jobs = effort.queued;
    let mut split = Split::start_with(SplitOptions {
        hub_settings: format!("max_queued_per_node = {}\n", jobs * 2),
        ..SplitOptions::default()
    })?;
    let operator = Operator::at(split.home()).await?;
    split.agent()?.terminate()?;
    let mut taken = Vec::with_capacity(jobs);
    for _ in 0..jobs {
        let mut job = operator.job("local", "host", &["true"])?;
        job.expires_at = Timestamp::now().plus(Duration::from_secs(6 * 3600));
        let (wire, _) = operator.sign(&job);
        let started_at = Instant::now();
        operator.hub().submit(&wire).await?;
        taken.push(started_at.elapsed());
    }
    let tenth = (jobs / 10).max(1);
    let of = |part: &[Duration]| {
        let mut samples = Samples::default();
        part.iter().for_each(|d| samples.push(*d));
        samples
    };
    let (first, last) = (of(&taken[..tenth]), of(&taken[jobs - tenth..]));
    let what = format!("submitting {jobs} jobs for a node that is away, last tenth");
    let figure = format!("{:?}, p99 {:?}", last.p50(), last.p99());
    let beside = format!("first tenth: {:?}, p99 {:?}", first.p50(), first.p99());
    table.row("m", &what, figure, beside, "no growth");

    let began = Instant::now();
    split.spawn_agent()?;
    let (half, whole) = drained(&operator, jobs, began).await?;
    let rate = |n: usize, took: Duration| n as f64 / took.as_secs_f64();
    let what = format!("draining {jobs} queued jobs, `true`, host, one agent");
    let figure = format!("{:.0}/s", rate(jobs, whole));
    let beside = format!(
        "first half {:.0}/s, second half {:.0}/s",
        rate(jobs / 2, half),
        rate(jobs - jobs / 2, whole.saturating_sub(half))
    );
    table.row("m", &what, figure, beside, "say it");
    Ok(())
}

/// When half of them were at work or over, and when all were over.
async fn drained(operator: &Operator, jobs: usize, began: Instant) -> Result<(Duration, Duration)> {
    let mut half = None;
    while began.elapsed() < WITHIN {
        tokio::time::sleep(LOOK).await;
        let waiting = count(operator, ExecutionState::Queued, jobs / 2 + 1).await?;
        if waiting <= jobs / 2 && half.is_none() {
            half = Some(began.elapsed());
        }
        if waiting > 0 {
            continue;
        }
        let mut open = 0;
        for state in [ExecutionState::Leased, ExecutionState::Running] {
            open += count(operator, state, 1).await?;
        }
        if open == 0 {
            let whole = began.elapsed();
            return Ok((half.unwrap_or(whole), whole));
        }
    }
    anyhow::bail!("the queue was not drained within {} s", WITHIN.as_secs())
}

/// How many jobs are in this state, as far as `most`.
async fn count(operator: &Operator, state: ExecutionState, most: usize) -> Result<usize> {
    let (mut found, mut cursor) = (0, None);
    while found < most {
        let page = u32::try_from((most - found).min(1000)).context("a page")?;
        let listed = operator
            .hub()
            .jobs(page, cursor.as_deref(), Some(state), None)
            .await?;
        found += listed.items.len();
        cursor = listed.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}
