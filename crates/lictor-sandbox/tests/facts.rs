//! What policy is told about a program is what is there, in the profile's root.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use common::{Bench, command};
use lictor_policy::facts::Facts;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest};
use lictor_trust::profiles::{Backend, RunAs};

const NOBODY: u32 = 65_534;

fn facts(bench: &Bench, program: &str) -> Result<Facts, Refusal> {
    let name = "p".parse().expect("a name");
    let exec = command(&[program]);
    let resolved = bench
        .host
        .resolve(&name, bench.profile(), &exec, &bench.job_dir())?;
    Ok(resolved.facts().clone())
}

/// A directory that only root can change, which `/tmp` is not below.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    set_mode(place.path(), 0o755);
    place
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
}

fn write_program(path: &Path, content: &str) -> String {
    fs::write(path, content).expect("written");
    set_mode(path, 0o755);
    path.to_str().expect("UTF-8").to_owned()
}

/// A host bench whose jobs run as nobody; only root can have one.
async fn bench_of_nobody() -> Option<Bench> {
    if !rustix::process::geteuid().is_root() {
        common::skip("only root can run jobs as another user");
        return None;
    }
    let mut bench = Bench::new(Backend::Host).await;
    bench.profile.run_as = RunAs::User("nobody".parse().expect("a name"));
    Some(bench)
}

#[tokio::test]
async fn writable_means_by_owner_group_or_everybody() {
    let Some(bench) = bench_of_nobody().await else {
        return;
    };
    let place = place();
    let path = place.path().join("program");
    let program = write_program(&path, "#!/bin/sh\n");
    let writable = || facts(&bench, &program).expect("there").program.writable;
    let cases = [
        (0, 0, 0o755, false),
        (NOBODY, 0, 0o755, true),
        (NOBODY, 0, 0o555, true),
        (0, NOBODY, 0o755, false),
        (0, NOBODY, 0o775, true),
        (0, 1, 0o775, false),
        (0, 0, 0o757, true),
    ];
    for (owner, group, mode, expected) in cases {
        chown(&path, Some(owner), Some(group)).expect("given away");
        set_mode(&path, mode);
        assert_eq!(writable(), expected, "{owner}:{group} {mode:o}");
    }
    assert_eq!(facts(&bench, "true").expect("there").run_as_uid, NOBODY);
}

#[tokio::test]
async fn writable_means_by_a_directory_above_or_a_link_on_the_way() {
    let Some(bench) = bench_of_nobody().await else {
        return;
    };
    let place = place();
    let below = place.path().join("a/b/c");
    fs::create_dir_all(&below).expect("made");
    let path = below.join("program");
    let program = write_program(&path, "#!/bin/sh\n");
    let link = place.path().join("links/program");
    fs::create_dir(place.path().join("links")).expect("made");
    symlink("../a/b/c/program", &link).expect("linked");
    let link = link.to_str().expect("UTF-8");
    let writable = |p: &str| facts(&bench, p).expect("there").program.writable;
    assert!(!writable(&program) && !writable(link));
    chown(place.path().join("a"), Some(NOBODY), None).expect("given away");
    assert!(writable(&program) && writable(link));
    chown(place.path().join("a"), Some(0), None).expect("taken back");
    chown(place.path().join("links"), Some(NOBODY), None).expect("given away");
    assert!(!writable(&program) && writable(link));
    assert_eq!(facts(&bench, link).expect("there").program.path, program);
}

#[tokio::test]
async fn in_a_directory_with_the_sticky_bit_only_ones_own_entries_are_writable() {
    let Some(bench) = bench_of_nobody().await else {
        return;
    };
    let place = place();
    let open = place.path().join("open");
    fs::create_dir(&open).expect("made");
    let path = open.join("program");
    let program = write_program(&path, "#!/bin/sh\n");
    let link = open.join("link");
    symlink(&path, &link).expect("linked");
    let link = link.to_str().expect("UTF-8");
    let writable = |p: &str| facts(&bench, p).expect("there").program.writable;
    set_mode(&open, 0o777);
    assert!(writable(&program) && writable(link), "anybody can swap it");
    set_mode(&open, 0o1777);
    assert!(!writable(&program) && !writable(link), "as below /tmp");
    std::os::unix::fs::lchown(link, Some(NOBODY), None).expect("given away");
    assert!(!writable(&program) && writable(link), "a link of one's own");
    chown(&path, Some(NOBODY), None).expect("given away");
    assert!(writable(&program), "a file of one's own");
    chown(&path, Some(0), None).expect("taken back");
    chown(&open, Some(NOBODY), None).expect("given away");
    assert!(writable(&program), "the directory's owner can swap everything");
}

#[tokio::test]
async fn jobs_of_root_could_change_everything() {
    let Some(mut bench) = bench_of_nobody().await else {
        return;
    };
    assert!(!facts(&bench, "true").expect("there").program.writable);
    bench.profile.run_as = RunAs::Agent;
    assert!(facts(&bench, "true").expect("there").program.writable);
}

#[tokio::test]
async fn interpreters_are_told_in_order_with_paths_and_digests() {
    let place = place();
    let middle = write_program(&place.path().join("middle"), "#!/bin/sh -e\n. \"$1\"\n");
    let outer = write_program(&place.path().join("outer"), &format!("#! {middle}\n:\n"));
    let again = place.path().join("again");
    symlink(&outer, &again).expect("linked");
    let bench = Bench::new(Backend::Host).await;
    let told = facts(&bench, again.to_str().expect("UTF-8")).expect("there");
    let real = |p: &str| fs::canonicalize(p).expect("there");
    let all = [&told.program, &told.interpreters[0], &told.interpreters[1]];
    let expected = [outer.as_str(), &middle, "/bin/sh"].map(real);
    assert_eq!(all.map(|p| PathBuf::from(&p.path)), expected);
    let digests = expected.map(|p| Digest::of(&fs::read(p).expect("readable")));
    assert_eq!(all.map(|p| p.sha256), digests);
    assert_eq!(told.interpreters.len(), 2);
    let binary = facts(&bench, "true").expect("there");
    assert!(binary.interpreters.is_empty());
    assert_eq!(Path::new(&binary.program.path), real("/usr/bin/true"));
}

#[tokio::test]
async fn chains_of_interpreters_end() {
    let place = place();
    let bench = Bench::new(Backend::Host).await;
    let mut last = "/bin/sh".to_owned();
    for i in 0..4 {
        last = write_program(&place.path().join(format!("s{i}")), &format!("#!{last}\n"));
    }
    assert_eq!(facts(&bench, &last).expect("four are well").interpreters.len(), 4);
    let fifth = write_program(&place.path().join("s4"), &format!("#!{last}\n"));
    assert_eq!(
        facts(&bench, &fifth).expect_err("too many").code,
        Code::ProgramNotFound
    );
    let own = place.path().join("own");
    let own = write_program(&own, &format!("#!{}\n", own.display()));
    assert_eq!(
        facts(&bench, &own).expect_err("endless").code,
        Code::ProgramNotFound
    );
    for line in ["#!sh\n", "#!\n", "#! \n", "#!/bin/\0sh\n"] {
        let odd = write_program(&place.path().join("odd"), line);
        assert_eq!(facts(&bench, &odd).expect_err(line).code, Code::ProgramNotFound);
    }
}

#[tokio::test]
async fn programs_and_interpreters_that_the_root_does_not_show_are_not_found() {
    let (shown, hidden) = (place(), place());
    let inner = write_program(&hidden.path().join("inner"), "#!/bin/sh\n");
    let link = shown.path().join("link");
    symlink(&inner, &link).expect("linked");
    let script = write_program(&shown.path().join("script"), &format!("#!{inner}\n"));
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    let own = shown.path().to_str().expect("UTF-8").to_owned();
    bench.profile.read_only.push(own);
    let all = [inner.as_str(), link.to_str().expect("UTF-8"), &script];
    for program in all {
        let refusal = facts(&bench, program).expect_err(program);
        assert_eq!(refusal.code, Code::ProgramNotFound);
        assert!(
            refusal.message.contains("does not show it"),
            "{}",
            refusal.message
        );
    }
    let other = hidden.path().to_str().expect("UTF-8").to_owned();
    bench.profile.read_only.push(other);
    for program in all {
        assert!(facts(&bench, program).is_ok(), "{program}");
    }
}
