//! Follows one job on several nodes over one stream: takes it apart, node by node.
//!
//! ```text
//! frames --> From{web-1} | frames of web-1 --> Follower of web-1
//!            From{db-1}  | frames of db-1  --> Follower of db-1
//! ```
//!
//! # Invariants
//! - What is wrong with one node's part of the stream is that node's alone: the others are followed on.
//! - Nothing of a node that was not asked for is shown, nor counted for another.
//! - A node whose receipt has come says no more: what the hub adds makes the result untrustworthy.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use http_body_util::BodyExt as _;
use lictor_link::LinkError;
use lictor_proto::agent::Wire;
use lictor_proto::api::{FollowNode, StreamEvent};
use lictor_proto::code::Refusal;
use lictor_proto::frame::{Frame, FrameDecoder, FrameKind};
use lictor_proto::{Code, NodeId};

use crate::error::Error;
use crate::follow::{Follower, Item};
use crate::hub::FrameStream;

/// Hubs send a keep-alive at least every 10 seconds.
const SILENCE: Duration = Duration::from_secs(45);

/// One thing that happened on one of the nodes.
#[derive(Debug)]
pub enum Happened {
    /// As of a job on one node.
    Item(NodeId, Item),
    /// The hub's part of the stream for this node makes no sense; said once.
    Broken(NodeId, Refusal),
    /// The hub speaks of a node that the job was not signed for; said once.
    Stranger(NodeId),
}

/// Follows several executions over any number of connections, one after the other.
#[derive(Debug)]
pub struct Fleet {
    decoder: FrameDecoder,
    parts: BTreeMap<NodeId, Part>,
    current: Current,
    ready: VecDeque<Happened>,
    warned_of_strangers: bool,
}

/// Whose frames follow.
#[derive(Debug, PartialEq, Eq)]
enum Current {
    /// The hub has not said.
    Nobody,
    /// One that was not asked for.
    Stranger,
    Node(NodeId),
}

/// One node's part of the stream.
#[derive(Debug)]
enum Part {
    /// It goes on.
    Followed(Box<Follower>),
    /// Its receipt has come.
    Ended { receipt: Wire },
    /// It is not listened to any more.
    Broken,
}

impl Fleet {
    /// Follows these nodes, of which nothing has been seen yet.
    #[must_use]
    pub fn of(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let parts = nodes
            .into_iter()
            .map(|node| (node, Part::Followed(Box::new(Follower::new()))));
        let mut fleet = Self {
            decoder: FrameDecoder::default(),
            parts: parts.collect(),
            current: Current::Nobody,
            ready: VecDeque::new(),
            warned_of_strangers: false,
        };
        fleet.reconnected();
        fleet
    }

    /// The nodes that are still followed, and where each goes on after a connection was lost.
    #[must_use]
    pub fn positions(&self) -> Vec<FollowNode> {
        let open = self.parts.iter().filter_map(|(node, part)| match part {
            Part::Followed(follower) => Some(FollowNode {
                node_id: node.clone(),
                from: follower.log_position(),
            }),
            Part::Ended { .. } | Part::Broken => None,
        });
        open.collect()
    }

    /// Whether nobody is followed any more.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.parts.values().any(|part| matches!(part, Part::Followed(_)))
    }

    /// Starts on a new connection: what was half read on the old one comes again.
    pub fn reconnected(&mut self) {
        self.decoder = FrameDecoder::default();
        // A hub that streams one node does not say which.
        let mut open = self.positions().into_iter();
        self.current = match (open.next(), open.next()) {
            (Some(only), None) => Current::Node(only.node_id),
            _ => Current::Nobody,
        };
    }

    /// Gives up what was seen of a node, to be judged: once its receipt has come, or none will.
    pub fn close(&mut self, node: &NodeId) -> Option<Follower> {
        let part = self.parts.get_mut(node)?;
        let Part::Followed(follower) = part else {
            return None;
        };
        let follower = std::mem::take(&mut **follower);
        *part = match follower.receipt() {
            Some(receipt) => Part::Ended {
                receipt: receipt.clone(),
            },
            None => Part::Broken,
        };
        Some(follower)
    }

    /// The next thing that happened; `None` at the end of the stream.
    ///
    /// # Errors
    /// [`Error::Link`] when the connection breaks or is silent for too long; [`Error::Untrusted`] when the bytes are
    /// no frames, or of nobody.
    pub async fn next(&mut self, stream: &mut FrameStream) -> Result<Option<Happened>, Error> {
        loop {
            if let Some(happened) = self.ready.pop_front() {
                return Ok(Some(happened));
            }
            let frame = self.decoder.next_frame();
            if let Some(frame) = frame.map_err(|e| nobodys(&e.to_string()))? {
                self.take(frame)?;
                continue;
            }
            let piece = tokio::time::timeout(SILENCE, stream.body.frame())
                .await
                .map_err(|_| LinkError::Timeout(SILENCE))?;
            match piece {
                None => return Ok(None),
                Some(Err(e)) => return Err(LinkError::Lost(Box::new(e)).into()),
                Some(Ok(piece)) => {
                    if let Some(data) = piece.data_ref() {
                        self.decoder.push(data);
                    }
                }
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Result<(), Error> {
        if frame.kind == FrameKind::KeepAlive {
            return Ok(());
        }
        if frame.kind == FrameKind::Event
            && let Ok(StreamEvent::From { node_id }) = serde_json::from_slice(&frame.payload)
        {
            self.turn_to(node_id);
            return Ok(());
        }
        match &self.current {
            Current::Nobody => Err(nobodys("it does not say of which node")),
            Current::Stranger => Ok(()),
            Current::Node(node) => {
                let node = node.clone();
                self.take_of(node, frame);
                Ok(())
            }
        }
    }

    fn turn_to(&mut self, node: NodeId) {
        if self.parts.contains_key(&node) {
            self.current = Current::Node(node);
            return;
        }
        self.current = Current::Stranger;
        if !std::mem::replace(&mut self.warned_of_strangers, true) {
            self.ready.push_back(Happened::Stranger(node));
        }
    }

    fn take_of(&mut self, node: NodeId, frame: Frame) {
        let Some(part) = self.parts.get_mut(&node) else {
            return;
        };
        let taken = match part {
            Part::Broken => return,
            Part::Ended { receipt } if is_receipt(&frame, receipt) => return,
            Part::Ended { .. } => Err(after_the_end(&frame)),
            Part::Followed(follower) => taken(&node, follower, frame),
        };
        match taken {
            Ok(items) => {
                let happened = items.into_iter().map(|item| Happened::Item(node.clone(), item));
                self.ready.extend(happened);
            }
            Err(refusal) => {
                *part = Part::Broken;
                self.ready.push_back(Happened::Broken(node, refusal));
            }
        }
    }
}

/// What a frame means for the node that it is said to be of.
fn taken(node: &NodeId, follower: &mut Follower, frame: Frame) -> Result<Vec<Item>, Refusal> {
    let items = follower.items(frame).map_err(|e| match e {
        Error::Untrusted(refusal) => refusal,
        other => Refusal::new(Code::OutputMismatch, other.to_string()),
    })?;
    for item in &items {
        if let Item::Event(StreamEvent::State { node_id, .. }) = item
            && node_id != node
        {
            let why = format!("the hub speaks of {node_id} in the stream of {node}");
            return Err(Refusal::new(Code::OutputMismatch, why));
        }
    }
    Ok(items)
}

fn is_receipt(frame: &Frame, known: &Wire) -> bool {
    frame.kind == FrameKind::Event
        && matches!(serde_json::from_slice(&frame.payload), Ok(StreamEvent::Receipt { receipt }) if receipt == *known)
}

/// Something came after the receipt.
fn after_the_end(frame: &Frame) -> Refusal {
    let event = serde_json::from_slice(&frame.payload);
    if frame.kind == FrameKind::Event && matches!(event, Ok(StreamEvent::Receipt { .. })) {
        return Refusal::new(Code::ReceiptConflict, "the hub sent two different receipts");
    }
    Refusal::new(Code::OutputMismatch, "the hub goes on after the receipt")
}

fn nobodys(why: &str) -> Error {
    let text = format!("the hub's stream cannot be read: {why}");
    Error::Untrusted(Refusal::new(Code::OutputMismatch, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use lictor_proto::api::ExecutionState;
    use lictor_proto::{Digest, OrgId, Timestamp};

    fn node(n: u8) -> NodeId {
        NodeId::derive(&OrgId::from_root(&Digest::of(b"root")), &[n; 32])
    }

    fn fleet() -> Fleet {
        Fleet::of([node(1), node(2)])
    }

    fn frame(kind: FrameKind, at: u64, payload: &[u8]) -> Frame {
        Frame {
            kind,
            time: Timestamp::from_millis(1),
            at,
            payload: Bytes::copy_from_slice(payload),
        }
    }

    fn event(event: &StreamEvent) -> Frame {
        frame(FrameKind::Event, 0, &serde_json::to_vec(event).expect("JSON"))
    }

    fn from(n: u8) -> Frame {
        event(&StreamEvent::From { node_id: node(n) })
    }

    fn receipt(text: &str) -> Frame {
        event(&StreamEvent::Receipt {
            receipt: text.to_owned(),
        })
    }

    fn state(n: u8) -> Frame {
        event(&StreamEvent::State {
            node_id: node(n),
            state: ExecutionState::Running,
            code: None,
            message: String::new(),
            at: Timestamp::from_millis(1),
        })
    }

    /// What happens with these frames: of each, whose and what.
    fn told(fleet: &mut Fleet, frames: impl IntoIterator<Item = Frame>) -> Vec<(NodeId, String)> {
        let mut all = Vec::new();
        for frame in frames {
            fleet.take(frame).expect("a frame of somebody");
            while let Some(happened) = fleet.ready.pop_front() {
                all.push(match happened {
                    Happened::Item(node, Item::Output { bytes, .. }) => {
                        (node, String::from_utf8_lossy(&bytes).into_owned())
                    }
                    Happened::Item(node, Item::Event(_)) => (node, "event".to_owned()),
                    Happened::Item(node, other) => (node, format!("{other:?}")),
                    Happened::Broken(node, refusal) => (node, refusal.code.to_string()),
                    Happened::Stranger(node) => (node, "stranger".to_owned()),
                });
            }
        }
        all
    }

    fn said(n: u8, what: &str) -> (NodeId, String) {
        (node(n), what.to_owned())
    }

    const OUT: FrameKind = FrameKind::Stdout;

    #[test]
    fn each_node_has_offsets_of_its_own() {
        let frames = [
            from(1),
            frame(OUT, 0, b"one"),
            from(2),
            frame(OUT, 0, b"two"),
            from(1),
            frame(OUT, 3, b"more"),
        ];
        let mut fleet = fleet();
        assert_eq!(
            told(&mut fleet, frames),
            [said(1, "one"), said(2, "two"), said(1, "more")]
        );
    }

    #[test]
    fn frames_under_the_wrong_node_break_that_node_and_no_other() {
        let frames = [
            from(1),
            frame(OUT, 0, b"one"),
            from(2),
            frame(OUT, 3, b"stolen"),
            frame(OUT, 9, b"more"),
            from(1),
            frame(OUT, 3, b"own"),
        ];
        let mut fleet = fleet();
        // A hole that no gap declared; what comes later for that node is not listened to.
        let all = told(&mut fleet, frames);
        assert_eq!(all, [said(1, "one"), said(2, "output_mismatch"), said(1, "own")]);
        assert_eq!(fleet.positions().len(), 1);
    }

    #[test]
    fn a_state_of_one_node_in_the_stream_of_another_is_told() {
        let mut fleet = fleet();
        let all = told(&mut fleet, [from(1), state(2), from(2), state(2)]);
        assert_eq!(all, [said(1, "output_mismatch"), said(2, "event")]);
    }

    #[test]
    fn a_node_that_was_not_asked_is_told_once_and_shown_never() {
        let mut fleet = fleet();
        let frames = [
            from(3),
            frame(OUT, 0, b"x"),
            from(4),
            receipt("r"),
            from(1),
            frame(OUT, 0, b"y"),
        ];
        assert_eq!(told(&mut fleet, frames), [said(3, "stranger"), said(1, "y")]);
    }

    #[test]
    fn two_receipts_of_one_node_are_told_and_the_same_one_twice_is_not() {
        let mut fleet = fleet();
        assert_eq!(told(&mut fleet, [from(1), receipt("a")]), [said(1, "event")]);
        assert!(fleet.close(&node(1)).is_some());
        assert_eq!(told(&mut fleet, [receipt("a")]), []);
        assert_eq!(told(&mut fleet, [receipt("b")]), [said(1, "receipt_conflict")]);
        assert_eq!(
            told(&mut fleet, [from(2), frame(OUT, 0, b"fine")]),
            [said(2, "fine")]
        );
    }

    #[test]
    fn what_comes_after_a_receipt_is_told() {
        let mut fleet = fleet();
        told(&mut fleet, [from(1), receipt("a")]);
        fleet.close(&node(1));
        assert_eq!(
            told(&mut fleet, [frame(OUT, 0, b"late")]),
            [said(1, "output_mismatch")]
        );
    }

    #[test]
    fn frames_before_anybody_was_named_are_refused_unless_there_is_only_one() {
        assert!(fleet().take(frame(OUT, 0, b"x")).is_err());
        let mut one = Fleet::of([node(1)]);
        assert_eq!(told(&mut one, [frame(OUT, 0, b"x")]), [said(1, "x")]);
    }

    #[test]
    fn after_a_lost_connection_each_goes_on_from_its_own_place() {
        let mut fleet = fleet();
        told(
            &mut fleet,
            [from(1), frame(OUT, 0, b"abc"), from(2), receipt("r")],
        );
        fleet.close(&node(2));
        let left = fleet.positions();
        assert_eq!(left.len(), 1);
        assert_eq!((&left[0].node_id, left[0].from), (&node(1), 27));
        fleet.reconnected();
        // Of one node alone the hub does not say whose it is.
        assert_eq!(told(&mut fleet, [frame(OUT, 3, b"d")]), [said(1, "d")]);
    }
}
