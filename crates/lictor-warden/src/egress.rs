//! What a job's way out was asked for, in the audit log: every attempt, what became of it, and how it ended.
//!
//! The proxy hands a record over before a byte goes out. It is taken here when the ones before it are durable, and while
//! none is taken nothing new goes out once some hundreds wait: a disk that is full holds up the traffic, never the
//! records. What waits when the agent is killed is lost.

use std::sync::Arc;

use lictor_audit::{Event, EventType};
use lictor_proto::Digest;
use lictor_proto::egress::{Decision, Ended, Event as Heard, Verdict};
use lictor_sandbox::EgressEvents;

use crate::core::Core;
use crate::journal::Step;

/// Records written in one step.
const AT_ONCE: usize = 64;

/// Writes down what is heard until there is no more.
pub(crate) async fn record(core: Arc<Core>, job: Digest, mut events: EgressEvents) {
    let mut heard = Vec::new();
    while events.next(&mut heard, AT_ONCE).await > 0 {
        let audit: Vec<Event> = heard.drain(..).filter_map(|h| event(&job, h)).collect();
        if audit.is_empty() {
            continue;
        }
        let step = || Step {
            audit: audit.clone(),
            ..Step::default()
        };
        if let Err(error) = core.commit_surely(step).await {
            // Whoever does not listen has the way out closed.
            tracing::error!(job = %job, %error, "attempts to get out could not be written down");
            return;
        }
    }
}

fn event(job: &Digest, heard: Heard) -> Option<Event> {
    match heard {
        Heard::Decision(decision) => Some(decided(job, &decision)),
        Heard::Ended(end) => Some(ended(job, &end)),
        // What is about the job as a whole is told by its own events.
        Heard::Opened { .. } | Heard::Closed { .. } | Heard::Refused { .. } => None,
    }
}

fn decided(job: &Digest, decision: &Decision) -> Event {
    let kind = match &decision.verdict {
        Verdict::Allowed { .. } => EventType::EgressAllowed,
        Verdict::Denied { .. } => EventType::EgressDenied,
    };
    let answers: Vec<String> = decision.answers.iter().map(ToString::to_string).collect();
    let mut event = Event::new(kind)
        .with_id("job", job)
        .with_id("job_id", &decision.job)
        .with("attempt", decision.attempt)
        .with("protocol", decision.protocol.as_str());
    if let Some(host) = &decision.host {
        event = event.with("host", host.as_str());
    }
    if let Some(port) = decision.port {
        event = event.with("port", u32::from(port));
    }
    if !answers.is_empty() {
        event = event.with("answers", answers.as_slice());
    }
    if let Some(dialled) = &decision.dialled {
        event = event.with_id("dialled", dialled);
    }
    if let Some(sni) = &decision.sni {
        event = event.with("sni", sni.as_str());
    }
    match &decision.verdict {
        Verdict::Allowed { rule } => event.with("rule", rule.as_str()),
        Verdict::Denied { reason, detail } => event
            .with("reason", reason.as_str())
            .with("detail", detail.as_str()),
    }
}

fn ended(job: &Digest, end: &Ended) -> Event {
    Event::new(EventType::EgressEnded)
        .with_id("job", job)
        .with_id("job_id", &end.job)
        .with("attempt", end.attempt)
        .with("bytes_up", end.up)
        .with("bytes_down", end.down)
        .with("how", end.how.as_str())
}
