//! Files on their way to a node: other bytes, fewer, more, elsewhere, again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hyper::Method;
use lictor_proto::agent::{OfferReply, Reply, Request, StdinPiece};
use lictor_proto::doc::{Fetch, Job, Spec};
use lictor_proto::{Code, Digest, Envelope, limits};
use tempfile::TempDir;

use super::attacks;
use crate::hostile::org::signed;
use crate::hostile::{Scene, Seen};

attacks! {
    hub_swaps_a_file => Some(Code::StdinMismatch),
    hub_cuts_a_file_short => Some(Code::StdinMismatch),
    hub_brings_a_file_that_never_ends => Some(Code::LimitExceeded),
    hub_leaves_a_file_out => Some(Code::StdinMissing),
    hub_changes_where_a_file_goes => Some(Code::SignatureInvalid),
    hub_brings_a_file_again => Some(Code::Replayed),
    hub_has_a_larger_file_come_that_nobody_waits_for => Some(Code::LimitExceeded),
    hub_swaps_a_file_in_a_stream => Some(Code::StdinMismatch),
    hub_streams_more_than_a_file_has => Some(Code::LimitExceeded),
    hub_swaps_the_url_of_a_file => Some(Code::SignatureInvalid),
    hub_takes_the_url_away_to_bring_a_file_itself => Some(Code::SignatureInvalid),
    hub_brings_a_file_that_the_node_fetches => Some(Code::Unenforceable),
}

const CONTENT: &[u8] = b"the true content of a file\n";

/// A place for a file, by its real path.
fn place() -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let to = dir.path().canonicalize()?.join("file");
    Ok((dir, to))
}

fn job(scene: &Scene, to: &Path) -> Result<String> {
    let mut job = scene.job("alice", &["true"]);
    job.spec = Spec::Fetch(Fetch {
        to: to.to_str().context("path")?.to_owned(),
        url: None,
        sha256: Digest::of(CONTENT),
        size: CONTENT.len() as u64,
        mode: "0644".to_owned(),
        owner: None,
        group: None,
        replace: false,
        timeout_ms: None,
        sandbox: None,
    });
    job.kind = job.spec.kind();
    Ok(signed(&job, &["alice"]))
}

fn piece(bytes: &[u8], at: usize, last: bool) -> Request {
    Request::Stdin(StdinPiece {
        sha256: Digest::of(CONTENT),
        at: at as u64,
        last,
        bytes: bytes.to_vec(),
    })
}

/// The honest version: the file is there, whole.
async fn honestly(scene: &Scene, job: &str, to: &Path) -> Result<()> {
    let reply = scene.hub.ask(&piece(CONTENT, 0, true)).await?;
    ensure!(reply == Reply::Done, "honest content was refused: {reply:?}");
    scene.runs(job, &[]).await?;
    ensure!(fs::read(to)? == CONTENT, "another file");
    Ok(())
}

/// What no refused attempt may have done.
fn nothing_came(to: &Path) -> Result<()> {
    let dir = to.parent().context("a directory")?;
    ensure!(
        fs::read_dir(dir)?.next().is_none(),
        "IT GOT THROUGH: something is there"
    );
    Ok(())
}

async fn not_these(bytes: &[u8]) -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = job(&scene, &to)?;
    let seen = scene
        .refuses_request(&piece(bytes, 0, true), Code::StdinMismatch)
        .await?;
    let late = scene.refused_offer(&job).await?;
    ensure!(late == Code::StdinMissing, "{late}");
    nothing_came(&to)?;
    honestly(&scene, &job, &to).await?;
    Ok(seen)
}

async fn hub_swaps_a_file() -> Result<Seen> {
    not_these(b"the hub's content of a file").await
}

async fn hub_cuts_a_file_short() -> Result<Seen> {
    not_these(&CONTENT[..CONTENT.len() - 1]).await
}

/// The node knows from the job how much there is, and takes no byte more.
async fn hub_brings_a_file_that_never_ends() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = job(&scene, &to)?;
    let late = scene.refused_offer(&job).await?;
    ensure!(late == Code::StdinMissing, "{late}");
    let whole = scene.hub.ask(&piece(CONTENT, 0, false)).await?;
    ensure!(whole == Reply::Done, "{whole:?}");
    let more = piece(b"x", CONTENT.len(), false);
    let seen = scene.refuses_request(&more, Code::LimitExceeded).await?;
    nothing_came(&to)?;
    honestly(&scene, &job, &to).await?;
    Ok(seen)
}

async fn hub_leaves_a_file_out() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = job(&scene, &to)?;
    let seen = scene.refuses(&job, Code::StdinMissing).await?;
    nothing_came(&to)?;
    // The link breaks in the middle; the node says from where it goes on, and no hub can make it begin elsewhere.
    let (first, rest) = CONTENT.split_at(7);
    ensure!(scene.hub.ask(&piece(first, 0, false)).await? == Reply::Done);
    let wanted = OfferReply::Wanted {
        sha256: Digest::of(CONTENT),
        at: first.len() as u64,
    };
    ensure!(
        scene.offer(&job, &[]).await? == wanted,
        "it does not say what it has"
    );
    let hole = scene
        .refused_request(&piece(&rest[1..], first.len() + 1, true))
        .await?;
    ensure!(hole.code == Code::BadRequest, "{hole}");
    ensure!(scene.hub.ask(&piece(rest, first.len(), true)).await? == Reply::Done);
    scene.runs(&job, &[]).await?;
    ensure!(fs::read(&to)? == CONTENT, "another file");
    Ok(seen)
}

async fn hub_changes_where_a_file_goes() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let honest = job(&scene, &to)?;
    let mut envelope = Envelope::parse(honest.as_bytes(), limits::JOB_ENVELOPE)?;
    let path = to.to_str().context("path")?;
    let text = String::from_utf8(envelope.payload)?.replace(path, "/tmp/lictor-the-hubs-choice");
    envelope.payload = text.into_bytes();
    let changed = String::from_utf8(envelope.to_bytes())?;
    let seen = scene.refuses(&changed, Code::SignatureInvalid).await?;
    ensure!(
        !Path::new("/tmp/lictor-the-hubs-choice").exists(),
        "IT GOT THROUGH"
    );
    honestly(&scene, &honest, &to).await?;
    Ok(seen)
}

async fn hub_brings_a_file_again() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = job(&scene, &to)?;
    honestly(&scene, &job, &to).await?;
    fs::remove_file(&to)?;
    scene.hub.ask(&piece(CONTENT, 0, true)).await?;
    ensure!(
        scene.offer(&job, &[]).await? == OfferReply::Known,
        "offered again"
    );
    let seen = scene.noted(Code::Replayed).await?;
    nothing_came(&to)?;
    Ok(seen)
}

async fn hub_has_a_larger_file_come_that_nobody_waits_for() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let beyond = Request::Stdin(StdinPiece {
        sha256: Digest::of(b"large"),
        at: limits::STDIN,
        last: false,
        bytes: vec![0; 16],
    });
    let seen = scene.refuses_request(&beyond, Code::LimitExceeded).await?;
    honestly(&scene, &job(&scene, &to)?, &to).await?;
    Ok(seen)
}

/// Bytes as one body, from a position on.
async fn streamed(scene: &Scene, bytes: &[u8], from: usize) -> Result<Reply> {
    let path = format!("/v1/input/{}?from={from}", Digest::of(CONTENT));
    let answer = scene.hub.call(Method::POST, &path, bytes.to_vec().into()).await?;
    Ok(lictor_proto::json::from_slice(&answer.body)?)
}

async fn refuses_stream(scene: &Scene, bytes: &[u8], code: Code) -> Result<Seen> {
    match streamed(scene, bytes, 0).await? {
        Reply::Refused(why) if why.code == code => scene.noted(code).await,
        other => anyhow::bail!("IT GOT THROUGH: {other:?}"),
    }
}

async fn streams_what_is_there(scene: &Scene, job: &str, to: &Path) -> Result<()> {
    let (first, rest) = CONTENT.split_at(7);
    ensure!(scene.hub.ask(&piece(first, 0, false)).await? == Reply::Done);
    let reply = streamed(scene, rest, first.len()).await?;
    ensure!(reply == Reply::Done, "honest content was refused: {reply:?}");
    scene.runs(job, &[]).await?;
    ensure!(fs::read(to)? == CONTENT, "another file");
    Ok(())
}

async fn hub_swaps_a_file_in_a_stream() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = job(&scene, &to)?;
    let seen = refuses_stream(&scene, b"the hub's content of a file", Code::StdinMismatch).await?;
    let late = scene.refused_offer(&job).await?;
    ensure!(late == Code::StdinMissing, "{late}");
    // The end of a body is no end of a file.
    refuses_stream(&scene, &CONTENT[..7], Code::StdinMismatch).await?;
    nothing_came(&to)?;
    streams_what_is_there(&scene, &job, &to).await?;
    Ok(seen)
}

async fn hub_streams_more_than_a_file_has() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = job(&scene, &to)?;
    let late = scene.refused_offer(&job).await?;
    ensure!(late == Code::StdinMissing, "{late}");
    let more = [CONTENT, b"and more"].concat();
    let seen = refuses_stream(&scene, &more, Code::LimitExceeded).await?;
    nothing_came(&to)?;
    streams_what_is_there(&scene, &job, &to).await?;
    Ok(seen)
}

const URL: &str = "https://dl.example.org/app/file";

/// The same job, but that the node fetches the file itself.
fn fetched(scene: &Scene, to: &Path) -> Result<String> {
    let mut job = scene.job("alice", &["true"]);
    let written = self::job(scene, to)?;
    let written = Envelope::parse(written.as_bytes(), limits::JOB_ENVELOPE)?;
    let written: Job = serde_json::from_slice(&written.payload)?;
    let Spec::Fetch(fetch) = written.spec else {
        anyhow::bail!("another job")
    };
    job.spec = Spec::Fetch(Fetch {
        url: Some(URL.parse()?),
        ..fetch
    });
    job.kind = job.spec.kind();
    job.profile = "fetches".parse()?;
    Ok(signed(&job, &["alice"]))
}

/// The signed bytes are other ones, around the same signature.
async fn not_in_other_words(from: &str, to_words: &str) -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = fetched(&scene, &to)?;
    let mut envelope = Envelope::parse(job.as_bytes(), limits::JOB_ENVELOPE)?;
    let text = String::from_utf8(envelope.payload)?;
    ensure!(text.contains(from), "{from} is not in {text}");
    envelope.payload = text.replace(from, to_words).into_bytes();
    let changed = String::from_utf8(envelope.to_bytes())?;
    scene.hub.ask(&piece(CONTENT, 0, true)).await?;
    let seen = scene.refuses(&changed, Code::SignatureInvalid).await?;
    nothing_came(&to)?;
    honestly(&scene, &self::job(&scene, &to)?, &to).await?;
    Ok(seen)
}

async fn hub_swaps_the_url_of_a_file() -> Result<Seen> {
    not_in_other_words("dl.example.org", "hub.example.org").await
}

async fn hub_takes_the_url_away_to_bring_a_file_itself() -> Result<Seen> {
    not_in_other_words(&format!("\"url\":\"{URL}\","), "").await
}

/// The very bytes that were signed: what is fetched is fetched, and what a hub brings does not stand in for it. This node, whose
/// warden is in the test's own process, has nobody to fetch it, and says so.
async fn hub_brings_a_file_that_the_node_fetches() -> Result<Seen> {
    let scene = Scene::set().await?;
    let (_dir, to) = place()?;
    let job = fetched(&scene, &to)?;
    let brought = scene.hub.ask(&piece(CONTENT, 0, true)).await?;
    ensure!(brought == Reply::Done, "{brought:?}");
    let seen = scene.refuses(&job, Code::Unenforceable).await?;
    nothing_came(&to)?;
    honestly(&scene, &self::job(&scene, &to)?, &to).await?;
    Ok(seen)
}
