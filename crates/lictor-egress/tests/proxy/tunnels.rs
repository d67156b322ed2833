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
