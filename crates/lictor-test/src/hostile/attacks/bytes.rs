//! Too many bytes, or bytes that are nothing: below and at the level of documents.

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use lictor_audit::EventType;
use lictor_link::ws::MAX_MESSAGE;
use lictor_proto::agent::{Offer, OfferReply, Request};
use lictor_proto::{Code, limits};

use super::attacks;
use crate::hostile::{Place, Scene, Seen};

attacks! {
    hub_sends_an_envelope_that_is_too_long => Some(Code::LimitExceeded),
    hub_floods_a_node_with_garbage => Some(Code::EnvelopeMalformed),
    hub_sends_a_request_that_is_too_long => Some(Code::TooLarge),
    hub_sends_a_request_that_two_readers_could_read_differently => Some(Code::BadRequest),
    hub_sends_a_websocket_message_that_is_too_long => None,
    hub_sends_a_frame_that_is_too_long => None,
}

async fn hub_sends_an_envelope_that_is_too_long() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.honest().await?;
    let job = scene.signed(&["true"]);
    let padded = job.replacen('{', &format!("{{{}", " ".repeat(limits::JOB_ENVELOPE)), 1);
    let seen = scene.refuses(&padded, Code::LimitExceeded).await?;
    scene.runs(&job, &[]).await?;
    Ok(seen)
}

/// The node goes on working, and its audit log grows by a bounded number of records.
async fn hub_floods_a_node_with_garbage() -> Result<Seen> {
    let scene = Scene::set().await?;
    for n in 0..500 {
        let garbage = Request::Offer(Offer {
            job: format!("{{\"n\":{n}}}"),
            approvals: vec![],
            releases: Vec::new(),
            secrets: vec![],
        });
        match scene.hub.ask(&garbage).await? {
            lictor_proto::agent::Reply::Offer(OfferReply::Refused(r)) => {
                ensure!(r.code == Code::EnvelopeMalformed, "{r}");
            }
            other => bail!("IT GOT THROUGH: {other:?}"),
        }
    }
    let seen = scene.noted(Code::EnvelopeMalformed).await?;
    let written = scene.count(EventType::OfferRefused)?;
    ensure!(written < 100, "{written} records of 500 offers");
    scene.honest().await?;
    Ok(seen)
}

/// Refused by what the request says of itself, before its bytes are read.
async fn hub_sends_a_request_that_is_too_long() -> Result<Seen> {
    let scene = Scene::set().await?;
    let body = vec![b' '; limits::ASK + 1];
    refused_by_the_link(&scene, body.into(), StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge).await
}

async fn hub_sends_a_request_that_two_readers_could_read_differently() -> Result<Seen> {
    let scene = Scene::set().await?;
    let twice = br#"{"cancel":"a","cancel":"b"}"#;
    refused_by_the_link(
        &scene,
        Bytes::from_static(twice),
        StatusCode::BAD_REQUEST,
        Code::BadRequest,
    )
    .await
}

async fn refused_by_the_link(scene: &Scene, body: Bytes, status: StatusCode, code: Code) -> Result<Seen> {
    let answer = scene.hub.call(Method::POST, "/v1/ask", body).await?;
    ensure!(answer.status == status, "answered {}", answer.status);
    let got = answer.refusal().code;
    ensure!(got == code, "refused with {got}");
    scene.honest().await?;
    Ok(Seen::refused(code, Place::Link))
}

/// The agent ends a link that it cannot make sense of, and dials again.
async fn ends_the_link(raw: Vec<u8>) -> Result<Seen> {
    let scene = Scene::set().await?;
    let links = scene.hub.links();
    scene.hub.seize_next_link(raw);
    scene.hub.cut();
    // The seized link is never counted: the next one that is comes after the agent has given that one up.
    scene.hub.link_after(links).await?;
    ensure!(!scene.hub.is_seizing(), "the raw bytes were never sent");
    scene.honest().await?;
    Ok(Seen {
        code: None,
        at: Place::Link,
    })
}

async fn hub_sends_a_websocket_message_that_is_too_long() -> Result<Seen> {
    ends_the_link(vec![0; MAX_MESSAGE + 1]).await
}

/// An HTTP/2 preface, and a DATA frame of 16 MiB less one byte, far over what the settings allow.
async fn hub_sends_a_frame_that_is_too_long() -> Result<Seen> {
    let mut raw = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    raw.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    raw.extend_from_slice(&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    raw.extend_from_slice(&[0; 1024]);
    ends_the_link(raw).await
}
