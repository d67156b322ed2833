//! The job that a probe runs: it looks at itself, and tells what it finds. What a backend says of itself is believed where
//! this job has seen it at work.
//!
//! ```text
//!   claimed --> plan of the one program that needs no permit --> create, exec, destroy, as any job's
//!      '---- each thing that the job should have seen: seen, or not held, and why
//! ```
//!
//! # Invariants
//! - Nobody chooses the program: [`Plan::to_try`] takes no other than [`PROGRAM`].

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use lictor_proto::Name;
use lictor_proto::doc::{Exec, Exit};
use lictor_trust::profiles::{Backend as BackendName, Profile};
use serde_json::json;

use super::kernel::Kernel;
use crate::backend::{Backend, StartError};
use crate::capability::{Capabilities, Capability as C};
use crate::plan::Plan;
use crate::running::{OutputReader, StdinSource};

/// Its program; what follows is a file of the host's that everybody may read.
pub(crate) const PROGRAM: [&str; 4] = ["/bin/sh", "-c", LOOK, "sh"];
/// Nothing but what a shell has of its own, but for the links of namespaces.
const LOOK: &str = r#"
say() { while read -r line; do echo "$1 $line"; done < "$2"; }
say status /proc/self/status; say mount /proc/mounts; say route /proc/net/route; say stat /proc/self/stat
say kernel /proc/version
echo "limits $(ulimit -t) $(ulimit -f) $(ulimit -n)"
/usr/bin/readlink /proc/self/ns/user /proc/self/ns/mnt /proc/self/ns/pid /proc/self/ns/ipc /proc/self/ns/uts \
    /proc/self/ns/cgroup /proc/self/ns/net
line=; read -r line < "$1"; echo "outside <$line>"
echo end
"#;
/// What the file holds.
const WORD: &str = "readable";
/// Its limits: seconds, bytes, files.
const LIMITS: (u64, u64, u64) = (60, 1 << 20, 64);
/// So many processes, which are more than it makes.
const PROCESSES: u64 = 64;
/// Most of what it says that is read.
const MOST: usize = 256 * 1024;

/// Which of its namespaces is which capability.
const NAMESPACES: [(&str, C); 7] = [
    ("user", C::UserNamespace),
    ("mnt", C::MountNamespace),
    ("pid", C::PidNamespace),
    ("ipc", C::IpcNamespace),
    ("uts", C::UtsNamespace),
    ("cgroup", C::CgroupNamespace),
    ("net", C::NoNetwork),
];

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

/// Where it lies: its directory, and the file beside that.
struct TrialPlace {
    dir: PathBuf,
    outside: PathBuf,
}

impl TrialPlace {
    fn make(kernel: &Kernel) -> io::Result<Self> {
        let dir = kernel.place()?.trial();
        let outside = dir.with_extension("outside");
        let mut file = OpenOptions::new();
        let mut file = file.write(true).create_new(true).mode(0o644).open(&outside)?;
        writeln!(file, "{WORD}")?;
        Ok(Self { dir, outside })
    }
}

impl Drop for TrialPlace {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.outside);
    }
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
    let asked = (&name, &profile, backend.name());
    let mut resolved = kernel
        .resolve(asked, &Exec::new(argv), &place.dir)
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

/// What it says, by the first word of each line.
struct Seen<'a> {
    lines: Vec<(&'a str, &'a str)>,
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Seen<'a> {
    fn of(said: &'a str) -> Self {
        let lines: Vec<_> = said.lines().filter_map(|line| line.split_once(' ')).collect();
        let namespaces = said
            .lines()
            .filter(|line| line.ends_with(']') && line.contains(":["));
        Self {
            namespaces: namespaces.collect(),
            lines,
        }
    }

    fn all(&self, word: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines
            .iter()
            .filter(move |(first, _)| *first == word)
            .map(|(_, rest)| *rest)
    }

    fn one(&self, word: &'a str) -> &'a str {
        self.all(word).next().unwrap_or_default()
    }

    /// A value of `/proc/self/status`, without the space around it.
    fn status(&self, key: &str) -> &'a str {
        let mut values = self.all("status").filter_map(|line| line.split_once(':'));
        values
            .find(|(k, _)| *k == key)
            .map_or("", |(_, value)| value.trim())
    }

    fn judge(&self, kernel: &Kernel, backend: BackendName, claimed: Capabilities) -> Capabilities {
        let mut looks = self.of_start(kernel, backend);
        looks.extend(self.of_limits());
        looks.extend(match backend {
            BackendName::Host => Vec::new(),
            BackendName::Landlock => vec![
                (C::Landlock, self.sees_no_more()),
                (C::Seccomp, self.is_filtered()),
            ],
            BackendName::Bubblewrap | BackendName::Container => self.of_namespaces(),
            BackendName::Gvisor => self.of_kernel(),
        });
        let claimed_looks: Vec<_> = looks.into_iter().filter(|(c, _)| claimed.has(*c)).collect();
        claimed_looks
            .into_iter()
            .fold(claimed, |found, (capability, seen)| found.with(capability, seen))
    }

    /// Session, user, privileges: where another kernel tells of them, it may not have the words.
    fn of_start(&self, kernel: &Kernel, backend: BackendName) -> Vec<(C, Result<(), String>)> {
        let mut looks = vec![(C::NewSession, self.leads_a_session())];
        if !matches!(backend, BackendName::Gvisor) {
            looks.push((C::NoNewPrivileges, self.has_no_privileges()));
        }
        if !backend.is_namespaced() {
            let wanted = kernel.config.sandbox_uid.to_string();
            let ids = self.status("Uid");
            let is_other = ids.split_whitespace().all(|id| *id == wanted) && !ids.is_empty();
            looks.push((
                C::RunAsUser,
                so(is_other, || {
                    format!("a job that should be user {wanted} is {ids}")
                }),
            ));
        }
        looks
    }

    fn has_no_privileges(&self) -> Result<(), String> {
        let zero = |key: &str| self.status(key).bytes().all(|b| b == b'0') && !self.status(key).is_empty();
        let none = self.status("NoNewPrivs") == "1" && ["CapPrm", "CapEff", "CapBnd"].into_iter().all(zero);
        so(none, || "a job has privileges left, or could get some".to_owned())
    }

    fn is_filtered(&self) -> Result<(), String> {
        so(self.status("Seccomp") == "2", || {
            "a job has no system call filter".to_owned()
        })
    }

    fn leads_a_session(&self) -> Result<(), String> {
        let stat = self.one("stat");
        let pid = stat.split(' ').next().unwrap_or_default();
        // Behind the name: state, parent, group, session, terminal.
        let rest: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let own = rest.get(3).is_some_and(|session| *session == pid);
        so(own && rest.get(4) == Some(&"0"), || {
            "a job is in a session of somebody else's".to_owned()
        })
    }

    fn of_limits(&self) -> Vec<(C, Result<(), String>)> {
        let words: Vec<&str> = self.one("limits").split(' ').collect();
        let (seconds, bytes, files) = LIMITS;
        // A shell counts files in blocks.
        let wanted = [seconds, bytes / 512, files].map(|n| n.to_string());
        let all = [C::CpuTime, C::FileSize, C::OpenFiles].into_iter().enumerate();
        let looks = all.map(|(n, capability)| {
            let found = words.get(n).copied().unwrap_or_default();
            (
                capability,
                so(found == wanted[n], || {
                    format!("the limit was set to {}, and is {found}", wanted[n])
                }),
            )
        });
        looks.collect()
    }

    fn of_namespaces(&self) -> Vec<(C, Result<(), String>)> {
        let mut looks: Vec<_> = NAMESPACES
            .into_iter()
            .map(|(kind, capability)| (capability, self.has_its_own(kind)))
            .collect();
        for (capability, more) in [
            (C::MountNamespace, self.sees_no_more()),
            (C::NoNetwork, self.has_no_routes()),
        ] {
            for look in looks.iter_mut().filter(|(c, _)| *c == capability) {
                look.1 = std::mem::replace(&mut look.1, Ok(())).and(more.clone());
            }
        }
        looks.push((C::ReadOnlyRoot, self.has_a_fixed_root()));
        looks.push((C::Seccomp, self.is_filtered()));
        looks
    }

    /// What a kernel of its own has is its own.
    fn of_kernel(&self) -> Vec<(C, Result<(), String>)> {
        let host = fs::read_to_string("/proc/version").unwrap_or_default();
        let (own, host) = (self.one("kernel"), host.trim());
        let is_own = so(!own.is_empty() && own != host, || {
            "a job finds the host's kernel".to_owned()
        });
        vec![
            (C::OwnKernel, is_own),
            (C::UserNamespace, self.has_its_own("user")),
            (C::PidNamespace, self.has_its_own("pid")),
            (C::MountNamespace, self.sees_no_more()),
            (C::ReadOnlyRoot, self.has_a_fixed_root()),
            (C::NoNetwork, self.has_its_own("net").and(self.has_no_routes())),
            (C::Seccomp, self.is_filtered()),
        ]
    }

    fn has_its_own(&self, kind: &str) -> Result<(), String> {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap_or_default();
        let own = self
            .namespaces
            .iter()
            .find(|link| link.starts_with(&format!("{kind}:")));
        so(own.is_some_and(|own| Path::new(own) != host), || {
            format!("a job is in the {kind} namespace of the host")
        })
    }

    fn sees_no_more(&self) -> Result<(), String> {
        so(self.one("outside") == "<>", || {
            "a job can read a file that nobody shows it".to_owned()
        })
    }

    fn has_no_routes(&self) -> Result<(), String> {
        // But for the heading, and what leads to itself.
        let leads_out = |line: &str| !line.starts_with("Iface") && !line.starts_with("lo\t");
        let is_told = self.all("route").next().is_some();
        so(is_told && !self.all("route").any(leads_out), || {
            "a job has a route to elsewhere".to_owned()
        })
    }

    fn has_a_fixed_root(&self) -> Result<(), String> {
        let mounts = self.all("mount").map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.filter(|words| words.get(1) == Some(&"/")).last();
        let options = root.and_then(|words| words.get(3).copied()).unwrap_or_default();
        so(options.split(',').any(|option| option == "ro"), || {
            format!("a job's root is mounted {options}")
        })
    }
}

fn so(is_so: bool, else_why: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(else_why()) }
}
