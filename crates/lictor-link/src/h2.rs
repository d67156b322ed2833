//! The HTTP/2 settings of the link, in one place for both sides.
//!
//! # The connection window
//! All streams of a connection share its window. When `live body streams x stream window` reaches the
//! connection window and nobody reads them, *every* stream stops, small replies included, and HTTP/2's own
//! pings do not notice (they are not flow-controlled, RFC 9113 section 5.2). Hence the rule, held by
//! [`crate::peer`]'s semaphore and a test: [`BODY_STREAMS`] x [`STREAM_WINDOW`] leaves at least 4 MiB of
//! [`CONNECTION_WINDOW`] for everything else. `adaptive_window` sets both windows equal, so it is off.

use std::time::Duration;

use hyper::rt::Executor;
use hyper_util::rt::TokioTimer;
use tokio_util::task::TaskTracker;

/// Bytes in flight per stream.
pub const STREAM_WINDOW: u32 = 1024 * 1024;
/// Bytes in flight per connection, and the most that stalled readers can make the hub hold for one agent.
pub const CONNECTION_WINDOW: u32 = 32 * 1024 * 1024;
/// Streams with an unbounded body at once.
pub const BODY_STREAMS: usize = 28;
/// Requests with a large body (a piece of standard input) at once: the same rule in the other direction.
pub const UPLOADS: usize = 16;
/// And with one that is sent at once, and waits for none of those.
pub const SMALL_UPLOADS: usize = 8;
/// Streams of any kind at once.
pub const STREAMS: u32 = 128;
/// Pings are sent this often, also on an idle link.
pub const PING_EVERY: Duration = Duration::from_secs(10);
/// And the link is dead when one is not answered for this long: together, half-open is found within 30 s.
pub const PING_WITHIN: Duration = Duration::from_secs(10);
const SEND_BUFFER: usize = 256 * 1024;
const FRAME: u32 = 16 * 1024;
const HEADERS: u32 = 16 * 1024;

const _: () = assert!(BODY_STREAMS as u64 * STREAM_WINDOW as u64 + (4 << 20) <= CONNECTION_WINDOW as u64);
const _: () = assert!(UPLOADS + SMALL_UPLOADS <= BODY_STREAMS);

/// Starts hyper's tasks where their owner can wait for them.
#[derive(Debug, Clone)]
pub struct TrackedExecutor(pub TaskTracker);

impl<F> Executor<F> for TrackedExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// The side that asks: the hub of a link, or a person's program.
#[must_use]
pub fn client(tasks: &TaskTracker) -> hyper::client::conn::http2::Builder<TrackedExecutor> {
    let mut b = hyper::client::conn::http2::Builder::new(TrackedExecutor(tasks.clone()));
    b.timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN)
        .keep_alive_while_idle(true);
    b
}

/// The side that serves: the agent.
#[must_use]
pub fn server(tasks: &TaskTracker) -> hyper::server::conn::http2::Builder<TrackedExecutor> {
    let mut b = hyper::server::conn::http2::Builder::new(TrackedExecutor(tasks.clone()));
    b.timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WITHIN);
    b
}
