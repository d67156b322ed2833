//! Row h: what the egress proxy costs, against the same sockets without it, in turns.
//!
//! The proxy runs on threads of its own, as it does in its process; client and server are plain blocking sockets on
//! loopback.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lictor_egress::{Job, Listener, Lookups, Room, Shared, SystemResolver};
use lictor_proto::egress::{Limits, Mode, Rules, TlsPolicy};
use lictor_proto::{Digest, JobId};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Effort;
use crate::sample::Samples;
use crate::table::Table;

/// How often direct and through the proxy take turns for throughput.
const ROUNDS: usize = 5;
const PIECE: usize = 256 * 1024;

/// Measures both rows.
pub(crate) fn measure(table: &mut Table, effort: &Effort) -> Result<()> {
    let server = serve()?;
    let proxy = Proxy::start(server)?;
    throughput(table, effort, server, proxy.address)?;
    latency(table, effort, server, proxy.address)
}

fn throughput(table: &mut Table, effort: &Effort, server: SocketAddr, proxy: SocketAddr) -> Result<()> {
    let (mut direct, mut through) = (Samples::default(), Samples::default());
    for _ in 0..ROUNDS {
        direct.push(transfer(TcpStream::connect(server)?, effort.bytes)?);
        through.push(transfer(tunnel(proxy, server)?, effort.bytes)?);
    }
    let ratio = direct.p50().as_secs_f64() / through.p50().as_secs_f64();
    let speed = |s: &Samples| format!("{:.0} MB/s", effort.bytes as f64 / 1e6 / s.p50().as_secs_f64());
    table.row(
        "h",
        "egress proxy, bytes through one tunnel",
        format!("{ratio:.2} x, {}", speed(&through)),
        format!("the same without it: {}", speed(&direct)),
        "0.5 x",
    );
    Ok(())
}

fn latency(table: &mut Table, effort: &Effort, server: SocketAddr, proxy: SocketAddr) -> Result<()> {
    let (mut base, mut opened) = (Samples::default(), Samples::default());
    let (mut ping, mut pong) = (Samples::default(), Samples::default());
    let mut direct = TcpStream::connect(server)?;
    let mut through = tunnel(proxy, server)?;
    for _ in 0..effort.samples {
        base.push(timed(|| turn(&mut TcpStream::connect(server)?))?);
        opened.push(timed(|| turn(&mut tunnel(proxy, server)?))?);
        ping.push(timed(|| turn(&mut direct))?);
        pong.push(timed(|| turn(&mut through))?);
    }
    for (what, without, with) in [
        ("egress proxy, connect and first answer", base, opened),
        ("egress proxy, a question and its answer in a tunnel", ping, pong),
    ] {
        let added = with.p50().saturating_sub(without.p50());
        table.row(
            "h",
            what,
            format!("p50 + {} us", added.as_micros()),
            format!("without it {} us", without.p50().as_micros()),
            "p50 + 500 us",
        );
    }
    Ok(())
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed())
}

/// One byte there and one back.
fn turn(stream: &mut TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut byte = [b'?'];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(())
}

/// Sends this many bytes and waits until they have arrived.
fn transfer(mut stream: TcpStream, bytes: u64) -> Result<Duration> {
    let piece = vec![b'x'; PIECE];
    let start = Instant::now();
    let mut left = bytes;
    while left > 0 {
        let n = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        stream.write_all(&piece[..n])?;
        left -= n as u64;
    }
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    Ok(start.elapsed())
}

/// Swallows bytes, and answers each `?` and `!` at the end of a piece by a byte.
fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let n = stream.read(&mut buffer)?;
        match buffer[..n].last() {
            None => return Ok(()),
            Some(b'?' | b'!') => stream.write_all(b".")?,
            Some(_) => {}
        }
    }
}

/// A connection to the server through the proxy.
fn tunnel(proxy: SocketAddr, server: SocketAddr) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(proxy)?;
    stream.set_nodelay(true)?;
    write!(stream, "CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n")?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).context("the proxy's answer")?;
        head.push(byte[0]);
    }
    ensure!(
        head.starts_with(b"HTTP/1.1 200 "),
        "{}",
        String::from_utf8_lossy(&head)
    );
    Ok(stream)
}

/// A proxy on threads of its own, until this is dropped.
struct Proxy {
    address: SocketAddr,
    ended: CancellationToken,
}

impl Proxy {
    fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let ended = CancellationToken::new();
        let token = ended.clone();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        thread::spawn(move || {
            runtime.block_on(async {
                let (sender, mut events) = mpsc::channel(256);
                let id = JobId::from_digest(&Digest::of(b"bench"));
                let shared = Shared {
                    resolver: Arc::new(SystemResolver),
                    events: sender,
                    room: Room::default(),
                    lookups: Lookups::default(),
                };
                let job = Job::new(id, &rules(server), shared, token).map(Arc::new);
                let (Ok(job), Ok(listener)) = (job, Listener::adopt(listener.into())) else {
                    return;
                };
                tokio::join!(Arc::clone(&job).serve(listener), async {
                    while events.recv().await.is_some() {
                        job.taken(1);
                    }
                });
            });
        });
        Ok(Self { address, ended })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

fn rules(server: SocketAddr) -> Rules {
    let most = lictor_proto::limits::MAX_INTEGER;
    let ip: IpAddr = server.ip();
    Rules {
        mode: Mode::Allowlist,
        allow: vec![format!("{ip}:{} plain", server.port())],
        private: Vec::new(),
        tls: TlsPolicy::default(),
        limits: Limits {
            connections: 64,
            attempts: 1_000_000,
            bytes_up: most,
            bytes_down: most,
            head_bytes: 16 * 1024,
            idle_ms: 60_000,
            handshake_ms: 10_000,
        },
    }
}
