//! Bodies and answers of plain requests, in all their framings.

use lictor_proto::egress::{End, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{LOOPBACK, Proxy, Upstream, read_all, read_head, within};

async fn to(server: &Upstream) -> (Proxy, String) {
    let entry = format!(
        "mode = 'allowlist'\nallow = ['web.example.test:{} http']\n{LOOPBACK}",
        server.port()
    );
    let proxy = Proxy::start(&entry).await;
    proxy.names.answer("web.example.test", &["127.0.0.1"]);
    (proxy, format!("web.example.test:{}", server.port()))
}

/// Takes a request whose body ends in `end`, and sends all of it back.
async fn until(end: &'static str) -> Upstream {
    Upstream::new(move |mut stream| async move {
        let mut seen = Vec::new();
        while !seen.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => seen.push(byte),
                Err(_) => return,
            }
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.len());
        stream
            .write_all(&[head.as_bytes(), &seen].concat())
            .await
            .expect("write");
    })
    .await
}

#[tokio::test]
async fn a_body_of_known_length_goes_on() {
    let server = until("hello").await;
    let (mut proxy, place) = to(&server).await;
    let heard = proxy.say(format!("PUT http://{place}/ HTTP/1.1\r\nHost: {place}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")).await;
    assert!(
        heard.contains("\r\nContent-Length: 5\r\n") && heard.ends_with("\r\n\r\nhello"),
        "{heard}"
    );
    proxy.allowed().await;
    assert_eq!(proxy.end().await.how, End::Done);
}

#[tokio::test]
async fn chunks_are_written_anew_without_what_hides_in_them() {
    let server = until("0\r\n\r\n").await;
    let (mut proxy, place) = to(&server).await;
    let body = "5;name=value\r\nhello\r\n0006\r\n world\r\n0\r\nX-Trailer: 1\r\n\r\n";
    let heard = proxy
        .say(format!("PUT http://{place}/ HTTP/1.1\r\nHost: {place}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{body}"))
        .await;
    assert!(
        heard.ends_with("\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
        "{heard}"
    );
    proxy.allowed().await;
    assert_eq!(proxy.end().await.how, End::Done);
}

#[tokio::test]
async fn broken_chunks_end_the_passage() {
    let server = Upstream::echo().await;
    for odd in [
        "g\r\n",
        "5\nhello\r\n",
        "5\r\nhelloX\r\n",
        "-1\r\n",
        "5 \r\nhello\r\n",
        "ffffffffffffffff\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\n folded\r\n\r\n",
        "0x5\r\nhello\r\n",
    ] {
        let (mut proxy, place) = to(&server).await;
        let mut client = proxy.dial().await;
        let head = format!(
            "PUT http://{place}/ HTTP/1.1\r\nHost: {place}\r\nTransfer-Encoding: chunked\r\n\r\n{odd}"
        );
        client.write_all(head.as_bytes()).await.expect("write");
        proxy.allowed().await;
        // The echo is no answer either; whichever is seen first ends it.
        let how = proxy.end().await.how;
        assert!(
            matches!(how, End::BadRequest | End::BadResponse),
            "{odd:?}: {how:?}"
        );
        read_all(&mut client).await;
    }
}

#[tokio::test]
async fn an_interim_answer_is_heard_before_the_body_is_sent() {
    let server = Upstream::new(|mut stream| async move {
        let head = read_head(&mut stream).await;
        assert!(
            head.to_ascii_lowercase().contains("expect: 100-continue"),
            "{head}"
        );
        stream
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
            .await
            .expect("write");
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.expect("read");
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .expect("write");
    })
    .await;
    let (mut proxy, place) = to(&server).await;
    let mut client = proxy.dial().await;
    let head = format!(
        "PUT http://{place}/ HTTP/1.1\r\nHost: {place}\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    client.write_all(head.as_bytes()).await.expect("write");
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 100 Continue"));
    client.write_all(b"hello").await.expect("write");
    let answer = read_head(&mut client).await;
    assert!(
        answer.starts_with("HTTP/1.1 204 No Content") && answer.contains("keep-alive"),
        "{answer}"
    );
    proxy.allowed().await;
    assert_eq!(proxy.end().await.how, End::Done);
}

#[tokio::test]
async fn answers_keep_their_length_however_it_is_said() {
    for (answer, method, version, heard_end, kept) in [
        (
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x\r\nhello\r\n0\r\n\r\n"[..],
            "GET",
            1,
            "\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "GET",
            0,
            "\r\n\r\nhello",
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "GET",
            1,
            "\r\n\r\nhello",
            true,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", "GET", 1, "\r\n\r\nhello", false),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", "GET", 1, "\r\n\r\nhello", false),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "HEAD",
            1,
            "\r\n\r\n",
            true,
        ),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            "GET",
            1,
            "\r\n\r\n",
            true,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", "DELETE", 1, "\r\n\r\n", true),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n",
            "GET",
            1,
            "\r\n\r\n",
            true,
        ),
    ] {
        let server = Upstream::canned(answer).await;
        let (mut proxy, place) = to(&server).await;
        let mut client = proxy.dial().await;
        let request = format!("{method} http://{place}/ HTTP/1.{version}\r\nHost: {place}\r\n\r\n");
        client.write_all(request.as_bytes()).await.expect("write");
        proxy.allowed().await;
        assert_eq!(proxy.end().await.how, End::Done, "{answer:?}");
        client.shutdown().await.expect("shutdown");
        let heard = read_all(&mut client).await;
        assert!(heard.ends_with(heard_end), "{heard}");
        assert_eq!(heard.contains("Connection: keep-alive"), kept, "{heard}");
    }
}

#[tokio::test]
async fn an_answer_that_can_be_read_in_two_ways_is_not_passed_on() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"",
    ] {
        let server = Upstream::canned(answer).await;
        let (mut proxy, place) = to(&server).await;
        let heard = proxy
            .say(format!("GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n"))
            .await;
        assert!(
            heard.starts_with("HTTP/1.1 502 Bad Gateway\r\nlictor-egress: bad_response\r\n")
                && heard.ends_with("read\n"),
            "{heard}"
        );
        proxy.allowed().await;
        let how = proxy.end().await.how;
        assert!(matches!(how, End::BadResponse | End::ServerGone), "{how:?}");
    }
}

#[tokio::test]
async fn a_redirect_inside_is_judged_when_it_is_followed() {
    let server = Upstream::canned(
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let (mut proxy, place) = to(&server).await;
    let mut client = proxy.dial().await;
    client
        .write_all(format!("GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n").as_bytes())
        .await
        .expect("write");
    assert!(read_head(&mut client).await.contains("http://169.254.169.254/"));
    proxy.allowed().await;
    proxy.end().await;
    client
        .write_all(b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n")
        .await
        .expect("write");
    assert!(within(read_head(&mut client)).await.starts_with("HTTP/1.1 403 "));
    assert_eq!(proxy.denied().await, Reason::NotListed);
}
