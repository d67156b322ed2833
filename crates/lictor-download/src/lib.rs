//! Asks a server for one file, over one connection that leads to the egress proxy, and writes down what comes.
//!
//! ```text
//!   order ─▶ https: CONNECT ─▶ TLS ─▶ GET     ─┬─▶ 200, 206 ─▶ {"content":{"at":..}}, then the bytes
//!            http:  GET with the whole URL    ─┼─▶ 30x      ─▶ {"elsewhere":{"url":..}}
//!                                              └─▶ else     ─▶ why not
//! ```
//!
//! It is the whole of a process that an agent starts for each request (`lictor_sandbox::Errand`): what a server sends is read
//! here and nowhere else of the agent. The process has no key, no socket of its own making, and no file to write to. It follows nothing by itself:
//! where a server says that the file is elsewhere, that is the answer, and the warden asks there or not.
//!
//! # Invariants
//! - No byte more is written than was ordered.
//! - Nothing of the machine's or anybody's environment is read but the certificates that the machine trusts.
#![forbid(unsafe_code)]
#![cfg(unix)]

mod answer;
mod body;
mod tunnel;

use std::io::Write;
use std::os::fd::OwnedFd;

use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use lictor_proto::doc::Scheme;
use lictor_proto::download::{Answer, Failed, Order, Why};
use lictor_proto::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;

/// The most that is read at once, so also the longest head of an answer.
const HEAD: usize = 256 * 1024;
/// The most lines that a head may have.
const LINES: usize = 100;

/// Does what is ordered, over `connection` to the egress proxy; writes the answer and what follows it to `output`.
///
/// # Errors
/// [`Failed`]: what an order's giver should make of it.
pub fn run(order: &Order, connection: OwnedFd, output: &mut dyn Write) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| again(format!("it cannot run: {e}")))?;
    runtime.block_on(async {
        let stream = std::os::unix::net::UnixStream::from(connection);
        let ready = stream.set_nonblocking(true);
        let stream = ready.and_then(|()| UnixStream::from_std(stream));
        let stream = stream.map_err(|e| again(format!("there is no way out: {e}")))?;
        match order.url.scheme() {
            Scheme::Http => ask(order, stream, output).await,
            Scheme::Https => {
                let stream = tunnel::open(order, stream).await?;
                ask(order, stream, output).await
            }
        }
    })
}

/// A failure that may not come again.
pub(crate) fn again(text: impl Into<String>) -> Failed {
    Failed::new(Why::Again, text)
}

/// One request, one answer.
async fn ask<S>(order: &Order, stream: S, output: &mut dyn Write) -> Result<(), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD).max_headers(LINES);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| broken(&e))?;
    let exchange = async move {
        let response = sender.send_request(request(order)?).await;
        answer(order, response.map_err(|e| broken(&e))?, output).await
    };
    let (mut exchange, mut connection) = (std::pin::pin!(exchange), std::pin::pin!(connection));
    tokio::select! {
        biased;
        done = &mut exchange => done,
        // It ends with the last of the answer; what is read of that is still to be written.
        _ = &mut connection => exchange.await,
    }
}

fn request(order: &Order) -> Result<Request<Empty<Bytes>>, Failed> {
    let url = &order.url;
    // A proxy is asked with the whole of it.
    let target = match url.scheme() {
        Scheme::Http => url.as_str(),
        Scheme::Https => url.path(),
    };
    let mut request = Request::get(target)
        .header(header::HOST, url.authority())
        .header(header::USER_AGENT, concat!("lictor/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close");
    if order.from > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", order.from));
    }
    let made = request.body(Empty::new());
    made.map_err(|e| Failed::new(Why::Final, format!("the URL cannot be asked for: {e}")))
}

async fn answer(order: &Order, response: Response<Incoming>, output: &mut dyn Write) -> Result<(), Failed> {
    let answer = answer::of(order, response.status(), response.headers())?;
    say(&answer, output)?;
    match answer {
        Answer::Content { at } => body::write(order, at, response.into_body(), output).await,
        Answer::Elsewhere { .. } => Ok(()),
    }
}

fn say(answer: &Answer, output: &mut dyn Write) -> Result<(), Failed> {
    let mut line = json::to_vec(answer).map_err(|e| again(format!("the answer cannot be said: {e}")))?;
    line.push(b'\n');
    output
        .write_all(&line)
        .and_then(|()| output.flush())
        .map_err(|e| again(format!("nobody listens: {e}")))
}

pub(crate) fn broken(error: &hyper::Error) -> Failed {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    again(format!("the connection broke: {text}"))
}
