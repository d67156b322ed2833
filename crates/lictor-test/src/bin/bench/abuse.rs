//! Row i: how long a neighbour's `true` takes while a sandboxed job does its worst, beside the same without it, in turns.
//!
//! Every abuse runs in a `bubblewrap` profile with limits, again and again while it is measured: where a limit ends
//! the job, the next one begins. The neighbour is a job of the profile `host`, from signing it to its verified receipt, so
//! its time is that of the client, the hub, the agent and the kernel together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lictor_client::Follower;
use lictor_client::follow::Item;
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_test::{Lab, Operator};
use tokio::task::JoinSet;

use crate::Effort;
use crate::latency;
use crate::sample::{Samples, times};
use crate::table::Table;

/// Neighbours that are not counted: by then the abuse is under way.
const WARM_UP: usize = 5;
/// Times that each abuse takes turns with rest.
const TURNS: usize = 3;

/// What is tried: a word, and a program.
const ABUSES: [(&str, &[&str]); 5] = [
    (
        "a fork bomb",
        &[
            "python3",
            "-c",
            "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
        ],
    ),
    (
        "a memory hog",
        &[
            "python3",
            "-c",
            "held=[]\nwhile True:\n try: held.append(bytearray(b'x')*(1<<20))\n except MemoryError: pass",
        ],
    ),
    (
        "a disk filler",
        &[
            "sh",
            "-c",
            // Until there is no room; where the host limits no disks, to what file sizes and this loop allow.
            "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c 16000000 /dev/zero > /workspace/$n || exit 1; done",
        ],
    ),
    (
        "a descriptor hog",
        &[
            "python3",
            "-c",
            "held=[]\nwhile True:\n try: held.append(open('/dev/null'))\n except OSError: pass",
        ],
    ),
    ("output flood", &["yes", "flood"]),
];

/// Measures all of them.
pub(crate) async fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let lab = Lab::start()?;
    let held = held(&lab)?;
    add_profile(&lab, &held)?;
    let operator = Arc::new(Operator::at(lab.home()).await?);
    let samples = (effort.samples / TURNS / 5).max(5);
    for (what, argv) in ABUSES {
        let (mut quiet, mut beside) = (Samples::default(), Samples::default());
        for _ in 0..TURNS {
            neighbours(&operator, lab.node(), samples, &mut quiet).await?;
            let abuse = Abuse::start(&operator, lab.node(), argv);
            neighbours(&operator, lab.node(), samples, &mut beside).await?;
            let jobs = abuse.end().await?;
            ensure!(jobs > 0, "{what} has not run");
        }
        let figure = |s: &Samples| format!("p50 {} us, p99 {} us", s.p50().as_micros(), s.p99().as_micros());
        table.row(
            "i",
            &format!("`true`, host, beside {what} ({held})"),
            format!(
                "p50 {:.2} x, p99 {:.2} x; {}",
                times(beside.p50(), quiet.p50()),
                times(beside.p99(), quiet.p99()),
                figure(&beside)
            ),
            format!("without it: {}", figure(&quiet)),
            "answers",
        );
    }
    Ok(())
}

/// What this host holds for whole jobs, as `doctor` says it of the agent's cgroup.
fn held(lab: &Lab) -> Result<String> {
    let report = lab.cli().json(&["doctor"])?;
    let findings = report["findings"].as_array().context("findings")?;
    let found = findings.iter().find(|f| f["what"] == "agent's cgroup");
    let says = found.context("no word of the agent's cgroup")?["says"].as_str();
    let (_, held) = says
        .and_then(|says| says.split_once("held for whole jobs: "))
        .context("no word of what is held for whole jobs")?;
    let held = held.split(';').next().unwrap_or_default();
    Ok(held.trim().to_owned())
}

/// The limits of whoever is not trusted, as far as they are held here.
fn add_profile(lab: &Lab, held: &str) -> Result<()> {
    let half_a_processor = match held.split(", ").any(|c| c == "cpu") {
        true => "cpu_millis = 500\n",
        false => "",
    };
    let half_its_memory = match held.split(", ").any(|c| c == "memory") {
        true => "disk = \"128MiB\"\n",
        false => "",
    };
    let profile = format!(
        "\n[profiles.untrusted]\nbackend = \"bubblewrap\"\n[profiles.untrusted.limits]\n\
         timeout = \"3s\"\ngrace = \"100ms\"\nkeep = \"1MiB\"\nmemory = \"256MiB\"\npids = 64\n{half_a_processor}{half_its_memory}\
         file_size = \"64MiB\"\nopen_files = 256\n"
    );
    let path = lab.home().join("org/profiles.toml");
    std::fs::write(&path, std::fs::read_to_string(&path)? + &profile)?;
    lab.cli().ok(&["org", "sign"])?;
    lab.cli().ok(&["org", "push"])?;
    Ok(())
}

async fn neighbours(operator: &Operator, node: &str, samples: usize, into: &mut Samples) -> Result<()> {
    for round in 0..WARM_UP + samples {
        let took = latency::warm(operator, node, "host").await?;
        if round >= WARM_UP {
            into.push(took);
        }
    }
    Ok(())
}

/// One after another of the same, until it is told to end.
struct Abuse {
    over: Arc<AtomicBool>,
    jobs: JoinSet<Result<usize>>,
}

impl Abuse {
    fn start(operator: &Arc<Operator>, node: &str, argv: &'static [&'static str]) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (told, operator, node) = (Arc::clone(&over), Arc::clone(operator), node.to_owned());
        let mut jobs = JoinSet::new();
        jobs.spawn(async move {
            let mut count = 0;
            while !told.load(Ordering::Relaxed) {
                let (wire, _) = operator.sign(&operator.job(&node, "untrusted", argv)?);
                let ended = end_of(&operator, &wire).await?;
                let ran = [
                    ExecutionState::Running,
                    ExecutionState::TimedOut,
                    ExecutionState::Failed,
                    ExecutionState::Succeeded,
                ];
                ensure!(
                    ran.contains(&ended),
                    "the last that is heard of it is {}",
                    ended.as_str()
                );
                count += 1;
            }
            Ok(count)
        });
        Self { over, jobs }
    }

    /// How many there were.
    async fn end(mut self) -> Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        let within = Duration::from_secs(60);
        let ended = tokio::time::timeout(within, self.jobs.join_next()).await;
        ended
            .context("an abuse does not end")?
            .context("one was started")??
    }
}

/// The last state that the hub tells before a job's receipt. Nothing is verified: a flood shows more than is kept, and so signed for.
async fn end_of(operator: &Operator, job: &str) -> Result<ExecutionState> {
    let mut stream = operator.hub().submit_attached(job).await?;
    let mut follower = Follower::new();
    let mut last = ExecutionState::Queued;
    while let Some(item) = follower.next(&mut stream).await? {
        match item {
            Item::Event(StreamEvent::State { state, .. }) => last = state,
            Item::Event(StreamEvent::Receipt { .. }) => return Ok(last),
            _ => {}
        }
    }
    bail!("the stream ended before the job")
}
