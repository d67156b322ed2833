//! A helper process that keeps itself to what it needs, by Landlock: the egress proxy, which reads hostile bytes.
//!
//! It comes on top of what holds it in any case (a user without rights, no privileges, the system call filter): here a
//! kernel without Landlock, or with an older one, takes nothing away, so as much as there is, is used.

use std::io;
use std::os::fd::OwnedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use rustix::fs::{Mode, OFlags};

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
/// read few, run no program, be listened to at no port of its own making, and signal nobody outside. Says whether the
/// kernel holds any of it.
pub(crate) fn to_network() -> io::Result<bool> {
    let held = ruleset().map_err(io::Error::other)?;
    Ok(held != RulesetStatus::NotEnforced)
}

fn ruleset() -> Result<RulesetStatus, RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
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
