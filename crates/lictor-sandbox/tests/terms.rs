//! Umask, narrower limits, user and group of a job's own choice: held, or refused, by every backend.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Bench, for_every_backend};
use lictor_sandbox::conformance::terms::*;
use lictor_trust::profiles::Backend;

for_every_backend![
    files_are_made_with_the_umask_of_the_job,
    limits_that_a_job_narrows_hold_and_wider_ones_are_refused,
    user_and_group_that_a_job_chooses_are_those_of_its_files,
    user_that_the_profile_does_not_list_is_nobodys_choice,
];

#[test]
fn every_case_of_the_list_is_a_test_here() {
    common::is_a_test_of_each(TERMS, include_str!("terms.rs"));
}

/// A user in several groups, where only one can be given: a group that is left out would be another user.
#[tokio::test]
async fn user_in_several_groups_is_refused_where_a_job_gets_one() {
    use common::OnThisMachine as _;
    use lictor_proto::Code;
    use lictor_proto::doc::{Exec, Terms};
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root can run jobs as another user");
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap();
    let member = groups.lines().find_map(|line| {
        let members = line.split(':').nth(3)?;
        let first = members.split(',').next()?;
        (!first.is_empty() && first != "root").then(|| first.to_owned())
    });
    let Some(member) = member else {
        return common::skip("no user of this host is in more groups than its own");
    };
    for backend in [Backend::Container, Backend::Gvisor, Backend::Bubblewrap] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        bench.profile.run_as_users = vec![member.parse().unwrap()];
        let exec = Exec {
            terms: Some(Terms {
                user: Some(member.parse().unwrap()),
                ..Terms::default()
            }),
            ..common::command(&["true"])
        };
        let name = "p".parse().unwrap();
        let resolved = bench
            .host
            .resolve(&name, bench.profile(), &exec, &bench.job_dir());
        match backend {
            Backend::Bubblewrap => assert!(resolved.is_ok(), "{resolved:?}"),
            _ => assert_eq!(resolved.unwrap_err().code, Code::Unenforceable),
        }
    }
}
