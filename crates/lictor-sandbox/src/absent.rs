//! Systems without a backend: everything compiles, nothing can be started.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use lictor_proto::agent::HostFacts;
use lictor_proto::code::{Code, Refusal};
use lictor_proto::{Digest, Name, Timestamp};
use lictor_trust::profiles::{Backend as BackendName, Profile};
use tokio::sync::watch;

use crate::backend::{Backend, StartError};
use crate::helper::{Helped, Helper, HelperError};
use crate::host::{Check, Config};
use crate::kept::{Kept, KeptError, KeptSandbox, KeptUse};
use crate::plan::{LaunchSpec, Resolved};
use crate::running::{Ended, StopReason};
use crate::terminal::TerminalSize;
use crate::work::Work;

#[derive(Debug)]
pub(crate) struct Kernel;

impl Kernel {
    pub(crate) fn start(_: Config) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) fn use_rootfs(&self, _: lictor_rootfs::Store) {}

    pub(crate) fn resolve(
        &self,
        _: (&Name, &Profile, BackendName),
        _: &Work,
        _: &Path,
    ) -> Result<Resolved, Refusal> {
        Err(Refusal::new(
            Code::Unenforceable,
            "this system has no sandbox backend yet",
        ))
    }

    pub(crate) fn own(&self) -> io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }

    pub(crate) fn warm_ready(&self) -> watch::Receiver<usize> {
        watch::channel(0).1
    }
}

pub(crate) async fn keep_warm(_: Arc<Kernel>, _: PathBuf, mut wanted: watch::Receiver<Vec<Profile>>) {
    while wanted.changed().await.is_ok() {}
}

pub(crate) async fn run_helper(
    _: &Kernel,
    _: &Helper,
    _: impl FnMut() -> Result<(), String> + Send,
) -> Result<Helped, HelperError> {
    Err(HelperError::Io(io::ErrorKind::Unsupported.into()))
}

/// There is none.
#[derive(Debug)]
pub(crate) enum OnErrand {}

impl OnErrand {
    pub(crate) async fn read(&mut self, _: &mut BytesMut, _: usize) -> io::Result<usize> {
        match *self {}
    }

    pub(crate) async fn end(self) -> io::Result<Vec<u8>> {
        match self {}
    }
}

pub(crate) async fn send_errand(_: &Arc<Kernel>, _: &crate::Errand) -> io::Result<crate::OnErrand> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing is locked.
#[derive(Debug)]
pub(crate) struct Locked;

pub(crate) fn secret_file(_: &[u8]) -> io::Result<(std::fs::File, Locked)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn give(_: &std::fs::File, _: &crate::program::User) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn may_mount() -> bool {
    false
}

pub(crate) fn helper_place(dir: &Path) -> PathBuf {
    dir.into()
}

pub(crate) fn backends(_: &Arc<Kernel>) -> Vec<Arc<dyn Backend>> {
    Vec::new()
}

pub(crate) async fn checks(_: &Kernel) -> Vec<Check> {
    Vec::new()
}

pub(crate) fn leads_to_agent<'a>(_: impl Iterator<Item = &'a str>, _: &[PathBuf]) -> Option<&'a str> {
    None
}

pub(crate) fn always_leads_to_agent(_: BackendName, _: &[PathBuf]) -> Option<&'static str> {
    None
}

/// The program of a probe's job; there is none.
pub(crate) const TRIAL: [&str; 4] = [""; 4];

pub(crate) fn runtime_dir() -> PathBuf {
    PathBuf::new()
}

pub(crate) fn host_facts(_: &Path) -> HostFacts {
    HostFacts {
        os: std::env::consts::OS.to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        cpus: std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(0)),
        ..HostFacts::default()
    }
}

pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(dir)
}

pub(crate) fn cgroup_of(_: crate::handle::ProcessId) -> io::Result<String> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn identify(_: u32) -> Option<crate::handle::ProcessId> {
    None
}

pub(crate) fn remove_placeholders(_: &Path) -> io::Result<()> {
    Ok(())
}

pub(crate) fn sync_file_system(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is none that could be started by this.
pub(crate) const OWN_PROGRAM: &str = "";

pub(crate) fn holds_tools() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn confine_to_dir(_: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn carry_files(_: &str) -> Result<(), crate::CarryError> {
    Err(crate::CarryError::new(
        lictor_proto::Code::TransferFailed,
        "files are carried on Linux only",
    ))
}

pub(crate) fn confine_to_network() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn hide_memory() -> io::Result<()> {
    Ok(())
}

pub(crate) fn fingerprint() -> Digest {
    Digest::of(b"lictor-fingerprint-v1")
}

#[derive(Debug, Clone)]
pub(crate) struct WayOut(Infallible);

impl WayOut {
    pub(crate) async fn close(&self) {
        match self.0 {}
    }

    pub(crate) async fn taken(&self, _: u32) {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(crate) struct Supervisor(Infallible);

impl Supervisor {
    pub(crate) fn stop_sender(&self) -> watch::Sender<Option<StopReason>> {
        match self.0 {}
    }

    pub(crate) async fn wait(self, _: Timestamp) -> Ended {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(crate) struct PipeReader(Infallible);

impl PipeReader {
    pub(crate) async fn read(&mut self, _: &mut BytesMut, _: usize) -> io::Result<usize> {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(crate) struct Claim(Infallible);

impl Claim {
    pub(crate) fn take(_: &Kept, _: &LaunchSpec, _: Timestamp) -> Result<Self, StartError> {
        Err(StartError::failed("keep a sandbox")(
            io::ErrorKind::Unsupported.into(),
        ))
    }

    pub(crate) fn let_go(self) {
        match self.0 {}
    }

    pub(crate) fn to_tell(&self) -> KeptUse {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(crate) struct KeptSweep;

impl KeptSweep {
    pub(crate) fn new(_: std::time::Duration) -> Self {
        Self
    }

    pub(crate) fn run(&mut self, _: &Path, _: Timestamp) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) type KeptLock = Infallible;

pub(crate) fn hold_kept(_: &Path, _: &str) -> Option<KeptLock> {
    None
}

pub(crate) fn list_kept(_: &Path) -> io::Result<Vec<KeptSandbox>> {
    Ok(Vec::new())
}

pub(crate) fn remove_kept(_: &Path, _: &KeptSandbox) -> Result<(), KeptError> {
    Err(unsupported())
}

pub(crate) fn snapshot_kept(_: &Path, _: &KeptSandbox, _: &Name) -> Result<(), KeptError> {
    Err(unsupported())
}

pub(crate) fn restore_kept(_: &Path, _: &KeptSandbox, _: &Name) -> Result<(), KeptError> {
    Err(unsupported())
}

fn unsupported() -> KeptError {
    io::Error::from(io::ErrorKind::Unsupported).into()
}

#[derive(Debug)]
pub(crate) struct TerminalKeys(Infallible);

impl TerminalKeys {
    pub(crate) async fn write(&self, _: &[u8]) -> io::Result<usize> {
        match self.0 {}
    }

    pub(crate) fn resize(&self, _: TerminalSize) -> io::Result<()> {
        match self.0 {}
    }
}

#[derive(Debug)]
pub(crate) struct Recovered(Infallible);

impl Recovered {
    pub(crate) fn look_for(backend: &str, dir: &Path) -> crate::handle::Handle {
        crate::handle::Handle {
            backend: backend.to_owned(),
            boot_id: String::new(),
            roots: Vec::new(),
            cgroup: None,
            cgroups_v1: Vec::new(),
            dir: dir.to_owned(),
        }
    }

    pub(crate) async fn wait(&mut self) {
        match self.0 {}
    }

    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        match self.0 {}
    }

    pub(crate) async fn destroy(&mut self) -> io::Result<()> {
        match self.0 {}
    }
}
