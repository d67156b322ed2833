//! SOCKS5: the one command that is served, and the codes by which the others are refused.

use lictor_proto::egress::{Protocol, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bench::{LOOPBACK, Proxy, Upstream, within};

const NO_AUTHENTICATION: &[u8] = &[5, 1, 0];

fn by_name(command: u8, host: &[u8], port: u16) -> Vec<u8> {
    let length = u8::try_from(host.len()).expect("short");
    [&[5, command, 0, 3, length], host, &port.to_be_bytes()[..]].concat()
}

/// Asks and gives the reply's code.
async fn ask(client: &mut TcpStream, request: &[u8]) -> u8 {
    client.write_all(NO_AUTHENTICATION).await.expect("write");
    client.write_all(request).await.expect("write");
    let mut answer = [0; 12];
    within(client.read_exact(&mut answer)).await.expect("read");
    assert_eq!(answer[..3], [5, 0, 5]);
    answer[3]
}

async fn to(server: &Upstream) -> Proxy {
    let port = server.port();
    let entries = format!(
        "'echo.example.test:{port} plain', '127.0.0.1:{port} plain', '[::1]:{port} plain', '*.gone.test:1-65535 plain'"
    );
    let proxy = Proxy::start(&format!("mode = 'allowlist'\nallow = [{entries}]\n{LOOPBACK}")).await;
    proxy.names.answer("echo.example.test", &["127.0.0.1"]);
    proxy.names.answer("a.gone.test", &["127.0.0.1"]);
    proxy
}

#[tokio::test]
async fn a_listed_destination_is_reached_by_name_and_by_address() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server).await;
    let by_address = [&[5, 1, 0, 1, 127, 0, 0, 1], &server.port().to_be_bytes()[..]].concat();
    let typed = by_name(1, b"127.0.0.1", server.port());
    for request in [by_name(1, b"Echo.example.test", server.port()), by_address, typed] {
        let mut client = proxy.dial().await;
        assert_eq!(ask(&mut client, &request).await, 0);
        client.write_all(b"x").await.expect("write");
        assert_eq!(within(client.read_u8()).await.expect("read"), b'x');
        let decision = proxy.decision().await;
        assert_eq!(decision.protocol, Protocol::Socks5);
        drop(client);
        proxy.end().await;
    }
}

#[tokio::test]
async fn a_password_is_taken_and_not_looked_at() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server).await;
    let mut client = proxy.dial().await;
    client
        .write_all(&[5, 1, 2, 1, 2, b'm', b'e', 1, b'x'])
        .await
        .expect("write");
    client
        .write_all(&by_name(1, b"echo.example.test", server.port()))
        .await
        .expect("write");
    let mut answer = [0; 14];
    within(client.read_exact(&mut answer)).await.expect("read");
    assert_eq!(answer[..6], [5, 2, 1, 0, 5, 0]);
    proxy.allowed().await;
}

#[tokio::test]
async fn what_is_not_served_or_not_allowed_has_its_code() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server).await;
    let port = server.port();
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("bind")
        .local_addr()
        .expect("address")
        .port();
    let v6 = |bytes: [u8; 16]| [&[5, 1, 0, 4], &bytes[..], &port.to_be_bytes()].concat();
    let mut mapped = [0; 16];
    mapped[10..].copy_from_slice(&[0xff, 0xff, 127, 0, 0, 1]);
    for (what, request, code, reason) in [
        (
            "another host",
            by_name(1, b"other.example.test", port),
            2,
            Reason::NotListed,
        ),
        (
            "another port",
            by_name(1, b"echo.example.test", 1),
            2,
            Reason::NotListed,
        ),
        (
            "BIND",
            by_name(2, b"echo.example.test", port),
            7,
            Reason::Unsupported,
        ),
        (
            "UDP",
            by_name(3, b"echo.example.test", port),
            7,
            Reason::Unsupported,
        ),
        (
            "no command",
            by_name(9, b"echo.example.test", port),
            7,
            Reason::Unsupported,
        ),
        (
            "another kind of address",
            vec![5, 1, 0, 2, 0, 0],
            8,
            Reason::Unsupported,
        ),
        (
            "a NUL behind the name",
            by_name(1, b"echo.example.test\0", port),
            1,
            Reason::BadRequest,
        ),
        (
            "a NUL within the name",
            by_name(1, b"evil.com\0.example.test", port),
            1,
            Reason::BadRequest,
        ),
        (
            "an odd address",
            by_name(1, b"0x7f.1", port),
            1,
            Reason::BadRequest,
        ),
        (
            "a bare number",
            by_name(1, b"2130706433", port),
            1,
            Reason::BadRequest,
        ),
        ("no name", by_name(1, b"", port), 1, Reason::BadRequest),
        (
            "a name with its port",
            by_name(1, b"echo.example.test:443", port),
            1,
            Reason::BadRequest,
        ),
        (
            "port 0",
            by_name(1, b"echo.example.test", 0),
            1,
            Reason::BadRequest,
        ),
        ("IPv4 in IPv6", v6(mapped), 1, Reason::BadRequest),
        (
            "nobody there",
            by_name(1, b"a.gone.test", free),
            5,
            Reason::DialFailed,
        ),
        (
            "no such name",
            by_name(1, b"b.gone.test", port),
            4,
            Reason::DnsFailed,
        ),
    ] {
        let mut client = proxy.dial().await;
        assert_eq!(ask(&mut client, &request).await, code, "{what}");
        assert_eq!(proxy.denied().await, reason, "{what}");
    }
    assert_eq!(server.taken(), 0);
}

#[tokio::test]
async fn a_broken_greeting_is_refused() {
    let server = Upstream::echo().await;
    let mut proxy = to(&server).await;
    let mut client = proxy.dial().await;
    client.write_all(&[5, 1, 1]).await.expect("write");
    let mut answer = [0; 2];
    within(client.read_exact(&mut answer)).await.expect("read");
    assert_eq!(answer, [5, 0xff]);
    assert_eq!(proxy.denied().await, Reason::BadRequest);
    let mut client = proxy.dial().await;
    client
        .write_all(&[5, 1, 0, 4, 1, 0, 1, 127, 0, 0, 1, 0, 80])
        .await
        .expect("write");
    assert_eq!(proxy.denied().await, Reason::BadRequest);
    let mut client = proxy.dial().await;
    client.write_all(&[5, 3, 0]).await.expect("write");
    client.shutdown().await.expect("shutdown");
    assert_eq!(proxy.denied().await, Reason::BadRequest);
}
