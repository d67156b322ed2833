//! Plain HTTP requests: what goes on, what is taken out, and what is too odd to be read.

use lictor_proto::egress::{End, Protocol, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{LOOPBACK, Proxy, Upstream, read_head, within};

/// A proxy through which `web.example.test` at this port is reached.
async fn to(server: &Upstream) -> Proxy {
    let entry = format!(
        "mode = 'allowlist'\nallow = ['web.example.test:{}']\n{LOOPBACK}",
        server.port()
    );
    let proxy = Proxy::start(&entry).await;
    proxy.names.answer("web.example.test", &["127.0.0.1"]);
    proxy
}

#[tokio::test]
async fn a_request_goes_on_as_it_was_understood() {
    let server = Upstream::mirror().await;
    let mut proxy = to(&server).await;
    let place = format!("web.example.test:{}", server.port());
    let answer = proxy
        .say(format!(
            "GET http://WEB.example.test:{}/a?b HTTP/1.1\r\nhost: {place}\r\nProxy-Authorization: Basic x\r\nX-Own: 1\r\n\
             Connection: close, x-hop\r\nX-Hop: 1\r\nProxy-Connection: keep-alive\r\n\r\n",
            server.port()
        ))
        .await;
    let (head, seen) = answer.split_once("\r\n\r\n").expect("an answer");
    assert!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Connection: close"),
        "{head}"
    );
    assert_eq!(
        seen,
        format!(
            "GET /a?b HTTP/1.1\r\nHost: {place}\r\nx-own: 1\r\nVia: 1.1 lictor-egress\r\nConnection: close\r\n\r\n"
        )
    );
    let decision = proxy.decision().await;
    assert_eq!(decision.protocol, Protocol::Http);
    assert_eq!(proxy.end().await.how, End::Done);
}

#[tokio::test]
async fn each_request_of_a_connection_is_judged_by_itself() {
    let server = Upstream::mirror().await;
    let mut proxy = to(&server).await;
    let place = format!("web.example.test:{}", server.port());
    let mut client = proxy.dial().await;
    for attempt in 1..=3 {
        let request = format!("GET http://{place}/{attempt} HTTP/1.1\r\nHost: {place}\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("write");
        let head = read_head(&mut client).await;
        assert!(
            head.starts_with("HTTP/1.1 200 ") && head.contains("Connection: keep-alive"),
            "{head}"
        );
        let seen = read_head(&mut client).await;
        assert!(seen.starts_with(&format!("GET /{attempt} ")), "{seen}");
        assert_eq!(proxy.allowed().await, place);
        assert_eq!(proxy.end().await.attempt, attempt);
    }
    let other = "GET http://other.example.test/ HTTP/1.1\r\nHost: other.example.test\r\n\r\n";
    client.write_all(other.as_bytes()).await.expect("write");
    let mut answer = String::new();
    within(client.read_to_string(&mut answer)).await.expect("read");
    assert!(
        answer.starts_with("HTTP/1.1 403 Forbidden\r\nlictor-egress: not_listed\r\n"),
        "{answer}"
    );
    assert_eq!(proxy.denied().await, Reason::NotListed);
}
