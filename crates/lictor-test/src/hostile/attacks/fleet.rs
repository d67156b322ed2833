//! Lies about one of several nodes that a job is for: that node's result is not believed, and the others' is.
//!
//! The second node is real on paper (grant, record, keys), and its part of each answer is made here with its own keys,
//! as its agent would have signed it.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::doc::{KeptRange, Receipt, StreamSummary};
use lictor_proto::frame::{Frame, FrameKind};
use lictor_proto::{Code, Digest, Envelope, NodeId, Timestamp, limits};
use lictor_trust::NodeSecrets;
use lictor_trust::sign::{sign, to_wire};

use super::attacks;
use super::client::set;
use super::listing::{second_machine, second_machine_with_keys};
use crate::hostile::client::Client;
use crate::hostile::hub::Item;
use crate::hostile::org::{NODE, name};
use crate::hostile::{Place, Scene, Seen};

attacks! {
    hub_answers_for_a_node_that_was_not_asked => None,
    hub_mixes_the_frames_of_two_nodes => Some(Code::OutputMismatch),
    hub_leaves_one_node_of_several_out => Some(Code::Unconfirmed),
    hub_shows_two_receipts_of_one_node_of_several => Some(Code::ReceiptConflict),
    hub_shows_one_node_the_receipt_of_another => Some(Code::ReceiptForged),
    hub_goes_on_after_a_receipt_of_several => Some(Code::OutputMismatch),
    hub_lists_a_second_machine_of_a_name_that_a_pattern_means => Some(Code::AmbiguousName),
}

const SECOND: &str = "web-2";
const RUN: [&str; 8] = [
    "run",
    "--profile",
    "host",
    NODE,
    SECOND,
    "--",
    "echo",
    "as it was",
];
/// What the second node prints.
const PRINTED: &[u8] = b"as it was over there\n";

/// The answer of two nodes: each one's output and receipt, ready to be lied about.
struct Both {
    first: NodeId,
    second: NodeId,
    honest: Vec<Item>,
    log: Bytes,
    receipt: String,
}

impl Both {
    /// The honest answer of the first, and what the second would have said to the same job.
    fn of(first: NodeId, secrets: &NodeSecrets, honest: Vec<Item>) -> Option<Self> {
        let theirs = honest.iter().find_map(|item| match item {
            Item::Event(StreamEvent::Receipt { receipt }) => read(receipt),
            _ => None,
        })?;
        let second = secrets.node_id(&theirs.org);
        let (to, sha256) = (PRINTED.len() as u64, Digest::of(PRINTED));
        let receipt = Receipt {
            node_id: second.clone(),
            node_seq: 1,
            prev: None,
            stdout: StreamSummary {
                bytes: to,
                sha256,
                kept: vec![KeptRange { from: 0, to, sha256 }],
            },
            // Each job of a test is another one, and so is each number.
            ..theirs
        };
        Some(Self {
            first,
            second,
            honest,
            log: frame(0, PRINTED),
            receipt: to_wire(&sign(&receipt, &[&secrets.identity])),
        })
    }

    /// Everything as it is.
    fn told(&self) -> Vec<Item> {
        let mut items = vec![from(&self.first)];
        items.extend(self.honest.iter().cloned());
        items.extend([
            from(&self.second),
            Item::Log(self.log.clone()),
            receipt(&self.receipt),
        ]);
        items
    }
}

fn read(receipt: &str) -> Option<Receipt> {
    let envelope = Envelope::parse(receipt.as_bytes(), limits::ENVELOPE).ok()?;
    lictor_proto::json::from_slice(&envelope.payload).ok()
}

fn from(node_id: &NodeId) -> Item {
    let node_id = node_id.clone();
    Item::Event(StreamEvent::From { node_id })
}

fn receipt(receipt: &str) -> Item {
    let receipt = receipt.to_owned();
    Item::Event(StreamEvent::Receipt { receipt })
}

fn frame(at: u64, payload: &[u8]) -> Bytes {
    let frame = Frame {
        kind: FrameKind::Stdout,
        time: Timestamp::now(),
        at,
        payload: Bytes::copy_from_slice(payload),
    };
    frame.encode().into()
}

/// A scene with a second node on paper, for whose client an honest job on both works.
struct Two {
    scene: Scene,
    client: Client,
    secrets: Arc<NodeSecrets>,
}

impl Two {
    async fn set() -> Result<Self> {
        let (scene, client) = set().await?;
        let (secrets, papers) = second_machine_with_keys(&scene, SECOND)?;
        let id = secrets.node_id(&scene.org.id);
        scene.hub.people().show_node(&id, &name(SECOND), papers);
        client.asks_again()?;
        let two = Self {
            scene,
            client,
            secrets: Arc::new(secrets),
        };
        two.lies(|both| both.told());
        let done = two.client.types(&RUN).await?;
        ensure!(
            done.code()? == 0,
            "an honest hub: {}\n{}",
            done.status,
            done.stderr
        );
        let text = done.text();
        ensure!(
            text.contains("web-2 | as it was over there\n") && text.contains("web-1 | as it was\n"),
            "{text:?}"
        );
        // The second node has numbered that receipt 1, and would number the next one 2.
        two.client.forgets_receipts()?;
        Ok(two)
    }

    fn lies(&self, lie: impl Fn(&Both) -> Vec<Item> + Send + Sync + 'static) {
        let (first, secrets) = (self.scene.id.clone(), self.secrets.clone());
        self.scene.hub.people().lie(
            move |items| match Both::of(first.clone(), &secrets, items.clone()) {
                Some(both) => lie(&both),
                None => items,
            },
        );
    }

    /// The lie costs the second node's result, with this code, and not the first one's.
    async fn refuses(&self, code: Code) -> Result<Seen> {
        let words = [&["--json"], &RUN[..]].concat();
        let done = self.client.types(&words).await?;
        ensure!(
            done.code()? == 125,
            "IT GOT THROUGH: {}\n{}",
            done.status,
            done.stderr
        );
        let lines = done.json_lines()?;
        let result = |node: &str| {
            let mut all = lines.iter().rev();
            let found = all.find(|l| l["event"] == "result" && l["node"] == node);
            found.with_context(|| format!("no result of {node}: {lines:?}"))
        };
        ensure!(result(NODE)?["confirmed"] == true, "{}", result(NODE)?);
        let second = result(SECOND)?;
        ensure!(second["confirmed"] == false, "IT GOT THROUGH: {second}");
        ensure!(second["code"] == code.as_str(), "not with {code}: {second}");
        Ok(Seen::refused(code, Place::Client))
    }
}

/// Output of a node of the hub's own, among that of those that were asked.
async fn hub_answers_for_a_node_that_was_not_asked() -> Result<Seen> {
    let two = Two::set().await?;
    let org = two.scene.org.id.clone();
    two.lies(move |both| {
        let mut items = vec![
            from(&NodeId::derive(&org, &[7; 32])),
            Item::Log(frame(0, b"made up\n")),
        ];
        items.push(receipt(&both.receipt));
        items.extend(both.told());
        items
    });
    let done = two.client.types(&RUN).await?;
    ensure!(
        !done.text().contains("made up"),
        "IT GOT THROUGH: {}",
        done.text()
    );
    ensure!(
        done.stderr.contains("which this job is not for"),
        "{}",
        done.stderr
    );
    ensure!(
        done.code()? == 0,
        "those that were asked did answer: {}",
        done.stderr
    );
    Ok(Seen {
        code: None,
        at: Place::Client,
    })
}

/// What the first node printed, as if the second one had.
async fn hub_mixes_the_frames_of_two_nodes() -> Result<Seen> {
    let two = Two::set().await?;
    two.lies(|both| {
        let of_first = both.honest.iter().filter(|item| matches!(item, Item::Log(_)));
        let mut items = vec![from(&both.second)];
        items.extend(of_first.cloned());
        items.extend([receipt(&both.receipt), from(&both.first)]);
        items.extend(both.honest.iter().cloned());
        items
    });
    two.refuses(Code::OutputMismatch).await
}

/// The hub's word instead of the second node's.
async fn hub_leaves_one_node_of_several_out() -> Result<Seen> {
    let two = Two::set().await?;
    two.lies(|both| {
        let mut items = both.told();
        items.pop();
        items.push(Item::Event(StreamEvent::State {
            node_id: both.second.clone(),
            state: ExecutionState::Succeeded,
            code: None,
            message: String::new(),
            at: Timestamp::now(),
        }));
        items
    });
    two.refuses(Code::Unconfirmed).await
}

async fn hub_shows_two_receipts_of_one_node_of_several() -> Result<Seen> {
    let two = Two::set().await?;
    let secrets = two.secrets.clone();
    two.lies(move |both| {
        let mut items = both.told();
        let other = read(&both.receipt).map(|r| Receipt { node_seq: 9, ..r });
        items.extend(other.map(|r| receipt(&to_wire(&sign(&r, &[&secrets.identity])))));
        items
    });
    two.refuses(Code::ReceiptConflict).await
}

async fn hub_shows_one_node_the_receipt_of_another() -> Result<Seen> {
    let two = Two::set().await?;
    two.lies(|both| {
        let mut items = both.told();
        items.pop();
        let is_receipt = |i: &&Item| matches!(i, Item::Event(StreamEvent::Receipt { .. }));
        items.extend(both.honest.iter().find(is_receipt).cloned());
        items
    });
    two.refuses(Code::ReceiptForged).await
}

async fn hub_goes_on_after_a_receipt_of_several() -> Result<Seen> {
    let two = Two::set().await?;
    two.lies(|both| {
        let mut items = both.told();
        items.push(Item::Log(frame(PRINTED.len() as u64, b"and more\n")));
        items
    });
    two.refuses(Code::OutputMismatch).await
}

/// A pattern means a name that is claimed twice: neither machine runs it, and neither is left out without a word.
async fn hub_lists_a_second_machine_of_a_name_that_a_pattern_means() -> Result<Seen> {
    let two = Two::set().await?;
    let (id, papers) = second_machine(&two.scene, SECOND)?;
    two.scene.hub.people().show_node(&id, &name(SECOND), papers);
    let pattern = ["run", "--profile", "host", "web-*", "--", "true"];
    let seen = two.client.refuses_to(&pattern, Code::AmbiguousName).await?;
    let knowingly = [
        "run",
        "--json",
        "--dry-run",
        "--skip-unproven",
        "web-*",
        "--",
        "true",
    ];
    let done = two.client.types(&knowingly).await?;
    ensure!(done.code()? == 0, "{}", done.stderr);
    let meant = done.result()?;
    ensure!(
        meant["nodes"].as_array().is_some_and(|n| n.len() == 1) && meant["nodes"][0]["name"] == NODE,
        "{meant}"
    );
    ensure!(
        done.stderr.contains("left out") && done.stderr.contains(SECOND),
        "{}",
        done.stderr
    );
    Ok(seen)
}
