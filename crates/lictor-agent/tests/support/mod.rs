//! A warden that says what a test wants, and a hub with real TLS and whatever routes a test gives it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its own part

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use lictor_agent::hub::HubFile;
use lictor_agent::port::{EventFeed, WardenPort};
use lictor_link::cert::{Identity, generate_web};
use lictor_link::tls::{Accepted, HubTls};
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{
    Event, Heartbeat, HostFacts, LawHeld, OfferReply, OutputPart, ReadOutput, Reply, Request, Status,
};
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::NodeKind;
use lictor_proto::ids::PublicKey;
use lictor_proto::{Digest, NodeId, OrgId, Timestamp};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

pub const WITHIN: Duration = Duration::from_secs(20);

pub fn org() -> OrgId {
    OrgId::from_root(&Digest::of(b"root"))
}

pub fn heartbeat() -> Message {
    let key = PublicKey::ed25519([3; 32]);
    Message::Event(Event::Heartbeat(Box::new(Heartbeat {
        org: org(),
        node_id: NodeId::derive(&org(), &key.key),
        name: "web-1".parse().unwrap(),
        kind: NodeKind::Server,
        agent_version: "0".into(),
        law: law(),
        host: HostFacts::default(),
        backends: Vec::new(),
        running: 0,
        unacknowledged: 0,
        at: Timestamp::now(),
    })))
}

pub fn law() -> LawHeld {
    LawHeld {
        root: 1,
        bundle: 1,
        bundle_digest: None,
        freshness: None,
        revocations: 0,
        deny_all: None,
    }
}

/// What the scripted warden knows and was asked.
#[derive(Default)]
pub struct Script {
    pub said: Vec<Message>,
    pub logs: HashMap<Digest, Vec<Bytes>>,
    pub asked: Vec<Request>,
}

/// A warden that takes everything, remembers what it was asked, and says the script to each feed.
#[derive(Clone)]
pub struct Scripted(Arc<watch::Sender<Script>>);

impl Default for Scripted {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Script::default())))
    }
}

impl Scripted {
    pub fn says(&self, message: Message) {
        self.0.send_modify(|s| s.said.push(message));
    }

    /// A log in pieces; each read gives one. A piece is bytes only, positions count them.
    pub fn prints(&self, job: Digest, pieces: &[&'static [u8]]) {
        let pieces = pieces.iter().map(|p| Bytes::from_static(p)).collect();
        self.0.send_modify(|s| {
            s.logs.insert(job, pieces);
        });
    }

    /// Waits until what it was asked satisfies `is`.
    pub async fn asked(&self, is: impl Fn(&[Request]) -> bool) {
        let mut seen = self.0.subscribe();
        let wait = seen.wait_for(|s| is(&s.asked));
        tokio::time::timeout(WITHIN, wait)
            .await
            .expect("the warden is asked")
            .unwrap();
    }

    pub fn all_asked(&self) -> Vec<Request> {
        self.0.borrow().asked.clone()
    }
}

#[async_trait]
impl WardenPort for Scripted {
    async fn ask(&self, request: Request) -> Reply {
        let reply = match &request {
            Request::Offer(_) => Reply::Offer(OfferReply::Accepted),
            Request::Law(_) => Reply::Law(law()),
            Request::Status => Reply::Status(Box::new(Status {
                law: law(),
                executions: Vec::new(),
                audit_head: Digest::of(b"audit"),
            })),
            _ => Reply::Done,
        };
        self.0.send_modify(|s| s.asked.push(request));
        reply
    }

    async fn read_output(&self, read: ReadOutput) -> Result<(OutputPart, Bytes), Refusal> {
        let script = self.0.borrow();
        let pieces = script.logs.get(&read.job).ok_or(Code::NotFound)?;
        let mut at = 0;
        for (i, piece) in pieces.iter().enumerate() {
            let to = at + piece.len() as u64;
            if read.from == at {
                let end = i + 1 == pieces.len();
                return Ok((OutputPart { from: at, to, end }, piece.clone()));
            }
            at = to;
        }
        let part = OutputPart {
            from: at,
            to: at,
            end: true,
        };
        Ok((part, Bytes::new()))
    }

    fn events(&self) -> Box<dyn EventFeed> {
        Box::new(Feed {
            script: self.0.subscribe(),
            next: 0,
        })
    }
}

struct Feed {
    script: watch::Receiver<Script>,
    next: usize,
}

#[async_trait]
impl EventFeed for Feed {
    async fn next(&mut self) -> Option<Message> {
        let next = self.next;
        let script = self.script.wait_for(|s| s.said.len() > next).await.ok()?;
        self.next += 1;
        Some(script.said[next].clone())
    }
}

/// A hub: real TLS on a real port, the routes a test gives it, for connections that proved a link key.
pub struct TestHub {
    pub file: HubFile,
    pub link_keys: Arc<Mutex<Vec<[u8; 32]>>>,
    pub tasks: TaskTracker,
}

pub async fn hub(router: Router) -> TestHub {
    lictor_link::install_crypto_provider();
    let link = Identity::link(&[9; 32]).unwrap();
    let pin = link.spki().unwrap();
    let web = Identity::from_pem(&generate_web(&["localhost".into()]).unwrap()).unwrap();
    let tls = HubTls::new(link, web).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let file = HubFile {
        url: format!("https://{}", listener.local_addr().unwrap()),
        pins: vec![pin],
    };
    let (tasks, link_keys) = (TaskTracker::new(), Arc::new(Mutex::new(Vec::new())));
    let (accepting, keys) = (tasks.clone(), link_keys.clone());
    tasks.spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let (tls, router, keys) = (tls.clone(), router.clone(), keys.clone());
            accepting.spawn(async move {
                let Ok(Accepted::Node { stream, link_key }) = tls.accept(tcp, WITHIN).await else {
                    return;
                };
                keys.lock().unwrap().push(link_key);
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                    .with_upgrades()
                    .await;
            });
        }
    });
    TestHub {
        file,
        link_keys,
        tasks,
    }
}
