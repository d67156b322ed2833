//! HTTP/1 as it is spoken to a proxy (RFC 9110, 9112): CONNECT, and plain requests in absolute form.
//!
//! ```text
//! head ─┬─ CONNECT host:port ─▶ tunnel, to its end
//!       └─ GET http://host/.. ─▶ attempt ─▶ one connection ─▶ request ─▶ answer ─▶ next head
//! ```
//!
//! # Invariants
//! - Each request is an attempt of its own with a connection of its own, whatever came before it on this one.
//! - What is sent on is written anew from what was understood; no byte of a head is passed through unread.

mod body;
mod exchange;
mod head;
mod target;
pub mod understood;

use std::io;

use lictor_proto::egress::{Protocol, Reason};

use crate::connection::Tunnel;
use crate::denial::Denial;
use crate::job::{Job, linger};
use crate::stream::Reader;

use exchange::After;
use head::{HeadError, Request};
use target::Target;

/// Serves an HTTP connection, of which something has been read, to its end.
pub(crate) async fn serve(job: &Job, client: &mut Reader<'_>) {
    loop {
        let request = match read_request(job, client).await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(denial) => {
                job.attempt(Protocol::Unknown).deny(&denial).await;
                return answer(job, client, &denial).await;
            }
        };
        match one(job, client, request).await {
            Ok(After::Next) if !job.ledger.is_spent() => {}
            Ok(_) => return,
            Err(denial) => return answer(job, client, &denial).await,
        }
        if !wait_for_next(job, client).await {
            return;
        }
    }
}

/// The head of the next request; nothing when there is none.
async fn read_request(job: &Job, client: &mut Reader<'_>) -> Result<Option<Request>, Denial> {
    let limit = job.limits.head_bytes as usize;
    let read = job
        .step("the request head took too long", head::read(client, limit))
        .await?;
    match read {
        Ok(Some(head)) => head::request(&head).map(Some).map_err(Denial::bad),
        Ok(None) => Ok(None),
        Err(HeadError::Broken(what)) => Err(Denial::bad(what)),
        Err(HeadError::Gone) => Err(Denial::gone()),
    }
}

/// Waits until another request starts on a connection that is kept.
async fn wait_for_next(job: &Job, client: &mut Reader<'_>) -> bool {
    if !client.held.is_empty() {
        return true;
    }
    tokio::select! {
        () = job.has_ended() => false,
        read = tokio::time::timeout(job.idle(), client.more()) => matches!(read, Ok(Ok(1..))),
    }
}

/// One request. A denial has been recorded and is still to be told.
async fn one(job: &Job, client: &mut Reader<'_>, request: Request) -> Result<After, Denial> {
    let connect = request.method == "CONNECT";
    let mut attempt = job.attempt(if connect {
        Protocol::Connect
    } else {
        Protocol::Http
    });
    let target = match target::of(&request) {
        Ok(target) => target,
        Err(denial) => {
            attempt.deny(&denial).await;
            return Err(denial);
        }
    };
    match target {
        Target::Tunnel { host, port } => {
            attempt.asks_for(&host, port);
            let tunnel = Tunnel::open(attempt, host, port).await?;
            tunnel
                .run(client, b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await;
            Ok(After::Close)
        }
        Target::Plain { host, port, path } => {
            let asked = exchange::Asked { host, port, path };
            exchange::run(attempt, client, &request, &asked).await
        }
    }
}

/// Tells an HTTP client why not, and closes.
async fn answer(job: &Job, client: &Reader<'_>, denial: &Denial) {
    let status = match denial.reason {
        Reason::BadRequest | Reason::Unsupported => "400 Bad Request",
        Reason::Timeout => "408 Request Timeout",
        Reason::DnsFailed => "502 Bad Gateway",
        Reason::DialFailed if denial.kind == Some(io::ErrorKind::TimedOut) => "504 Gateway Timeout",
        Reason::DialFailed => "502 Bad Gateway",
        _ => "403 Forbidden",
    };
    let body = format!("lictor-egress: {}: {}\n", denial.reason, denial.detail);
    let answer = format!(
        "HTTP/1.1 {status}\r\nlictor-egress: {}\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        denial.reason,
        body.len()
    );
    let said = job
        .step(
            "the client does not read",
            client.stream().write_all(answer.as_bytes()),
        )
        .await;
    if matches!(said, Ok(Ok(()))) {
        linger(job, client.stream()).await;
    }
}
