//! A profile in words: what it means to somebody who has to decide whether to use it.
//!
//! ```text
//! Profile --in_words(presets)--> [Topic { about: "isolation", says: ["bubblewrap: ..."] }, ...]
//! ```
//!
//! # Invariants
//! - Every field of a profile is spoken of: [`Profile::in_words`] takes the profile apart, so a new field does not
//!   compile until somebody has found words for it.
//! - What is never held, on any host, is said as such ([`Profile::never_on`]), not left to be found out by a job.

mod way_out;

use serde::Serialize;

use super::{
    Backend, Limits, Network, Overflow, Persist, Profile, RunAs, Seccomp, duration_in_words as time,
    size_in_words as size,
};
use crate::egress::Presets;

/// One thing that is said about a profile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// What it is about; these words are kept.
    pub about: &'static str,
    /// Sentences without a full stop.
    pub says: Vec<String>,
}

/// What a backend is, whatever the profile says.
struct Isolation {
    /// What it isolates, and for whom that is enough.
    means: &'static str,
    /// What a host must have.
    needs: &'static str,
    /// What a job can read there.
    reads: &'static str,
    /// What it can write.
    writes: &'static str,
}

const READS_OF_A_BOX: &str = "the host's /usr, /bin, /sbin, /lib* and a minimal /etc";
const WRITES_OF_A_BOX: &str =
    "/workspace, which is removed afterwards, and /tmp (1 GiB) and /dev/shm (256 MiB), which are memory";

impl Isolation {
    fn of(backend: Backend) -> Self {
        match backend {
            Backend::Host => Self {
                means: "nothing is isolated, the process tree is supervised; for trusted work on your own machine",
                needs: "Linux",
                reads: "whatever its user may read",
                writes: "whatever its user may write",
            },
            Backend::Landlock => Self {
                means: "the host's own tree behind Landlock and a system call filter; not for hostile code",
                needs: "Linux 6.12 or later with Landlock switched on, and an agent that is root",
                reads: "the host's /usr, /bin, /sbin, /lib*, a minimal /etc, /proc and a few devices; names, sizes and \
                        times of all other files can be seen",
                writes: "the job's own directory, which is removed afterwards",
            },
            Backend::Bubblewrap => Self {
                means: "namespaces of its own, a read-only system, no privileges and a system call filter, on the \
                        host's kernel",
                needs: "the program bwrap (0.8 or later), and user namespaces for unprivileged users",
                reads: READS_OF_A_BOX,
                writes: WRITES_OF_A_BOX,
            },
            Backend::Gvisor => Self {
                means: "a container with a kernel of its own in user space, so that the host's kernel is out of a job's \
                        direct reach; a read-only system, no privileges and a system call filter",
                needs: "the program runsc, and an agent that is root",
                reads: READS_OF_A_BOX,
                writes: WRITES_OF_A_BOX,
            },
            Backend::Container => Self {
                means: "a container made by an OCI runtime or an engine: namespaces of its own, a read-only system, no privileges and \
                        a system call filter, on the host's kernel",
                needs: "runc, crun or podman, or a Docker daemon that the agent's configuration names; without podman, an \
                        agent that is root",
                reads: READS_OF_A_BOX,
                writes: WRITES_OF_A_BOX,
            },
        }
    }
}

impl Profile {
    /// What it means, topic by topic. `presets` are the org's, to tell where an entry of the allowlist comes from.
    #[must_use]
    pub fn in_words(&self, presets: &Presets) -> Vec<Topic> {
        let Self {
            backend: _, // isolation, needs, never on
            run_as,
            run_as_users,
            run_as_groups,
            path: _,    // of_programs
            cwd: _,     // of_programs
            env: _,     // of_programs
            network: _, // network
            egress,
            fetch_from,
            rootfs: _,          // of_files, needs, never on
            image: _,           // needs
            pull: _,            // needs
            rootfs_writable: _, // of_files
            read_only: _,       // of_files
            read_write: _,      // of_files
            deny: _,            // of_files
            protect: _,         // of_files
            devices: _,         // of_files
            seccomp,
            persist,
            warm,
            interpreters: _, // of_programs
            limits,
        } = self;
        let mut topics = vec![
            topic("isolation", self.isolation()),
            topic("needs", self.needs()),
            topic("never on", self.never_words()),
            topic("runs as", vec![self.runs_as(run_as)]),
            topic("may run as", super::terms::choices(run_as_users, run_as_groups)),
        ];
        topics.extend(self.of_files());
        topics.extend([
            topic("system calls", system_calls(*seccomp)),
            topic("network", vec![self.network_in_words()]),
        ]);
        if let Some(egress) = egress {
            topics.extend(way_out::topics(egress, presets));
        }
        topics.extend(fetch_from.iter().map(|from| way_out::fetches(from, presets)));
        topics.extend([
            topic("keeps", persist.iter().map(keeps).collect()),
            topic("kept ready", kept_ready(*warm)),
            topic("time", times(limits)),
            topic("output", vec![output(limits)]),
            topic("limits", bounds(limits)),
        ]);
        topics.extend(self.of_programs());
        topics.retain(|t| !t.says.is_empty());
        topics
    }

    /// What it sees of files and devices, and what of them it may change.
    fn of_files(&self) -> [Topic; 5] {
        [
            topic("reads", self.reads(&self.read_only)),
            topic(
                "writes",
                self.of_each(
                    |b, i| self.writes_of_rootfs(b, i.writes),
                    "also, of the host,",
                    &self.read_write,
                ),
            ),
            topic(
                "hides",
                self.deny
                    .iter()
                    .map(|p| format!("{p} in what it shows of the host"))
                    .collect(),
            ),
            topic("protects", self.kept()),
            topic(
                "devices",
                self.devices.iter().map(|d| format!("{d} of the host")).collect(),
            ),
        ]
    }

    /// What a program of a job finds when it is started.
    fn of_programs(&self) -> [Topic; 4] {
        let variables = self.env.iter().map(|(name, value)| format!("{name}={value}"));
        let mut variables: Vec<String> = variables.collect();
        if self.network == Network::Egress {
            variables.push("HTTP_PROXY and its relatives, unless set otherwise".to_owned());
        }
        let interpreters = self.interpreters.iter();
        let interpreters =
            interpreters.map(|(name, paths)| format!("{} also counts as {name}", paths.join(", ")));
        [
            topic("environment", or(variables, "empty, but for what a job sets")),
            topic("programs", vec![format!("looked up in {}", self.path.join(", "))]),
            topic("interpreters", interpreters.collect()),
            topic("works in", vec![self.place(self.cwd.as_deref())]),
        ]
    }

    /// Why no host can hold it in this backend, if none can.
    #[must_use]
    pub fn never_on(&self, backend: Backend) -> Option<&'static str> {
        let root = matches!(&self.run_as, RunAs::User(name) if name.as_str() == "root");
        match (backend, self.network) {
            (Backend::Host, Network::None) => Some("it cannot take the network away"),
            (Backend::Host, Network::Egress) => Some("it cannot take the network away but for the proxy"),
            (Backend::Host, Network::Host) if !self.read_only.is_empty() || !self.read_write.is_empty() => {
                Some("a list of paths holds nothing back there")
            }
            (Backend::Host, Network::Host) if !self.devices.is_empty() => {
                Some("a list of devices holds nothing back there")
            }
            (Backend::Host, Network::Host) if self.seccomp == Seccomp::Strict => {
                Some("it has no system call filter")
            }
            (Backend::Landlock | Backend::Gvisor, Network::Egress) => {
                Some("it has no way out through the egress proxy")
            }
            (Backend::Host | Backend::Landlock, _) if self.rootfs.is_some() => {
                Some("it has no root file system but the host's")
            }
            (Backend::Host | Backend::Landlock, _) if !self.deny.is_empty() => {
                Some("it hides nothing of what it shows (deny)")
            }
            (Backend::Landlock, _) if self.protects() => Some(
                "it keeps nothing as it is of what may be written; protect = [] says that nothing has to",
            ),
            (_, _) if root && backend.is_unprivileged() => Some("it runs nobody as root"),
            _ => None,
        }
    }

    fn isolation(&self) -> Vec<String> {
        let each = self
            .backend
            .iter()
            .map(|b| format!("{b}: {}", Isolation::of(b).means));
        let mut says: Vec<String> = each.collect();
        if says.len() > 1 {
            says.push(
                "the first of them that holds all of this on a host is taken; the receipt names it".into(),
            );
        }
        says
    }

    fn never_words(&self) -> Vec<String> {
        let never = self
            .backend
            .iter()
            .filter_map(|b| self.never_on(b).map(|why| (b, why)));
        let mut says: Vec<String> = never.map(|(b, why)| format!("{b}: {why}")).collect();
        if self.backend.iter().all(|b| self.never_on(b).is_some()) {
            says.push("so its jobs are refused everywhere".to_owned());
        }
        says
    }

    fn needs(&self) -> Vec<String> {
        let possible = || self.backend.iter().filter(|b| self.never_on(*b).is_none());
        let mut says: Vec<String> = possible()
            .map(|b| format!("{b}: {}", Isolation::of(b).needs))
            .collect();
        if says.is_empty() {
            return says;
        }
        let limits = &self.limits;
        if matches!(self.run_as, RunAs::User(_)) {
            says.push("an agent that is root, and that user".to_owned());
        }
        if !self.run_as_users.is_empty() || !self.run_as_groups.is_empty() {
            says.push("for a user or group that a job chooses, an agent that is root".to_owned());
        }
        if self.network == Network::Egress {
            says.push("the agent's egress proxy".to_owned());
        }
        says.extend(self.needs_of_rootfs());
        if self.rootfs_writable {
            says.push("for the copy that a job writes to, an agent that is root, and Linux 6.15".to_owned());
        }
        if limits.pids.is_some() {
            let instead = if possible().any(Backend::is_namespaced) {
                ", or Linux 5.14 for what has a user namespace"
            } else {
                ""
            };
            says.push(format!("the cgroup controller pids{instead}"));
        }
        says.extend(limits.cpu_millis.map(|_| "the cgroup controller cpu".to_owned()));
        let rate = limits.read_bytes_per_s.or(limits.write_bytes_per_s);
        says.extend(rate.map(|_| "the controller io of cgroup v2".to_owned()));
        says
    }

    fn runs_as(&self, run_as: &RunAs) -> String {
        match run_as {
            RunAs::User(name) => format!("the host's user {name}, with its groups"),
            RunAs::Agent if self.backend.iter().all(Backend::is_unprivileged) => {
                "an unprivileged user: the agent's own, or where that is root, one without any rights"
                    .to_owned()
            }
            RunAs::Agent if self.backend.iter().any(Backend::is_unprivileged) => {
                "the user of the agent; where that is root and the backend isolates, an unprivileged one"
                    .to_owned()
            }
            RunAs::Agent => "the user of the agent".to_owned(),
        }
    }

    fn reads(&self, read_only: &[String]) -> Vec<String> {
        let of_backend = |b: Backend, i: &Isolation| self.reads_of_rootfs(b, i.reads);
        self.of_each(of_backend, "also, of the host,", read_only)
    }

    /// One sentence of each backend, and what the profile adds to it.
    fn of_each(
        &self,
        part: impl Fn(Backend, &Isolation) -> String,
        also: &str,
        more: &[String],
    ) -> Vec<String> {
        let several = self.backend.iter().count() > 1;
        let each = self.backend.iter().map(|b| {
            let says = part(b, &Isolation::of(b));
            if several { format!("{b}: {says}") } else { says }
        });
        let more = more.iter().map(|path| format!("{also} {path}"));
        each.chain(more).collect()
    }

    fn kept(&self) -> Vec<String> {
        let paths = self
            .protected()
            .into_iter()
            .filter(|_| !self.read_write.is_empty());
        paths
            .map(|p| format!("{p} in what it may write of the host"))
            .collect()
    }

    fn network_in_words(&self) -> String {
        match self.network {
            Network::Host => "the host's, as it is".to_owned(),
            Network::None => "none but its own loopback".to_owned(),
            Network::Egress => "none but the egress proxy, which writes down every attempt".to_owned(),
        }
    }

    fn place(&self, cwd: Option<&str>) -> String {
        let namespaced = self.backend.iter().filter(|b| b.is_namespaced()).count();
        match cwd {
            Some(dir) => format!("{dir}, unless the job says otherwise"),
            None if namespaced == 0 => "a fresh directory of its own".to_owned(),
            None if namespaced == self.backend.iter().count() => "/workspace".to_owned(),
            None => "/workspace, or where the backend has none a fresh directory of its own".to_owned(),
        }
    }
}

fn topic(about: &'static str, says: Vec<String>) -> Topic {
    Topic { about, says }
}

fn or(says: Vec<String>, otherwise: &str) -> Vec<String> {
    if says.is_empty() {
        return vec![otherwise.to_owned()];
    }
    says
}

fn system_calls(level: Seccomp) -> Vec<String> {
    match level {
        Seccomp::Default => Vec::new(),
        Seccomp::Strict => vec![
            "the strict filter: besides what is always denied, no sockets but connected pairs, no IPC objects, no \
             extended attributes"
                .to_owned(),
        ],
    }
}

fn keeps(persist: &Persist) -> String {
    let mut says = format!(
        "what a job leaves where it works, if the job names a sandbox, for the next one that does: until {} after the \
         last, or {} after the first",
        time(persist.idle),
        time(persist.age)
    );
    if let Some(most) = persist.most {
        says.push_str(&format!("; at most {most} on each node"));
    }
    if let Some(bytes) = persist.bytes {
        says.push_str(&format!("; not one that holds more than {}", size(bytes)));
    }
    says
}

fn kept_ready(warm: u32) -> Vec<String> {
    let says = match warm {
        0 => return Vec::new(),
        1 => "one prepared bubblewrap sandbox on each node, for one job each".to_owned(),
        n => format!("{n} prepared bubblewrap sandboxes on each node, for one job each"),
    };
    vec![says]
}

fn times(limits: &Limits) -> Vec<String> {
    let (usual, most, grace) = (time(limits.timeout), time(limits.max_timeout), time(limits.grace));
    vec![
        format!("{usual}, or what the job asks for up to {most}"),
        format!("then TERM to every process, and KILL after {grace}"),
    ]
}

fn output(limits: &Limits) -> String {
    let kept = size(limits.keep);
    match limits.overflow {
        Overflow::Drop => {
            format!("{kept} are kept, half from the start and half from the end; the job never waits")
        }
        Overflow::Throttle => {
            format!(
                "{kept} are kept, half from the start and half from the end; the job waits until it has been read"
            )
        }
    }
}

fn bounds(limits: &Limits) -> Vec<String> {
    let rate = |n: Option<u64>, what: &str| n.map(|n| format!("{what} each disk: {} per second", size(n)));
    let of_tree = [
        limits.memory.map(|n| {
            format!(
                "memory: {} for the whole job, or without the cgroup controller memory for each process",
                size(n)
            )
        }),
        limits
            .pids
            .map(|n| format!("processes and threads: {n} for the whole job")),
        limits
            .cpu_millis
            .map(|n| format!("processors: {}", processors(n))),
        rate(limits.read_bytes_per_s, "reads from"),
        rate(limits.write_bytes_per_s, "writes to"),
        limits.cpu_seconds.map(|n| {
            format!(
                "processor time: {} for each process",
                time(std::time::Duration::from_secs(n))
            )
        }),
        limits.file_size.map(|n| format!("files: {} each", size(n))),
        limits.disk.map(|n| {
            let files = limits.files.unwrap_or(n / 4096);
            format!("its own places: {} and {files} files, in memory", size(n))
        }),
        limits
            .open_files
            .map(|n| format!("open files: {n} for each process")),
    ];
    or(
        of_tree.into_iter().flatten().collect(),
        "none on memory, processes, processors or disks",
    )
}

/// Thousandths of a processor, without zeros at the end.
fn processors(millis: u64) -> String {
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests;
