//! Follows one execution: takes frames apart, keeps count, and holds the end against the node's signature.
//!
//! ```text
//! frames --> Follower::next --> Item (shown as provisional)
//!                 |
//!                 +-- at the receipt --> Follower::conclude --> Confirmed | unconfirmed, with a code
//! ```
//!
//! # Invariants
//! - Nothing that the hub says decides an exit status: only a receipt that the node's identity key signed, for
//!   this job, whose stream digests match what was seen.
//! - Every wait has a deadline: a hub that sends nothing, not even keep-alives, is given up on.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use lictor_link::LinkError;
use lictor_proto::agent::Wire;
use lictor_proto::api::StreamEvent;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Outcome, Receipt};
use lictor_proto::egress::Record;
use lictor_proto::frame::{Frame, FrameDecoder, FrameKind, Gap, HEADER};
use lictor_proto::{Code, Timestamp, json};

use crate::error::Error;
use crate::hub::FrameStream;
use crate::probe::Probe;
pub use crate::witness::Doubt;
use crate::witness::{Seen, Witness};

/// Hubs send a keep-alive at least every 10 seconds.
const SILENCE: Duration = Duration::from_secs(45);

/// Which stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Item {
    /// Output; provisional until the receipt verifies.
    Output {
        /// Which stream.
        stream: Stream,
        /// When it was read from the process.
        time: Timestamp,
        /// Offset of its first byte in its stream.
        at: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A part of the log is missing here: not kept, or this follower was too slow. With no byte of output in it, it was
    /// what is said about the way out.
    Missing {
        /// Bytes of standard output.
        stdout: u64,
        /// Bytes of standard error.
        stderr: u64,
    },
    /// What the node says about the job's way out, as the hub hands it on: no signature covers it. What counts is the
    /// node's audit log. `None` where this version cannot read it: a job's result does not hang on that.
    Egress(Option<Record>),
    /// A state change, an ask, a receipt: what the hub says.
    Event(StreamEvent),
}

/// Follows one execution over any number of connections.
#[derive(Debug, Default)]
pub struct Follower {
    decoder: FrameDecoder,
    stdout: Witness,
    stderr: Witness,
    /// Where the log goes on after a reconnect.
    log_at: u64,
    /// Output that comes after what it showed to be missing.
    held: Option<Item>,
    receipt: Option<Wire>,
}

/// How what was seen compares with a receipt's signed digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// Every byte was seen and is what the node signed.
    Whole,
    /// Some bytes were missed; exactly the parts that were kept were seen, and they are what the node signed.
    Kept,
    /// Nothing contradicts, but not all that was shown is proven, or not all that was kept was shown.
    Partly(Doubt),
}

impl Compared {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Partly(a), Self::Partly(b)) => Self::Partly(a.and(b)),
            (doubt @ Self::Partly(_), _) | (_, doubt @ Self::Partly(_)) => doubt,
            (Self::Whole, Self::Whole) => Self::Whole,
            _ => Self::Kept,
        }
    }
}

impl Follower {
    /// A follower that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where to go on after a connection was lost.
    #[must_use]
    pub fn log_position(&self) -> u64 {
        self.log_at
    }

    /// The receipt, once it has come; not verified.
    #[must_use]
    pub fn receipt(&self) -> Option<&Wire> {
        self.receipt.as_ref()
    }

    /// Bytes of standard output and standard error seen so far.
    #[must_use]
    pub fn seen(&self) -> (u64, u64) {
        (self.stdout.seen(), self.stderr.seen())
    }

    /// Starts on a new connection: what was half read on the old one comes again.
    pub fn reconnected(&mut self) {
        self.decoder = FrameDecoder::default();
    }

    /// The next thing that happened; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`Error::Link`] when the connection breaks or is silent for too long; [`Error::Untrusted`] with
    /// [`Code::OutputMismatch`] when the bytes cannot be what one process wrote.
    pub async fn next(&mut self, stream: &mut FrameStream) -> Result<Option<Item>, Error> {
        if let Some(item) = self.held.take() {
            return Ok(Some(item));
        }
        loop {
            while let Some(frame) = self.decoder.next_frame().map_err(|e| made_up(e.to_string()))? {
                if let Some(item) = self.take(frame)? {
                    return Ok(Some(item));
                }
            }
            let frame = tokio::time::timeout(SILENCE, stream.body.frame())
                .await
                .map_err(|_| LinkError::Timeout(SILENCE))?;
            match frame {
                None => return Ok(None),
                Some(Err(e)) => return Err(LinkError::Lost(Box::new(e)).into()),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.decoder.push(data);
                    }
                }
            }
        }
    }

    /// What one frame means: nothing, one thing, or what is missing before it and then itself.
    pub(crate) fn items(&mut self, frame: Frame) -> Result<Vec<Item>, Error> {
        let first = self.take(frame)?;
        Ok(first.into_iter().chain(self.held.take()).collect())
    }

    fn take(&mut self, frame: Frame) -> Result<Option<Item>, Error> {
        let stream = match frame.kind {
            FrameKind::KeepAlive => return Ok(None),
            FrameKind::Event => return self.take_event(&frame).map(Some),
            FrameKind::Gap => return self.take_gap(&frame),
            FrameKind::Egress => {
                self.log_at += (HEADER + frame.payload.len()) as u64;
                return Ok(Some(Item::Egress(json::from_slice(&frame.payload).ok())));
            }
            FrameKind::Stdout => Stream::Stdout,
            FrameKind::Stderr => Stream::Stderr,
        };
        let witness = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(skipped) = witness.bytes(frame.at, &frame.payload) else {
            return Err(made_up(format!(
                "output at {} does not follow what came before",
                frame.at
            )));
        };
        self.log_at += (HEADER + frame.payload.len()) as u64;
        let output = Item::Output {
            stream,
            time: frame.time,
            at: frame.at,
            bytes: frame.payload,
        };
        if skipped == 0 {
            return Ok(Some(output));
        }
        self.held = Some(output);
        Ok(Some(match stream {
            Stream::Stdout => missing(skipped, 0),
            Stream::Stderr => missing(0, skipped),
        }))
    }

    fn take_gap(&mut self, frame: &Frame) -> Result<Option<Item>, Error> {
        let gap: Gap = serde_json::from_slice(&frame.payload).map_err(|e| made_up(e.to_string()))?;
        if gap.resume_at < self.log_at {
            return Err(made_up("a gap leads backwards".to_owned()));
        }
        let skips = gap.resume_at > self.log_at;
        self.log_at = gap.resume_at;
        let (stdout, stderr) = (self.stdout.gap(gap.stdout_at), self.stderr.gap(gap.stderr_at));
        Ok((skips || stdout > 0 || stderr > 0).then(|| missing(stdout, stderr)))
    }

    fn take_event(&mut self, frame: &Frame) -> Result<Item, Error> {
        let event: StreamEvent = serde_json::from_slice(&frame.payload)
            .map_err(|e| Error::Malformed(format!("an event of the stream: {e}")))?;
        if let StreamEvent::From { node_id } = &event {
            let why = format!("the hub speaks of {node_id} in the stream of another node");
            return Err(made_up(why));
        }
        if let StreamEvent::Receipt { receipt } = &event {
            if self.receipt.as_ref().is_some_and(|r| r != receipt) {
                let why = "the hub sent two different receipts";
                return Err(Error::Untrusted(Refusal::new(Code::ReceiptConflict, why)));
            }
            self.receipt = Some(receipt.clone());
        }
        Ok(Item::Event(event))
    }

    /// Holds everything seen against a *verified* receipt.
    ///
    /// # Errors
    /// [`Code::OutputMismatch`].
    pub fn compare(&self, receipt: &Receipt) -> Result<Compared, Refusal> {
        let mut result = Compared::Whole;
        for (name, witness, signed) in [
            ("stdout", &self.stdout, &receipt.stdout),
            ("stderr", &self.stderr, &receipt.stderr),
        ] {
            result = result.and(match witness.compare(signed) {
                Seen::Whole => Compared::Whole,
                Seen::Kept => Compared::Kept,
                Seen::Partly(doubt) => Compared::Partly(doubt),
                // A machine that lost power has lost output that the hub had by then (docs/decisions/0012), and signs
                // an interruption. From a node that lost nothing there is no more than it signed.
                Seen::Beyond(doubt) if receipt.outcome == Outcome::Interrupted => Compared::Partly(doubt),
                Seen::Beyond(_) | Seen::Differs => {
                    let why = format!("{name} is not what the node signed: {} bytes", signed.bytes);
                    return Err(Refusal::new(Code::OutputMismatch, why));
                }
            });
        }
        Ok(result)
    }

    /// What a second reading must find, for standard output and standard error.
    pub(crate) fn probes(&self, receipt: &Receipt) -> [Vec<Probe>; 2] {
        [
            self.stdout.probes(&receipt.stdout),
            self.stderr.probes(&receipt.stderr),
        ]
    }
}

fn missing(stdout: u64, stderr: u64) -> Item {
    Item::Missing { stdout, stderr }
}

fn made_up(why: String) -> Error {
    Error::Untrusted(Refusal::new(Code::OutputMismatch, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lictor_proto::Digest;
    use lictor_proto::doc::{KeptRange, StreamSummary};

    /// A receipt of an execution that ended like this and printed this, all of which was kept.
    fn receipt(outcome: Outcome, printed: &[u8]) -> Receipt {
        let vector = include_str!("../../../docs/protocol/vectors/receipt.json");
        let vector: serde_json::Value = serde_json::from_str(vector).expect("JSON");
        let payload = vector["payload"].as_str().expect("text");
        let mut receipt: Receipt = lictor_proto::json::from_slice(payload.as_bytes()).expect("a receipt");
        let (to, sha256) = (printed.len() as u64, Digest::of(printed));
        receipt.outcome = outcome;
        receipt.stderr = StreamSummary::empty();
        receipt.stdout = StreamSummary {
            bytes: to,
            sha256,
            kept: vec![KeptRange { from: 0, to, sha256 }],
        };
        receipt
    }

    #[test]
    fn more_than_was_signed_is_unproven_of_an_interrupted_job_and_made_up_of_any_other() {
        let mut follower = Follower::new();
        assert!(follower.stdout.bytes(0, b"kept").is_some());
        let whole = follower.compare(&receipt(Outcome::Interrupted, b"kept"));
        assert_eq!(whole, Ok(Compared::Whole));
        assert!(follower.stdout.bytes(4, b" and lost").is_some());
        let doubt = Doubt {
            unproven: 9,
            unseen: 0,
        };
        let lost = follower.compare(&receipt(Outcome::Interrupted, b"kept"));
        assert_eq!(lost, Ok(Compared::Partly(doubt)));
        let other = follower.compare(&receipt(Outcome::Interrupted, b"k3pt"));
        assert_eq!(other.map_err(|r| r.code), Err(Code::OutputMismatch));
        for outcome in [
            Outcome::Succeeded,
            Outcome::Failed,
            Outcome::TimedOut,
            Outcome::Canceled,
        ] {
            let made_up = follower.compare(&receipt(outcome, b"kept"));
            assert_eq!(
                made_up.map_err(|r| r.code),
                Err(Code::OutputMismatch),
                "{outcome:?}"
            );
        }
    }

    fn frame(kind: FrameKind, payload: &[u8]) -> Frame {
        Frame {
            kind,
            time: Timestamp::from_millis(1),
            at: 0,
            payload: Bytes::copy_from_slice(payload),
        }
    }

    #[test]
    fn a_record_that_this_version_cannot_read_is_passed_over_and_the_job_goes_on() {
        let mut follower = Follower::new();
        for payload in [
            &b"{}"[..],
            b"",
            b"{\"left_out\":{\"allowed\":0,\"denied\":0,\"ended\":0,\"new\":1}}",
        ] {
            let before = follower.log_position();
            let item = follower
                .take(frame(FrameKind::Egress, payload))
                .expect("no error");
            assert!(matches!(item, Some(Item::Egress(None))), "{item:?}");
            assert_eq!(follower.log_position(), before + (HEADER + payload.len()) as u64);
        }
        let known = b"{\"left_out\":{\"allowed\":0,\"denied\":1,\"ended\":0}}";
        let item = follower.take(frame(FrameKind::Egress, known)).expect("no error");
        assert!(matches!(item, Some(Item::Egress(Some(_)))), "{item:?}");
    }

    #[test]
    fn a_gap_without_output_in_it_is_told() {
        let mut follower = Follower::new();
        let gap = |resume_at| {
            let gap = Gap {
                resume_at,
                stdout_at: 0,
                stderr_at: 0,
            };
            frame(FrameKind::Gap, &serde_json::to_vec(&gap).expect("JSON"))
        };
        let item = follower.take(gap(500)).expect("no error");
        assert!(
            matches!(item, Some(Item::Missing { stdout: 0, stderr: 0 })),
            "{item:?}"
        );
        let again = follower.take(gap(500)).expect("no error");
        assert!(again.is_none(), "it skips nothing: {again:?}");
    }
}
