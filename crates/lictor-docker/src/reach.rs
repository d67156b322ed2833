//! Requests over the daemon's socket, a connection for each, and no more read from it than an answer may be long.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as Problem;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper::Response;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio_util::task::TaskTracker;

/// Bytes of an answer, its head included. Lists are the longest, of which only the agent's own containers are asked for.
const MOST: u64 = 4 << 20;
/// Seconds until an answer begins, and then until it ends.
const PATIENCE: u64 = 60;

/// A client for a daemon; nothing is sent yet.
pub(super) fn client(socket: &Path, connections: &TaskTracker) -> Result<Docker, Problem> {
    let (socket, connections) = (socket.to_owned(), connections.clone());
    let transport = move |request| ask(socket.clone(), connections.clone(), request);
    Docker::connect_with_custom_transport(transport, Some("http://docker"), PATIENCE, API_DEFAULT_VERSION)
}

async fn ask(
    socket: PathBuf,
    connections: TaskTracker,
    mut request: BollardRequest,
) -> Result<Response<Incoming>, Problem> {
    let (from, to) = UnixStream::connect(&socket).await?.into_split();
    let stream = TokioIo::new(tokio::io::join(from.take(MOST), to));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    // As a client that knows its server writes it: where to is said in a line of its own.
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    *request.uri_mut() = path.try_into().map_err(hyper::http::Error::from)?;
    request
        .headers_mut()
        .insert(HOST, HeaderValue::from_static("docker"));
    // Ends with the answer, or when nobody wants that any more.
    connections.spawn(tokio::time::timeout(Duration::from_secs(PATIENCE), connection));
    Ok(sender.send_request(request).await?)
}
