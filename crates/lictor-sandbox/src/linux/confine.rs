//! Processes that read hostile bytes, kept to what they need by Landlock: the egress proxy, what fetches an image, and what
//! unpacks one.
//!
//! It comes on top of what holds them in any case (a user without rights, no privileges, the system call filter), and is
//! required all the same: for an agent that is not root it is all that keeps its own files from them.
//!
//! # Invariants
//! - Every right over files of the first ABI is held, or there is no such process. What newer kernels know besides (ports,
//!   signals, abstract sockets) is held where they know it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, make_bitflags,
};
use rustix::fs::{Mode, OFlags};

use super::shown::{ETC, SHOWN};

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
/// What a tool reads that speaks with others, besides programs and what all of those need: names, and whom to trust.
const TO_SPEAK: [&str; 9] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl",
    "/etc/pki",
    "/etc/containers/certs.d",
    "/etc/docker/certs.d",
    "/run/systemd/resolve",
];
/// What a program of the agent's is linked with.
const LIBRARIES: [&str; 6] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
];
/// The certificates that a machine trusts, and what links there lead to.
const WHOM_TO_TRUST: [&str; 6] = [
    "/etc/ssl",
    "/etc/pki",
    "/etc/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/usr/share/pki",
];
const READ: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir});
const RUN: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
const DNS: u16 = 53;

/// Keeps this process, which must have one thread still, to looking up names and to connections: it can write no file,
/// read few, run no program, be listened to at no port of its own making, and signal nobody outside.
pub(crate) fn to_network() -> io::Result<()> {
    restrict(|| {
        let ruleset = ruleset(AccessNet::BindTcp.into())?;
        TO_LOOK_UP_NAMES
            .iter()
            .try_fold(ruleset, |ruleset, path| allow(ruleset, Path::new(path), READ))
    })
}

/// Keeps this thread to the files below one directory: no other is read or written, no program is run, nobody is
/// connected to.
pub(crate) fn to_dir(dir: &Path) -> io::Result<()> {
    restrict(|| {
        allow(
            ruleset(AccessNet::from_all(NEWEST))?,
            dir,
            AccessFs::from_all(NEWEST) & !AccessFs::Execute,
        )
    })
}

/// What keeps a tool to one directory, besides programs and what every host tells everybody, and to connections to
/// some ports.
pub(super) fn tool(program: &Path, place: &Path, ports: &[u16]) -> io::Result<OwnedFd> {
    let made = || {
        let mut made = for_tools()?;
        for path in SHOWN.iter().map(Path::new).chain([program]) {
            made = allow(made, path, RUN)?;
        }
        for path in ETC.iter().chain(&TO_SPEAK).map(Path::new) {
            made = allow(made, path, READ)?;
        }
        let device = AccessFs::ReadFile | AccessFs::WriteFile;
        made = allow(made, Path::new("/dev/null"), device)?;
        made = allow(made, place, AccessFs::from_all(NEWEST) & !AccessFs::Execute)?;
        ports.iter().chain([&DNS]).try_fold(made, |made, port| {
            made.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))
        })
    };
    let made: RulesetCreated = made().map_err(missing)?;
    Option::<OwnedFd>::from(made).ok_or_else(|| missing("the kernel has none"))
}

/// What keeps the agent's own program to what it is given when it is sent outside: it reads its libraries and whom to
/// trust, and writes, connects and listens nowhere.
pub(super) fn errand(program: &Path) -> io::Result<OwnedFd> {
    let made = || {
        let mut made = ruleset(AccessNet::from_all(NEWEST))?;
        for path in LIBRARIES.iter().map(Path::new).chain([program]) {
            made = allow(made, path, RUN)?;
        }
        WHOM_TO_TRUST
            .iter()
            .try_fold(made, |made, path| allow(made, Path::new(path), READ))
    };
    let made: RulesetCreated = made().map_err(missing)?;
    Option::<OwnedFd>::from(made).ok_or_else(|| missing("the kernel has none"))
}

/// Whether a process here can be kept to it.
pub(crate) fn works() -> Result<(), String> {
    ruleset(AccessNet::BindTcp.into())
        .map(|_| ())
        .map_err(|e| e.to_string())
}

/// Of what a tool is held by, its ports are required too: a registry that lies would have others asked for it.
fn for_tools() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

/// Whether tools can be kept to their work here.
pub(crate) fn holds_tools() -> io::Result<()> {
    for_tools().map(drop).map_err(missing)
}

fn ruleset(net: BitFlags<AccessNet>) -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(LEAST))?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(net)?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

fn restrict(made: impl FnOnce() -> Result<RulesetCreated, RulesetError>) -> io::Result<()> {
    let status = made().and_then(RulesetCreated::restrict_self).map_err(missing)?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Err(missing("the kernel has none")),
        _ => Ok(()),
    }
}

fn missing(why: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!(
        "it must be kept to its work by Landlock, which takes Linux 6.7 (for unpacking alone 5.13) and landlock in /sys/kernel/security/lsm: {why}"
    ))
}

/// What is not there needs no rule.
fn allow(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(at) => ruleset.add_rule(PathBeneath::new(at, access)),
        Err(_) => Ok(ruleset),
    }
}
