//! Everything that talks to the kernel: plans, spawn, the process tree, and the backends.
//!
//! ```text
//!   Host::resolve -> Resolved --(policy: Permit)--> Plan --Backend::create--> Sandbox --exec--> Running --wait--> Ended
//! ```
//!
//! The only crate with `unsafe`, and the only one with Linux-only code (all of it below `linux`, but for the attempts
//! of the conformance suite); on other systems it compiles without backends.
//!
//! # Invariants
//! - No permit, no plan; no plan, no process (see [`plan`]). A feature called `testing` lifts the first half for
//!   this crate's own conformance suite; no package enables it.
//! - What cannot be enforced is an error ([`Unenforceable`]), never left out.
//! - A job's whole process tree is found and ended, whatever it does to hide ([`Ended`] says what that took).

#[cfg(not(target_os = "linux"))]
mod absent;
pub mod backend;
pub mod capability;
pub mod carry;
#[cfg(all(feature = "testing", target_os = "linux"))]
pub mod conformance;
mod engine;
mod errand;
pub mod handle;
mod helper;
mod host;
pub mod kept;
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
mod linux;
pub mod plan;
mod program;
pub mod running;
mod secret;
pub mod terminal;
mod work;

#[cfg(not(target_os = "linux"))]
use absent as imp;
#[cfg(target_os = "linux")]
use linux as imp;

pub use backend::{Backend, ProbeError, RecoverError, Sandbox, Snapshot, StartError, Suspend};
pub use capability::{Capabilities, Capability};
pub use carry::{CARRY_FILES, CarryError, carry_files};
pub use engine::{ContainerDaemon, ContainerEngine, LeftContainer, Wanted};
pub use errand::{DOWNLOAD, Errand, OnErrand};
pub use handle::{Handle, ProcessId, Recovered};
pub use helper::{Confined, Helped, Helper, HelperError};
pub use host::{
    Check, Config, Host, cgroup_of, confine_to_dir, confine_to_network, fingerprint, hide_memory,
    holds_tools, host_facts, is_alive, own_process, own_program, remove_job_dir, remove_placeholders,
    sync_file_system,
};
pub use kept::{
    KeptBounds, KeptError, KeptHold, KeptSandbox, KeptSandboxes, KeptSweep, KeptUse, hold_kept, is_kept_place,
};
pub use plan::{Lack, Plan, Resolved, Unenforceable, can_hold};
pub use running::{
    Cause, EgressClose, EgressEvents, Ended, OutputReader, Running, StdinSource, StopReason, StopSwitch,
};
pub use secret::SecretFile;
pub use terminal::{Stdio, Terminal, TerminalSize};
pub use work::Work;
