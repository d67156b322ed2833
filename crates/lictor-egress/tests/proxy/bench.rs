//! What the tests stand on: a proxy with one job, an upstream, and a client, all on real sockets.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lictor_egress::{Job, Listener, Lookups, Resolve, Room, Shared, Turn};
use lictor_proto::egress::{Decision, Ended, Event, Reason, Rules, Totals, Verdict};
use lictor_proto::{Digest, JobId};
use lictor_trust::egress::Egress;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Nothing here takes longer, unless it never ends.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A resolver that answers what it is told, one answer after another; the last one stays.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<String, Vec<Vec<IpAddr>>>>);

impl Names {
    /// Adds an answer for a name.
    pub(crate) fn answer(&self, name: &str, addresses: &[&str]) {
        let parsed = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        self.0
            .lock()
            .expect("lock")
            .entry(name.to_owned())
            .or_default()
            .push(parsed);
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, name: &str, _turn: Turn) -> io::Result<Vec<IpAddr>> {
        let mut names = self.0.lock().expect("lock");
        let answers = names.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 {
            answers.remove(0)
        } else {
            answers[0].clone()
        })
    }
}

/// A proxy that serves one job.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) names: Arc<Names>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) ended: CancellationToken,
    /// To say that records were taken.
    job: Arc<Job>,
    serving: JoinSet<Totals>,
}

/// The id of a test's job.
pub(crate) fn job_id(name: &str) -> JobId {
    JobId::from_digest(&Digest::of(name.as_bytes()))
}

/// Rules from the words of a profile.
pub(crate) fn rules(toml: &str) -> Rules {
    let egress: Egress = toml::from_str(toml).expect("TOML");
    egress
        .rules(&std::collections::BTreeMap::default())
        .expect("rules")
}

/// Loopback may be reached, and `*.test` names are there.
pub(crate) const LOOPBACK: &str = "private = ['127.0.0.0/8', '::1']\n";

impl Proxy {
    /// With the words of a profile.
    pub(crate) async fn start(toml: &str) -> Self {
        Self::with_rules(&rules(toml)).await
    }

    /// With rules.
    pub(crate) async fn with_rules(rules: &Rules) -> Self {
        let names = Arc::new(Names::default());
        Self::asking(names.clone(), names, rules).await
    }

    /// With rules, and names that somebody else looks up.
    pub(crate) async fn asking(resolver: Arc<dyn Resolve>, names: Arc<Names>, rules: &Rules) -> Self {
        Self {
            names,
            ..Self::sharing(resolver, rules, Lookups::default()).await
        }
    }

    /// With rules, and lookups that other jobs use as well.
    pub(crate) async fn sharing(resolver: Arc<dyn Resolve>, rules: &Rules, lookups: Lookups) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (sender, events) = mpsc::channel(256);
        let ended = CancellationToken::new();
        let shared = Shared {
            resolver,
            events: sender,
            room: Room::default(),
            lookups,
        };
        let job = Arc::new(Job::new(job_id("one"), rules, shared, ended.clone()).expect("a job"));
        let mut serving = JoinSet::new();
        serving.spawn(Arc::clone(&job).serve(Listener::Tcp(listener)));
        Self {
            address,
            job,
            names: Arc::default(),
            events,
            ended,
            serving,
        }
    }

    /// A connection to it.
    pub(crate) async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the proxy listens")
    }

    /// The next record that is a decision.
    pub(crate) async fn decision(&mut self) -> Decision {
        match self.event().await {
            Event::Decision(decision) => *decision,
            other => panic!("not a decision: {other:?}"),
        }
    }

    /// The next record that is an end.
    pub(crate) async fn end(&mut self) -> Ended {
        match self.event().await {
            Event::Ended(ended) => ended,
            other => panic!("not an end: {other:?}"),
        }
    }

    /// The reason of the next decision, which is a denial.
    pub(crate) async fn denied(&mut self) -> Reason {
        match self.decision().await.verdict {
            Verdict::Denied { reason, .. } => reason,
            Verdict::Allowed { rule } => panic!("allowed by {rule}"),
        }
    }

    /// The rule of the next decision, which allows.
    pub(crate) async fn allowed(&mut self) -> String {
        match self.decision().await.verdict {
            Verdict::Allowed { rule } => rule,
            Verdict::Denied { reason, detail, .. } => panic!("{reason}: {detail}"),
        }
    }

    async fn event(&mut self) -> Event {
        let event = within(self.events.recv()).await.expect("a record");
        self.job.taken(1);
        event
    }

    /// Ends the job, and says what it did.
    pub(crate) async fn finish(&mut self) -> Totals {
        self.ended.cancel();
        within(self.serving.join_next())
            .await
            .expect("it was serving")
            .expect("it did not panic")
    }

    /// Sends bytes on a connection of their own and reads to the end.
    pub(crate) async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut client = self.dial().await;
        client.write_all(bytes.as_ref()).await.expect("write");
        read_all(&mut client).await
    }

    /// A tunnel by CONNECT, of which the answer has been read.
    pub(crate) async fn connect(&self, to: &str) -> TcpStream {
        let mut client = self.dial().await;
        let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("write");
        let answer = read_head(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        client
    }
}

/// Says that a test cannot run here. In CI a test that cannot run must not pass for one that did.
#[allow(clippy::print_stderr)]
pub(crate) fn skip(why: &str) {
    let in_ci = std::env::var("CI").is_ok_and(|v| v == "true");
    assert!(!in_ci, "this test must run in CI, but: {why}");
    eprintln!("skipped: {why}");
}

/// Something that happens soon, or never.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, work)
        .await
        .expect("it happens in time")
}

/// Everything up to the end; a reset is an end too.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let _: io::Result<_> = within(stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Everything up to the first empty line.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        match within(stream.read_u8()).await {
            Ok(byte) => bytes.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A server on loopback that does the same with every connection.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    taken: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Upstream {
    /// With this conversation.
    pub(crate) async fn new<F>(talk: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let address = listener.local_addr().expect("address");
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut talks = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                talks.spawn(talk(stream));
            }
        });
        Self {
            address,
            taken,
            _serving: serving,
        }
    }

    /// How many connections it has had.
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Answers whatever request comes by these bytes, and closes.
    pub(crate) async fn canned(answer: &'static [u8]) -> Self {
        Self::new(move |mut stream| async move {
            read_head(&mut stream).await;
            let _: io::Result<()> = stream.write_all(answer).await;
        })
        .await
    }

    /// Sends back what it gets.
    pub(crate) async fn echo() -> Self {
        Self::new(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _: io::Result<u64> = tokio::io::copy(&mut read, &mut write).await;
            let _: io::Result<()> = write.shutdown().await;
        })
        .await
    }

    /// Answers one HTTP request per connection by the request itself, as it came.
    pub(crate) async fn mirror() -> Self {
        Self::new(|mut stream| async move {
            let head = read_head(&mut stream).await;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            let _: io::Result<()> = stream.write_all(answer.as_bytes()).await;
        })
        .await
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }
}
