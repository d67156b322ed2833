//! What the probes of every backend find, as it stands in `docs/sandboxes/capabilities.md`.

use std::fmt::Write as _;

use lictor_trust::profiles::Backend;

use crate::capability::{Capabilities, Capability as C};

/// What a probe does not see at work, and the test that shows it for each backend that says it has it.
pub const PROVEN: &[(C, &str)] = &[
    (C::ProcessTree, "ends_sessions_and_double_forks_at_a_timeout"),
    (C::CleanStart, "environment_is_exactly_what_was_declared"),
    (C::RunAsUser, "jobs_user_is_an_unprivileged_one_of_the_host"),
    (C::HostNetwork, "every_attempt_gets_out_of_a_plain_process"),
    (C::NoNetwork, "landlock_lets_out_what_its_list_says"),
    (C::IpcNamespace, "gvisor_lets_out_what_its_list_says"),
    (C::UtsNamespace, "host_name_is_the_sandboxs_own"),
    (C::CgroupNamespace, "gvisor_lets_out_what_its_list_says"),
    (C::OwnRoot, "a_job_sees_its_own_root_and_nothing_of_the_hosts"),
    (C::NoNewPrivileges, "privileges_cannot_be_regained"),
    (
        C::StrictSeccomp,
        "strict_seccomp_leaves_no_sockets_and_no_ipc_objects",
    ),
    (
        C::Devices,
        "a_device_is_there_when_the_profile_names_it_and_only_then",
    ),
    (C::SignalScope, "landlock_lets_out_what_its_list_says"),
    (C::NoSockets, "landlock_lets_out_what_its_list_says"),
    (C::NotForHostileCode, "landlock_lets_out_what_its_list_says"),
    (C::MemoryOfProcess, "memory_is_limited"),
    (C::Pids, "number_of_processes_is_limited"),
    (
        C::HiddenPaths,
        "what_is_denied_cannot_be_read_by_any_of_its_names_inside",
    ),
    (
        C::ProtectedPaths,
        "hooks_and_configuration_of_a_repository_stay_as_they_are",
    ),
    (C::HiddenAgent, "no_job_sees_the_agents_own_directory"),
    (C::Suspend, "suspended_job_stands_still_until_it_is_resumed"),
    (C::KeptSandbox, "what_a_job_leaves_is_there_for_the_next_one"),
    (C::Prepared, "prepared_bubblewrap_lets_out_what_its_list_says"),
];

/// One column: what it is of, whose it is, and what its probe has found.
#[derive(Debug, Clone)]
pub struct Column {
    /// As it is called at the top.
    pub name: String,
    /// Which backend.
    pub backend: Backend,
    /// What its probe has found.
    pub found: Capabilities,
}

/// Every capability in every column, and below that why and what to do where one is missing.
#[must_use]
pub fn table_of_capabilities(columns: &[Column]) -> String {
    let mut text = String::from("| |");
    for column in columns {
        let _ = write!(text, " {} |", column.name);
    }
    let _ = writeln!(text, " proven by |\n|---|{}---|", "---|".repeat(columns.len()));
    for capability in C::ALL {
        let _ = write!(text, "| `{capability}` |");
        let mut is_proven = false;
        for Column { found, .. } in columns {
            is_proven |= found.has(capability) && !found.was_tried(capability);
            text += match (found.has(capability), found.was_tried(capability)) {
                (true, true) => " seen |",
                (true, false) => " has |",
                (false, _) => " |",
            };
        }
        let by = PROVEN.iter().find(|(c, _)| *c == capability && is_proven);
        let _ = writeln!(
            text,
            "{} |",
            by.map_or(String::new(), |(_, test)| format!(" `{test}`"))
        );
    }
    text.push('\n');
    for reason in reasons(columns) {
        let Reason {
            of,
            missing,
            why,
            fix,
        } = reason;
        let _ = writeln!(
            text,
            "- {} without {}: {why}; {fix}",
            of.join(", "),
            missing.join(", ")
        );
    }
    text
}

/// Why something is missing, of everywhere that it is.
struct Reason<'a> {
    of: Vec<&'a str>,
    missing: Vec<String>,
    why: &'a str,
    fix: &'static str,
}

/// What is missing for the same reason and has the same fix, together.
fn reasons(columns: &[Column]) -> Vec<Reason<'_>> {
    let mut all: Vec<Reason<'_>> = Vec::new();
    for column in columns {
        for reason in of_one(column) {
            let same =
                |r: &&mut Reason<'_>| (r.why, r.fix, &r.missing) == (reason.why, reason.fix, &reason.missing);
            match all.iter_mut().find(same) {
                Some(known) => known.of.extend(reason.of),
                None => all.push(reason),
            }
        }
    }
    all
}

fn of_one(column: &Column) -> Vec<Reason<'_>> {
    let mut all: Vec<Reason<'_>> = Vec::new();
    for capability in C::ALL.into_iter().filter(|c| !column.found.has(*c)) {
        let why = column.found.why_not(capability).unwrap_or("not known");
        let (word, fix) = (format!("`{capability}`"), capability.fix(column.backend));
        match all.iter_mut().find(|r| (r.why, r.fix) == (why, fix)) {
            Some(known) => known.missing.push(word),
            None => all.push(Reason {
                of: vec![&column.name],
                missing: vec![word],
                why,
                fix,
            }),
        }
    }
    all
}
