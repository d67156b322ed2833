//! What the job says of itself, and what follows from that.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lictor_trust::profiles::Backend as BackendName;

use super::LIMITS;
use super::place::WORD;
use crate::capability::{Capabilities, Capability as C};
use crate::linux::kernel::Kernel;

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

/// What it says, by the first word of each line.
pub(super) struct Seen<'a> {
    lines: Vec<(&'a str, &'a str)>,
    namespaces: BTreeSet<&'a str>,
}

impl<'a> Seen<'a> {
    pub(super) fn of(said: &'a str) -> Self {
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

    pub(super) fn judge(&self, kernel: &Kernel, backend: BackendName, claimed: Capabilities) -> Capabilities {
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
            let is_so = so(is_other, || {
                format!("a job that should be user {wanted} is {ids}")
            });
            // What others hold back from this user, nobody holds back here: else their jobs would show nothing.
            let is_open = backend != BackendName::Host || self.one("outside") == format!("<{WORD}>");
            let is_so = is_so.and(so(is_open, || {
                "a job cannot read what everybody may read".to_owned()
            }));
            looks.push((C::RunAsUser, is_so));
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
