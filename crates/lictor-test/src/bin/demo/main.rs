//! `demo`: shows the point of Lictor on this machine, with the real binary and nothing prepared.
//!
//! Started by `cargo xtask demo`, which installs and builds what is needed. Every step is a command that a person
//! could type, and is checked: the demo fails when Lictor doesn't do what is said here.
//!
//! ```text
//! lab ─▶ sandbox ─▶ denial ─▶ tampering ─▶ receipt ─▶ how to go on ─▶ (waits, unless --once) ─▶ everything ended
//! ```

// It tells a story on a terminal, and starts programs.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::disallowed_methods)]

mod stage;
mod story;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::stage::Stop;
use crate::story::Told;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    show().await.unwrap_or_else(|e| {
        eprintln!("\nThe demo failed: {e:#}");
        ExitCode::FAILURE
    })
}

async fn show() -> Result<ExitCode> {
    let once = std::env::args().any(|a| a == "--once");
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = Arc::new(Stop::default());
    let seen = Arc::clone(&stop);
    let mut telling = tokio::task::spawn_blocking(move || story::tell(&seen));
    let mut told: Option<Told> = None;
    tokio::select! {
        done = &mut telling => told = Some(done??),
        _ = interrupt.recv() => stop.ask(),
        _ = terminate.recv() => stop.ask(),
    }
    let Some(mut told) = told else {
        // A step that was interrupted half way has failed, and that is no news; the lab ends with it.
        let _: Result<_, _> = telling.await;
        println!("\nStopped; nothing is left running.");
        return Ok(ExitCode::SUCCESS);
    };
    if !once {
        println!("\nHub and agent go on running until you stop them (Ctrl-C).");
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    told.lab.stop()?;
    println!("\nStopped; nothing is left running.");
    Ok(ExitCode::SUCCESS)
}
