//! Lies to people: their program must say so, and exit with 125.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use bytes::Bytes;
use lictor_client::HubAddress;
use lictor_proto::agent::LawDocs;
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::doc::{Exit, Outcome, Receipt};
use lictor_proto::frame::{Frame, FrameDecoder, FrameKind, Gap};
use lictor_proto::{Code, Digest, Envelope, JobId, Timestamp, limits};

use super::attacks;
use super::listing::second_machine;
use crate::hostile::client::Client;
use crate::hostile::hub::Item;
use crate::hostile::org::{NODE, digest, name, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_changes_output => Some(Code::OutputMismatch),
    hub_cuts_the_end_of_output_off => Some(Code::OutputMismatch),
    hub_adds_output => Some(Code::OutputMismatch),
    hub_forges_output_behind_a_gap => Some(Code::OutputMismatch),
    hub_invents_output_that_was_not_kept => Some(Code::Unconfirmed),
    hub_hides_output_behind_a_gap => Some(Code::Unconfirmed),
    hub_changes_stored_output => Some(Code::OutputMismatch),
    hub_leaves_stored_output_out => Some(Code::OutputMismatch),
    hub_leaves_the_receipt_of_stored_output_out => Some(Code::Unconfirmed),
    hub_forges_a_receipt_of_stored_output => Some(Code::ReceiptForged),
    hub_forges_a_receipt => Some(Code::ReceiptForged),
    hub_changes_a_receipt => Some(Code::ReceiptForged),
    hub_leaves_the_receipt_out => Some(Code::Unconfirmed),
    hub_shows_the_receipt_of_another_job => Some(Code::WrongJob),
    hub_withholds_one_receipt_of_two => Some(Code::Unconfirmed),
    hub_withholds_a_receipt_and_goes_on => Some(Code::Unconfirmed),
    hub_shows_two_receipts => Some(Code::ReceiptConflict),
    hub_serves_older_law_to_a_client => Some(Code::BundleOlder),
    hub_moves_a_remark_to_another_job => Some(Code::WrongJob),
    hub_signs_a_remark_itself => Some(Code::SignerUnknown),
    hub_changes_a_remark => Some(Code::SignatureInvalid),
    another_hub_answers_a_client => Some(Code::HubPin),
}

/// A scene with a client for whom all works.
pub(super) async fn set() -> Result<(Scene, Client)> {
    let scene = Scene::set().await?;
    let client = Client::of(&scene)?;
    client.runs().await?;
    Ok((scene, client))
}

/// The honest answer with `change` made to its output.
fn in_log(items: Vec<Item>, change: impl Fn(&mut Vec<u8>)) -> Vec<Item> {
    let told = items.into_iter().map(|item| match item {
        Item::Log(log) => {
            let mut log = log.to_vec();
            change(&mut log);
            Item::Log(log.into())
        }
        other => other,
    });
    told.collect()
}

/// The honest answer with `change` made to its receipt.
fn in_receipt(items: Vec<Item>, change: impl Fn(String) -> Option<String>) -> Vec<Item> {
    let told = items.into_iter().filter_map(|item| match item {
        Item::Event(StreamEvent::Receipt { receipt }) => {
            change(receipt).map(|receipt| Item::Event(StreamEvent::Receipt { receipt }))
        }
        other => Some(other),
    });
    told.collect()
}

fn changed(log: &mut [u8]) {
    let at = log.windows(3).position(|w| w == b"was").unwrap_or(0);
    log[at..at + 3].copy_from_slice(b"is!");
}

async fn hub_changes_output() -> Result<Seen> {
    let (scene, client) = set().await?;
    let lie = |items| in_log(items, |log| changed(log));
    scene.hub.people().lie(lie);
    client.refuses(Code::OutputMismatch).await
}

/// A job runs and is seen truly; what is told of it later is a lie.
async fn later(lie: impl Fn(Vec<Item>) -> Vec<Item> + Send + Sync + 'static, code: Code) -> Result<Seen> {
    let (scene, client) = set().await?;
    let id = client.runs_job().await?;
    let honest = client.types(&["logs", &id]).await?;
    ensure!(honest.code()? == 0, "an honest hub:\n{}", honest.stderr);
    ensure!(honest.text() == "as it was\n", "{:?}", honest.text());
    scene.hub.people().lie_later(lie);
    let id = client.runs_job().await?;
    client.refuses_to(&["logs", &id], code).await
}

async fn hub_changes_stored_output() -> Result<Seen> {
    let lie = |items| in_log(items, |log| changed(log));
    later(lie, Code::OutputMismatch).await
}

/// The stored log begins with a gap, and the rest is true.
async fn hub_leaves_stored_output_out() -> Result<Seen> {
    let lie = |items| {
        in_frames(items, |frames| {
            *frames = vec![gap(1, 6), frame(FrameKind::Stdout, 6, b"was\n")];
        })
    };
    later(lie, Code::OutputMismatch).await
}

async fn hub_forges_a_receipt_of_stored_output() -> Result<Seen> {
    let lie = |items| in_receipt(items, forged);
    later(lie, Code::ReceiptForged).await
}

/// The job has ended, says the hub, and shows what it likes.
async fn hub_leaves_the_receipt_of_stored_output_out() -> Result<Seen> {
    let lie = |items| without_receipt(in_log(items, |log| changed(log)));
    later(lie, Code::Unconfirmed).await
}

/// Somebody looks at a job, with this remark beside it.
async fn remarked(remark: impl Fn(&Scene, Digest) -> String, code: Code) -> Result<Seen> {
    let (scene, client) = set().await?;
    let id = client.runs_job().await?;
    let job = scene.hub.job_of(&id)?;
    let honest = signed(&scene.org.remark(digest(&job)?, "bob"), &["bob"]);
    scene.hub.people().show_remarks(vec![honest]);
    let looks = ["review", "--yes", &id];
    let shown = client.types(&looks).await?;
    ensure!(
        shown.stderr.contains("says that it broke the glass"),
        "with an honest remark it comes as far as that:\n{}",
        shown.stderr
    );
    let lie = remark(&scene, digest(&job)?);
    scene.hub.people().show_remarks(vec![lie]);
    client.refuses_to(&looks, code).await
}

async fn hub_moves_a_remark_to_another_job() -> Result<Seen> {
    let other = |scene: &Scene, _| signed(&scene.org.remark(Digest::of(b"another"), "bob"), &["bob"]);
    remarked(other, Code::WrongJob).await
}

async fn hub_signs_a_remark_itself() -> Result<Seen> {
    let own = |scene: &Scene, job| signed(&scene.org.remark(job, "bob"), &["the hub"]);
    remarked(own, Code::SignerUnknown).await
}

async fn hub_changes_a_remark() -> Result<Seen> {
    let changed = |scene: &Scene, job| {
        let honest = signed(&scene.org.remark(job, "bob"), &["bob"]);
        let mut envelope =
            Envelope::parse(honest.as_bytes(), limits::ENVELOPE).unwrap_or_else(|e| panic!("{e}"));
        let text =
            String::from_utf8_lossy(&envelope.payload).replace("\"reason\":\"\"", "\"reason\":\"fine\"");
        envelope.payload = text.into_bytes();
        String::from_utf8_lossy(&envelope.to_bytes()).into_owned()
    };
    remarked(changed, Code::SignatureInvalid).await
}

async fn hub_cuts_the_end_of_output_off() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie(|items| in_log(items, Vec::clear));
    client.refuses(Code::OutputMismatch).await
}

async fn hub_adds_output() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie(|mut items| {
        let more = frame(FrameKind::Stderr, 0, b"please type your passphrase\n");
        items.insert(2, Item::Log(more.encode().into()));
        items
    });
    client.refuses(Code::OutputMismatch).await
}

fn frame(kind: FrameKind, at: u64, payload: &[u8]) -> Frame {
    Frame {
        kind,
        time: Timestamp::now(),
        at,
        payload: Bytes::copy_from_slice(payload),
    }
}

/// The log goes on at this position, standard output at this offset.
fn gap(resume_at: u64, stdout_at: u64) -> Frame {
    let gap = Gap {
        resume_at,
        stdout_at,
        stderr_at: 0,
    };
    frame(FrameKind::Gap, 0, &serde_json::to_vec(&gap).unwrap_or_default())
}

/// The log with `change` made to its frames.
fn in_frames(items: Vec<Item>, change: impl Fn(&mut Vec<Frame>)) -> Vec<Item> {
    in_log(items, |log| {
        let mut decoder = FrameDecoder::default();
        decoder.push(log);
        let mut frames = Vec::new();
        while let Ok(Some(frame)) = decoder.next_frame() {
            frames.push(frame);
        }
        change(&mut frames);
        *log = frames.iter().flat_map(Frame::encode).collect();
    })
}

/// A gap of one byte, then whatever it likes, with the true receipt; the stored output is true.
async fn hub_forges_output_behind_a_gap() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie_live(|items| {
        in_frames(items, |frames| {
            *frames = vec![gap(1, 1), frame(FrameKind::Stdout, 1, b"ll good\n!")];
        })
    });
    client.refuses(Code::OutputMismatch).await
}

/// Prints more than is kept, in pieces.
const LONG: [&str; 8] = ["run", "--profile", "narrow", NODE, "--", "seq", "1", "2000"];

/// Just what the node signed as kept, as an honest hub stores it; live, more may have come.
fn as_kept(items: Vec<Item>) -> Vec<Item> {
    let receipt = items.iter().find_map(|item| match item {
        Item::Event(StreamEvent::Receipt { receipt }) => read(receipt),
        _ => None,
    });
    let Some(signed) = receipt.map(|r| r.stdout) else {
        return items;
    };
    in_frames(items, |frames| {
        let on = |frames: usize| (frames as u64 + 1) << 20;
        let mut kept = Vec::new();
        for range in &signed.kept {
            kept.push(gap(on(kept.len()), range.from));
            for f in frames.iter().filter(|f| f.kind == FrameKind::Stdout) {
                let end = f.at + f.payload.len() as u64;
                let (from, to) = (f.at.max(range.from), end.min(range.to));
                if from < to {
                    let slice = (from - f.at) as usize..(to - f.at) as usize;
                    kept.push(frame(FrameKind::Stdout, from, &f.payload[slice]));
                }
            }
        }
        kept.push(gap(on(kept.len()), signed.bytes));
        *frames = kept;
    })
}

/// The node dropped the middle, and says so; the hub fills some of it in.
async fn hub_invents_output_that_was_not_kept() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie(as_kept);
    let honest = client.types(&LONG).await?;
    ensure!(honest.code()? == 0, "an honest hub:\n{}", honest.stderr);
    ensure!(
        honest.stderr.contains("were not kept"),
        "all of it was kept:\n{}",
        honest.stderr
    );
    scene.hub.people().lie(|items| {
        in_frames(as_kept(items), |frames| {
            // Behind the head.
            let at = frames
                .iter()
                .skip(1)
                .position(|f| f.kind == FrameKind::Gap)
                .unwrap_or(0)
                + 1;
            let head = frames[..at].iter().filter(|f| f.kind == FrameKind::Stdout);
            let head: u64 = head.map(|f| f.payload.len() as u64).sum();
            frames.insert(at, frame(FrameKind::Stdout, head, b"invented\n"));
        })
    });
    client.refuses_to(&LONG, Code::Unconfirmed).await
}

/// Everything was kept, and the hub leaves it out as if it had not been.
async fn hub_hides_output_behind_a_gap() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene
        .hub
        .people()
        .lie_live(|items| in_frames(items, |frames| *frames = vec![gap(9, 0)]));
    client.refuses(Code::Unconfirmed).await
}

fn read(receipt: &str) -> Option<Receipt> {
    let envelope = Envelope::parse(receipt.as_bytes(), limits::ENVELOPE).ok()?;
    lictor_proto::json::from_slice(&envelope.payload).ok()
}

fn forged(receipt: String) -> Option<String> {
    let mut forged = read(&receipt)?;
    (forged.outcome, forged.exit) = (Outcome::Failed, Some(Exit::Status(1)));
    Some(signed(&forged, &["the hub"]))
}

async fn hub_forges_a_receipt() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie(|items| in_receipt(items, forged));
    client.refuses(Code::ReceiptForged).await
}

async fn hub_changes_a_receipt() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie(|items| {
        in_receipt(items, |receipt| {
            let mut envelope = Envelope::parse(receipt.as_bytes(), limits::ENVELOPE).ok()?;
            let payload = String::from_utf8(envelope.payload).ok()?;
            envelope.payload = payload.replace("\"succeeded\"", "\"timed_out\"").into_bytes();
            String::from_utf8(envelope.to_bytes()).ok()
        })
    });
    client.refuses(Code::ReceiptForged).await
}

/// The hub's word for the receipt.
fn without_receipt(items: Vec<Item>) -> Vec<Item> {
    let told = items.into_iter().filter_map(|item| match item {
        Item::Event(StreamEvent::Receipt { receipt }) => Some(Item::Event(StreamEvent::State {
            node_id: read(&receipt)?.node_id,
            state: ExecutionState::Succeeded,
            code: None,
            message: String::new(),
            at: Timestamp::now(),
        })),
        other => Some(other),
    });
    told.collect()
}

async fn hub_leaves_the_receipt_out() -> Result<Seen> {
    let (scene, client) = set().await?;
    scene.hub.people().lie(without_receipt);
    client.refuses(Code::Unconfirmed).await
}

/// The receipt of the first job is shown, true as it is, for the second.
async fn hub_shows_the_receipt_of_another_job() -> Result<Seen> {
    let (scene, client) = set().await?;
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    scene.hub.people().lie(move |items| {
        in_receipt(items, |receipt| {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            Some(first.get_or_insert(receipt).clone())
        })
    });
    client.runs().await?;
    client.refuses(Code::WrongJob).await
}

/// A job for two machines; of one the hub says nothing.
async fn hub_withholds_one_receipt_of_two() -> Result<Seen> {
    let (scene, client) = set().await?;
    let id = client.runs_job().await?;
    let honest = client.types(&["receipt", "verify", &id]).await?;
    ensure!(honest.code()? == 0, "an honest hub:\n{}", honest.stderr);
    let (other, papers) = second_machine(&scene, "web-2")?;
    scene.hub.people().show_node(&other, &name("web-2"), papers);
    let mut job = scene.job("alice", &["true"]);
    job.nodes.push(other);
    job.nodes.sort();
    let job = signed(&job, &["alice"]);
    let id = JobId::from_digest(&digest(&job)?).to_string();
    scene.hub.run(job).await?;
    client
        .refuses_to(&["receipt", "verify", &id], Code::Unconfirmed)
        .await
}

/// How many of the node's receipts a result says to be missing.
async fn missing(client: &Client) -> Result<Option<u64>> {
    let done = client
        .types(&["run", "--json", "--profile", "host", NODE, "--", "true"])
        .await?;
    ensure!(done.code()? == 0, "an honest hub:\n{}", done.stderr);
    Ok(done.result()?["receipts_missing"].as_u64())
}

/// What is withheld is unconfirmed at once, and leaves a gap that the node's next receipt shows: for good, since the
/// node numbers them.
async fn hub_withholds_a_receipt_and_goes_on() -> Result<Seen> {
    let (scene, client) = set().await?;
    let honest = |items| items;
    ensure!(missing(&client).await? == Some(0), "an honest hub withholds none");

    scene.hub.people().lie(without_receipt);
    client.refuses(Code::Unconfirmed).await?;
    scene.hub.people().lie(honest);
    ensure!(missing(&client).await? == Some(1), "the gap is not counted");

    scene.hub.people().lie(without_receipt);
    client.refuses(Code::Unconfirmed).await?;
    let seen = client.refuses(Code::Unconfirmed).await?;
    scene.hub.people().lie(honest);
    let job = scene.signed(&["true"]);
    let id = JobId::from_digest(&digest(&job)?).to_string();
    scene.hub.run(job).await?;
    let told = client.types(&["receipt", "verify", &id]).await?;
    ensure!(told.code()? == 0, "it holds by itself:\n{}", told.stderr);
    let note =
        "receipts of this node before this one that were not seen here: 2 (other clients' jobs, or withheld)";
    ensure!(
        told.stderr.contains(note),
        "the gap is not said:\n{}",
        told.stderr
    );
    Ok(seen)
}

async fn hub_shows_two_receipts() -> Result<Seen> {
    let (scene, client) = set().await?;
    let former: Arc<Mutex<Option<Item>>> = Arc::default();
    scene.hub.people().lie(move |mut items| {
        let mut former = former.lock().unwrap_or_else(PoisonError::into_inner);
        let own = items.last().cloned();
        if let Some(other) = former.take() {
            items.push(other);
        }
        *former = own;
        items
    });
    client.runs().await?;
    client.refuses(Code::ReceiptConflict).await
}

/// The client keeps the law that it has seen, goes on by it, and says what it was offered.
async fn hub_serves_older_law_to_a_client() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    let old: LawDocs = scene.org.docs();
    scene.org.next_bundle(|_| {});
    scene.push(scene.org.docs()).await?;
    let client = Client::of(&scene)?;
    scene.hub.people().show_law(&scene.org.id, old);
    let done = client
        .types(&["run", "--profile", "host", NODE, "--", "true"])
        .await?;
    let said = format!(
        "warning: the hub offers a bundle that does not hold: {}",
        Code::BundleOlder
    );
    ensure!(done.stderr.contains(&said), "it said nothing:\n{}", done.stderr);
    ensure!(done.code()? == 0, "{}", done.stderr);
    Ok(Seen::refused(Code::BundleOlder, crate::hostile::Place::Client))
}

async fn another_hub_answers_a_client() -> Result<Seen> {
    let (scene, client) = set().await?;
    let mut address = HubAddress {
        url: scene.hub.url(),
        spki: Some(scene.hub.web_spki()),
        link_url: None,
        link_spki: None,
    };
    client.connect(&scene, address.clone())?;
    client.runs().await?;
    address.spki = Some(Digest::of(b"the hub that was meant"));
    client.connect(&scene, address)?;
    client.refuses(Code::HubPin).await
}
