//! What a name's addresses are worth: all of them are judged, once, and one of those is dialled.

use lictor_proto::egress::Reason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::bench::{LOOPBACK, Proxy, Upstream, skip, within};

fn connect(host: &str, port: u16) -> String {
    format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n")
}

#[tokio::test]
async fn a_listed_name_with_an_address_that_is_not_public_is_refused() {
    let server = Upstream::echo().await;
    let port = server.port();
    // It works where the range is named ...
    let entry = format!("mode = 'allowlist'\nallow = ['in.example.test:{port} plain']\n");
    let mut named = Proxy::start(&(entry.clone() + LOOPBACK)).await;
    named.names.answer("in.example.test", &["127.0.0.1"]);
    drop(named.connect(&format!("in.example.test:{port}")).await);
    named.allowed().await;
    // ... and nowhere else.
    for (address, reason) in [
        ("127.0.0.1", Reason::PrivateAddress),
        ("10.0.0.1", Reason::PrivateAddress),
        ("192.168.0.1", Reason::PrivateAddress),
        ("172.16.0.1", Reason::PrivateAddress),
        ("169.254.1.1", Reason::PrivateAddress),
        ("100.64.0.1", Reason::PrivateAddress),
        ("224.0.0.1", Reason::PrivateAddress),
        ("0.0.0.0", Reason::PrivateAddress),
        ("255.255.255.255", Reason::PrivateAddress),
        ("192.0.2.1", Reason::PrivateAddress),
        ("::1", Reason::PrivateAddress),
        ("::", Reason::PrivateAddress),
        ("fe80::1", Reason::PrivateAddress),
        ("fd00::1", Reason::PrivateAddress),
        ("ff02::1", Reason::PrivateAddress),
        ("::ffff:127.0.0.1", Reason::PrivateAddress),
        ("64:ff9b::7f00:1", Reason::PrivateAddress),
        ("2002:7f00:1::", Reason::PrivateAddress),
        ("2001:0:7f00:1::", Reason::PrivateAddress),
        ("169.254.169.254", Reason::MetadataAddress),
        ("fd00:ec2::254", Reason::MetadataAddress),
        ("168.63.129.16", Reason::MetadataAddress),
    ] {
        let mut proxy = Proxy::start(&entry).await;
        proxy.names.answer("in.example.test", &[address]);
        let answer = proxy.say(connect("in.example.test", port)).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 Forbidden\r\n"),
            "{address}: {answer}"
        );
        let decision = proxy.decision().await;
        assert_eq!(
            decision.answers,
            [address.parse::<std::net::IpAddr>().expect("ip")]
        );
        assert_eq!(decision.dialled, None);
        assert!(
            matches!(decision.verdict, lictor_proto::egress::Verdict::Denied { reason: r, .. } if r == reason),
            "{address}: {decision:?}"
        );
        let by = decision.verdict.rule().map(ToOwned::to_owned);
        assert_eq!(by, Some(format!("in.example.test:{port} plain")), "{address}");
    }
    assert_eq!(server.taken(), 1);
}

#[tokio::test]
async fn one_bad_address_among_good_ones_condemns_the_name() {
    let server = Upstream::echo().await;
    let port = server.port();
    let mut proxy = Proxy::start(&format!(
        "mode = 'allowlist'\nallow = ['*.example.test:{port} plain']\nprivate = ['127.0.0.0/8']"
    ))
    .await;
    proxy.names.answer("good.example.test", &["127.0.0.1"]);
    proxy
        .names
        .answer("mixed.example.test", &["127.0.0.1", "10.0.0.1"]);
    proxy.names.answer("mixed6.example.test", &["127.0.0.1", "::1"]);
    drop(proxy.connect(&format!("good.example.test:{port}")).await);
    proxy.allowed().await;
    proxy.end().await;
    for host in ["mixed.example.test", "mixed6.example.test"] {
        proxy.say(connect(host, port)).await;
        assert_eq!(proxy.denied().await, Reason::PrivateAddress);
    }
    assert_eq!(server.taken(), 1);
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_asked_once_and_judged_each_time() {
    let server = Upstream::echo().await;
    let port = server.port();
    let mut proxy = Proxy::start(&format!(
        "mode = 'allowlist'\nallow = ['re.example.test:{port} plain']\nprivate = ['127.0.0.1']"
    ))
    .await;
    // Whoever asked twice, once to judge and once to dial, would be led to the second.
    proxy.names.answer("re.example.test", &["127.0.0.1"]);
    proxy.names.answer("re.example.test", &["127.0.0.2"]);
    let mut client = proxy.connect(&format!("re.example.test:{port}")).await;
    client.write_all(b"x").await.expect("write");
    assert_eq!(within(client.read_u8()).await.expect("read"), b'x');
    let decision = proxy.decision().await;
    assert_eq!(
        decision.dialled.map(|d| d.ip().to_string()).as_deref(),
        Some("127.0.0.1")
    );
    drop(client);
    proxy.end().await;
    proxy.say(connect("re.example.test", port)).await;
    assert_eq!(proxy.denied().await, Reason::PrivateAddress);
}

#[tokio::test]
async fn an_address_is_reached_by_an_entry_that_names_it_only() {
    let server = Upstream::echo().await;
    let port = server.port();
    let mut by_name = Proxy::start(&format!(
        "mode = 'allowlist'\nallow = ['in.example.test:{port} plain', '*.example.test:{port}']\n{LOOPBACK}"
    ))
    .await;
    by_name.names.answer("in.example.test", &["127.0.0.1"]);
    drop(by_name.connect(&format!("in.example.test:{port}")).await);
    by_name.allowed().await;
    by_name.end().await;
    by_name.say(connect("127.0.0.1", port)).await;
    assert_eq!(by_name.denied().await, Reason::NotListed);
    for entry in ["127.0.0.1", "127.0.0.0/8"] {
        let mut by_address =
            Proxy::start(&format!("mode = 'allowlist'\nallow = ['{entry}:{port} plain']")).await;
        drop(by_address.connect(&format!("127.0.0.1:{port}")).await);
        assert_eq!(by_address.allowed().await, format!("{entry}:{port} plain"));
    }
    let mut all = Proxy::start(&format!(
        "mode = 'allowlist'\nallow = ['0.0.0.0/0:{port} plain', '[::/0]:{port} plain']"
    ))
    .await;
    all.say(connect("127.0.0.1", port)).await;
    assert_eq!(all.denied().await, Reason::PrivateAddress);
    all.say(connect("[::1]", port)).await;
    assert_eq!(all.denied().await, Reason::PrivateAddress);
}

#[tokio::test]
async fn open_means_public() {
    let server = Upstream::echo().await;
    let port = server.port();
    let mut proxy = Proxy::start("mode = 'open'\ntls = { not_tls = 'allow' }").await;
    proxy.names.answer("in.example.test", &["127.0.0.1"]);
    proxy.say(connect("in.example.test", port)).await;
    assert_eq!(proxy.denied().await, Reason::PrivateAddress);
    let mut named = Proxy::start(&format!(
        "mode = 'open'\ntls = {{ not_tls = 'allow' }}\n{LOOPBACK}"
    ))
    .await;
    named.names.answer("in.example.test", &["127.0.0.1"]);
    let mut client = named.connect(&format!("in.example.test:{port}")).await;
    client.write_all(b"plain").await.expect("write");
    assert_eq!(named.allowed().await, "open");
}

#[tokio::test]
async fn this_machines_own_address_is_not_reached_by_a_range_around_it() {
    // The address that this machine would use to go out, if it can go out at all.
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").expect("bind");
    if probe.connect("198.51.100.1:9").is_err() {
        return skip("this machine has no address but loopback");
    }
    let own = probe.local_addr().expect("address").ip();
    let listener = std::net::TcpListener::bind((own, 0)).expect("bind");
    let port = listener.local_addr().expect("address").port();
    let mut proxy = Proxy::start(&format!("mode = 'allowlist'\nallow = ['{own}:{port} plain']")).await;
    drop(proxy.connect(&format!("{own}:{port}")).await);
    proxy.allowed().await;
    let around = own
        .to_string()
        .rsplit_once('.')
        .map(|(net, _)| format!("{net}.0/24"))
        .expect("IPv4");
    let mut proxy = Proxy::start(&format!("mode = 'allowlist'\nallow = ['{around}:{port} plain']")).await;
    proxy.say(connect(&own.to_string(), port)).await;
    assert_eq!(proxy.denied().await, Reason::OwnAddress);
}
