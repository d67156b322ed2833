//! `hostile-hub [WORD]`: everything that a lying hub might try (with this word in its name), tried, as a table. Exits
//! with 1 if anything gets through, and with 2 when it was asked to end before that.

// It shows a table to people.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use lictor_test::hostile::attacks::FAMILIES;
use lictor_test::hostile::{Attack, Place, Seen, node};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long what an attack left behind may take to end.
const LEFT_OVER: Duration = Duration::from_secs(5);

fn main() -> Result<ExitCode> {
    node::carries_files();
    // Before there are threads.
    node::host();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let stop = asked_to_end()?;
    let started_at = Instant::now();
    let (mut tried, mut through) = (0, 0);
    for (family, attacks) in FAMILIES {
        println!("\n{family}");
        for attack in attacks.iter().filter(|a| a.name.contains(&wanted)) {
            tried += 1;
            match show(attack, &stop) {
                Ok(Tried::ToItsEnd) => {}
                Ok(Tried::AskedToEnd) => {
                    println!("\nstopped after {} attacks", tried - 1);
                    return Ok(ExitCode::from(2));
                }
                Err(e) => {
                    through += 1;
                    println!("  {:<62} GOT THROUGH", words(attack.name));
                    eprintln!("{e:#}");
                }
            }
        }
    }
    let took = started_at.elapsed().as_secs_f32();
    println!(
        "\n{tried} attacks, {} refused, {through} got through ({took:.0} s)",
        tried - through
    );
    Ok(ExitCode::from(u8::from(through > 0)))
}

/// Cancelled at the first SIGINT or SIGTERM.
fn asked_to_end() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let asked = stop.clone();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    // It waits as long as the program lives.
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        asked.cancel();
    });
    Ok(stop)
}

/// Whether an attack was tried.
enum Tried {
    ToItsEnd,
    AskedToEnd,
}

/// Tries one attack in a runtime of its own, so that nothing of it is left for the next.
fn show(attack: &Attack, stop: &CancellationToken) -> Result<Tried> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let Some(seen) = runtime.block_on(stop.run_until_cancelled(attack.try_it())) else {
        runtime.shutdown_timeout(LEFT_OVER);
        return Ok(Tried::AskedToEnd);
    };
    let seen = seen?;
    let code = seen.code.map_or("(no effect)", |c| c.as_str());
    println!("  {:<62} {code:<20} {}", words(attack.name), place(&seen));
    Ok(Tried::ToItsEnd)
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn place(seen: &Seen) -> String {
    match seen.at {
        Place::Node(event) => format!("node's audit log: {event}"),
        Place::Enrolment => "the machine, enrolling".to_owned(),
        Place::Link => "the link".to_owned(),
        Place::Client => "the client".to_owned(),
    }
}
