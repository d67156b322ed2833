//! The process as its warden sees it: packets and descriptors over the control socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use lictor_control::{Channel, MAX_MESSAGE};
use lictor_egress::{ServeError, serve};
use lictor_proto::JobId;
use lictor_proto::egress::{Command, Event, IN_HAND, Open, Reason, Refused, Rules, Verdict};
use lictor_proto::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::bench::{LOOPBACK, Names, Upstream, job_id, read_all, read_head, rules, within};

/// A proxy, and the warden's end of its control socket.
struct Process {
    channel: Channel,
    serving: JoinSet<Result<(), ServeError>>,
    names: Arc<Names>,
}

impl Process {
    fn start() -> Self {
        let (ours, its) = Channel::pair().expect("a pair");
        let names = Arc::new(Names::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(its, names.clone()));
        Self {
            channel: Channel::new(ours).expect("a channel"),
            serving,
            names,
        }
    }

    async fn send(&self, command: &Command, descriptors: &[OwnedFd]) {
        let borrowed: Vec<_> = descriptors.iter().map(|d| d.as_fd()).collect();
        let bytes = json::to_vec(command).expect("JSON");
        self.channel.send(&bytes, &borrowed).await.expect("sent");
    }

    async fn open(&self, job: &JobId, rules: &Rules, descriptors: &[OwnedFd]) {
        let open = Open {
            job: job.clone(),
            rules: rules.clone(),
        };
        self.send(&Command::Open(Box::new(open)), descriptors).await;
    }

    async fn event(&self) -> Event {
        let packet = within(self.channel.receive())
            .await
            .expect("received")
            .expect("a packet");
        json::from_slice(&packet.bytes).expect("an event")
    }

    async fn refused(&self) -> Refused {
        match self.event().await {
            Event::Refused { why, .. } => why,
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn outcome(&mut self) -> Result<(), ServeError> {
        within(self.serving.join_next())
            .await
            .expect("it was serving")
            .expect("it did not panic")
    }
}

fn listener() -> (OwnedFd, SocketAddr) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("address");
    (listener.into(), address)
}

fn to(host: &str, server: &Upstream) -> Rules {
    rules(&format!(
        "mode = 'allowlist'\nallow = ['{host}:{} plain']\n{LOOPBACK}",
        server.port()
    ))
}

async fn connect(proxy: SocketAddr, to: &str) -> (TcpStream, String) {
    let mut client = TcpStream::connect(proxy).await.expect("it listens");
    let head = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("write");
    let answer = read_head(&mut client).await;
    (client, answer)
}

#[tokio::test]
async fn a_job_is_opened_served_and_closed() {
    let server = Upstream::echo().await;
    let process = Process::start();
    process.names.answer("a.example.test", &["127.0.0.1"]);
    let job = job_id("one");
    // Twice, since an id may be used again once it is closed.
    for _ in 0..2 {
        let (fd, address) = listener();
        process.open(&job, &to("a.example.test", &server), &[fd]).await;
        assert_eq!(process.event().await, Event::Opened { job: job.clone() });
        let (mut client, answer) = connect(address, &format!("a.example.test:{}", server.port())).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let Event::Decision(decision) = process.event().await else {
            panic!("no decision");
        };
        assert!(decision.job == job && matches!(decision.verdict, Verdict::Allowed { .. }));
        client.write_all(b"hello").await.expect("write");
        let mut echo = [0; 5];
        within(client.read_exact(&mut echo)).await.expect("read");
        process.send(&Command::Close { job: job.clone() }, &[]).await;
        assert!(matches!(process.event().await, Event::Ended(e) if e.up == 5 && e.down == 5));
        let Event::Closed { job: closed, totals } = process.event().await else {
            panic!("not closed");
        };
        assert_eq!(
            (closed, totals.allowed, totals.up, totals.down),
            (job.clone(), 1, 5, 5)
        );
        assert_eq!(read_all(&mut client).await, "");
        assert!(
            TcpStream::connect(address).await.is_err(),
            "nobody listens any more"
        );
    }
}

#[tokio::test]
async fn two_jobs_do_not_know_each_others_rules() {
    let server = Upstream::echo().await;
    let process = Process::start();
    let names = ["a.example.test", "b.example.test"];
    let mut open = Vec::new();
    for name in names {
        process.names.answer(name, &["127.0.0.1"]);
        let (fd, address) = listener();
        process.open(&job_id(name), &to(name, &server), &[fd]).await;
        assert_eq!(process.event().await, Event::Opened { job: job_id(name) });
        open.push((name, address));
    }
    for (own, address) in open {
        for name in names {
            let (_client, answer) = connect(address, &format!("{name}:{}", server.port())).await;
            let Event::Decision(decision) = process.event().await else {
                panic!("no decision");
            };
            assert_eq!(decision.job, job_id(own));
            match name == own {
                true => assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}"),
                false => assert!(matches!(
                    decision.verdict,
                    Verdict::Denied {
                        reason: Reason::NotListed,
                        ..
                    }
                )),
            }
            drop(_client);
            if name == own {
                assert!(matches!(process.event().await, Event::Ended(_)));
            }
        }
    }
}

#[tokio::test]
async fn a_job_whose_records_are_not_taken_waits_for_them_and_no_other_job_does() {
    let server = Upstream::echo().await;
    let process = Process::start();
    process.names.answer("b.example.test", &["127.0.0.1"]);
    let (flood, quiet) = (job_id("flood"), job_id("quiet"));
    let mut addresses = Vec::new();
    for (job, name) in [(&flood, "a.example.test"), (&quiet, "b.example.test")] {
        let (fd, address) = listener();
        let mut rules = to(name, &server);
        rules.limits.connections = 1024;
        process.open(job, &rules, &[fd]).await;
        assert!(matches!(process.event().await, Event::Opened { .. }));
        addresses.push(address);
    }
    let mut attempts = JoinSet::new();
    for _ in 0..IN_HAND + 20 {
        let address = addresses[0];
        attempts.spawn(async move { connect(address, "elsewhere.example.test:443").await.1 });
    }
    for _ in 0..IN_HAND {
        assert!(matches!(process.event().await, Event::Decision(d) if d.job == flood));
    }
    // The flood has as many records on their way as it may; the other job's is the next that is heard of.
    let (_client, answer) = connect(addresses[1], &format!("b.example.test:{}", server.port())).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(matches!(process.event().await, Event::Decision(d) if d.job == quiet));
    let taken = Command::Taken {
        job: flood.clone(),
        records: IN_HAND,
    };
    process.send(&taken, &[]).await;
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..20 {
        match process.event().await {
            Event::Decision(d) if d.job == flood => assert!(numbers.insert(d.attempt)),
            other => panic!("{other:?}"),
        }
    }
    while let Some(answer) = attempts.join_next().await {
        assert!(answer.expect("no panic").contains("not_listed"));
    }
}

#[tokio::test]
async fn the_end_of_a_job_does_not_wait_for_records_that_nobody_takes() {
    let server = Upstream::echo().await;
    let process = Process::start();
    let job = job_id("flood");
    let (fd, address) = listener();
    process.open(&job, &to("a.example.test", &server), &[fd]).await;
    assert!(matches!(process.event().await, Event::Opened { .. }));
    let mut attempts = JoinSet::new();
    for _ in 0..IN_HAND + 20 {
        attempts.spawn(async move { connect(address, "elsewhere.example.test:443").await.1 });
    }
    for _ in 0..IN_HAND {
        assert!(matches!(process.event().await, Event::Decision(_)));
    }
    process.send(&Command::Close { job: job.clone() }, &[]).await;
    let mut denied = u64::from(IN_HAND);
    let totals = loop {
        match process.event().await {
            Event::Decision(_) => denied += 1,
            Event::Closed { totals, .. } => break totals,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(totals.denied, denied, "every one was said all the same");
}

#[tokio::test]
async fn a_unix_listener_serves_as_well() {
    let server = Upstream::echo().await;
    let process = Process::start();
    process.names.answer("a.example.test", &["127.0.0.1"]);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("proxy");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    process
        .open(&job_id("one"), &to("a.example.test", &server), &[listener.into()])
        .await;
    assert!(matches!(process.event().await, Event::Opened { .. }));
    let mut client = UnixStream::connect(&path).await.expect("it listens");
    let place = format!("a.example.test:{}", server.port());
    client
        .write_all(format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\nhello").as_bytes())
        .await
        .expect("write");
    client.shutdown().await.expect("shutdown");
    let mut heard = String::new();
    within(client.read_to_string(&mut heard)).await.expect("read");
    assert!(
        heard.starts_with("HTTP/1.1 200 ") && heard.ends_with("\r\n\r\nhello"),
        "{heard}"
    );
}

#[tokio::test]
async fn commands_that_cannot_be_obeyed_are_refused_with_their_word() {
    let server = Upstream::echo().await;
    let process = Process::start();
    let good = to("a.example.test", &server);
    let job = job_id("one");
    process.open(&job, &good, &[]).await;
    assert_eq!(process.refused().await, Refused::BadListener);
    process.open(&job, &good, &[listener().0, listener().0]).await;
    assert_eq!(process.refused().await, Refused::BadListener);
    let not_listening = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    process.open(&job, &good, &[not_listening.into()]).await;
    assert_eq!(process.refused().await, Refused::BadListener);
    let file = std::fs::File::open("/dev/null").expect("open");
    process.open(&job, &good, &[file.into()]).await;
    assert_eq!(process.refused().await, Refused::BadListener);
    let connected = std::net::TcpStream::connect(server.address).expect("connect");
    process.open(&job, &good, &[connected.into()]).await;
    assert_eq!(process.refused().await, Refused::BadListener);
    let unbound = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    );
    process.open(&job, &good, &[unbound.expect("a socket")]).await;
    assert_eq!(process.refused().await, Refused::BadListener);
    let mut bad = good.clone();
    bad.allow.push("*:443".into());
    process.open(&job, &bad, &[listener().0]).await;
    assert_eq!(process.refused().await, Refused::BadRules);
    process.send(&Command::Close { job: job.clone() }, &[]).await;
    assert_eq!(process.refused().await, Refused::NotOpen);
    process.open(&job, &good, &[listener().0]).await;
    assert!(matches!(process.event().await, Event::Opened { .. }));
    process.open(&job, &good, &[listener().0]).await;
    assert_eq!(process.refused().await, Refused::AlreadyOpen);
}

#[tokio::test]
async fn what_is_no_command_ends_the_process_and_every_connection() {
    let server = Upstream::echo().await;
    for garbage in [
        &b"{}"[..],
        b"{\"open\":1}",
        b"{\"close\":{\"job\":\"x\"}}",
        b"\xff",
        b"{\"close\":{},\"close\":{}}",
    ] {
        let mut process = Process::start();
        process.names.answer("a.example.test", &["127.0.0.1"]);
        let (fd, address) = listener();
        process
            .open(&job_id("one"), &to("a.example.test", &server), &[fd])
            .await;
        assert!(matches!(process.event().await, Event::Opened { .. }));
        let (mut client, _) = connect(address, &format!("a.example.test:{}", server.port())).await;
        process.channel.send(garbage, &[]).await.expect("sent");
        assert!(matches!(process.outcome().await, Err(ServeError::Command(_))));
        assert_eq!(read_all(&mut client).await, "");
        assert!(TcpStream::connect(address).await.is_err());
    }
}

#[tokio::test]
async fn it_does_not_outlive_its_warden() {
    let server = Upstream::echo().await;
    let Process {
        channel,
        mut serving,
        names,
    } = Process::start();
    names.answer("a.example.test", &["127.0.0.1"]);
    let (fd, address) = listener();
    let open = Open {
        job: job_id("one"),
        rules: to("a.example.test", &server),
    };
    let bytes = json::to_vec(&Command::Open(Box::new(open))).expect("JSON");
    channel.send(&bytes, &[fd.as_fd()]).await.expect("sent");
    drop(fd);
    assert!(within(channel.receive()).await.expect("received").is_some());
    let (mut client, _) = connect(address, &format!("a.example.test:{}", server.port())).await;
    drop(channel);
    within(serving.join_next())
        .await
        .expect("serving")
        .expect("no panic")
        .ok();
    assert_eq!(read_all(&mut client).await, "");
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn the_longest_rules_fit_into_one_message() {
    let process = Process::start();
    let label = "a".repeat(60);
    let entries: Vec<String> = (0..320)
        .map(|i| format!("'{label}.{label}.{label}.h{i:04}.test:443'"))
        .collect();
    let longest = rules(&format!("mode = 'allowlist'\nallow = [{}]", entries.join(", ")));
    let text: usize = longest.allow.iter().map(String::len).sum();
    assert!(text > 60_000, "{text}");
    let (fd, _) = listener();
    process.open(&job_id("one"), &longest, &[fd]).await;
    assert!(matches!(process.event().await, Event::Opened { .. }));
    assert!(
        process
            .channel
            .send(&vec![b' '; MAX_MESSAGE + 1], &[])
            .await
            .is_err()
    );
}
