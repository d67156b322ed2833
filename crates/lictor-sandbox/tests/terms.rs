//! Umask, narrower limits, user and group of a job's own choice: held, or refused, by every backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use common::docker::Docker;
use common::somebody::among_members;
use common::{Bench, OnThisMachine as _, for_every_backend};
use lictor_proto::Code;
use lictor_proto::doc::{Exec, Terms};
use lictor_sandbox::conformance::terms::*;
use lictor_sandbox::{Config, ContainerEngine, StdinSource};
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

fn as_member() -> Exec {
    Exec {
        terms: Some(Terms {
            user: Some("member".parse().unwrap()),
            ..Terms::default()
        }),
        ..common::command(&["true"])
    }
}

/// A group that is left out would be another user than the one that was asked for.
async fn refuses_a_user_in_several_groups(config: Config, backend: Backend) {
    let Some(mut bench) = Bench::on_with(backend, config).await else {
        return;
    };
    let name = "p".parse().unwrap();
    bench.profile.run_as_users = vec!["member".parse().unwrap(), "games".parse().unwrap()];
    let refused = bench
        .host
        .resolve(&name, bench.profile(), &as_member(), &bench.job_dir())
        .unwrap_err();
    assert_eq!(refused.code, Code::Unenforceable);
    assert!(refused.message.contains("is in several"), "{refused:?}");
    // One in a group of its own is somebody that it can be.
    let mut alone = as_member();
    alone.terms.as_mut().unwrap().user = Some("games".parse().unwrap());
    let resolved = bench
        .host
        .resolve(&name, bench.profile(), &alone, &bench.job_dir());
    assert!(resolved.is_ok(), "{resolved:?}");
}

fn by(container_engine: ContainerEngine) -> Config {
    Config {
        container_engine,
        ..Config::default()
    }
}

#[tokio::test]
async fn user_in_several_groups_is_refused_by_every_engine_that_gives_a_job_one() {
    if !among_members("user_in_several_groups_is_refused_by_every_engine_that_gives_a_job_one") {
        return;
    }
    refuses_a_user_in_several_groups(Config::default(), Backend::Gvisor).await;
    for engine in [
        ContainerEngine::Runc,
        ContainerEngine::Crun,
        ContainerEngine::Podman,
    ] {
        refuses_a_user_in_several_groups(by(engine), Backend::Container).await;
    }
    if let Some(docker) = Docker::start() {
        refuses_a_user_in_several_groups(docker.config(), Backend::Container).await;
    }
}

/// By what the kernel lets it read: in a box with users of its own, numbers of groups are not those of the host.
#[tokio::test]
async fn user_in_several_groups_has_all_of_them_and_no_other_where_they_can_be_given() {
    if !among_members("user_in_several_groups_has_all_of_them_and_no_other_where_they_can_be_given") {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
    for (name, group) in [
        ("own", 61235),
        ("crew", 61236),
        ("press", 61237),
        ("other", 61238),
    ] {
        let file = place.path().join(name);
        fs::write(&file, name).unwrap();
        chown(&file, Some(0), Some(group)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o040)).unwrap();
    }
    let at = place.path().to_str().unwrap();
    let line = format!("for f in own crew press other; do cat {at}/$f 2>/dev/null && echo; done; true");
    for backend in [Backend::Host, Backend::Landlock, Backend::Bubblewrap] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        bench.profile.run_as_users = vec!["member".parse().unwrap(), "daemon".parse().unwrap()];
        bench.profile.run_as_groups = vec!["daemon".parse().unwrap()];
        if bench.hides() {
            bench.profile.read_write = vec![at.to_owned()];
            bench.profile.protect = Some(Vec::new());
        }
        let mut exec = Exec {
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), line.clone()],
            ..as_member()
        };
        let read = bench.run_with(&exec, StdinSource::Null).await;
        assert_eq!(read.stdout, "own\ncrew\npress\n", "{backend}: {}", read.stderr);
        // Another group takes the place of its own, and of no other.
        exec.terms.as_mut().unwrap().group = Some("daemon".parse().unwrap());
        let read = bench.run_with(&exec, StdinSource::Null).await;
        assert_eq!(read.stdout, "crew\npress\n", "{backend}: {}", read.stderr);
        // Somebody else is in one of them.
        exec.terms.as_mut().unwrap().user = Some("daemon".parse().unwrap());
        let read = bench.run_with(&exec, StdinSource::Null).await;
        assert_eq!(
            read.stdout, "press\n",
            "{backend}: of the groups it is in this one"
        );
    }
}
