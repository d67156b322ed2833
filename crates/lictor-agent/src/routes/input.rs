//! A job's input as the bytes that it is: they go to the warden in pieces, as soon as they come.
//!
//! A body that breaks off has brought what has come: the warden says to the next offer from where on it needs the rest.

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use lictor_proto::agent::{Reply, Request, StdinPiece};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, limits};

use super::ask_for_hub;
use crate::port::WardenPort;

/// Bytes given to the warden at once.
const PIECE: usize = 256 * 1024;
/// What one body holds in memory, in KiB: a piece, and the frame that fills it.
pub(super) const KIB: u32 = 2 * PIECE as u32 / 1024;

/// Takes an input from a position to its end. The answer is the warden's to the last piece, or to the first that it
/// refuses.
///
/// # Errors
/// `BadRequest` when the body does not say its length or is shorter, `TooLarge`.
pub(super) async fn take(
    port: &dyn WardenPort,
    (sha256, mut at): (Digest, u64),
    mut body: Body,
) -> Result<Reply, Refusal> {
    let length = body.size_hint().exact();
    let length = length.ok_or_else(|| Refusal::new(Code::BadRequest, "the body must say its length"))?;
    let end = at.checked_add(length).filter(|end| *end <= limits::ARTIFACT);
    let end =
        end.ok_or_else(|| Refusal::new(Code::TooLarge, format!("at most {} bytes", limits::ARTIFACT)))?;
    let mut piece = Vec::with_capacity(PIECE);
    loop {
        let frame = body.frame().await.transpose();
        let frame = frame.map_err(|e| Refusal::new(Code::BadRequest, format!("the body broke off: {e}")))?;
        let is_over = frame.is_none();
        if let Some(Ok(bytes)) = frame.map(hyper::body::Frame::into_data) {
            piece.extend_from_slice(&bytes);
        }
        let last = at + piece.len() as u64 == end;
        if piece.len() < PIECE && !last {
            if is_over {
                return Err(Refusal::new(Code::BadRequest, "the body is shorter than it says"));
            }
            continue;
        }
        let bytes = std::mem::replace(&mut piece, Vec::with_capacity(PIECE));
        let next = at + bytes.len() as u64;
        let request = Request::Stdin(StdinPiece {
            sha256,
            at,
            last,
            bytes,
        });
        let reply = ask_for_hub(port, request).await;
        if last || matches!(reply, Reply::Refused(_)) {
            return Ok(reply);
        }
        at = next;
    }
}
