//! A case, and everything that a backend has to pass.

use std::pin::Pin;

use super::bench::Bench;
use super::execution::EXECUTION;
use super::terminal::TERMINAL;
use super::terms::TERMS;
use crate::capability::Capability;

/// What a case comes to.
pub type Passing<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

/// One thing that holds of every backend, or panics and says how it does not.
#[derive(Clone, Copy)]
pub struct Case {
    /// As a sentence.
    pub name: &'static str,
    /// Runs it.
    pub pass: for<'a> fn(&'a Bench) -> Passing<'a>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// A list of cases by their functions' names.
macro_rules! cases {
    ($($case:ident),* $(,)?) => {
        &[$(Case {
            name: stringify!($case),
            pass: |bench| Box::pin($case(bench)),
        }),*]
    };
}
pub(super) use cases;

/// All that this backend has to pass: who has no terminals passes none of their cases.
#[must_use]
pub fn all_for(bench: &Bench) -> Vec<Case> {
    let terminal = match bench.capabilities.has(Capability::Terminal) {
        true => TERMINAL,
        false => &[],
    };
    EXECUTION.iter().chain(TERMS).chain(terminal).copied().collect()
}

/// Runs all of them, one after the other; each is told before it runs.
///
/// # Panics
/// At the first that does not hold.
pub async fn pass_all(bench: &Bench, mut tell: impl FnMut(&'static str)) {
    for case in all_for(bench) {
        tell(case.name);
        (case.pass)(bench).await;
    }
}
