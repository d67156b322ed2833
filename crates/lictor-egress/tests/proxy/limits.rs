//! Limits, each reached, and the end of a job.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use lictor_egress::{Resolve, Turn};
use lictor_proto::egress::{End, Event, Limits, Reason, Rules};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use tokio::sync::Notify;

use crate::bench::{LOOPBACK, Names, Proxy, Upstream, read_all, read_head, rules, within};

/// Rules for one server, with limits that a law could not be so short with.
fn to(server: &Upstream, change: impl FnOnce(&mut Limits)) -> Rules {
    let entry = format!(
        "mode = 'allowlist'\nallow = ['a.example.test:{} plain']\n{LOOPBACK}",
        server.port()
    );
    let mut rules = rules(&entry);
    change(&mut rules.limits);
    rules
}

async fn start(server: &Upstream, change: impl FnOnce(&mut Limits)) -> (Proxy, String) {
    let proxy = Proxy::with_rules(&to(server, change)).await;
    proxy.names.answer("a.example.test", &["127.0.0.1"]);
    (proxy, format!("a.example.test:{}", server.port()))
}

#[tokio::test]
async fn bytes_out_are_counted_over_all_connections_and_stop_at_the_limit() {
    let server = Upstream::echo().await;
    let (mut proxy, place) = start(&server, |l| l.bytes_up = 10).await;
    for (sent, up, how) in [("12345", 5, End::Done), ("67890ABC", 5, End::BytesLimit)] {
        let mut client = proxy.connect(&place).await;
        client.write_all(sent.as_bytes()).await.expect("write");
        client.shutdown().await.expect("shutdown");
        read_all(&mut client).await;
        proxy.allowed().await;
        let end = proxy.end().await;
        assert_eq!((end.up, end.how), (up, how));
    }
    let answer = proxy
        .say(format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n"))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("bytes_limit"),
        "{answer}"
    );
    assert_eq!(proxy.denied().await, Reason::BytesLimit);
    assert_eq!(proxy.finish().await.up, 10);
}

#[tokio::test]
async fn bytes_in_stop_at_the_limit() {
    let server = Upstream::new(|mut stream| async move {
        let _: std::io::Result<()> = stream.write_all(&[b'x'; 100_000]).await;
    })
    .await;
    let (mut proxy, place) = start(&server, |l| l.bytes_down = 70_000).await;
    let mut client = proxy.connect(&place).await;
    assert!(read_all(&mut client).await.len() <= 70_000);
    proxy.allowed().await;
    let end = proxy.end().await;
    assert_eq!((end.down, end.how), (70_000, End::BytesLimit));
}

#[tokio::test]
async fn connections_at_once_are_limited_and_free_again() {
    let server = Upstream::echo().await;
    let (mut proxy, place) = start(&server, |l| l.connections = 2).await;
    let first = proxy.connect(&place).await;
    let second = proxy.connect(&place).await;
    proxy.allowed().await;
    proxy.allowed().await;
    assert_eq!(read_all(&mut proxy.dial().await).await, "");
    assert_eq!(proxy.denied().await, Reason::ConnectionsLimit);
    drop(first);
    proxy.end().await;
    proxy.connect(&place).await;
    proxy.allowed().await;
    drop(second);
}

#[tokio::test]
async fn attempts_are_limited_altogether_whatever_became_of_them() {
    let server = Upstream::mirror().await;
    let (mut proxy, place) = start(&server, |l| l.attempts = 3).await;
    let other = "GET http://other.example.test/ HTTP/1.1\r\nHost: other.example.test\r\n\r\n";
    proxy.say(other).await;
    assert_eq!(proxy.denied().await, Reason::NotListed);
    // A kept connection is one attempt per request.
    let mut client = proxy.dial().await;
    let request = format!("GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n");
    client
        .write_all(request.repeat(3).as_bytes())
        .await
        .expect("write");
    let heard = read_all(&mut client).await;
    assert_eq!(heard.matches("HTTP/1.1 200 OK").count(), 2, "{heard}");
    for _ in 0..2 {
        proxy.allowed().await;
        proxy.end().await;
    }
    // That is said once; then nobody listens, so that nothing is left to write records with.
    assert_eq!(proxy.denied().await, Reason::ConnectionsLimit);
    assert!(tokio::net::TcpStream::connect(proxy.address).await.is_err());
    assert_eq!(server.taken(), 2);
}

#[tokio::test]
async fn a_silent_tunnel_is_ended() {
    let server = Upstream::echo().await;
    let (mut proxy, place) = start(&server, |l| l.idle_ms = 80).await;
    let mut client = proxy.connect(&place).await;
    assert_eq!(read_all(&mut client).await, "");
    proxy.allowed().await;
    assert_eq!(proxy.end().await.how, End::Idle);
}

#[tokio::test]
async fn whoever_takes_too_long_to_ask_is_refused() {
    let server = Upstream::echo().await;
    for start_of in [&b"GET http://a.exa"[..], b"\x05\x01\x00\x05\x01"] {
        let (mut proxy, _) = start(&server, |l| l.handshake_ms = 80).await;
        let mut client = proxy.dial().await;
        client.write_all(start_of).await.expect("write");
        read_all(&mut client).await;
        assert_eq!(proxy.denied().await, Reason::Timeout);
    }
    let mut rules = rules(&format!(
        "mode = 'allowlist'\nallow = ['a.example.test:{}']\n{LOOPBACK}",
        server.port()
    ));
    rules.limits.handshake_ms = 80;
    let mut proxy = Proxy::with_rules(&rules).await;
    proxy.names.answer("a.example.test", &["127.0.0.1"]);
    let mut client = proxy.connect(&format!("a.example.test:{}", server.port())).await;
    client.write_all(&[22, 3, 1, 2, 0, 1]).await.expect("write");
    read_all(&mut client).await;
    assert_eq!(proxy.denied().await, Reason::Timeout);
}

/// A name server that does not answer, and whoever asks it keeps a turn for that.
#[derive(Default)]
struct Silent {
    held: Mutex<Vec<Turn>>,
    asked: Notify,
}

#[async_trait]
impl Resolve for Silent {
    async fn resolve(&self, _: &str, turn: Turn) -> std::io::Result<Vec<IpAddr>> {
        self.held.lock().expect("lock").push(turn);
        self.asked.notify_one();
        std::future::pending().await
    }
}

#[tokio::test]
async fn lookups_that_nobody_waits_for_any_more_count_until_they_are_over() {
    let server = Upstream::echo().await;
    let silent = Arc::new(Silent::default());
    let rules = to(&server, |l| l.handshake_ms = 80);
    let names = Arc::new(Names::default());
    let mut proxy = Proxy::asking(silent.clone(), names, &rules).await;
    let ask = format!(
        "CONNECT a.example.test:{} HTTP/1.1\r\nHost: a.example.test\r\n\r\n",
        server.port()
    );
    // One after the other, so that each has given up before the next begins.
    for _ in 0..12 {
        proxy.say(&ask).await;
        assert_eq!(proxy.denied().await, Reason::DnsFailed);
    }
    assert_eq!(
        silent.held.lock().expect("lock").len(),
        8,
        "the threads of one job"
    );
    silent.held.lock().expect("lock").pop();
    proxy.say(&ask).await;
    within(silent.asked.notified()).await;
    assert_eq!(silent.held.lock().expect("lock").len(), 8);
}

#[tokio::test]
async fn jobs_with_silent_name_servers_leave_every_other_job_a_lookup() {
    let server = Upstream::echo().await;
    let silent = Arc::new(Silent::default());
    let rules = to(&server, |l| l.handshake_ms = 60_000);
    let lookups = lictor_egress::Lookups::default();
    let held = || silent.held.lock().expect("lock").len();
    let ask = format!(
        "CONNECT a.example.test:{} HTTP/1.1\r\nHost: a.example.test\r\n\r\n",
        server.port()
    );
    let mut jobs = Vec::new();
    for _ in 0..20 {
        let proxy = Proxy::sharing(silent.clone(), &rules, lookups.clone()).await;
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = proxy.dial().await;
            client.write_all(ask.as_bytes()).await.expect("write");
            clients.push(client);
        }
        jobs.push((proxy, clients));
    }
    let all = 20 + 128;
    while held() < all {
        within(silent.asked.notified()).await;
    }
    assert_eq!(held(), all, "one of each job's own, and the shared ones");
    let another = Proxy::sharing(silent.clone(), &rules, lookups).await;
    let mut client = another.dial().await;
    client.write_all(ask.as_bytes()).await.expect("write");
    while held() < all + 1 {
        within(silent.asked.notified()).await;
    }
}

#[tokio::test]
async fn a_connection_whose_other_side_does_not_read_passes_all_bytes_in_the_end() {
    let (go, wait) = tokio::sync::watch::channel(false);
    let server = Upstream::new(move |mut stream| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.expect("told to");
            let mut heard = Vec::new();
            stream.read_to_end(&mut heard).await.expect("read");
            stream
                .write_all(&(heard.len() as u64).to_be_bytes())
                .await
                .expect("write");
            let right = heard.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8);
            assert!(right, "in order and whole");
        }
    })
    .await;
    let (mut proxy, place) = start(&server, |_| {}).await;
    let client = proxy.connect(&place).await;
    let (mut from, mut to) = client.into_split();
    let sent: Vec<u8> = (0..40_000_000_u32).map(|i| (i % 251) as u8).collect();
    let sending = async {
        to.write_all(&sent).await.expect("write");
        to.shutdown().await.expect("shutdown");
    };
    let answer = async {
        // The first bytes are on their way by then.
        proxy.allowed().await;
        go.send(true).expect("somebody waits");
        from.read_u64().await.expect("an answer")
    };
    let ((), heard) = within(async { tokio::join!(sending, answer) }).await;
    assert_eq!(heard, sent.len() as u64);
    let end = proxy.end().await;
    assert_eq!((end.up, end.down, end.how), (heard, 8, End::Done));
}

#[tokio::test]
async fn a_head_is_as_long_as_the_limit_at_most() {
    let server = Upstream::mirror().await;
    let (mut proxy, place) = start(&server, |l| l.head_bytes = 1024).await;
    let request = |n: usize| {
        format!(
            "GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\nX: {}\r\n\r\n",
            "y".repeat(n)
        )
    };
    let room = 1024 - request(0).len();
    assert!(proxy.say(request(room)).await.starts_with("HTTP/1.1 200 "));
    proxy.allowed().await;
    proxy.end().await;
    assert!(proxy.say(request(room + 1)).await.starts_with("HTTP/1.1 400 "));
    assert_eq!(proxy.denied().await, Reason::BadRequest);
    let many = "A: b\r\n".repeat(101);
    let (mut proxy, place) = start(&server, |_| {}).await;
    assert!(
        proxy
            .say(format!(
                "GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n{many}\r\n"
            ))
            .await
            .starts_with("HTTP/1.1 400 ")
    );
    assert_eq!(proxy.denied().await, Reason::BadRequest);
}

#[tokio::test]
async fn the_end_of_a_job_ends_its_connections_whatever_they_are_doing() {
    let server = Upstream::echo().await;
    let (mut proxy, place) = start(&server, |_| {}).await;
    let mut tunnel = proxy.connect(&place).await;
    proxy.allowed().await;
    let mut silent = proxy.dial().await;
    let mut asking = proxy.dial().await;
    asking.write_all(b"CONNECT a.exam").await.expect("write");
    let mut sending = proxy.dial().await;
    let head = format!("POST http://{place}/ HTTP/1.1\r\nHost: {place}\r\nContent-Length: 5\r\n\r\n12");
    sending.write_all(head.as_bytes()).await.expect("write");
    proxy.allowed().await;
    let totals = proxy.finish().await;
    assert_eq!(totals.allowed, 2);
    for stream in [&mut tunnel, &mut silent, &mut asking, &mut sending] {
        let mut rest = Vec::new();
        let _: std::io::Result<usize> = within(stream.read_to_end(&mut rest)).await;
    }
    let mut ends = 0;
    while let Ok(event) = proxy.events.try_recv() {
        match event {
            Event::Ended(ended) => {
                assert_eq!(ended.how, End::JobEnded);
                ends += 1;
            }
            Event::Decision(decision) => {
                assert!(matches!(
                    decision.verdict,
                    lictor_proto::egress::Verdict::Denied {
                        reason: Reason::JobEnded,
                        ..
                    }
                ));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(ends, 2);
    assert!(
        tokio::net::TcpStream::connect(proxy.address).await.is_err(),
        "the listener is gone"
    );
}

#[tokio::test]
async fn nothing_goes_out_whose_record_nobody_takes() {
    let server = Upstream::new(|mut stream| async move {
        assert_eq!(read_head(&mut stream).await, "", "the server has heard something");
    })
    .await;
    let (mut proxy, place) = start(&server, |_| {}).await;
    proxy.events.close();
    let mut client = proxy.connect(&place).await;
    client.write_all(b"secret").await.expect("write");
    assert_eq!(read_all(&mut client).await, "");
}
