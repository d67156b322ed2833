//! SOCKS5 (RFC 1928): CONNECT, without authentication.
//!
//! User and password (RFC 1929) are taken and not looked at, for clients that insist: who a job is, its listener says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lictor_proto::egress::{Protocol, Reason};
use lictor_trust::egress::Host;

use crate::connection::Tunnel;
use crate::denial::Denial;
use crate::job::{Job, linger};
use crate::stream::Reader;

/// Serves one SOCKS5 connection to its end.
pub(crate) async fn serve(job: &Job, client: &mut Reader<'_>) {
    let mut attempt = job.attempt(Protocol::Socks5);
    let read = job.step("the SOCKS request took too long", request(client)).await;
    let asked = match read {
        Ok(Ok(asked)) => asked,
        Ok(Err(denial)) | Err(denial) => {
            attempt.deny(&denial).await;
            return answer(job, client, &denial).await;
        }
    };
    let (host, port) = asked;
    attempt.asks_for(&host, port);
    match Tunnel::open(attempt, host, port).await {
        Ok(tunnel) => tunnel.run(client, &reply(0)).await,
        Err(denial) => answer(job, client, &denial).await,
    }
}

/// A reply with this code, and no address: clients do not need ours.
fn reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

async fn answer(job: &Job, client: &Reader<'_>, denial: &Denial) {
    let code = match (denial.reason, denial.kind) {
        (Reason::Unsupported, _) if denial.detail == BAD_TYPE => 8,
        (Reason::Unsupported, _) => 7,
        (Reason::BadRequest | Reason::Timeout | Reason::JobEnded, _) => 1,
        (Reason::DialFailed, Some(io::ErrorKind::ConnectionRefused)) => 5,
        (Reason::DialFailed, Some(io::ErrorKind::NetworkUnreachable)) => 3,
        (Reason::DnsFailed | Reason::DialFailed, _) => 4,
        _ => 2,
    };
    let said = job
        .step(
            "the client does not read",
            client.stream().write_all(&reply(code)),
        )
        .await;
    if matches!(said, Ok(Ok(()))) {
        linger(job, client.stream()).await;
    }
}

const BAD_TYPE: &str = "this kind of address is not known";

async fn request(client: &mut Reader<'_>) -> Result<(Host, u16), Denial> {
    greet(client).await?;
    let head = take(client, 4).await?;
    if head[0] != 5 || head[2] != 0 {
        return Err(Denial::bad("this is no SOCKS5 request"));
    }
    match head[1] {
        1 => {}
        2 => return Err(Denial::new(Reason::Unsupported, "SOCKS BIND is not served")),
        3 => return Err(Denial::new(Reason::Unsupported, "SOCKS UDP is not served")),
        _ => {
            return Err(Denial::new(
                Reason::Unsupported,
                "this SOCKS command is not known",
            ));
        }
    }
    let host = match head[3] {
        1 => {
            let b = take(client, 4).await?;
            Host::of_ip(Ipv4Addr::new(b[0], b[1], b[2], b[3]).into())
        }
        4 => {
            let bytes: [u8; 16] = take(client, 16).await?.try_into().unwrap_or_default();
            Host::of_ip(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        3 => {
            let length = take(client, 1).await?[0];
            let name = take(client, usize::from(length)).await?;
            // An address may stand here too, as people type it: then it counts as one. Brackets are no part of a name.
            match std::str::from_utf8(&name) {
                Ok(name) => Host::parse(name),
                Err(_) => return Err(Denial::bad("the host is not ASCII")),
            }
        }
        _ => return Err(Denial::new(Reason::Unsupported, BAD_TYPE)),
    };
    let port = take(client, 2).await?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    let host = host.map_err(|e| Denial::bad(e.to_string()))?;
    if port == 0 {
        return Err(Denial::bad("a port is a number from 1 to 65535"));
    }
    Ok((host, port))
}

/// The methods, and the password that nobody looks at.
async fn greet(client: &mut Reader<'_>) -> Result<(), Denial> {
    let head = take(client, 2).await?;
    let methods = take(client, usize::from(head[1])).await?;
    let chosen = [0, 2].into_iter().find(|m| methods.contains(m));
    let said = client.stream().write_all(&[5, chosen.unwrap_or(0xff)]).await;
    said.map_err(|_| Denial::gone())?;
    match chosen {
        Some(0) => Ok(()),
        Some(_) => {
            let head = take(client, 2).await?;
            take(client, usize::from(head[1])).await?;
            let length = take(client, 1).await?[0];
            take(client, usize::from(length)).await?;
            let said = client.stream().write_all(&[1, 0]).await;
            said.map_err(|_| Denial::gone())
        }
        None => Err(Denial::bad("the client offers no authentication that is served")),
    }
}

async fn take(client: &mut Reader<'_>, n: usize) -> Result<Vec<u8>, Denial> {
    match client.at_least(n).await {
        Ok(true) => Ok(client.held.split_to(n).to_vec()),
        Ok(false) | Err(_) => Err(Denial::gone()),
    }
}
