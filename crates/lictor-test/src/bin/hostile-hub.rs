//! `hostile-hub [WORD]`: everything that a lying hub might try (with this word in its name), tried, as a table. Exits
//! with 1 if anything gets through.

// It shows a table to people.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use lictor_test::hostile::attacks::FAMILIES;
use lictor_test::hostile::{Attack, Place, Seen, node};
use tokio::runtime::Builder;

fn main() -> Result<ExitCode> {
    // Before there are threads.
    node::host();
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let started_at = Instant::now();
    let (mut tried, mut through) = (0, 0);
    for (family, attacks) in FAMILIES {
        println!("\n{family}");
        for attack in attacks.iter().filter(|a| a.name.contains(&wanted)) {
            tried += 1;
            if let Err(e) = show(attack) {
                through += 1;
                println!("  {:<62} GOT THROUGH", words(attack.name));
                eprintln!("{e:#}");
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

/// Tries one attack in a runtime of its own, so that nothing of it is left for the next.
fn show(attack: &Attack) -> Result<()> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let seen = runtime.block_on(attack.try_it())?;
    let code = seen.code.map_or("(no effect)", |c| c.as_str());
    println!("  {:<62} {code:<20} {}", words(attack.name), place(&seen));
    Ok(())
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
