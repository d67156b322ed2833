//! Plain HTTP requests: what goes on, what is taken out, and what is too odd to be read.

use lictor_proto::egress::{End, Protocol, Reason};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{LOOPBACK, Proxy, Upstream, read_head, within};

/// A proxy through which `web.example.test` at this port is reached.
async fn to(server: &Upstream) -> Proxy {
    let entry = format!(
        "mode = 'allowlist'\nallow = ['web.example.test:{} http']\n{LOOPBACK}",
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
        assert_eq!(proxy.allowed().await, format!("{place} http"));
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

/// A server that answers `/N` by a redirect to the Nth of `places`, and everything else by `landed`.
async fn redirecting_to(places: Vec<String>) -> Upstream {
    Upstream::new(move |mut stream| {
        let places = places.clone();
        async move {
            let head = read_head(&mut stream).await;
            let path = head.split(' ').nth(1).unwrap_or_default();
            let to = path.strip_prefix('/').and_then(|n| n.parse().ok());
            let answer = match to.and_then(|n: usize| places.get(n)) {
                Some(to) => format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"),
                None => "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nlanded".to_owned(),
            };
            let _: std::io::Result<()> = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await
}

/// Asks for `/number`, and follows the redirect on the same connection, as a client does; what the second answer is.
async fn follow(proxy: &mut Proxy, place: &str, number: usize) -> String {
    let mut client = proxy.dial().await;
    let ask = |url: &str| {
        let host = url.trim_start_matches("http://").trim_end_matches('/');
        let host = host.split('/').next().unwrap_or_default().to_owned();
        format!("GET {url} HTTP/1.1\r\nHost: {host}\r\n\r\n")
    };
    let first = ask(&format!("http://{place}/{number}"));
    client.write_all(first.as_bytes()).await.expect("write");
    let redirect = read_head(&mut client).await;
    assert!(redirect.starts_with("HTTP/1.1 302 "), "{redirect}");
    proxy.allowed().await;
    proxy.end().await;
    let location = redirect.lines().find_map(|l| {
        let (name, value) = l.split_once(": ")?;
        name.eq_ignore_ascii_case("location").then(|| value.to_owned())
    });
    let second = ask(&location.expect("where to"));
    client.write_all(second.as_bytes()).await.expect("write");
    read_head(&mut client).await
}

#[tokio::test]
async fn a_redirect_leads_no_further_than_a_request_of_its_own() {
    let landing = redirecting_to(Vec::new()).await;
    let places = [
        format!("http://also.example.test:{}/landing", landing.port()),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://in.example.test/".to_owned(),
        "http://10.0.0.1/".to_owned(),
    ];
    let server = redirecting_to(places.to_vec()).await;
    let place = format!("web.example.test:{}", server.port());
    let listed = format!(
        "mode = 'allowlist'\nallow = ['{place} http', 'also.example.test:{} http', '*.example.test:80 http']\n",
        landing.port()
    );
    // Where everything public is open, only the look at addresses is left.
    for (rules, of_an_address, of_metadata) in [
        (listed, Reason::NotListed, Reason::NotListed),
        (
            "mode = 'open'\n".to_owned(),
            Reason::PrivateAddress,
            Reason::MetadataAddress,
        ),
    ] {
        let mut proxy = Proxy::start(&format!("{rules}private = ['127.0.0.1']")).await;
        for (name, address) in [("web", "127.0.0.1"), ("also", "127.0.0.1"), ("in", "10.0.0.1")] {
            proxy.names.answer(&format!("{name}.example.test"), &[address]);
        }
        let landed = follow(&mut proxy, &place, 0).await;
        assert!(
            landed.starts_with("HTTP/1.1 200 "),
            "a redirect is followed: {landed}"
        );
        proxy.allowed().await;
        proxy.end().await;
        for (number, reason) in [(1, of_metadata), (2, Reason::PrivateAddress), (3, of_an_address)] {
            let answer = follow(&mut proxy, &place, number).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 403 Forbidden\r\nlictor-egress: {reason}\r\n")),
                "{rules} {number}: {answer}"
            );
            assert_eq!(proxy.denied().await, reason, "{rules} {number}");
        }
    }
    assert_eq!(landing.taken(), 2);
}

#[tokio::test]
async fn requests_that_two_servers_could_read_differently_reach_none() {
    let server = Upstream::mirror().await;
    let mut proxy = to(&server).await;
    let place = format!("web.example.test:{}", server.port());
    let post = |fields: &str, body: &str| {
        format!("POST http://{place}/ HTTP/1.1\r\nHost: {place}\r\n{fields}\r\n{body}")
    };
    let smuggled = format!("GET http://{place}/smuggled HTTP/1.1\r\nHost: {place}\r\n\r\n");
    for odd in [
        post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &smuggled),
        post("Content-Length: 0\r\nContent-Length: 50\r\n", &smuggled),
        post("Content-Length: 0, 50\r\n", &smuggled),
        post(
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "0\r\n\r\n",
        ),
        post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
        post("X: y\nContent-Length: 50\r\n", &smuggled),
        post("X: y\rContent-Length: 50\r\n", &smuggled),
        post("X: y\0z\r\n", ""),
        post("X: y\r\n folded\r\n", ""),
        post("Host: other.example.test\r\n", ""),
        post("Connection: content-length\r\nContent-Length: 5\r\n", "hello"),
        post("Connection: host\r\n", ""),
        format!("GET http://{place}/ HTTP/1.1\r\nHost: other.example.test\r\n\r\n"),
        format!("GET http://{place}/ HTTP/1.1\r\n\r\n"),
        format!("GET http://user@{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        format!("GET http://{place}\\@other/ HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        format!("GET http://{place}/#x HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        format!("GET /path HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        format!("GET http://{place}/ HTTP/1.1\nHost: {place}\n\n"),
        format!("GET http://{place}/a b HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        format!("GET\thttp://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n"),
        format!("GET http://{place}/ HTTP/1.1\r\n Host: {place}\r\n\r\n"),
        format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nContent-Length: 5\r\n\r\nhello"),
    ] {
        let answer = proxy.say(&odd).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\nlictor-egress: bad_request\r\n"),
            "{odd:?}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{odd:?}: {answer}");
        assert_eq!(proxy.denied().await, Reason::BadRequest, "{odd:?}");
    }
    assert_eq!(server.taken(), 0);
    let good = proxy
        .say(post("Content-Length: 0\r\nConnection: close\r\n", ""))
        .await;
    assert!(good.starts_with("HTTP/1.1 200 OK"), "{good}");
}

#[tokio::test]
async fn other_schemes_are_not_served() {
    let server = Upstream::mirror().await;
    let mut proxy = to(&server).await;
    let place = format!("web.example.test:{}", server.port());
    for scheme in ["https", "ftp", "ws", "gopher"] {
        let answer = proxy
            .say(format!(
                "GET {scheme}://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n"
            ))
            .await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request\r\nlictor-egress: unsupported\r\n"),
            "{answer}"
        );
        assert_eq!(proxy.denied().await, Reason::Unsupported);
    }
    assert_eq!(server.taken(), 0);
}

#[tokio::test]
async fn an_entry_for_tls_gets_no_plain_request_and_one_for_requests_no_plain_tunnel() {
    let server = Upstream::mirror().await;
    let place = format!("web.example.test:{}", server.port());
    let mut secret = Proxy::start(&format!("mode = 'allowlist'\nallow = ['{place}']\n{LOOPBACK}")).await;
    let answer = secret
        .say(format!("GET http://{place}/ HTTP/1.1\r\nHost: {place}\r\n\r\n"))
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 403 Forbidden\r\nlictor-egress: not_tls\r\n"),
        "{answer}"
    );
    assert_eq!(secret.denied().await, Reason::NotTls);
    let mut plain = to(&server).await;
    let mut client = plain.connect(&place).await;
    client
        .write_all(format!("GET / HTTP/1.1\r\nHost: {place}\r\n\r\n").as_bytes())
        .await
        .expect("write");
    assert_eq!(plain.denied().await, Reason::NotTls);
}
