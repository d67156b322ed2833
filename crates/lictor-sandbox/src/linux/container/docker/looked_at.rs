//! What a first process is, whatever its maker says: from outside, before anything of a job is near it.

use std::fs;
use std::io;

use crate::handle::ProcessId;

/// Whether it is the first of its own pid namespace, somebody who owns nothing, without any privilege, in namespaces that
/// are not the agent's, without a network.
///
/// # Errors
/// Says what is not so.
pub(super) fn is_confined(first: ProcessId, root: u32) -> io::Result<()> {
    let status = fs::read_to_string(format!("/proc/{}/status", first.pid))?;
    let network = fs::read_to_string(format!("/proc/{}/net/dev", first.pid))?;
    let wrong = wrong_of(&status, root)
        .or_else(|| wrong_network(&network))
        .or_else(|| wrong_namespace(first));
    match wrong {
        None => Ok(()),
        Some(wrong) => Err(io::Error::other(format!(
            "the container is not what was asked for: {wrong}"
        ))),
    }
}

fn wrong_of(status: &str, root: u32) -> Option<String> {
    let words = |name: &str| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.map(|l| l.split_ascii_whitespace().collect::<Vec<_>>())
    };
    let id = root.to_string();
    let ids = vec![id.as_str(); 4];
    for name in ["Uid", "Gid"] {
        if words(name).as_ref() != Some(&ids) {
            return Some(format!("its first process is somebody else ({name})"));
        }
    }
    // Docker gives a process its own group among the others.
    if !words("Groups").is_some_and(|groups| groups.iter().all(|group| *group == id)) {
        return Some("its first process has groups".to_owned());
    }
    for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if !words(name).is_some_and(|set| matches!(set[..], [set] if set.bytes().all(|b| b == b'0'))) {
            return Some(format!("its first process has privileges ({name})"));
        }
    }
    if words("NoNewPrivs").as_deref() != Some(&["1"]) {
        return Some("its first process may get privileges".to_owned());
    }
    match words("NSpid").as_deref() {
        Some([.., _, "1"]) => None,
        _ => Some("its first process is not the first of a pid namespace".to_owned()),
    }
}

/// Two lines of headings, then one for each interface.
fn wrong_network(devices: &str) -> Option<String> {
    let names = devices.lines().skip(2).filter_map(|line| line.split(':').next());
    let mut others = names.map(str::trim).filter(|name| *name != "lo");
    others.next().map(|name| format!("it has a network ({name})"))
}

fn wrong_namespace(first: ProcessId) -> Option<String> {
    let of = |who: &str, kind: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).ok();
    let (own, its) = ("thread-self".to_owned(), first.pid.to_string());
    let shared = |kind: &&&str| {
        of(&own, kind).is_none() || of(&own, kind) == of(&its, kind) || of(&its, kind).is_none()
    };
    if let Some(kind) = ["mnt", "pid", "net", "ipc", "uts", "cgroup"].iter().find(shared) {
        return Some(format!("it shares a namespace with the agent ({kind})"));
    }
    // A daemon that maps users elsewhere makes containers that the agent has no right to change.
    match of(&own, "user").is_some() && of(&own, "user") == of(&its, "user") {
        true => None,
        false => {
            Some("the daemon gives it users of its own; it must not (`userns-remap`, rootless)".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &str = "Name:\tinit\nUid:\t7\t7\t7\t7\nGid:\t7\t7\t7\t7\nGroups:\t \nNSpid:\t4711\t1\n\
        CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
        CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n";

    #[test]
    fn a_first_process_is_somebody_without_any_privilege() {
        assert_eq!(wrong_of(RIGHT, 7), None);
        assert_eq!(wrong_of(&RIGHT.replace("Groups:\t ", "Groups:\t7 "), 7), None);
        for (from, to) in [
            ("Uid:\t7\t7\t7\t7", "Uid:\t0\t0\t0\t0"),
            ("Gid:\t7\t7\t7\t7", "Gid:\t7\t7\t7\t0"),
            ("Groups:\t ", "Groups:\t0 "),
            ("CapBnd:\t0000000000000000", "CapBnd:\t00000000a80425fb"),
            ("CapAmb:\t0000000000000000\n", ""),
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("NSpid:\t4711\t1", "NSpid:\t4711\t2"),
            ("NSpid:\t4711\t1", "NSpid:\t1"),
        ] {
            assert!(RIGHT.contains(from));
            assert!(wrong_of(&RIGHT.replace(from, to), 7).is_some(), "{to}");
        }
    }

    #[test]
    fn a_container_has_no_network_but_its_own_loopback() {
        let none = "Inter-|   Receive\n face |bytes\n    lo:       0\n";
        assert_eq!(wrong_network(none), None);
        assert!(wrong_network(&format!("{none}  eth0: 1\n")).is_some_and(|w| w.contains("eth0")));
    }

    #[test]
    fn who_is_in_the_agents_own_namespaces_is_in_no_container() {
        let own = crate::linux::process::identify(std::process::id()).expect("this process");
        assert!(wrong_namespace(own).is_some_and(|w| w.contains("mnt")));
    }
}
