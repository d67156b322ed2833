//! From a host and port to a connection: listed, resolved once, every address judged, a judged one dialled.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use lictor_proto::egress::{Mode, Protocol, Reason};
use lictor_trust::egress::{DnsName, Host, Listed, NotDialled, Owner, Special, Speech};
use tokio::net::TcpStream;

use crate::denial::Denial;
use crate::job::{Attempt, Job};
use crate::stream::Stream;

/// The most addresses of one name that are tried.
const TRIED: usize = 8;

/// Asks the rules, the resolver and then the other side. What is found out goes into the attempt as it is.
pub(crate) async fn pass(
    attempt: &mut Attempt<'_>,
    host: &Host,
    port: u16,
) -> Result<(Listed, Stream), Denial> {
    attempt.asks_for(host, port);
    let job = attempt.job;
    let listed = job.reach.find(host, port).ok_or_else(|| not_listed(job))?;
    attempt.rule = Some(listed.rule.clone());
    if attempt.protocol == Protocol::Http && listed.speech == Speech::Tls {
        let detail = "the entry is for TLS; plain requests need `http` behind it";
        return Err(Denial::new(Reason::NotTls, detail));
    }
    if attempt.is_one_too_many() {
        return Err(Denial::new(
            Reason::ConnectionsLimit,
            "the job has made as many attempts as it may",
        ));
    }
    if job.ledger.is_empty() {
        return Err(Denial::new(
            Reason::BytesLimit,
            "the job has moved all the bytes it may",
        ));
    }
    let addresses = match host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => {
            let found = resolve(job, name).await?;
            attempt.answers.clone_from(&found);
            found
        }
    };
    judge(job, &addresses, &listed)?;
    let (stream, dialled) = dial(job, &addresses, port).await?;
    attempt.dialled = Some(dialled);
    Ok((listed, stream))
}

fn not_listed(job: &Job) -> Denial {
    match job.reach.mode() {
        Mode::None => Denial::new(Reason::NoEgress, "this job has no network"),
        Mode::Allowlist | Mode::Open => Denial::new(
            Reason::NotListed,
            "no entry of the profile names this host and port",
        ),
    }
}

/// The addresses of a name, each once.
pub(crate) async fn resolve(job: &Job, name: &DnsName) -> Result<Vec<IpAddr>, Denial> {
    let failed = |detail: &'static str| Denial::new(Reason::DnsFailed, detail);
    let ask = async {
        let turn = job.lookups.next().await.map_err(io::Error::other)?;
        job.shared.resolver.resolve(name.as_str(), turn).await
    };
    let answer = job.step("the name server does not answer", ask).await;
    let answer = answer.map_err(|e| match e.reason {
        Reason::Timeout => failed("the name server does not answer"),
        _ => e,
    })?;
    let mut addresses = Vec::new();
    for ip in answer.map_err(|_| failed("the name has no address"))? {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    match addresses.is_empty() {
        true => Err(failed("the name has no address")),
        false => Ok(addresses),
    }
}

/// One address that may not be dialled condemns all: a name is one thing, and half of it being inside is how names are
/// made to lead there.
fn judge(job: &Job, addresses: &[IpAddr], listed: &Listed) -> Result<(), Denial> {
    for ip in addresses {
        let Some(why) = job.reach.refuses(*ip, listed, owner(*ip)) else {
            continue;
        };
        let (reason, what) = match why {
            NotDialled::Special(Special::Metadata) => (Reason::MetadataAddress, Special::Metadata.as_str()),
            NotDialled::Special(kind) => (Reason::PrivateAddress, kind.as_str()),
            NotDialled::Own => (Reason::OwnAddress, "an address of this machine"),
        };
        return Err(Denial::new(
            reason,
            format!("{ip} is {what}, and no entry of the profile names its range"),
        ));
    }
    Ok(())
}

/// Whether an address is this machine's, in the network namespace that would be dialled from: then, and only then, a
/// socket can be bound to it. Whatever else goes wrong counts as its own.
fn owner(ip: IpAddr) -> Owner {
    match UdpSocket::bind((ip, 0)) {
        Err(e) if e.kind() == io::ErrorKind::AddrNotAvailable => Owner::Other,
        _ => Owner::ThisMachine,
    }
}

async fn dial(job: &Job, addresses: &[IpAddr], port: u16) -> Result<(Stream, SocketAddr), Denial> {
    let tried = addresses.len().min(TRIED);
    // So that one address that swallows everything leaves time for the next.
    let share = u32::try_from(tried).map_or(job.handshake(), |n| job.handshake() / n);
    let mut last = None;
    for ip in &addresses[..tried] {
        let address = SocketAddr::new(*ip, port);
        match job
            .step("connecting takes too long", dial_one(address, share))
            .await?
        {
            Ok(stream) => return Ok((Stream::Tcp(stream), address)),
            Err(e) => last = Some(e.kind()),
        }
    }
    let detail = match last {
        Some(io::ErrorKind::ConnectionRefused) => "nobody listens there",
        Some(io::ErrorKind::TimedOut) => "nobody answers there",
        _ => "there is no way there",
    };
    let mut denial = Denial::new(Reason::DialFailed, detail);
    denial.kind = last;
    Err(denial)
}

async fn dial_one(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let dialled = tokio::time::timeout(limit, TcpStream::connect(address)).await;
    let stream = dialled.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_addresses_are_told_from_others() {
        let ip = |t: &str| t.parse::<IpAddr>().expect("an address");
        assert_eq!(owner(ip("127.0.0.1")), Owner::ThisMachine);
        assert_eq!(owner(ip("203.0.113.77")), Owner::Other);
    }
}
