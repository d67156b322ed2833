//! CONNECT and SOCKS5, up to the bytes inside.

use lictor_proto::egress::{End, Protocol, Reason, Verdict};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{LOOPBACK, Proxy, Upstream, read_all, within};

fn allow(entries: &str) -> String {
    format!("mode = 'allowlist'\nallow = [{entries}]\n{LOOPBACK}")
}

#[tokio::test]
async fn a_listed_destination_is_reached_and_both_ends_are_written_down() {
    let server = Upstream::echo().await;
    let mut proxy = Proxy::start(&allow(&format!("'echo.example.test:{} plain'", server.port()))).await;
    proxy.names.answer("echo.example.test", &["127.0.0.1"]);
    let mut client = proxy
        .connect(&format!("Echo.example.test.:{}", server.port()))
        .await;
    client.write_all(b"hello").await.expect("write");
    let mut answer = [0; 5];
    within(client.read_exact(&mut answer)).await.expect("read");
    assert_eq!(&answer, b"hello");
    client.shutdown().await.expect("shutdown");
    assert_eq!(read_all(&mut client).await, "");
    let decision = proxy.decision().await;
    assert_eq!(decision.attempt, 1);
    assert_eq!(decision.protocol, Protocol::Connect);
    assert_eq!(decision.host.as_deref(), Some("echo.example.test"));
    assert_eq!(decision.port, Some(server.port()));
    assert_eq!(
        decision.answers,
        ["127.0.0.1".parse::<std::net::IpAddr>().expect("ip")]
    );
    assert_eq!(decision.dialled, Some(server.address));
    let rule = format!("echo.example.test:{} plain", server.port());
    assert_eq!(decision.verdict, Verdict::Allowed { rule });
    let end = proxy.end().await;
    assert_eq!((end.attempt, end.up, end.down, end.how), (1, 5, 5, End::Done));
    let totals = proxy.finish().await;
    assert_eq!(
        (totals.allowed, totals.denied, totals.up, totals.down),
        (1, 0, 5, 5)
    );
}

#[tokio::test]
async fn what_is_not_listed_is_refused_with_its_reason() {
    let server = Upstream::echo().await;
    let mut proxy = Proxy::start(&allow("'other.example.test:443'")).await;
    proxy.names.answer("echo.example.test", &["127.0.0.1"]);
    let to = format!("echo.example.test:{}", server.port());
    let answer = proxy
        .say(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n"))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 403 Forbidden\r\nlictor-egress: not_listed\r\n"),
        "{answer}"
    );
    assert!(
        answer.ends_with("\n") && answer.contains("\r\n\r\nlictor-egress: not_listed: "),
        "{answer}"
    );
    assert_eq!(proxy.denied().await, Reason::NotListed);
}

#[tokio::test]
async fn a_job_without_network_reaches_nothing() {
    let mut proxy = Proxy::start("").await;
    let answer = proxy
        .say("CONNECT a.example.test:443 HTTP/1.1\r\nHost: a.example.test:443\r\n\r\n")
        .await;
    assert!(answer.contains("lictor-egress: no_egress"), "{answer}");
    assert_eq!(proxy.denied().await, Reason::NoEgress);
}

#[tokio::test]
async fn either_side_may_stop_sending_and_still_listen() {
    // The server says all it has to say first, and only then listens.
    let server = Upstream::new(|mut stream| async move {
        stream.write_all(b"banner").await.expect("write");
        stream.shutdown().await.expect("shutdown");
        let heard = read_all(&mut stream).await;
        assert_eq!(heard, "late");
    })
    .await;
    let mut proxy = Proxy::start(&allow(&format!("'s.example.test:{} plain'", server.port()))).await;
    proxy.names.answer("s.example.test", &["127.0.0.1"]);
    let mut client = proxy.connect(&format!("s.example.test:{}", server.port())).await;
    assert_eq!(read_all(&mut client).await, "banner");
    client.write_all(b"late").await.expect("write");
    client.shutdown().await.expect("shutdown");
    proxy.allowed().await;
    let end = proxy.end().await;
    assert_eq!((end.up, end.down, end.how), (4, 6, End::Done));
}

#[tokio::test]
async fn what_cannot_be_reached_says_so() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("bind")
        .local_addr()
        .expect("address")
        .port();
    let mut proxy = Proxy::start(&allow(&format!("'*.example.test:{free} plain'"))).await;
    proxy.names.answer("gone.example.test", &["127.0.0.1"]);
    for (host, word, reason) in [
        ("gone.example.test", "dial_failed", Reason::DialFailed),
        ("nobody.example.test", "dns_failed", Reason::DnsFailed),
    ] {
        let answer = proxy
            .say(format!("CONNECT {host}:{free} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains(word),
            "{answer}"
        );
        assert_eq!(proxy.denied().await, reason);
    }
}

#[tokio::test]
async fn hosts_in_odd_spellings_are_refused_where_the_plain_one_passes() {
    let server = Upstream::echo().await;
    let port = server.port();
    let mut proxy = Proxy::start(&allow(&format!(
        "'127.0.0.0/8:{port} plain', '*.example.test:{port} plain'"
    )))
    .await;
    drop(proxy.connect(&format!("127.0.0.1:{port}")).await);
    proxy.allowed().await;
    proxy.end().await;
    for odd in [
        "0x7f.1",
        "127.1",
        "127.0.1",
        "017700000001",
        "2130706433",
        "0x7f000001",
        "127.0.0.01",
        "127.0.0.1.",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::1%25lo]",
        "[::1%lo]",
        "%31%32%37.0.0.1",
        "user@127.0.0.1",
        "user:x@127.0.0.1",
        "a.example.test\0.evil",
        "a.example.test%00",
        "a..example.test",
        "a.example.test,b",
        "a_b@a.example.test",
        "127.0.0.1 127.0.0.2",
        "\u{ff11}27.0.0.1",
        "ex\u{e4}mple.test",
        "-a.example.test",
        "127.0.0.1#",
        "127.0.0.1/",
        "127.0.0.1\\",
    ] {
        let answer = proxy
            .say(format!(
                "CONNECT {odd}:{port} HTTP/1.1\r\nHost: {odd}:{port}\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\nlictor-egress: bad_request\r\n"),
            "{odd:?}: {answer}"
        );
        assert_eq!(proxy.denied().await, Reason::BadRequest, "{odd:?}");
    }
    assert_eq!(server.taken(), 1);
}

#[tokio::test]
async fn what_is_no_proxy_request_is_refused() {
    let mut proxy = Proxy::start(&allow("'a.example.test:443'")).await;
    for odd in [
        &b"\x04\x01\x01\xbb\x7f\0\0\x01\0"[..],
        b"\x16\x03\x01\0\x05hello",
        b"\0\0\0\0",
        b"SSH-2.0-x\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        proxy.say(odd).await;
        assert_eq!(proxy.denied().await, Reason::BadRequest, "{odd:?}");
    }
    // Saying nothing is an attempt too.
    drop(proxy.dial().await);
    assert_eq!(proxy.denied().await, Reason::BadRequest);
    assert_eq!(proxy.finish().await.denied, 8);
}

#[tokio::test]
async fn many_bytes_arrive_as_they_were_sent() {
    const MANY: usize = 6_000_011;
    let server = Upstream::echo().await;
    let mut proxy = Proxy::start(&allow(&format!("'echo.example.test:{} plain'", server.port()))).await;
    proxy.names.answer("echo.example.test", &["127.0.0.1"]);
    let client = proxy
        .connect(&format!("echo.example.test:{}", server.port()))
        .await;
    let (mut read, mut write) = client.into_split();
    let sent: Vec<u8> = (0..MANY).map(|i| i.to_le_bytes()[i % 3]).collect();
    let mut heard = Vec::new();
    let both = async {
        tokio::join!(
            async {
                write.write_all(&sent).await.expect("write");
                write.shutdown().await.expect("shutdown");
            },
            async { read.read_to_end(&mut heard).await.expect("read") }
        )
    };
    within(both).await;
    assert!(heard == sent, "{} bytes came back", heard.len());
    proxy.allowed().await;
    let end = proxy.end().await;
    assert_eq!((end.up, end.down, end.how), (MANY as u64, MANY as u64, End::Done));
}
