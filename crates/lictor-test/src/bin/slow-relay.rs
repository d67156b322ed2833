//! `slow-relay TARGET MILLISECONDS`: a TCP relay that keeps every byte that long, each way, without limiting the rate.
//!
//! Distance for system tests: `netem` is not in every kernel. Prints the address it listens on (loopback) as its
//! only line, and runs until it is killed.

// A program for tests: it prints its address, and passing time is what it is for.
#![allow(clippy::print_stdout, clippy::disallowed_methods)]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments
        .next()
        .context("usage: slow-relay TARGET MILLISECONDS")?;
    let delay = Duration::from_millis(arguments.next().context("milliseconds are missing")?.parse()?);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for near in listener.incoming() {
        let near = near?;
        let Ok(far) = TcpStream::connect(&target) else {
            continue;
        };
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        pump(near.try_clone()?, far.try_clone()?, delay);
        pump(far, near, delay);
    }
    Ok(())
}

/// Carries bytes one way, each `delay` after it came.
fn pump(mut from: TcpStream, mut to: TcpStream, delay: Duration) {
    let (tx, rx) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            if tx.send((Instant::now() + delay, buffer[..n].to_vec())).is_err() {
                break;
            }
        }
    });
    thread::spawn(move || {
        for (due_at, bytes) in rx {
            thread::sleep(due_at.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // The other side may have closed first; then there is nothing to end.
        let _: Result<(), _> = to.shutdown(Shutdown::Both);
    });
}
