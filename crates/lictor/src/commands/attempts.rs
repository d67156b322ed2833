//! A job's attempts to get out, as people and programs read them, and how many there were.
//!
//! What is shown here is what the hub hands on, and no signature covers it; that is said with it. The host names are a job's own words: bounded, and escaped.

use std::collections::{BTreeMap, BTreeSet};

use lictor_proto::egress::{Decision, Ended, LeftOut, Record, Totals, Verdict};
use lictor_trust::profiles::size_in_words;
use serde_json::{Value, json};

use crate::escape::escape;

/// Destinations that are spoken of while a job runs; the others are in the list.
const SPOKEN_OF: usize = 8;
/// Attempts whose destination is remembered until they end: more than a job may have at once.
const OPEN: usize = 4096;

/// What has been heard so far.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    totals: Totals,
    left_out: Option<LeftOut>,
    /// Something was lost, or could not be read.
    is_partial: bool,
    /// Where those went that have not ended.
    open: BTreeMap<u64, String>,
    /// Denied destinations that were spoken of.
    spoken_of: BTreeSet<String>,
}

impl Attempts {
    /// Takes a record in, and says it in a line.
    pub(crate) fn hear(&mut self, record: &Record) -> String {
        match record {
            Record::Decision(decision) => self.decided(decision),
            Record::Ended(ended) => self.ended(ended),
            Record::LeftOut(left_out) => {
                self.left_out = Some(*left_out);
                left_out_line(left_out)
            }
        }
    }

    /// What a person who runs the job is told of a denial, once for each destination.
    pub(crate) fn warning(&mut self, record: &Record) -> Option<String> {
        let Record::Decision(decision) = record else {
            return None;
        };
        let Verdict::Denied { reason, detail, .. } = &decision.verdict else {
            return None;
        };
        let destination = destination(decision);
        let is_new = self.spoken_of.len() < SPOKEN_OF && self.spoken_of.insert(destination.clone());
        is_new.then(|| format!("no way out to {destination}: {} ({reason})", escape(detail)))
    }

    /// A part of the log is not there, or a record cannot be read: there may be more attempts than are heard of.
    pub(crate) fn miss(&mut self) -> &'static str {
        self.is_partial = true;
        "a part of the log is missing here, and attempts may be with it; the node's audit log has every one"
    }

    /// How many there were, in a line.
    pub(crate) fn summary(&self) -> String {
        let left_out = self.left_out.unwrap_or_default();
        let (allowed, denied) = (
            self.totals.allowed.saturating_add(left_out.allowed),
            self.totals.denied.saturating_add(left_out.denied),
        );
        let moved = format!(
            "{} out and {} in",
            size_in_words(self.totals.up),
            size_in_words(self.totals.down)
        );
        let of_shown = if self.left_out.is_some() {
            ", of those shown"
        } else {
            ""
        };
        // What was only counted from some point on comes with the counts at the end, unless that end was lost.
        let is_partial = self.is_partial || self.left_out == Some(LeftOut::default());
        let at_least = if is_partial { "at least " } else { "" };
        format!(
            "{at_least}{allowed} attempts were allowed, {at_least}{denied} denied; {moved}{of_shown}; as the hub shows it, \
             unsigned: what counts is the node's audit log"
        )
    }

    fn decided(&mut self, decision: &Decision) -> String {
        let destination = destination(decision);
        let (word, why) = match &decision.verdict {
            Verdict::Allowed { rule } => {
                self.totals.allowed += 1;
                if self.open.len() < OPEN {
                    self.open.insert(decision.attempt, destination.clone());
                }
                let address = decision.dialled.map_or_else(String::new, |a| format!("at {a} "));
                ("allowed", format!("{address}by {}", escape(rule)))
            }
            Verdict::Denied { reason, detail, .. } => {
                self.totals.denied += 1;
                ("denied", format!("{reason}: {}", escape(detail)))
            }
        };
        format!("{}  {word:7}  {destination}  {why}", time(decision.at))
    }

    fn ended(&mut self, ended: &Ended) -> String {
        self.totals.up = self.totals.up.saturating_add(ended.up);
        self.totals.down = self.totals.down.saturating_add(ended.down);
        let destination = self.open.remove(&ended.attempt);
        let destination = destination.unwrap_or_else(|| format!("attempt {}", ended.attempt));
        let (at, how) = (time(ended.at), ended.how.as_str());
        format!(
            "{at}  ended    {destination}  {} bytes out, {} in: {how}",
            ended.up, ended.down
        )
    }
}

/// A record as one JSON line; the names are those of the audit log, and kept.
pub(crate) fn line(record: &Record) -> Value {
    match record {
        Record::Decision(d) => {
            let mut line = json!({
                "event": "egress_allowed", "attempt": d.attempt, "time": d.at, "protocol": d.protocol,
                "host": d.host, "port": d.port, "answers": d.answers, "dialled": d.dialled, "sni": d.sni,
                "signed": false,
            });
            if let Some(rule) = d.verdict.rule() {
                line["rule"] = rule.into();
            }
            match &d.verdict {
                Verdict::Allowed { .. } => {}
                Verdict::Denied { reason, detail, .. } => {
                    line["event"] = "egress_denied".into();
                    line["reason"] = reason.as_str().into();
                    line["detail"] = detail.as_str().into();
                }
            }
            line
        }
        Record::Ended(e) => json!({
            "event": "egress_ended", "attempt": e.attempt, "time": e.at, "bytes_up": e.up, "bytes_down": e.down,
            "how": e.how, "signed": false,
        }),
        Record::LeftOut(l) => json!({
            "event": "egress_left_out", "allowed": l.allowed, "denied": l.denied, "ended": l.ended,
            "signed": false,
        }),
    }
}

fn left_out_line(left_out: &LeftOut) -> String {
    match left_out {
        LeftOut {
            allowed: 0,
            denied: 0,
            ended: 0,
        } => {
            "from here on attempts are counted and not listed; the node's audit log has every one".to_owned()
        }
        LeftOut { allowed, denied, .. } => {
            format!(
                "not listed here: {allowed} that were allowed, {denied} denied; the node's audit log has every one"
            )
        }
    }
}

/// The time of day, which is UTC.
fn time(at: lictor_proto::Timestamp) -> String {
    let text = at.to_string();
    text.get(11..23).unwrap_or(&text).to_owned()
}

/// Host and port as they were asked for.
/// What a receipt says about them.
pub(crate) fn totals(totals: &Totals) -> String {
    format!(
        "{} attempts were allowed, {} denied; {} out and {} in",
        totals.allowed,
        totals.denied,
        size_in_words(totals.up),
        size_in_words(totals.down)
    )
}

fn destination(decision: &Decision) -> String {
    match (&decision.host, decision.port) {
        (Some(host), Some(port)) if host.contains(':') => format!("[{}]:{port}", escape(host)),
        (Some(host), Some(port)) => format!("{}:{port}", escape(host)),
        (Some(host), None) => escape(host),
        (None, _) => "what could not be read".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use lictor_proto::egress::{End, Protocol, Reason};
    use lictor_proto::{Digest, JobId, Timestamp};

    use super::*;

    fn decision(attempt: u64, host: &str, verdict: Verdict) -> Record {
        Record::Decision(Box::new(Decision {
            job: JobId::from_digest(&Digest::of(b"job")),
            attempt,
            at: "2026-11-22T09:00:04.005Z".parse().expect("a time"),
            protocol: Protocol::Connect,
            host: Some(host.to_owned()),
            port: Some(443),
            answers: Vec::new(),
            dialled: Some("198.51.100.7:443".parse().expect("an address")),
            sni: None,
            verdict,
        }))
    }

    fn denied(attempt: u64, host: &str) -> Record {
        let detail = "no entry of the profile names this host and port".to_owned();
        let verdict = Verdict::Denied {
            reason: Reason::NotListed,
            rule: None,
            detail,
        };
        decision(attempt, host, verdict)
    }

    fn allowed(attempt: u64) -> Record {
        let rule = "*.example.com:443".to_owned();
        decision(attempt, "repo.example.com", Verdict::Allowed { rule })
    }

    fn ended(attempt: u64) -> Record {
        Record::Ended(Ended {
            job: JobId::from_digest(&Digest::of(b"job")),
            attempt,
            at: Timestamp::from_millis(0),
            up: 1820,
            down: 48_211,
            how: End::Done,
        })
    }

    #[test]
    fn an_attempt_is_a_line_with_time_verdict_destination_and_reason() {
        let mut attempts = Attempts::default();
        assert_eq!(
            attempts.hear(&allowed(1)),
            "09:00:04.005  allowed  repo.example.com:443  at 198.51.100.7:443 by *.example.com:443"
        );
        assert_eq!(
            attempts.hear(&ended(1)),
            "00:00:00.000  ended    repo.example.com:443  1820 bytes out, 48211 in: done"
        );
        assert_eq!(
            attempts.hear(&denied(2, "evil.example\u{1b}[2J")),
            "09:00:04.005  denied   evil.example\\u{1b}[2J:443  not_listed: no entry of the profile names this host and port"
        );
        assert_eq!(
            attempts.summary(),
            "1 attempts were allowed, 1 denied; 1.7 KiB (1820 bytes) out and 47 KiB (48211 bytes) in; as the hub shows it, \
             unsigned: what counts is the node's audit log"
        );
    }

    #[test]
    fn whoever_runs_a_job_is_told_of_each_destination_once_and_of_a_few_only() {
        let mut attempts = Attempts::default();
        assert!(attempts.warning(&denied(1, "a.example")).is_some());
        assert_eq!(attempts.warning(&denied(2, "a.example")), None);
        assert_eq!(attempts.warning(&allowed(3)), None);
        let told = (0..100).filter_map(|n| attempts.warning(&denied(n, &format!("h{n}.example"))));
        assert_eq!(told.count(), SPOKEN_OF - 1);
    }

    #[test]
    fn a_denial_as_json_names_the_rule_that_matched_where_one_did() {
        let verdict = Verdict::Denied {
            reason: Reason::SniMismatch,
            rule: Some("*.example:443".to_owned()),
            detail: "a sentence".to_owned(),
        };
        let with = line(&decision(1, "a.example", verdict));
        assert_eq!(with["rule"], "*.example:443");
        assert_eq!(with["reason"], "sni_mismatch");
        assert!(line(&denied(2, "a.example")).get("rule").is_none());
    }

    #[test]
    fn counts_that_may_be_short_say_so() {
        let mut lost = Attempts::default();
        lost.hear(&denied(1, "a.example"));
        assert!(lost.miss().contains("audit log"));
        assert!(
            lost.summary()
                .starts_with("at least 0 attempts were allowed, at least 1 denied"),
            "{}",
            lost.summary()
        );
        let mut cut_off = Attempts::default();
        cut_off.hear(&Record::LeftOut(LeftOut::default()));
        assert!(
            cut_off.summary().starts_with("at least 0"),
            "its counts never came"
        );
    }

    #[test]
    fn programs_are_told_that_nothing_of_it_is_signed() {
        for record in [
            denied(1, "a.example"),
            allowed(2),
            ended(2),
            Record::LeftOut(LeftOut::default()),
        ] {
            assert_eq!(line(&record)["signed"], false);
        }
    }

    #[test]
    fn what_was_left_out_is_counted() {
        let mut attempts = Attempts::default();
        attempts.hear(&denied(1, "a.example"));
        let begins = attempts.hear(&Record::LeftOut(LeftOut::default()));
        assert!(begins.contains("from here on"), "{begins}");
        let counts = LeftOut {
            denied: 9000,
            ..LeftOut::default()
        };
        assert!(attempts.hear(&Record::LeftOut(counts)).contains("9000 denied"));
        assert!(
            attempts
                .summary()
                .starts_with("0 attempts were allowed, 9001 denied")
        );
    }
}
