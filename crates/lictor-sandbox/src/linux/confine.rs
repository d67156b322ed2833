//! A helper process that keeps itself to what it needs, by Landlock: the egress proxy, which reads hostile bytes.
//!
//! It comes on top of what holds it in any case (a user without rights, no privileges, the system call filter), and is
//! required all the same: for an agent that is not root it is all that keeps its own files from the proxy.
//!
//! # Invariants
//! - Every right over files of the first ABI is held, or there is no proxy. What newer kernels know besides (ports,
//!   signals, abstract sockets) is held where they know it.

use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};

/// What is required.
const LEAST: ABI = ABI::V1;
/// The newest that is asked for.
const NEWEST: ABI = ABI::V9;
/// What looking up names reads: its settings, which are replaced as a whole when the network changes, so directories;
/// and the parts of the C library that it loads when they are asked for.
const TO_LOOK_UP_NAMES: [&str; 8] = [
    "/etc",
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
];

/// Keeps this process, which must have one thread still, to looking up names and to connections: it can write no file,
/// read few, run no program, be listened to at no port of its own making, and signal nobody outside.
pub(crate) fn to_network() -> io::Result<()> {
    match restrict().map_err(io::Error::other)? {
        RulesetStatus::NotEnforced => Err(io::ErrorKind::Unsupported.into()),
        _ => Ok(()),
    }
}

/// Whether a process here can be kept to it.
pub(crate) fn works() -> Result<(), String> {
    ruleset().map(|_| ()).map_err(|e| e.to_string())
}

fn ruleset() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

fn restrict() -> Result<RulesetStatus, RulesetError> {
    let mut ruleset = ruleset()?;
    for path in TO_LOOK_UP_NAMES {
        if let Some(at) = open(path) {
            let read = AccessFs::ReadFile | AccessFs::ReadDir;
            ruleset = ruleset.add_rule(PathBeneath::new(at, read))?;
        }
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// What is not there needs no rule.
fn open(path: &str) -> Option<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}
