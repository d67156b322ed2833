//! The name in the handshake against the name that was asked for.

use lictor_proto::egress::{End, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bench::{LOOPBACK, Proxy, Upstream, read_all, within};

const NAME: u16 = 0;
const ECH: u16 = 0xfe0d;
const DENIED: &str = "\u{15}\u{3}\u{1}\u{0}\u{2}\u{2}1";

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(bytes.len()).expect("short").to_be_bytes()[..],
        bytes,
    ]
    .concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &with_length(content)].concat()
}

fn name(host: &str) -> Vec<u8> {
    extension(
        NAME,
        &with_length(&[&[0][..], &with_length(host.as_bytes())].concat()),
    )
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let key_share = extension(51, &[7; 1200]);
    let extensions = with_length(&[&key_share[..], extensions].concat());
    let body = [&[3, 3][..], &[9; 32], &[0, 0, 2, 0x13, 1, 1, 0], &extensions].concat();
    [&[1, 0][..], &with_length(&body)].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .flat_map(|piece| [&[22, 3, 1][..], &with_length(piece)].concat())
        .collect()
}

/// A ClientHello in one record.
fn hello(extensions: &[u8]) -> Vec<u8> {
    records(&message(extensions), 16_000)
}

async fn to(server: &Upstream, policy: &str) -> Proxy {
    let port = server.port();
    let entries = format!("'a.example.test:{port}', 'b.example.test:{port}', '127.0.0.1:{port}'");
    let proxy = Proxy::start(&format!(
        "mode = 'allowlist'\nallow = [{entries}]\n{LOOPBACK}{policy}"
    ))
    .await;
    proxy.names.answer("a.example.test", &["127.0.0.1"]);
    proxy.names.answer("b.example.test", &["127.0.0.3"]);
    proxy
}

async fn echoes(client: &mut TcpStream, bytes: &[u8]) {
    let mut answer = vec![0; bytes.len()];
    within(client.read_exact(&mut answer)).await.expect("read");
    assert_eq!(answer, bytes);
}

#[tokio::test]
async fn the_right_name_passes_however_it_is_cut() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server, "").await;
    let place = format!("a.example.test:{}", server.port());
    let message = message(&name("A.Example.test"));
    for (record, segment) in [(16_000, 16_000), (16_000, 1), (100, 7), (1, 64), (5, 3)] {
        let bytes = records(&message, record);
        let mut client = proxy.connect(&place).await;
        client.set_nodelay(true).expect("nodelay");
        for piece in bytes.chunks(segment) {
            client.write_all(piece).await.expect("write");
        }
        echoes(&mut client, &bytes).await;
        let decision = proxy.decision().await;
        assert_eq!(
            decision.sni.as_deref(),
            Some("a.example.test"),
            "{record} {segment}"
        );
        drop(client);
        proxy.end().await;
    }
}

#[tokio::test]
async fn what_is_sent_with_the_request_is_looked_at_too() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server, "").await;
    let place = format!("a.example.test:{}", server.port());
    let head = format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n");
    let answer = proxy
        .say([head.as_bytes(), &hello(&name("b.example.test"))].concat())
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(DENIED),
        "{answer:?}"
    );
    assert_eq!(proxy.denied().await, Reason::SniMismatch);
}

#[tokio::test]
async fn a_handshake_for_somebody_else_is_ended_before_a_byte_is_passed_on() {
    let server = Upstream::new(|mut stream| async move {
        assert_eq!(read_all(&mut stream).await, "", "the server has heard something");
    })
    .await;
    let mut proxy = to(&server, "").await;
    let place = format!("a.example.test:{}", server.port());
    let twice = [name("a.example.test"), name("b.example.test")].concat();
    for (what, bytes, reason) in [
        (
            "another listed name",
            hello(&name("b.example.test")),
            Reason::SniMismatch,
        ),
        (
            "a name below",
            hello(&name("x.a.example.test")),
            Reason::SniMismatch,
        ),
        (
            "another name over many records",
            records(&message(&name("evil.example")), 3),
            Reason::SniMismatch,
        ),
        ("no name", hello(&[]), Reason::NoSni),
        (
            "a hidden name",
            hello(&[name("a.example.test"), extension(ECH, &[0, 1])].concat()),
            Reason::Ech,
        ),
        ("two names", hello(&twice), Reason::BadTls),
        (
            "no TLS",
            b"GET / HTTP/1.1\r\nHost: a.example.test\r\n\r\n".to_vec(),
            Reason::NotTls,
        ),
        ("another TLS message", records(&[2, 0, 0, 0], 100), Reason::BadTls),
        ("an old hello", vec![0x80, 0x2e, 1, 3, 1], Reason::NotTls),
    ] {
        let mut client = proxy.connect(&place).await;
        client.write_all(&bytes).await.expect("write");
        let heard = read_all(&mut client).await;
        assert_eq!(heard == DENIED, bytes[0] == 22, "{what}: {heard:?}");
        assert_eq!(proxy.denied().await, reason, "{what}");
    }
    assert_eq!(proxy.finish().await.up, 0);
}

#[tokio::test]
async fn a_profile_may_let_through_what_cannot_be_verified() {
    let server = Upstream::echo().await;
    let place = format!("a.example.test:{}", server.port());
    let hidden = |visible: &str| hello(&[name(visible), extension(ECH, &[0, 1])].concat());
    for (policy, passes) in [
        ("tls = { no_sni = 'allow' }", hello(&[])),
        ("tls = { ech = 'allow' }", hidden("a.example.test")),
        ("tls = { not_tls = 'allow' }", b"SSH-2.0-x\r\n".to_vec()),
    ] {
        let mut proxy = to(&server, policy).await;
        let mut client = proxy.connect(&place).await;
        client.write_all(&passes).await.expect("write");
        echoes(&mut client, &passes).await;
        proxy.allowed().await;
    }
    // What shows a name still has to show the right one.
    for policy in [
        "tls = { ech = 'allow' }",
        "tls = { not_tls = 'allow', no_sni = 'allow', ech = 'allow' }",
    ] {
        let mut proxy = to(&server, policy).await;
        let mut client = proxy.connect(&place).await;
        client.write_all(&hidden("b.example.test")).await.expect("write");
        assert_eq!(proxy.denied().await, Reason::SniMismatch);
    }
}

#[tokio::test]
async fn a_tunnel_to_an_address_carries_no_name_or_one_that_has_that_address() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server, "").await;
    let place = format!("127.0.0.1:{}", server.port());
    for passes in [hello(&[]), hello(&name("a.example.test"))] {
        let mut client = proxy.connect(&place).await;
        client.write_all(&passes).await.expect("write");
        echoes(&mut client, &passes).await;
        proxy.allowed().await;
        drop(client);
        proxy.end().await;
    }
    for other in ["b.example.test", "evil.example"] {
        let mut client = proxy.connect(&place).await;
        client.write_all(&hello(&name(other))).await.expect("write");
        assert_eq!(proxy.denied().await, Reason::SniMismatch, "{other}");
    }
    let mut client = proxy.connect(&place).await;
    client.write_all(b"SSH-2.0-x\r\n").await.expect("write");
    assert_eq!(proxy.denied().await, Reason::NotTls);
}

/// A server that asks for another ClientHello, and then sends back what it gets.
async fn retrying() -> Upstream {
    Upstream::new(|mut stream| async move {
        let mut first = vec![0; 2048];
        let _: std::io::Result<usize> = stream.read(&mut first).await;
        // A warning before it, as some servers send, changes nothing.
        let mut retry = vec![21, 3, 3, 0, 2, 1, 112, 22, 3, 3, 0, 60, 2, 0, 0, 56, 3, 3];
        retry.extend([
            0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
            0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
        ]);
        retry.extend([0; 22]);
        stream.write_all(&retry).await.expect("write");
        let (mut read, mut write) = stream.split();
        let _: std::io::Result<u64> = tokio::io::copy(&mut read, &mut write).await;
    })
    .await
}

#[tokio::test]
async fn a_second_hello_has_to_name_the_same_host_as_the_first() {
    let server = retrying().await;
    let mut proxy = to(&server, "").await;
    let place = format!("a.example.test:{}", server.port());
    let change = [20, 3, 3, 0, 1, 1];
    let early = [23, 3, 3, 0, 3, 1, 2, 3];
    for (second, how) in [
        (hello(&name("a.example.test")), End::Done),
        (hello(&name("b.example.test")), End::SniMismatch),
        (records(&message(&name("b.example.test")), 10), End::SniMismatch),
        (hello(&[]), End::SniMismatch),
        (
            hello(&[name("a.example.test"), extension(ECH, &[0, 1])].concat()),
            End::SniMismatch,
        ),
        (b"\x17\x03\x03".to_vec(), End::Done),
        (b"something else".to_vec(), End::BadRequest),
    ] {
        let mut client = proxy.connect(&place).await;
        client
            .write_all(&hello(&name("a.example.test")))
            .await
            .expect("write");
        let mut retry = [0; 72];
        within(client.read_exact(&mut retry)).await.expect("read");
        client
            .write_all(&[&early[..], &change, &second].concat())
            .await
            .expect("write");
        client.shutdown().await.expect("shutdown");
        let heard = read_all(&mut client).await;
        proxy.allowed().await;
        let end = proxy.end().await;
        assert_eq!(end.how, how, "{:?}", &second[..second.len().min(9)]);
        if how != End::Done {
            assert!(
                heard.len() <= early.len() + change.len(),
                "the server has heard the second one"
            );
        }
    }
}
