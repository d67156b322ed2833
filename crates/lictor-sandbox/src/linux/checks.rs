//! What of this host the backends rest on, one by one, each with what to type where it is missing: for `doctor`.
//!
//! A backend's probe says whether it works; this says why not, and what would be held better. What can be tried is
//! tried; user namespaces are read from the kernel's settings, since the program that makes them may be let through
//! by a rule of its own.

use std::fs;

use super::cgroup::{Controller, Delegation};
use super::kernel::Kernel;
use super::landlock;
use crate::backend::ProbeError;
use crate::host::Check;

/// Settings that keep unprivileged users from making user namespaces, with the value that does.
const USER_NAMESPACES: [(&str, &str, &str); 3] = [
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
];

/// All of them.
pub(crate) async fn all(kernel: &Kernel) -> Vec<Check> {
    vec![
        check("user namespaces", user_namespaces(setting)),
        check("seccomp", seccomp(kernel)),
        check("landlock", abi()),
        check("cgroup v2", unified(kernel)),
        check("cgroup controllers", controllers(|c| kernel.cgroups.holds(c))),
        check("cgroup delegation", delegation(&kernel.cgroups.delegation())),
        check("egress proxy", egress_proxy(kernel).await),
    ]
}

fn check(what: &'static str, found: Result<String, ProbeError>) -> Check {
    Check { what, found }
}

fn lacks(problem: impl Into<String>, fix: impl Into<String>) -> ProbeError {
    ProbeError {
        problem: problem.into(),
        fix: fix.into(),
    }
}

/// The kernel's value of a setting, where it has that.
fn setting(name: &str) -> Option<String> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
}

fn user_namespaces(setting: impl Fn(&str) -> Option<String>) -> Result<String, ProbeError> {
    let in_the_way = |(name, bad, _): &&(&str, &str, &str)| setting(name).is_some_and(|value| value == *bad);
    match USER_NAMESPACES.iter().find(in_the_way) {
        None => Ok("no setting keeps them from unprivileged users".to_owned()),
        Some((name, bad, good)) => Err(lacks(
            format!("{name} is {bad}: unprivileged users get none, unless a rule lets bwrap through"),
            format!(
                "nothing, where sandboxes work all the same (below); else a rule of its own for bwrap, or for every \
                 program: sysctl -w {name}={good}"
            ),
        )),
    }
}

fn seccomp(kernel: &Kernel) -> Result<String, ProbeError> {
    let architecture = "use an architecture that has a system call filter here: x86-64 or arm64";
    kernel
        .filter
        .as_ref()
        .map_err(|e| lacks(e.clone(), architecture))?;
    let actions = setting("kernel.seccomp.actions_avail").unwrap_or_default();
    let has = |action: &str| actions.split(' ').any(|a| a == action);
    if has("kill_process") && has("errno") {
        return Ok("filters can be set".to_owned());
    }
    let fix = "use a kernel built with CONFIG_SECCOMP_FILTER, 4.14 or later";
    Err(lacks("the kernel has no system call filters", fix))
}

fn abi() -> Result<String, ProbeError> {
    landlock::newest_abi()
        .map(|abi| format!("ABI {abi}"))
        .map_err(|problem| {
            lacks(
                problem,
                "boot Linux 6.12 or later with landlock among the names in the kernel parameter lsm=",
            )
        })
}

fn unified(kernel: &Kernel) -> Result<String, ProbeError> {
    match kernel.cgroups.unified() {
        Some(dir) => Ok(format!("each job gets one below {}", dir.display())),
        None => Err(lacks(
            "no cgroup of version 2 can be made here: jobs are ended and counted process by process",
            "run the agent as root, or by systemd with `Delegate=yes` in its unit: systemctl edit UNIT",
        )),
    }
}

fn controllers(holds: impl Fn(Controller) -> bool) -> Result<String, ProbeError> {
    let names = |held: bool| -> Vec<&'static str> {
        let those = Controller::ALL.into_iter().filter(|c| holds(*c) == held);
        those.map(Controller::name).collect()
    };
    let (held, missing) = (names(true), names(false));
    let held = match held.is_empty() {
        true => "none is held for whole jobs".to_owned(),
        false => format!("held for whole jobs: {}", held.join(", ")),
    };
    let Some(first) = missing.first() else {
        return Ok(held);
    };
    let fix = match *first {
        "io" if missing.len() == 1 => {
            "for an agent of a user: `Delegate=cpu io memory pids` in user@.service (systemctl edit user@.service); \
             where version 1 has it as blkio, boot with cgroup_no_v1=all"
        }
        _ => {
            "`Delegate=yes` in the agent's unit (systemctl edit UNIT), or run the agent as root; in a container, a \
             cgroup that may be written to"
        }
    };
    Err(lacks(format!("{held}; missing: {}", missing.join(", ")), fix))
}

fn delegation(found: &Delegation) -> Result<String, ProbeError> {
    match found {
        Delegation::None => Err(lacks(
            "this process is in no cgroup of version 2 that can be seen",
            "boot with systemd.unified_cgroup_hierarchy=1, or leave it: version 1 serves as well",
        )),
        Delegation::Marked(dir) => Ok(format!("{} is delegated", dir.display())),
        Delegation::Alone(dir) => Ok(format!("nobody else is in {}", dir.display())),
        Delegation::Shared(dir) => Err(lacks(
            format!(
                "others are in {} too, so it cannot pass on its controllers",
                dir.display()
            ),
            "`Delegate=yes` in the agent's unit: systemctl edit UNIT",
        )),
    }
}

async fn egress_proxy(kernel: &Kernel) -> Result<String, ProbeError> {
    let Some(proxy) = &kernel.proxy else {
        return Err(lacks(
            "this program has none",
            "use the released program, which has it",
        ));
    };
    if let Err(e) = super::confine::works() {
        return Err(lacks(
            format!("it could not be kept from files, so there is none: {e}"),
            "boot Linux 5.13 or later with landlock among the names in the kernel parameter lsm=",
        ));
    }
    match proxy.probe(kernel).await {
        Ok(()) => Ok("starts and answers, kept to the network by Landlock".to_owned()),
        Err(e) => Err(lacks(
            format!("does not start: {e}"),
            "look at seccomp above, and whether the sandbox user may execute this program",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_forbids_user_namespaces_comes_with_the_command_that_allows_them() {
        let free = |_: &str| None;
        assert!(user_namespaces(free).is_ok());
        let strict = |name: &str| (name == "user.max_user_namespaces").then(|| "0".to_owned());
        let found = user_namespaces(strict).expect_err("they are forbidden");
        assert!(
            found.fix.contains("sysctl -w user.max_user_namespaces=15000"),
            "{found}"
        );
    }

    #[test]
    fn controllers_that_are_missing_are_named() {
        assert_eq!(
            controllers(|_| true).as_deref(),
            Ok("held for whole jobs: memory, pids, cpu, io")
        );
        let no_io = controllers(|c| c != Controller::Io).expect_err("io is missing");
        assert!(
            no_io.problem.ends_with("missing: io") && no_io.fix.contains("cgroup_no_v1"),
            "{no_io}"
        );
        let none = controllers(|_| false).expect_err("all are missing");
        assert!(
            none.problem.starts_with("none is held") && none.fix.contains("Delegate=yes"),
            "{none}"
        );
    }

    #[test]
    fn a_cgroup_with_strangers_in_it_is_no_delegated_one() {
        let dir = std::path::PathBuf::from("/sys/fs/cgroup/user.slice");
        assert!(delegation(&Delegation::Marked(dir.clone())).is_ok());
        assert!(delegation(&Delegation::Alone(dir.clone())).is_ok());
        let shared = delegation(&Delegation::Shared(dir)).expect_err("it is shared");
        assert!(shared.fix.contains("Delegate=yes"), "{shared}");
    }
}
