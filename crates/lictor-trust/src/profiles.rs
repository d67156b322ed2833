//! `profiles.toml`: named sandbox descriptions, part of the signed law.
//!
//! A profile says what must hold while a job runs. It promises nothing by default that a backend could quietly
//! skip: whatever it names is enforced, or the plan fails with `unenforceable`.

use std::collections::BTreeMap;

use lictor_proto::egress::Mode;
use lictor_proto::{Digest, Name};
use serde::{Deserialize, Serialize};

mod backends;
mod fetch_from;
mod globs;
mod interpreters;
mod limits;
mod persist;
mod rootfs;
mod shown;
mod terms;
mod units;
mod words;

use crate::egress::{Egress, PROXY_VARIABLES, Presets};

pub use backends::{Backend, Backends};
pub use fetch_from::check_url;
pub use globs::matches;
pub use limits::{Limits, Overflow};
pub use persist::Persist;
pub use rootfs::{ImageName, NoImageName, Pull};
pub use units::{duration_in_words, parse_duration, parse_size, size_in_words};
pub use words::Topic;

/// All profiles of a bundle, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profiles {
    /// The profiles.
    #[serde(default)]
    pub profiles: BTreeMap<Name, Profile>,
    /// What several profiles may refer to.
    #[serde(default)]
    pub egress: Shared,
}

/// The `[egress]` section: lists of destinations by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shared {
    /// `[egress.presets.NAME]`
    #[serde(default)]
    pub presets: Presets,
}

/// One sandbox description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Which backend, or which in order of preference.
    pub backend: Backends,
    /// Who the job runs as on the host. Namespaced backends need somebody who is not root.
    #[serde(default)]
    pub run_as: RunAs,
    /// Users of the host that a job may choose to run as in place of that, with their groups. Takes an agent that is root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_as_users: Vec<Name>,
    /// Groups of the host that a job may choose in place of its user's own. Takes an agent that is root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub run_as_groups: Vec<Name>,
    /// Where a program named without `/` is looked up; absolute directories.
    #[serde(default = "default_path")]
    pub path: Vec<String>,
    /// Working directory when the job names none; `None` means `/workspace` in a namespaced profile, else a fresh
    /// directory of the job's own.
    #[serde(default)]
    pub cwd: Option<String>,
    /// Variables that every job gets; a job may set others, and these too.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What of a network there is.
    #[serde(default)]
    pub network: Network,
    /// What may be reached with `network = "egress"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Where the node may fetch files from that jobs put: in the words of `egress`, and it does not matter what network a job
    /// itself has. Nowhere when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_from: Option<Egress>,
    /// The root file system that its jobs see in place of the host's programs: one of the node's store, by the digest of
    /// its tarball, image manifest or image index (`lictor agent rootfs add`). Takes a backend that has a root of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<Digest>,
    /// Where it can be got: a repository in a registry, by its name without a tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageName>,
    /// Whether a node gets it there by itself.
    #[serde(default, skip_serializing_if = "Pull::is_never")]
    pub pull: Pull,
    /// Whether a job may write to it: to a copy of its own, which is gone with the job. Takes an agent that is root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rootfs_writable: bool,
    /// Host paths that a namespaced profile shows read-only besides `/usr`, `/bin`, `/sbin`, `/lib*` and a minimal `/etc`.
    #[serde(default)]
    pub read_only: Vec<String>,
    /// Host paths that a namespaced profile shows writable besides its own `/workspace` and `/tmp`.
    #[serde(default)]
    pub read_write: Vec<String>,
    /// Character devices of the host that an isolating profile shows besides the usual ones (`null`, `zero`, `random`,
    /// ...): paths below `/dev`. Whether the job may open one is decided by its user and groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// How much of the kernel a job may call.
    #[serde(default, skip_serializing_if = "Seccomp::is_default")]
    pub seccomp: Seccomp,
    /// Lets jobs name a sandbox that is kept for the next one that names it: its `/workspace`, or where the backend has none
    /// the job's directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persist: Option<Persist>,
    /// How many prepared sandboxes each node keeps waiting for its jobs, 0 to 16: a start is then only the program's own.
    /// Takes the backend bubblewrap, and memory.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub warm: u32,
    /// What of these paths is hidden all the same: names, or paths below them, with `*`, `?` and `**`. Takes a backend
    /// with a file system view of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
    /// What of `read_write` stays as it is, whether it is there or not, as paths below each of them; one that ends with
    /// `/` is a directory. `.git/hooks/`, `.git/config` and what else says what git runs when it is not set. Takes a backend with a file system view of its
    /// own, or `[]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protect: Option<Vec<String>>,
    /// What counts as an interpreter of scripts besides those at the usual places: a name, and the canonical paths that may
    /// go by it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub interpreters: BTreeMap<Name, Vec<String>>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
}

/// How much of the kernel a job may call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The filter that the backend always has.
    #[default]
    Default,
    /// Besides: no socket but a connected pair of streams, no System V IPC and no POSIX queues, no scheduling of others, no
    /// extended attributes.
    Strict,
}

impl Seccomp {
    fn is_default(&self) -> bool {
        *self == Self::Default
    }
}

/// Most prepared sandboxes of one profile.
const MOST_WARM: u32 = 16;

#[allow(clippy::trivially_copy_pass_by_ref)] // as serde wants it
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Who a job runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RunAs {
    /// The user that the agent runs as; in a namespaced profile under a root agent, an unprivileged user of the
    /// agent's own choice.
    #[default]
    Agent,
    /// This user of the host, with its groups.
    User(Name),
}

/// What of a network a job has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// The host's, as it is. Only the `host` backend has that, and there nothing else can be enforced.
    Host,
    /// None but an own loopback interface.
    #[default]
    None,
    /// None but the egress proxy, which holds each attempt against the profile's `egress` section.
    Egress,
}

fn default_path() -> Vec<String> {
    [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    .map(str::to_owned)
    .to_vec()
}
impl Profile {
    /// SHA-256 over the profile as JSON, with every default written out.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&serde_json::to_vec(self).unwrap_or_default())
    }
}

impl Profiles {
    /// Checks what can be checked without a host (absolute paths, limits that fit each other), and writes out the
    /// presets that profiles refer to, so that each says by itself what it allows.
    ///
    /// # Errors
    /// Says which profile and what.
    pub fn settle(&mut self) -> Result<(), String> {
        let presets = &self.egress.presets;
        let mut profiles = self.profiles.iter_mut();
        profiles.try_for_each(|(name, p)| p.settle(presets).map_err(|e| format!("profiles.{name}: {e}")))
    }
}

impl Profile {
    /// What of a network its jobs have, in one word of the facts: `none`, `host`, `allowlist`, `open`.
    #[must_use]
    pub fn network_word(&self) -> &'static str {
        match (self.network, &self.egress) {
            (Network::Host, _) => "host",
            (Network::Egress, Some(egress)) => egress.mode.as_str(),
            (Network::None | Network::Egress, _) => "none",
        }
    }

    /// Names of the variables that every job gets.
    pub fn variables(&self) -> impl Iterator<Item = &str> {
        let of_proxy = PROXY_VARIABLES.iter().map(|(name, _)| *name);
        let of_proxy = of_proxy.filter(|_| self.network == Network::Egress);
        self.env.keys().map(String::as_str).chain(of_proxy)
    }

    fn settle(&mut self, presets: &Presets) -> Result<(), String> {
        self.validate()?;
        self.settle_fetch_from(presets)?;
        match (self.network, &mut self.egress) {
            (Network::Egress, _) if self.seccomp == Seccomp::Strict => {
                Err("seccomp = \"strict\" leaves no socket to reach the egress proxy by".into())
            }
            (Network::Egress, Some(egress)) if egress.mode != Mode::None => {
                egress.settle(presets).map_err(|e| format!("egress: {e}"))
            }
            (Network::Egress, _) => Err(
                "network = \"egress\" wants an egress section with mode = \"allowlist\" or \"open\"".into(),
            ),
            (_, Some(_)) => Err("an egress section goes with network = \"egress\"".into()),
            (_, None) => Ok(()),
        }
    }

    fn validate(&self) -> Result<(), String> {
        let listed = [&self.path, &self.read_only, &self.read_write]
            .into_iter()
            .flatten();
        let absolute = |p: &String| p.starts_with('/') && !p.contains('\0');
        if let Some(p) = listed.chain(&self.cwd).find(|p| !absolute(p)) {
            return Err(format!("{p:?} is no absolute path"));
        }
        if let Some(p) = self.devices.iter().find(|p| !is_device_path(p)) {
            return Err(format!("{p:?} is no path of a device below /dev"));
        }
        let bad_variable =
            |(k, v): &(&String, &String)| k.is_empty() || k.contains(['=', '\0']) || v.contains('\0');
        if let Some((name, _)) = self.env.iter().find(bad_variable) {
            return Err(format!("{name:?} cannot be set as a variable"));
        }
        self.limits.validate().map_err(|e| format!("limits.{e}"))?;
        let persist = self.persist.as_ref().map_or(Ok(()), Persist::validate);
        persist.map_err(|e| format!("persist: {e}"))?;
        if self.persist.is_some() && self.limits.disk.is_some() {
            return Err("limits.disk is gone with the job, so it does not go with persist".into());
        }
        self.validate_interpreters()
            .map_err(|e| format!("interpreters: {e}"))?;
        self.validate_warm().map_err(|e| format!("warm: {e}"))?;
        self.validate_lengths()?;
        self.validate_shown()?;
        self.validate_rootfs()?;
        if self.network == Network::Host && self.backend.iter().any(Backend::is_unprivileged) {
            return Err("network = \"host\" goes with backend = \"host\" only".into());
        }
        Ok(())
    }
}

/// Below `/dev` by plain names: what leads elsewhere is found out on the host.
fn is_device_path(path: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    path.len() <= 256
        && path
            .strip_prefix("/dev/")
            .is_some_and(|p| p.split('/').all(plain))
}

impl Profile {
    fn validate_warm(&self) -> Result<(), &'static str> {
        if self.warm > MOST_WARM {
            return Err("at most 16");
        }
        if self.warm > 0 && !self.backend.contains(Backend::Bubblewrap) {
            return Err("only the backend \"bubblewrap\" can prepare sandboxes");
        }
        if self.warm > 0 && self.rootfs.is_some() {
            return Err("sandboxes with a rootfs of their own cannot be prepared");
        }
        if self.warm > 0 && self.limits.disk.is_some() {
            return Err("sandboxes with a disk of their own cannot be prepared");
        }
        // What is hidden and protected is what is there when a sandbox is made.
        let covers = !self.deny.is_empty() || self.protects();
        if self.warm > 0 && covers {
            return Err(
                "what deny and protect are about is looked for at the start, so nothing can be prepared; \
                        with read_write, protect = [] lets it",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::Profile;

    fn profile(limits: &str) -> Profile {
        let text = format!("{{\"backend\": \"host\", \"network\": \"host\", \"limits\": {{{limits}}}}}");
        serde_json::from_str(&text).expect("a profile")
    }

    #[test]
    fn limits_that_are_not_set_do_not_change_what_a_profile_was_called_before_there_were_any() {
        let text = serde_json::to_string(&profile("")).expect("JSON");
        for limit in [
            "cpu_millis",
            "read_bytes_per_s",
            "write_bytes_per_s",
            "disk",
            "\"files\"",
            "rootfs",
            "image",
            "pull",
            "deny",
            "fetch_from",
            "protect",
            "devices",
            "seccomp",
            "warm",
            "persist",
            "interpreters",
            "run_as_users",
            "run_as_groups",
        ] {
            assert!(!text.contains(limit), "{text}");
        }
        assert_ne!(profile("").digest(), profile("\"cpu_millis\": 500").digest());
    }

    #[test]
    fn devices_are_below_dev_and_nowhere_else() {
        for (device, good) in [
            ("/dev/kvm", true),
            ("/dev/dri/renderD128", true),
            ("/dev", false),
            ("/dev/", false),
            ("/dev//kvm", false),
            ("/dev/../etc/shadow", false),
            ("/dev/./kvm", false),
            ("/devices/kvm", false),
            ("kvm", false),
        ] {
            let text = format!("{{\"backend\": \"bubblewrap\", \"devices\": [\"{device}\"]}}");
            let profile: Profile = serde_json::from_str(&text).expect("a profile");
            assert_eq!(profile.validate().is_ok(), good, "{device}");
        }
    }

    #[test]
    fn a_path_is_shown_in_one_way() {
        for (lists, good) in [
            ("\"read_only\": [\"/a/b\"], \"read_write\": [\"/a\"]", true),
            ("\"read_only\": [\"/a\"], \"read_write\": [\"/a\"]", false),
            ("\"read_only\": [\"/a//b/\"], \"read_write\": [\"/a/./b\"]", false),
            ("\"read_only\": [\"/a/../b\"]", false),
        ] {
            let text = format!("{{\"backend\": \"bubblewrap\", {lists}}}");
            let profile: Profile = serde_json::from_str(&text).expect("a profile");
            assert_eq!(profile.validate().is_ok(), good, "{lists}");
        }
    }

    #[test]
    fn lists_that_no_start_could_carry_are_refused_with_the_number_they_may_have() {
        let paths =
            |from: usize, to: usize| -> Vec<String> { (from..to).map(|n| format!("/dev/{n}")).collect() };
        let variables = |n: usize| -> std::collections::BTreeMap<String, String> {
            (0..n).map(|n| (format!("V{n}"), String::new())).collect()
        };
        let mut full = profile("");
        (full.read_only, full.read_write) = (paths(0, 16), paths(16, 32));
        (full.devices, full.path, full.env) = (paths(0, 32), paths(0, 32), variables(128));
        assert_eq!(full.validate(), Ok(()));
        type Add = fn(&mut Profile);
        let one_more: [(Add, &str); 4] = [
            (
                |p| p.read_write.push("/dev/32".into()),
                "read_only and read_write together have 33",
            ),
            (|p| p.devices.push("/dev/32".into()), "devices has 33"),
            (|p| p.path.push("/dev/32".into()), "path has 33"),
            (|p| p.env.extend([("V".into(), String::new())]), "env has 129"),
        ];
        for (add, words) in one_more {
            let mut over = full.clone();
            add(&mut over);
            let refused = over.validate().expect_err("too many");
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[test]
    fn only_what_can_be_prepared_is_kept_warm() {
        for (profile, good) in [
            ("\"backend\": \"bubblewrap\", \"warm\": 16", true),
            ("\"backend\": [\"landlock\", \"bubblewrap\"], \"warm\": 1", true),
            ("\"backend\": \"bubblewrap\", \"warm\": 17", false),
            ("\"backend\": \"landlock\", \"warm\": 1", false),
            (
                "\"backend\": \"bubblewrap\", \"warm\": 1, \"limits\": {\"disk\": \"1GiB\"}",
                false,
            ),
        ] {
            let profile: Profile = serde_json::from_str(&format!("{{{profile}}}")).expect("a profile");
            assert_eq!(profile.validate().is_ok(), good, "{profile:?}");
        }
    }

    #[test]
    fn strict_seccomp_and_a_way_out_exclude_each_other() {
        let text = "{\"backend\": \"bubblewrap\", \"network\": \"egress\", \"egress\": {\"mode\": \"open\"}, \"seccomp\": \"LEVEL\"}";
        let settled = |level| {
            let mut profile: Profile =
                serde_json::from_str(&text.replace("LEVEL", level)).expect("a profile");
            profile.settle(&super::Presets::new())
        };
        assert_eq!(settled("default"), Ok(()));
        assert!(settled("strict").is_err_and(|e| e.contains("no socket")));
    }

    #[test]
    fn limits_that_nothing_could_run_under_are_refused() {
        for (limits, good) in [
            ("\"cpu_millis\": 10", true),
            ("\"cpu_millis\": 9", false),
            ("\"cpu_millis\": 10000001", false),
            ("\"read_bytes_per_s\": \"4KiB\"", true),
            ("\"read_bytes_per_s\": \"4095\"", false),
            ("\"write_bytes_per_s\": \"0\"", false),
            ("\"memory\": \"128KiB\", \"disk\": \"64KiB\", \"files\": 1", true),
            ("\"disk\": \"64KiB\"", false),
            ("\"memory\": \"64KiB\", \"disk\": \"64KiB\", \"files\": 1", false),
            (
                "\"memory\": \"1GiB\", \"disk\": \"64KiB\", \"files\": 2000000",
                false,
            ),
            ("\"memory\": \"1GiB\", \"disk\": \"65535\"", false),
            ("\"files\": 100", false),
            ("\"memory\": \"2GiB\", \"disk\": \"1GiB\", \"files\": 0", false),
        ] {
            assert_eq!(profile(limits).validate().is_ok(), good, "{limits}");
        }
    }
}
