//! A run of named steps: each is announced, timed, and the first that fails ends the run by its name.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// What was done so far, for the closing summary.
pub(crate) struct Steps {
    started_at: Instant,
    done: Vec<(&'static str, Duration)>,
}

impl Steps {
    /// A run with nothing done yet.
    pub(crate) fn new() -> Self {
        Self {
            started_at: Instant::now(),
            done: Vec::new(),
        }
    }

    /// Does one step.
    pub(crate) fn step(&mut self, name: &'static str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        println!("== {name}");
        let started_at = Instant::now();
        let result = work();
        let took = started_at.elapsed();
        match result {
            Ok(()) => {
                println!("   {name}: ok, {}", seconds(took));
                self.done.push((name, took));
                Ok(())
            }
            Err(e) => {
                self.print_table();
                println!("   {name:<12} FAILED after {}", seconds(took));
                Err(e).context(format!("step `{name}` failed"))
            }
        }
    }

    /// Prints what was done and how long it took.
    pub(crate) fn finish(self) {
        self.print_table();
        println!("   {:<12} {:>9}", "all", seconds(self.started_at.elapsed()));
    }

    fn print_table(&self) {
        println!("== steps");
        for (name, took) in &self.done {
            println!("   {name:<12} {:>9}", seconds(*took));
        }
    }
}

fn seconds(d: Duration) -> String {
    format!("{:.1} s", d.as_secs_f64())
}
