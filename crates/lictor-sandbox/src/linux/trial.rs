//! The job that a probe runs: it looks at itself, and tells what it finds. What it can tell is held only where it was seen;
//! the rest of what a backend says of itself stays as it is said, and tests of each show it.
//!
//! ```text
//!   claimed --> plan of the one program that needs no permit --> create, exec, destroy, as any job's
//!      '---- each thing that the job should have seen: seen, or not held, and why
//! ```
//!
//! # Invariants
//! - Nobody chooses the program, and it is shown nothing: [`Plan::to_try`] takes no other than [`PROGRAM`].
//! - It ends in the time that a start may take, and says little, whatever the host has mounted.

mod place;
mod seen;

use std::io;

use bytes::BytesMut;
use lictor_proto::Name;
use lictor_proto::doc::{Exec, Exit};
use lictor_trust::profiles::{Backend as BackendName, Profile};
use serde_json::json;

use self::place::TrialPlace;
use self::seen::Seen;
use super::kernel::Kernel;
use crate::backend::{Backend, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::plan::Plan;
use crate::running::{OutputReader, StdinSource};

/// Its program; what follows is a file of the host's that everybody may read, and whether it has mounts and routes of
/// its own. Those of a host can be too many to be read.
pub(crate) const PROGRAM: [&str; 4] = ["/bin/sh", "-c", LOOK, "sh"];
/// Nothing but what a shell has of its own, but for the links of namespaces.
const LOOK: &str = r#"
say() { while read -r line; do echo "$1 $line"; done < "$2"; }
say status /proc/self/status; say stat /proc/self/stat; say kernel /proc/version
if [ "$2" = boxed ]; then say mount /proc/mounts; say route /proc/net/route; fi
echo "limits $(ulimit -t) $(ulimit -f) $(ulimit -n)"
/usr/bin/readlink /proc/self/ns/user /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/uts \
    /proc/self/ns/cgroup /proc/self/ns/net
line=; read -r line < "$1"; echo "outside <$line>"
echo end
"#;
/// Its limits: seconds, bytes, files.
const LIMITS: (u64, u64, u64) = (60, 1 << 20, 64);
/// So many processes, which are more than it makes.
const PROCESSES: u64 = 64;
/// Most of what it says that is read.
const MOST: usize = 256 * 1024;

/// Runs the job in a backend, as whoever a profile would make it where that may be another one than the agent, and says what of
/// `claimed` it has seen.
///
/// # Errors
/// When such a job does not run to its end.
pub(super) async fn run(
    kernel: &Kernel,
    backend: &dyn Backend,
    claimed: Capabilities,
) -> Result<Capabilities, StartError> {
    let failed = StartError::failed;
    let place = TrialPlace::make(kernel).map_err(failed("make a directory"))?;
    let said = said(kernel, (backend, &claimed), &place).await?;
    if !said.lines().any(|line| line == "end") {
        let problem = format!("the job that a probe runs said only: {}", said.trim());
        return Err(failed("look at a sandbox from inside")(io::Error::other(problem)));
    }
    let seen = Seen::of(&said);
    Ok(seen.judge(kernel, backend.name(), claimed))
}

fn profile(backend: BackendName, claimed: &Capabilities) -> Result<Profile, serde_json::Error> {
    let network = match backend {
        BackendName::Host => "host",
        _ => "none",
    };
    let (cpu_seconds, file_size, open_files) = LIMITS;
    // A kernel of its own shows at the start whether it counts processes.
    let pids = (backend == BackendName::Gvisor && claimed.has(C::Pids)).then_some(PROCESSES);
    serde_json::from_value(json!({
        "backend": backend.as_str(),
        "network": network,
        "limits": { "cpu_seconds": cpu_seconds, "file_size": file_size.to_string(), "open_files": open_files, "pids": pids },
    }))
}

/// Everything that the job prints.
async fn said(
    kernel: &Kernel,
    (backend, claimed): (&dyn Backend, &Capabilities),
    place: &TrialPlace,
) -> Result<String, StartError> {
    let failed = StartError::failed;
    let other = |e: String| failed("plan a look at a sandbox")(io::Error::other(e));
    let profile = profile(backend.name(), claimed).map_err(|e| other(e.to_string()))?;
    let name: Name = "probe".parse().map_err(|_| other("a name".to_owned()))?;
    let mut argv = PROGRAM.map(str::to_owned).to_vec();
    argv.push(place.outside.to_string_lossy().into_owned());
    let is_boxed = backend.name().is_namespaced();
    argv.push(if is_boxed { "boxed" } else { "open" }.to_owned());
    let mut exec = Exec::new(argv);
    exec.timeout_ms = u64::try_from(kernel.zygote.bound.as_millis()).ok();
    let asked = (&name, &profile, backend.name());
    let mut resolved = kernel
        .resolve(asked, &(&exec).into(), &place.dir)
        .map_err(|refusal| other(refusal.message))?;
    if claimed.has(C::RunAsUser) && !backend.name().is_namespaced() {
        // As a profile would that names somebody.
        resolved.spec.user = kernel.sandbox_user();
        resolved.spec.changes_user = true;
    }
    let plan = Plan::to_try(resolved, claimed).map_err(|e| other(e.to_string()))?;
    let mut sandbox = backend.create(plan).await?;
    let ran = match sandbox.exec(StdinSource::Null.into()).await {
        Err(e) => Err(e),
        Ok(mut running) => {
            let out = running.take_stdout();
            let (ended, said) = tokio::join!(running.wait(), read(out));
            match ended.exit {
                Some(Exit::Status(0)) => said.map_err(failed("read what a job says")),
                exit => Err(other(format!("it ended with {exit:?}"))),
            }
        }
    };
    let destroyed = sandbox.destroy().await;
    let said = ran?;
    destroyed.map_err(failed("take the sandbox down"))?;
    Ok(said)
}

async fn read(out: Option<OutputReader>) -> io::Result<String> {
    let mut out = out.ok_or(io::ErrorKind::BrokenPipe)?;
    let mut bytes = BytesMut::new();
    while bytes.len() < MOST && out.read(&mut bytes, MOST).await? > 0 {}
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use crate::host::Config;

    fn to_try(argv: Vec<String>, with: serde_json::Value) -> bool {
        let kernel = Kernel::start(Config::default()).expect("a kernel");
        let mut profile = json!({ "backend": "bubblewrap", "network": "none" });
        let both = (profile.as_object_mut().expect("a map"), with);
        if let serde_json::Value::Object(with) = both.1 {
            both.0.extend(with);
        }
        let profile: Profile = serde_json::from_value(profile).expect("a profile");
        let name: Name = "probe".parse().expect("a name");
        let asked = (&name, &profile, BackendName::Bubblewrap);
        let place = tempfile::tempdir().expect("a directory");
        let resolved = kernel.resolve(asked, &(&Exec::new(argv)).into(), &place.path().join("job"));
        let all: Capabilities = C::ALL.into_iter().collect();
        Plan::to_try(resolved.expect("resolved"), &all).is_ok()
    }

    #[test]
    fn only_the_look_of_a_probe_is_planned_without_a_permit_and_it_is_shown_nothing() {
        let look = || {
            let more = ["/tmp/outside", "boxed"];
            PROGRAM
                .into_iter()
                .chain(more)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert!(to_try(look(), json!({})));
        let mut other = look();
        other[2] = "exec id".to_owned();
        assert!(!to_try(other, json!({})), "another program");
        let mut more = look();
        more.push("more".to_owned());
        assert!(!to_try(more, json!({})), "more words");
        for wider in [
            json!({ "read_only": ["/srv"] }),
            json!({ "read_write": ["/srv"] }),
            json!({ "devices": ["/dev/full"] }),
            json!({ "env": { "ENV": "/tmp/x" } }),
            json!({ "network": "egress", "egress": { "mode": "open" } }),
        ] {
            assert!(!to_try(look(), wider.clone()), "{wider}");
        }
    }
}
