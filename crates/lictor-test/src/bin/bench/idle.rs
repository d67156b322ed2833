//! Row e: what an agent that does nothing costs the hub, measured with many of them.
//!
//! Each is a real node (grant, keys, record, mutual TLS) on a real link; only what stands behind the link is a
//! script that knows heartbeat and law. They live in this process, so that the hub's memory is the hub's alone.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lictor_link::cert::Identity;
use lictor_link::dial::{HubUrl, dial};
use lictor_link::http::{HttpClient, full};
use lictor_link::hyper::Request as HttpRequest;
use lictor_link::tls::ClientTls;
use lictor_link::ws::{WsStream, connect};
use lictor_link::{h2, install_crypto_provider};
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{BackendReport, Event, Heartbeat, HostFacts, LawHeld, Reply, Request};
use lictor_proto::api::{EnrollReply, EnrollRequest};
use lictor_proto::doc::{Grant, NodeKind, Token};
use lictor_proto::{Name, OrgId, Timestamp, limits};
use lictor_test::{Operator, Split, wait_until};
use lictor_trust::enrol::{RecordOf, join_key};
use lictor_trust::sign::to_wire;
use lictor_trust::{NodeSecrets, Verified};
use tokio_util::task::TaskTracker;

use crate::memory::field;
use crate::table::Table;

const WITHIN: Duration = Duration::from_secs(60);
/// Between two heartbeats, as real agents have it.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Handshakes at once.
const AT_ONCE: usize = 16;

/// What all of them share.
pub(crate) struct Herd {
    token: Token,
    grant: Verified<Grant>,
    url: HubUrl,
    tasks: TaskTracker,
}

/// Connects `agents` of them to the hub, and says by how much it grew.
pub(crate) async fn measure(table: &mut Table, split: &mut Split, agents: usize) -> Result<()> {
    install_crypto_provider();
    let hub = split.hub()?.pid();
    let herd = Herd::gather(split, "idle", agents).await?;
    let before = anonymous(hub)?;
    herd.join_all(hub, agents, |_, heartbeat| router(heartbeat))
        .await?;
    // Buffers of the handshakes go back when the links have said what they say at first.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let each = anonymous(hub)?.saturating_sub(before) / agents as u64;
    let what = format!("hub, per idle agent, {agents} connected");
    let figure = format!("{each} kB");
    let beside = format!("RSS {:.1} MB in all", field(hub, "VmRSS:")? as f64 / 1024.0);
    table.row("e", &what, figure, beside, "60 kB");
    let (busy, began) = (processor_time(hub)?, Instant::now());
    tokio::time::sleep(HEARTBEAT * 2).await;
    let share = (processor_time(hub)? - busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let what = format!("hub, heartbeats and probes of {agents} idle agents");
    let figure = format!("{:.1} % of a core", share * 100.0);
    table.row("e", &what, figure, String::new(), "5 %");
    Ok(())
}

/// What a process has used of the processors so far.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may have anything in it; what follows its closing bracket is numbers (proc_pid_stat(5)).
    let (_, after) = stat.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = after.split_whitespace().collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|i| fields.get(*i)?.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(
        ticks * 1000 / rustix::param::clock_ticks_per_second(),
    ))
}

fn anonymous(pid: u32) -> Result<u64> {
    field(pid, "RssAnon:")
}

impl Herd {
    /// Leave for so many machines whose names begin so.
    pub(crate) async fn gather(split: &Split, name: &str, agents: usize) -> Result<Self> {
        let uses = agents.to_string();
        let value = split.cli().json(&["nodes", "grant", name, "--uses", &uses])?;
        let token = Token::decode(value["token"].as_str().context("no token")?)?;
        let url: HubUrl = token.hub_url.parse()?;
        let operator = Operator::at(split.home()).await?;
        let tasks = TaskTracker::new();
        let stranger = NodeSecrets::generate()?;
        let tls = ClientTls::node(Identity::link(&stranger.link.seed())?, vec![token.hub_spki])?;
        let http = HttpClient::new(url.clone(), Some(tls), tasks.clone());
        let path = format!("/api/v1/agent/grants/{}/{}", token.org_id, token.grant_digest);
        let request = HttpRequest::get(path).body(full(""))?;
        let offer: EnrollReply = http.call(request, 2 * limits::ASK, WITHIN).await?.json()?;
        let grant = operator.trust().verify_grant(&offer.grant)?;
        Ok(Self {
            token,
            grant,
            url,
            tasks,
        })
    }

    /// Has so many machines become nodes; `served` is what stands behind each one's link. Returns when all are up.
    pub(crate) async fn join_all(
        &self,
        hub: u32,
        agents: usize,
        served: impl Fn(NodeSecrets, Message) -> Router,
    ) -> Result<()> {
        let joined: Vec<Result<()>> = stream::iter(0..agents)
            .map(|number| self.join(number, &served))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        joined.into_iter().collect::<Result<()>>()?;
        let descriptors = || fs::read_dir(format!("/proc/{hub}/fd")).map_or(0, Iterator::count);
        wait_until("all links", WITHIN, || descriptors() > agents)
    }

    /// The org.
    pub(crate) fn org(&self) -> &OrgId {
        &self.token.org_id
    }

    /// One machine becomes a node and links.
    async fn join(&self, number: usize, served: impl Fn(NodeSecrets, Message) -> Router) -> Result<()> {
        let prefix = self.grant.name_prefix.as_ref().context("no prefix")?;
        let name: Name = format!("{prefix}-{number}").parse()?;
        let secrets = NodeSecrets::generate()?;
        let tls = ClientTls::node(Identity::link(&secrets.link.seed())?, vec![self.token.hub_spki])?;
        self.enrol(&secrets, &name, &tls).await?;
        let io = dial(&self.url, Some(&tls), WITHIN).await?;
        let socket = connect(io, &self.url.authority(), "/api/v1/agent/link", &[]).await?;
        let heartbeat = self.heartbeat(&secrets, name);
        let io = TokioIo::new(WsStream::new(socket));
        let router = served(secrets, heartbeat);
        let served = h2::server(&self.tasks).serve_connection(io, TowerToHyperService::new(router));
        self.tasks.spawn(async move { drop(served.await) });
        Ok(())
    }

    async fn enrol(&self, secrets: &NodeSecrets, name: &Name, tls: &ClientTls) -> Result<()> {
        let stand = RecordOf {
            org: &self.token.org_id,
            grant: self.grant.digest(),
            name,
            epoch: 1,
            issued_at: Timestamp::now(),
        };
        let join = join_key(&self.token, &self.grant)?;
        let body = serde_json::to_vec(&EnrollRequest {
            org: self.token.org_id.clone(),
            grant_digest: self.grant.digest(),
            record: to_wire(&secrets.record(&stand, &join)),
        })?;
        let http = HttpClient::new(self.url.clone(), Some(tls.clone()), self.tasks.clone());
        let request = HttpRequest::post("/api/v1/agent/enroll")
            .header("content-type", "application/json")
            .body(full(body))?;
        let answer = http.call(request, 2 * limits::ASK, WITHIN).await?;
        ensure!(answer.status.is_success(), "enrolment: {}", answer.refusal());
        Ok(())
    }

    fn heartbeat(&self, secrets: &NodeSecrets, name: Name) -> Message {
        let backend = |name: &str| BackendReport {
            engine: None,
            name: name.to_owned(),
            usable: true,
            capabilities: ["no_network", "pid_namespace", "read_only_root", "seccomp"]
                .map(str::to_owned)
                .to_vec(),
            problem: String::new(),
        };
        Message::Event(Event::Heartbeat(Box::new(Heartbeat {
            org: self.token.org_id.clone(),
            node_id: secrets.node_id(&self.token.org_id),
            name,
            kind: NodeKind::Server,
            agent_version: "0.1.0".to_owned(),
            law: law(),
            host: HostFacts {
                os: "linux".to_owned(),
                hostname: "idle".to_owned(),
                ..HostFacts::default()
            },
            backends: vec![backend("host"), backend("bubblewrap")],
            running: 0,
            unacknowledged: 0,
            at: Timestamp::now(),
        })))
    }
}

/// The law that all of them say they hold.
pub(crate) fn law() -> LawHeld {
    LawHeld {
        root: 1,
        bundle: 1,
        bundle_digest: None,
        freshness: None,
        revocations: 0,
        deny_all: None,
    }
}

fn router(heartbeat: Message) -> Router {
    let first = Bytes::from(heartbeat.encode());
    let events = move || async move {
        let said = stream::unfold(false, move |again| {
            let said = first.clone();
            async move {
                if again {
                    tokio::time::sleep(HEARTBEAT).await;
                }
                Some((Ok::<_, std::convert::Infallible>(said), true))
            }
        });
        Body::from_stream(said)
    };
    Router::new()
        .route(
            "/v1/health",
            get(|| async { "{\"status\":\"ok\",\"version\":\"0.1.0\"}" }),
        )
        .route("/v1/events", get(events))
        .route("/v1/ask", post(ask))
}

async fn ask(body: Bytes) -> Vec<u8> {
    let reply = match serde_json::from_slice(&body) {
        Ok(Request::Law(_)) => Reply::Law(law()),
        _ => Reply::Done,
    };
    serde_json::to_vec(&reply).unwrap_or_default()
}
