//! What is tried by other tests of this repository, since it takes more than a program in a sandbox.

/// An attempt that another test makes.
#[derive(Debug, Clone, Copy)]
pub struct Elsewhere {
    /// What is tried.
    pub attempt: &'static str,
    /// The kind of vulnerability, or the feature of the kernel.
    pub stands_for: &'static str,
    /// The test.
    pub test: &'static str,
}

const fn by(test: &'static str, attempt: &'static str, stands_for: &'static str) -> Elsewhere {
    Elsewhere {
        attempt,
        stands_for,
        test,
    }
}

/// All of them.
pub const ELSEWHERE: &[Elsewhere] = &[
    by(
        "a_name_that_changes_its_address_is_asked_once_and_judged_each_time",
        "DNS rebinding",
        "a name that means another address the second time",
    ),
    by(
        "a_listed_name_with_an_address_that_is_not_public_is_refused",
        "names of private ranges",
        "a listed name that leads to the metadata service or to this machine",
    ),
    by(
        "a_redirect_leads_no_further_than_a_request_of_its_own",
        "redirects to private ranges",
        "a listed host that answers 302 with the metadata service, a private address or a name of one",
    ),
    by(
        "requests_that_two_servers_could_read_differently_reach_none",
        "proxy header smuggling",
        "lengths, line ends and targets that two readers read differently",
    ),
    by(
        "hosts_in_odd_spellings_are_refused_where_the_plain_one_passes",
        "name tricks",
        "NUL bytes, numbers of another base, user names, suffixes",
    ),
    by(
        "a_handshake_for_somebody_else_is_ended_before_a_byte_is_passed_on",
        "another name in the handshake",
        "a tunnel to a listed host whose TLS server name is somebody else's",
    ),
    by(
        "ends_sessions_and_double_forks_at_a_timeout",
        "daemons that stay",
        "setsid(2) and double forks away from the supervisor",
    ),
    by(
        "session_is_the_jobs_own_and_has_no_terminal",
        "the supervisor's terminal",
        "a controlling terminal that was inherited",
    ),
    by(
        "changed_program_does_not_start",
        "another program in the judged one's place",
        "time of check to time of use at the start",
    ),
    by(
        "removal_follows_no_link_and_needs_no_rights_and_no_depth",
        "links left for whoever tidies up",
        "symlinks, mounts and depth in a directory that root removes",
    ),
    by(
        "destroy_leaves_what_a_bind_mount_shows",
        "mounts left for whoever tidies up",
        "a removal that crosses into what is mounted",
    ),
    by(
        "script_of_a_stranger_is_read_as_it_was_judged",
        "another script in the judged one's place",
        "an interpreter that opens its path again",
    ),
    by(
        "four_hundred_megabytes_of_output_cost_no_memory_and_leave_head_and_tail",
        "output flood",
        "output that its reader has to keep",
    ),
    by(
        "cpu_limit_is_told_by_its_name",
        "processor time",
        "a loop without end",
    ),
];
