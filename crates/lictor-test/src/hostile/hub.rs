//! A hub entirely in an attacker's hands: real keys, real protocols, no scruples.
//!
//! ```text
//!   agent  ==TLS lictor/1, WebSocket, HTTP/2==>  HostileHub  <==HTTP== lictor run, receipt verify
//!                                                 |   Lies: what it changes on the way
//!                                          the test, which tells it what to send
//! ```
//! It is honest until it is told a lie, so that every attack can first be shown working without one.

mod people;

use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use lictor_link::cert::{Identity, WebPem, generate_web};
use lictor_link::h2::TrackedExecutor;
use lictor_link::http::Answer;
use lictor_link::peer::Peer;
use lictor_link::tls::{Accepted, HubTls};
use lictor_link::ws::{self, WsStream};
use lictor_proto::agent::stream::{Decoder, Message};
use lictor_proto::agent::{Reply, Request};
use lictor_proto::api::{EnrollReply, EnrollRequest};
use lictor_proto::{Digest, json, limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

pub use people::{Item, Lie, People};

use super::org::key;

/// Nothing of a test waits longer.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A hub that does what it is told.
pub struct HostileHub {
    port: u16,
    link_spki: Digest,
    web_spki: Digest,
    /// What it answers to a machine that enrols.
    enrolment: Mutex<Option<EnrollReply>>,
    /// The record that a machine has sent.
    record: Mutex<Option<String>>,
    /// The link that is up, counted.
    link: watch::Sender<(u64, Option<Peer>)>,
    /// Everything the node has said over any link.
    heard: watch::Sender<Vec<Message>>,
    /// Raw sockets instead of a link, for those who want to break its framing.
    seize: Mutex<Option<Vec<u8>>>,
    pub(super) people: Mutex<People>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A hub that is up, and gone when this is dropped.
pub struct Raised {
    hub: Arc<HostileHub>,
    _ends: DropGuard,
}

impl Deref for Raised {
    type Target = HostileHub;
    fn deref(&self) -> &HostileHub {
        &self.hub
    }
}

impl HostileHub {
    /// Starts one on a free port of this machine.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start() -> Result<Raised> {
        lictor_link::install_crypto_provider();
        let link = Identity::link(&key("the hub's link key").seed())?;
        let pem: WebPem = generate_web(&["127.0.0.1".into()])?;
        let web = Identity::from_pem(&pem)?;
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let hub = Arc::new(Self {
            port: tcp.local_addr()?.port(),
            link_spki: link.spki()?,
            web_spki: web.spki()?,
            enrolment: Mutex::default(),
            record: Mutex::default(),
            link: watch::Sender::new((0, None)),
            heard: watch::Sender::new(Vec::new()),
            seize: Mutex::default(),
            people: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        });
        let tls = HubTls::new(link, web)?;
        let serving = accept(hub.clone(), tcp, tls);
        let stop = hub.stop.clone();
        hub.tasks
            .spawn(async move { stop.run_until_cancelled(serving).await });
        let ends = hub.stop.clone().drop_guard();
        Ok(Raised { hub, _ends: ends })
    }

    /// Its address for agents.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its address for people on this machine.
    #[must_use]
    pub fn plain_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What agents pin.
    #[must_use]
    pub fn link_spki(&self) -> Digest {
        self.link_spki
    }

    /// What people pin.
    #[must_use]
    pub fn web_spki(&self) -> Digest {
        self.web_spki
    }

    /// What it will answer to a machine that enrols.
    pub fn give(&self, enrolment: EnrollReply) {
        *hold(&self.enrolment) = Some(enrolment);
    }

    /// The record that the last machine sent.
    ///
    /// # Errors
    /// When none has.
    pub fn record(&self) -> Result<String> {
        hold(&self.record).clone().context("no machine has enrolled")
    }

    /// What it shows to people, and how it lies to them.
    pub fn people(&self) -> MutexGuard<'_, People> {
        hold(&self.people)
    }

    /// The link, once it is up.
    ///
    /// # Errors
    /// When no agent connects in time.
    pub async fn link(&self) -> Result<Peer> {
        self.link_after(0).await.map(|(_, peer)| peer)
    }

    /// How many links there have been.
    #[must_use]
    pub fn links(&self) -> u64 {
        self.link.borrow().0
    }

    /// The first link after so many others.
    ///
    /// # Errors
    /// When no agent connects in time.
    pub async fn link_after(&self, count: u64) -> Result<(u64, Peer)> {
        let mut links = self.link.subscribe();
        let up = links.wait_for(|(n, peer)| *n > count && peer.is_some());
        let up = tokio::time::timeout(PATIENCE, up)
            .await
            .context("no link came up")??;
        let peer = up.1.clone().context("the link went down at once")?;
        Ok((up.0, peer))
    }

    /// Cuts the link, as a hub may at any time. The agent will dial again.
    pub fn cut(&self) {
        self.link.send_modify(|link| link.1 = None);
    }

    /// Writes these bytes below HTTP/2 on the next link, instead of serving it.
    pub fn seize_next_link(&self, raw: Vec<u8>) {
        *hold(&self.seize) = Some(raw);
    }

    /// Whether those bytes still wait for a link.
    #[must_use]
    pub fn is_seizing(&self) -> bool {
        hold(&self.seize).is_some()
    }

    /// Asks the agent over the link.
    ///
    /// # Errors
    /// When there is no link or no answer.
    pub async fn ask(&self, request: &Request) -> Result<Reply> {
        let body = json::to_vec(request)?;
        let answer = self.call(Method::POST, "/v1/ask", body.into()).await?;
        if !answer.status.is_success() {
            bail!("/v1/ask answered {}: {}", answer.status, answer.refusal());
        }
        Ok(json::from_slice(&answer.body)?)
    }

    /// Sends anything to any route of the agent.
    ///
    /// # Errors
    /// When there is no link or no answer.
    pub async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Answer> {
        let peer = self.link().await?;
        Ok(peer.call(method, path, body, limits::ASK, PATIENCE).await?)
    }

    /// The first thing that the node says, or has said, of which `pick` makes something.
    ///
    /// # Errors
    /// When it doesn't in time.
    pub async fn hears<T>(&self, what: &str, pick: impl Fn(&Message) -> Option<T>) -> Result<T> {
        let mut heard = self.heard.subscribe();
        let all = heard.wait_for(|all| all.iter().any(|m| pick(m).is_some()));
        let all = tokio::time::timeout(PATIENCE, all).await;
        let all = all.with_context(|| format!("waited in vain for {what}"))??;
        all.iter().find_map(&pick).context("it was there")
    }

    /// Forgets what the node has said.
    pub fn forget(&self) {
        self.heard.send_modify(Vec::clear);
    }

    /// The whole log of an execution, as frames.
    ///
    /// # Errors
    /// When the agent doesn't give it.
    pub async fn log(&self, job: &Digest) -> Result<Bytes> {
        let peer = self.link().await?;
        let body = peer.stream(&format!("/v1/output/{job}?from=0"), PATIENCE).await?;
        let all = tokio::time::timeout(PATIENCE, body.collect()).await;
        Ok(all.context("the log doesn't end")??.to_bytes())
    }
}

/// A lock whose holder panicked is a failed test already.
pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(hub: Arc<HostileHub>) -> Router {
    Router::new()
        .route("/api/v1/agent/grants/{org}/{digest}", get(grant))
        .route("/api/v1/agent/enroll", post(enroll))
        .route("/api/v1/agent/link", get(link))
        .merge(people::routes())
        .with_state(hub)
}

async fn grant(State(hub): State<Arc<HostileHub>>) -> Response {
    match hold(&hub.enrolment).clone() {
        Some(reply) => Json(reply).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn enroll(State(hub): State<Arc<HostileHub>>, Json(request): Json<EnrollRequest>) -> Response {
    *hold(&hub.record) = Some(request.record);
    grant(State(hub)).await
}

async fn link(State(hub): State<Arc<HostileHub>>, mut request: axum::extract::Request) -> Response {
    let Ok((response, socket)) = ws::upgrade(&mut request) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let serving = hub.clone();
    hub.tasks.spawn(async move {
        let served = async {
            let socket = socket.socket().await?;
            let raw = hold(&serving.seize).take();
            match raw {
                Some(raw) => overwhelm(socket, raw).await,
                None => hold_link(&serving, WsStream::new(socket)).await,
            }
        };
        let stop = serving.stop.clone();
        // How a link ends is looked at from the agent's side.
        let _: Option<Result<()>> = stop.run_until_cancelled(served).await;
    });
    response.map(|_empty| Body::empty())
}

/// Writes bytes where HTTP/2 should be, in one message if they fit into one.
async fn overwhelm<S>(mut socket: ws::WebSocketStream<S>, raw: Vec<u8>) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use futures_util::{SinkExt as _, StreamExt as _};
    socket.send(ws::Message::Binary(raw.into())).await?;
    // Until the agent has had enough.
    while let Some(Ok(_)) = socket.next().await {}
    Ok(())
}

/// Holds a link until it breaks or is cut, and notes what the node says.
async fn hold_link<IO>(hub: &HostileHub, io: IO) -> Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (peer, driver) = Peer::start(io, &hub.tasks).await?;
    let listening = async {
        let mut events = peer.events(PATIENCE).await?;
        let mut number = 0;
        hub.link.send_modify(|link| {
            number = link.0 + 1;
            *link = (number, Some(peer.clone()));
        });
        let mut cut = hub.link.subscribe();
        let mut decoder = Decoder::default();
        loop {
            let frame = tokio::select! {
                frame = events.frame() => frame,
                _ = cut.wait_for(|(n, peer)| *n != number || peer.is_none()) => return Ok(()),
            };
            let Some(frame) = frame else { return Ok(()) };
            if let Ok(data) = frame?.into_data() {
                decoder.push(&data);
            }
            while let Some(message) = decoder.next_message()? {
                hub.heard.send_modify(|all| all.push(message));
            }
        }
    };
    let ended = tokio::select! {
        ended = listening => ended,
        ended = driver => ended.map_err(Into::into),
    };
    hub.link.send_modify(|link| link.1 = None);
    ended
}

async fn accept(hub: Arc<HostileHub>, tcp: TcpListener, tls: HubTls) {
    let (tasks, stop) = (hub.tasks.clone(), hub.stop.clone());
    let router = router(hub);
    loop {
        let Ok((stream, _)) = tcp.accept().await else {
            return;
        };
        let (tls, router, inside) = (tls.clone(), router.clone(), tasks.clone());
        let stop = stop.clone();
        tasks.spawn(async move {
            // Broken connections are what this hub is for.
            let _ = stop
                .run_until_cancelled(connection(stream, tls, router, inside))
                .await;
        });
    }
}

async fn connection(stream: TcpStream, tls: HubTls, router: Router, tasks: TaskTracker) -> Result<()> {
    let mut first = [0; 1];
    if stream.peek(&mut first).await? == 0 {
        return Ok(());
    }
    if first[0] != 22 {
        return http(stream, router, tasks).await;
    }
    match tls.accept(stream, PATIENCE).await? {
        Accepted::Node { stream, .. } => http(stream, router, tasks).await,
        Accepted::People(stream) => http(stream, router, tasks).await,
    }
}

async fn http<IO>(io: IO, router: Router, tasks: TaskTracker) -> Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(Body::new))
    });
    hyper_util::server::conn::auto::Builder::new(TrackedExecutor(tasks))
        .serve_connection_with_upgrades(TokioIo::new(io), service)
        .await
        .map_err(|e| io::Error::other(e).into())
}
