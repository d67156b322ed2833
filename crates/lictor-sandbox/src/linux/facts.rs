//! Facts about the host for heartbeats, and the fingerprint that tells a cloned machine.

use std::fs;
use std::path::{Path, PathBuf};

use lictor_proto::Digest;
use lictor_proto::agent::HostFacts;

/// Facts for a heartbeat; `data` is where the agent keeps its data. What cannot be found out stays empty or zero.
pub(crate) fn host_facts(data: &Path) -> HostFacts {
    let names = rustix::system::uname();
    let word = |c: &std::ffi::CStr| c.to_string_lossy().into_owned();
    let system = rustix::system::sysinfo();
    let disk = rustix::fs::statvfs(data).map_or(0, |s| s.f_bavail.saturating_mul(s.f_frsize));
    HostFacts {
        os: "linux".to_owned(),
        os_version: os_version(),
        kernel: word(names.release()),
        arch: std::env::consts::ARCH.to_owned(),
        hostname: word(names.nodename()),
        cpus: std::thread::available_parallelism().map_or(0, |n| u32::try_from(n.get()).unwrap_or(0)),
        memory_bytes: (system.totalram as u64).saturating_mul(u64::from(system.mem_unit)),
        uptime_s: u64::try_from(system.uptime).unwrap_or(0),
        // The kernel counts load in 1/65536.
        load_1m_x100: u32::try_from((system.loads[0] as u64) * 100 / 65_536).unwrap_or(u32::MAX),
        disk_free_bytes: disk,
    }
}

fn os_version() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("").trim_matches('"').chars().take(128).collect()
}

/// Where OCI runtimes keep their files, unless the configuration says so: what the system clears when it starts.
pub(crate) fn runtime_dir() -> PathBuf {
    let user = rustix::process::geteuid();
    let own = PathBuf::from(format!("/run/user/{}", user.as_raw()));
    match user.is_root() {
        true => PathBuf::from("/run/lictor"),
        false if own.is_dir() => own.join("lictor"),
        false => PathBuf::from(format!("/tmp/lictor-{}", user.as_raw())),
    }
}

/// See the public function of this name.
pub(crate) fn sync_file_system(path: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(path)?)?)
}

/// See the public function of this name.
pub(crate) fn hide_memory() -> std::io::Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// A digest over what makes this machine this machine: machine-id, DMI product UUID, and the hypervisor's VM
/// generation id, which changes when a snapshot is run twice. What this user may not read, or the machine does not
/// have, counts as absent; so the agent must always ask as the same user.
pub(crate) fn fingerprint() -> Digest {
    let sources = [
        "/etc/machine-id",
        "/sys/class/dmi/id/product_uuid",
        "/sys/devices/virtual/misc/vmgenid/generation_id",
        "/sys/firmware/qemu_fw_cfg/by_name/etc/vmgenid_guid/raw",
    ];
    let mut text = b"lictor-fingerprint-v1".to_vec();
    for source in sources {
        let value = fs::read(source).unwrap_or_default();
        text.push(0);
        text.extend(value.trim_ascii());
    }
    Digest::of(&text)
}
