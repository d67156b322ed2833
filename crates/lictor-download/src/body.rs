//! The bytes of a file, as far as they were ordered.

use std::io::Write;

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use lictor_proto::download::{Failed, Order, Why};

use crate::{again, broken};

/// Writes the body, which begins at `at`, to the last byte that was ordered; one more is one too many.
pub(crate) async fn write(
    order: &Order,
    mut at: u64,
    mut body: Incoming,
    output: &mut dyn Write,
) -> Result<(), Failed> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken(&e))?;
        // Trailers say nothing that counts.
        let Ok(bytes) = frame.into_data() else { continue };
        let left = order.size.saturating_sub(at);
        if bytes.len() as u64 > left {
            let text = format!(
                "the server sends more than the {} bytes that the job is signed for",
                order.size
            );
            return Err(Failed::new(Why::Size, text));
        }
        output
            .write_all(&bytes)
            .map_err(|e| again(format!("nobody listens: {e}")))?;
        at += bytes.len() as u64;
    }
    output
        .flush()
        .map_err(|e| again(format!("nobody listens: {e}")))?;
    match at == order.size {
        true => Ok(()),
        false => Err(again(format!("it ended after {at} of {} bytes", order.size))),
    }
}
