//! A hub that lies on purpose, against the real agent and the real client (docs/threat-model.md, "Attacks").
//!
//! ```text
//!   attacks ──▶ Scene = Org (all keys) + HostileHub + Node (real agent) ──▶ Seen: refused with its code, and where
//!      │
//!      ├──▶ tests/hostile_hub: one test per attack        ├──▶ bin/hostile-hub: all of them, as a table
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`org`] | an org with everybody's keys and documents |
//! | [`hub`] | the hub: real link and API, and places to lie |
//! | [`node`] | the real agent, its clock and its audit log |
//! | [`client`] | the real `lictor`, with a home of its own |
//! | [`scene`] | the three together, set up honestly |
//! | [`attacks`] | every attack, by family |
//!
//! # Invariants
//! - Every attack shows the honest version working too, so that a refusal is known to be due to the lie alone.

pub mod attacks;
pub mod client;
pub mod hub;
pub mod node;
pub mod org;
pub mod passkey;
pub mod scene;

use std::future::Future;
use std::pin::Pin;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Code;

pub use scene::{Place, Scene, Seen};

/// An attack under way.
pub type Running = Pin<Box<dyn Future<Output = Result<Seen>>>>;

/// Something that a hub might try.
#[derive(Clone, Copy)]
pub struct Attack {
    /// A sentence, and the name of its test.
    pub name: &'static str,
    /// The code that it must be refused with; `None` when it must have no effect.
    pub code: Option<Code>,
    /// Tries it.
    pub run: fn() -> Running,
}

impl Attack {
    /// Tries it and compares what became of it with what must.
    ///
    /// # Errors
    /// When it got through, or was refused otherwise.
    pub async fn try_it(&self) -> Result<Seen> {
        let seen = (self.run)().await.with_context(|| self.name.to_owned())?;
        ensure!(
            seen.code == self.code,
            "{}: expected {:?}, saw {seen:?}",
            self.name,
            self.code
        );
        Ok(seen)
    }
}

/// Tries one attack to its end, in a runtime of its own; for tests.
///
/// # Panics
/// When it gets through.
pub fn holds(name: &str) {
    // Before there are threads.
    node::host();
    let attack = attacks::all()
        .find(|a| a.name == name)
        .expect("an attack of this name");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if let Err(e) = runtime.block_on(attack.try_it()) {
        panic!("{e:?}");
    }
}
