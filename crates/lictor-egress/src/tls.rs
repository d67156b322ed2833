//! A tunnel's first bytes against the name that was asked for.
//!
//! ```text
//! client ── ClientHello ──▶ look: name = the one asked for? ── passed on ──▶ server
//! client ◀───────────────── settle ◀── ServerHello, or HelloRetryRequest ─── server
//! client ── second ClientHello ──▶ settle: says the same as the first? ──▶ server      (only after a retry)
//! ```
//!
//! The second step is there because a server may ask for another ClientHello, in the open like the first, and not all
//! servers compare the two: without it the name would be judged in one and obeyed in the other.

use std::net::IpAddr;

use lictor_proto::egress::{End, Reason, Unverified};
use lictor_trust::egress::{DnsName, Host};

use crate::denial::Denial;
use crate::gate;
use crate::hello::{Hello, HelloReader, Progress};
use crate::job::{Attempt, Job, linger};
use crate::meter::{Meter, Way};
use crate::pump::{pass, sender_gone};
use crate::stream::Reader;

/// What a tunnel was asked for.
pub(crate) struct Asked<'a> {
    pub(crate) host: &'a Host,
    pub(crate) port: u16,
}

/// A ClientHello that may be passed on: the first bytes that the reader holds.
pub(crate) struct Seen {
    hello: Hello,
    length: usize,
}

/// Waits for the client's first bytes and judges them. Nothing is passed on.
pub(crate) async fn look(
    attempt: &mut Attempt<'_>,
    client: &mut Reader<'_>,
    asked: &Asked<'_>,
) -> Result<Option<Seen>, Denial> {
    let job = attempt.job;
    let policy = job.reach.tls();
    let read = job.step("the TLS handshake took too long", first_hello(client));
    let (hello, length) = match read.await? {
        Progress::Whole(hello, length) => (hello, length),
        Progress::NotTls if policy.not_tls == Unverified::Allow => return Ok(None),
        Progress::NotTls => {
            let detail = "this is not TLS; the entry does not say `plain`";
            return Err(Denial::new(Reason::NotTls, detail));
        }
        Progress::Broken(what) => return Err(Denial::new(Reason::BadTls, what)),
        Progress::More => {
            return Err(Denial::new(
                Reason::BadTls,
                "the connection ended within the ClientHello",
            ));
        }
    };
    attempt.sni.clone_from(&hello.sni);
    if hello.hides_name && policy.ech == Unverified::Deny {
        return Err(Denial::new(
            Reason::Ech,
            "the TLS handshake hides the name it is for",
        ));
    }
    match (asked.host, &hello.sni) {
        (Host::Name(name), Some(sni)) if name == sni => {}
        (Host::Ip(_), None) => {}
        (Host::Name(_), None) if policy.no_sni == Unverified::Allow => {}
        (Host::Name(_), None) => {
            return Err(Denial::new(Reason::NoSni, "the TLS handshake names nobody"));
        }
        (Host::Name(_), Some(_)) => {
            return Err(Denial::new(
                Reason::SniMismatch,
                "the TLS handshake names another host",
            ));
        }
        (Host::Ip(ip), Some(sni)) => of_that_address(job, sni, *ip, asked.port).await?,
    }
    Ok(Some(Seen { hello, length }))
}

async fn first_hello(client: &mut Reader<'_>) -> Progress {
    let mut reader = HelloReader::default();
    loop {
        match reader.read(&client.held) {
            Progress::More => {}
            progress => return progress,
        }
        if !matches!(client.more().await, Ok(1..)) {
            return Progress::More;
        }
    }
}

/// An address was asked for and a name is given: the name has to be listed itself, and has to have that address.
async fn of_that_address(job: &Job, sni: &DnsName, ip: IpAddr, port: u16) -> Result<(), Denial> {
    let other = |detail| Denial::new(Reason::SniMismatch, detail);
    if job.reach.find(&Host::Name(sni.clone()), port).is_none() {
        return Err(other("the name in the TLS handshake is not listed"));
    }
    match gate::resolve(job, sni).await {
        Ok(addresses) if addresses.contains(&ip) => Ok(()),
        _ => Err(other(
            "the name in the TLS handshake does not have the address that was asked for",
        )),
    }
}

/// The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];
/// Record header, message header, version, random.
const SERVER_HELLO: usize = 5 + 4 + 2 + 32;

/// Passes the ClientHello on, and looks whether the server wants another one.
pub(crate) async fn settle(
    seen: &Seen,
    job: &Job,
    client: &mut Reader<'_>,
    server: &mut Reader<'_>,
    meter: &Meter<'_>,
) -> Result<(), End> {
    let first = client.held.split_to(seen.length.min(client.held.len()));
    pass(&first, server.stream(), meter, Way::Up).await?;
    if !wants_another(client, server).await? {
        return Ok(());
    }
    let answer = server.held.split();
    pass(&answer, client.stream(), meter, Way::Down).await?;
    let again = job.step(
        "the TLS handshake took too long",
        second_hello(seen, client, server, meter),
    );
    again.await.map_err(|_| End::Idle)?
}

/// The most that is held of a client that goes on before the server has answered.
const MAX_EARLY: usize = 64 * 1024;

/// Whether the server's first message asks for another ClientHello. All that either says stays held.
async fn wants_another(client: &mut Reader<'_>, server: &mut Reader<'_>) -> Result<bool, End> {
    let mut listening = true;
    loop {
        let held = behind_warnings(&server.held);
        let is = |at: usize, byte: u8| held.get(at).is_none_or(|b| *b == byte);
        // Something that is no TLS handshake at all: nothing of the client's will be read as a ClientHello.
        if !is(0, HANDSHAKE) || !is(5, 2) {
            return Ok(false);
        }
        if let Some(random) = held.get(SERVER_HELLO - 32..SERVER_HELLO) {
            return Ok(random == RETRY);
        }
        // Nobody cuts a ServerHello this short but to have it overlooked.
        if held.len() >= 5 && usize::from(u16::from_be_bytes([held[3], held[4]])) < SERVER_HELLO - 5 {
            return Err(End::BadResponse);
        }
        // The client is listened to so that one that goes away meanwhile is noticed.
        tokio::select! {
            read = server.more() => {
                if read.map_err(|_| End::ServerGone)? == 0 {
                    return Ok(false);
                }
            }
            read = client.more(), if listening && client.held.len() < MAX_EARLY => {
                if read.map_err(|_| End::ClientGone)? == 0 {
                    listening = false;
                    if client.held.is_empty() {
                        server.stream().end_writing();
                    }
                }
            }
        }
    }
}

/// What comes after alerts that only warn: some servers say so that they do not know the name, and go on.
fn behind_warnings(mut held: &[u8]) -> &[u8] {
    while let [ALERT, 3, _, 0, 2, 1, _, rest @ ..] = held {
        held = rest;
    }
    // The start of another one: wait for the rest of it.
    if held.len() < 7 && held.first() == Some(&ALERT) && held.get(5).is_none_or(|level| *level == 1) {
        return &[];
    }
    held
}

const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const APPLICATION_DATA: u8 = 23;

/// Passes on what may come before it (RFC 8446 appendix D.4, early data), then the second ClientHello if it says
/// the same as the first.
async fn second_hello(
    seen: &Seen,
    client: &mut Reader<'_>,
    server: &Reader<'_>,
    meter: &Meter<'_>,
) -> Result<(), End> {
    let gone = |_| sender_gone(Way::Up);
    loop {
        if !client.at_least(5).await.map_err(gone)? {
            return Ok(());
        }
        match client.held[0] {
            CHANGE_CIPHER_SPEC | APPLICATION_DATA => {
                let length = 5 + usize::from(u16::from_be_bytes([client.held[3], client.held[4]]));
                if !client.at_least(length).await.map_err(gone)? {
                    return Ok(());
                }
                let record = client.held.split_to(length);
                pass(&record, server.stream(), meter, Way::Up).await?;
            }
            ALERT => return Ok(()),
            _ => break,
        }
    }
    match first_hello(client).await {
        Progress::Whole(hello, _) if hello == seen.hello => Ok(()),
        Progress::Whole(..) => Err(End::SniMismatch),
        _ => Err(End::BadRequest),
    }
}

/// Tells a TLS client, by an alert in the one form that all versions know: access denied.
pub(crate) async fn say_denied(job: &Job, client: &Reader<'_>) {
    if client.held.first() == Some(&HANDSHAKE) {
        let alert = client.stream().write_all(&[ALERT, 3, 1, 0, 2, 2, 49]);
        let _: Result<_, Denial> = job.step("the client does not read", alert).await;
    }
    linger(job, client.stream()).await;
}
