//! What a job's way out was asked for: every attempt, what became of it, and how it ended, in the audit log, and as far
//! as there is room for it in the job's own log, where whoever may read its output sees it.
//!
//! The proxy hands a record over before a byte goes out. It is taken here when the ones before it are durable, and while
//! none is taken nothing new goes out once some hundreds wait: a disk that is full holds up the traffic, never the
//! records. What waits when the agent is killed is lost.

use std::sync::{Mutex, PoisonError};

use lictor_audit::{Event, EventType};
use lictor_proto::egress::{Decision, Ended, Event as Heard, LeftOut, Reason, Record, Totals, Verdict};
use lictor_proto::{Digest, Timestamp, json};
use lictor_sandbox::EgressEvents;

use crate::core::Core;
use crate::journal::Step;
use crate::live::LiveJob;
use crate::redact::Redactor;
use crate::spool::{Spool, Writer};

/// Records written in one step.
const AT_ONCE: usize = 64;
/// Bytes of records that a job's log takes, so that many attempts do not make it large. The spool rests on it that
/// this is less than a window.
const SHOWN: usize = 256 * 1024;

/// Where one job's records go.
pub(crate) struct Recorder<'a> {
    pub(crate) core: &'a Core,
    pub(crate) live: &'a LiveJob,
    pub(crate) job: Digest,
    pub(crate) spool: &'a Spool,
    pub(crate) writer: &'a Mutex<Writer>,
    pub(crate) redactor: &'a Redactor,
}

impl Recorder<'_> {
    /// Writes down what is heard until there is no more; returns the sum of what was written down, for the receipt.
    pub(crate) async fn record(&self, events: Option<EgressEvents>) -> Option<Totals> {
        let mut events = events?;
        let mut shown = Shown::new();
        let mut totals = Totals::default();
        let mut heard = Vec::new();
        while events.next(&mut heard, AT_ONCE).await > 0 {
            if !self.redactor.is_empty() {
                heard.iter_mut().for_each(|h| redact(self.redactor, h));
            }
            let audit: Vec<Event> = heard.iter().filter_map(|h| event(&self.job, h)).collect();
            if !audit.is_empty() && !commit(self.core, &self.job, audit).await {
                return Some(totals);
            }
            heard.iter().for_each(|h| add(&mut totals, h));
            let records: Vec<Record> = heard.drain(..).filter_map(record).collect();
            self.show(records.into_iter().filter_map(|r| shown.take(r)));
        }
        self.show(shown.end());
        Some(totals)
    }

    fn show(&self, records: impl IntoIterator<Item = Record>) {
        let before = self.spool.end();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            if let Ok(bytes) = json::to_vec(&record) {
                writer.note(Timestamp::now(), &bytes);
            }
        }
        drop(writer);
        if self.spool.end() > before && self.live.wants(before) {
            self.core.feeds.touch(self.job);
        }
    }
}

/// Whether they are durable.
async fn commit(core: &Core, job: &Digest, audit: Vec<Event>) -> bool {
    let step = || Step {
        audit: audit.clone(),
        ..Step::default()
    };
    let committed = core.commit_surely(step).await;
    if let Err(error) = &committed {
        // Whoever does not listen has the way out closed.
        tracing::error!(%job, %error, "attempts to get out could not be written down");
    }
    committed.is_ok()
}

/// Writes down what the agent itself asks for in a job's name, until there is no more; says what it was denied last.
pub(crate) async fn audit(
    core: &Core,
    job: &Digest,
    events: Option<EgressEvents>,
) -> Option<(Reason, String)> {
    let mut events = events?;
    let (mut heard, mut denied) = (Vec::new(), None);
    while events.next(&mut heard, AT_ONCE).await > 0 {
        let audit: Vec<Event> = heard.iter().filter_map(|h| event(job, h)).collect();
        if !audit.is_empty() && !commit(core, job, audit).await {
            return denied;
        }
        for said in heard.drain(..) {
            if let Heard::Decision(decision) = said
                && let Verdict::Denied { reason, detail, .. } = decision.verdict
            {
                denied = Some((reason, detail));
            }
        }
    }
    denied
}

/// Whoever has a secret may try to say it by the names that it asks for.
fn redact(redactor: &Redactor, heard: &mut Heard) {
    if let Heard::Decision(decision) = heard {
        for name in [&mut decision.host, &mut decision.sni].into_iter().flatten() {
            *name = redactor.text(name);
        }
        if let Verdict::Denied { detail, .. } = &mut decision.verdict {
            *detail = redactor.text(detail);
        }
    }
}

fn add(totals: &mut Totals, heard: &Heard) {
    match heard {
        Heard::Decision(decision) => match decision.verdict {
            Verdict::Allowed { .. } => totals.allowed += 1,
            Verdict::Denied { .. } => totals.denied += 1,
        },
        Heard::Ended(end) => {
            totals.up = totals.up.saturating_add(end.up);
            totals.down = totals.down.saturating_add(end.down);
        }
        Heard::Opened { .. } | Heard::Closed { .. } | Heard::Refused { .. } => {}
    }
}

/// How much of it a job's log has taken.
struct Shown {
    room: usize,
    left_out: Option<LeftOut>,
}

impl Shown {
    fn new() -> Self {
        Self {
            room: SHOWN,
            left_out: None,
        }
    }

    /// What is written of a record: itself, or when there is no more room, once, that.
    fn take(&mut self, record: Record) -> Option<Record> {
        let size = json::to_vec(&record).map_or(usize::MAX, |bytes| bytes.len());
        if self.left_out.is_none() && size <= self.room {
            self.room -= size;
            return Some(record);
        }
        let is_first = self.left_out.is_none();
        let left_out = self.left_out.get_or_insert_default();
        match &record {
            Record::Decision(decision) => match decision.verdict {
                Verdict::Allowed { .. } => left_out.allowed += 1,
                Verdict::Denied { .. } => left_out.denied += 1,
            },
            Record::Ended(_) => left_out.ended += 1,
            Record::LeftOut(_) => {}
        }
        is_first.then(|| Record::LeftOut(LeftOut::default()))
    }

    /// The last word: what was counted only.
    fn end(self) -> Option<Record> {
        self.left_out.map(Record::LeftOut)
    }
}

fn record(heard: Heard) -> Option<Record> {
    match heard {
        Heard::Decision(decision) => Some(Record::Decision(decision)),
        Heard::Ended(end) => Some(Record::Ended(end)),
        Heard::Opened { .. } | Heard::Closed { .. } | Heard::Refused { .. } => None,
    }
}

fn event(job: &Digest, heard: &Heard) -> Option<Event> {
    match heard {
        Heard::Decision(decision) => Some(decided(job, decision)),
        Heard::Ended(end) => Some(ended(job, end)),
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
    if let Some(rule) = decision.verdict.rule() {
        event = event.with("rule", rule);
    }
    match &decision.verdict {
        Verdict::Allowed { .. } => event,
        Verdict::Denied { reason, detail, .. } => event
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

#[cfg(test)]
mod tests {
    use lictor_proto::JobId;
    use lictor_proto::egress::Protocol;

    use super::*;

    fn denied(attempt: u64) -> Record {
        Record::Decision(Box::new(Decision {
            job: JobId::from_digest(&Digest::of(b"job")),
            attempt,
            at: Timestamp::from_millis(1),
            protocol: Protocol::Connect,
            host: Some("a".repeat(200)),
            port: Some(443),
            answers: Vec::new(),
            dialled: None,
            sni: None,
            verdict: Verdict::Denied {
                reason: Reason::NotListed,
                rule: None,
                detail: "no entry of the profile names this host and port".into(),
            },
        }))
    }

    #[test]
    fn what_was_answered_dialled_named_and_decided_reaches_the_audit_log() {
        let mut decision = Decision {
            job: JobId::from_digest(&Digest::of(b"job")),
            attempt: 7,
            at: Timestamp::from_millis(1),
            protocol: Protocol::Connect,
            host: Some("a.example".to_owned()),
            port: Some(443),
            answers: vec![
                "198.51.100.7".parse().expect("ip"),
                "2001:db8::7".parse().expect("ip"),
            ],
            dialled: Some("198.51.100.7:443".parse().expect("an address")),
            sni: Some("b.example".to_owned()),
            verdict: Verdict::Denied {
                reason: Reason::SniMismatch,
                rule: Some("*.example:443".to_owned()),
                detail: "a sentence".to_owned(),
            },
        };
        let event = decided(&Digest::of(b"digest"), &decision);
        assert_eq!(event.kind, EventType::EgressDenied);
        let fields = json::to_vec(&event.fields).expect("JSON");
        let fields = String::from_utf8(fields).expect("UTF-8");
        for part in [
            r#""answers":["198.51.100.7","2001:db8::7"]"#,
            r#""attempt":7"#,
            r#""detail":"a sentence""#,
            r#""dialled":"198.51.100.7:443""#,
            r#""host":"a.example""#,
            r#""port":443"#,
            r#""protocol":"connect""#,
            r#""reason":"sni_mismatch""#,
            r#""rule":"*.example:443""#,
            r#""sni":"b.example""#,
        ] {
            assert!(fields.contains(part), "{part} in {fields}");
        }
        decision.verdict = Verdict::Allowed {
            rule: "a.example:443".to_owned(),
        };
        let event = decided(&Digest::of(b"digest"), &decision);
        assert_eq!(event.kind, EventType::EgressAllowed);
        assert_eq!(event.fields["rule"], "a.example:443".into());
        assert!(!event.fields.contains_key("reason"));
    }

    #[test]
    fn a_flood_of_attempts_takes_a_bounded_part_of_the_log_and_the_rest_is_counted_exactly() {
        let mut shown = Shown::new();
        let written: Vec<Record> = (1..=10_000).filter_map(|n| shown.take(denied(n))).collect();
        let bytes: usize = written.iter().map(|r| json::to_vec(r).expect("JSON").len()).sum();
        assert!(bytes <= SHOWN + 100, "{bytes}");
        let (last, whole) = written.split_last().expect("some");
        assert_eq!(*last, Record::LeftOut(LeftOut::default()), "said when it begins");
        assert!(whole.len() > 300 && whole.iter().all(|r| matches!(r, Record::Decision(_))));
        let left_out = LeftOut {
            denied: 10_000 - whole.len() as u64,
            ..LeftOut::default()
        };
        assert_eq!(shown.end(), Some(Record::LeftOut(left_out)));
    }

    #[test]
    fn a_job_with_few_attempts_has_all_of_them_in_its_log() {
        let mut shown = Shown::new();
        assert_eq!(shown.take(denied(1)), Some(denied(1)));
        assert_eq!(shown.end(), None);
    }
}
