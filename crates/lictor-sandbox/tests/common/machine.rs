//! What this machine cannot run. In CI only what `cannot-run.txt` lists may be skipped for it, and what that lists must
//! really not run: the list can only shrink.

use super::skip;

const LIST: &str = include_str!("../cannot-run.txt");

/// What is listed: a backend, or an engine of one, and why.
pub fn cannot_run() -> Vec<(&'static str, &'static str)> {
    let lines = LIST.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .map(|line| line.split_once("  ").expect("a name, two spaces, a reason"))
        .collect()
}

/// Says that something cannot run here, which in CI only what is listed may.
pub fn skip_what_cannot_run(name: &str, why: impl std::fmt::Display) {
    match cannot_run().iter().find(|(listed, _)| *listed == name) {
        Some((_, reason)) => eprintln!("skipped: {name} cannot run here: {reason} ({why})"),
        None => skip(&format!("{name} cannot run here: {why}")),
    }
}
