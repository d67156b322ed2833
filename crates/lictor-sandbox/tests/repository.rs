//! What a job leaves in a repository runs nothing of whoever uses the repository later: seen by what git does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Output};

use common::OnThisMachine as _;
use common::somebody::{as_somebody, here};
use common::{Bench, for_every_sandbox};
use lictor_trust::profiles::Backend;

for_every_sandbox![what_a_job_leaves_in_a_repository_does_not_run_later];

/// Each leaves something that git is to run: `fsmonitor` at every look, `pre-commit` at every commit.
const WAYS: [(&str, &str); 3] = [
    (
        "configuration and hook",
        "printf '[core]\\n\\tfsmonitor = %s/evil/fsmonitor\\n' $PWD >> .git/config; \
         mkdir -p .git/hooks; cp evil/pre-commit .git/hooks/",
    ),
    (
        "another common directory",
        "mkdir evil/git; cp -r .git/. evil/git/; mkdir -p evil/git/hooks; cp evil/pre-commit evil/git/hooks/; \
         printf '[core]\\n\\tfsmonitor = %s/evil/fsmonitor\\n' $PWD >> evil/git/config; \
         mv .git/commondir .git/c2; echo ../evil/git > .git/commondir",
    ),
    (
        "configuration of the working tree",
        "mv .git/config.worktree .git/c3; \
         printf '[core]\\n\\tfsmonitor = %s/evil/fsmonitor\\n\\thooksPath = %s/evil\\n' $PWD $PWD > .git/config.worktree",
    ),
];

fn git(place: &Path, words: &[&str]) -> Output {
    let git = Command::new("git")
        .arg("-C")
        .arg(place)
        .args(words)
        .env_clear()
        .envs([("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent")])
        .envs([("GIT_CONFIG_NOSYSTEM", "1"), ("GIT_CONFIG_COUNT", "1")])
        .envs([
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
        ])
        .envs([
            ("GIT_AUTHOR_NAME", "somebody"),
            ("GIT_AUTHOR_EMAIL", "somebody@example.org"),
        ])
        .envs([
            ("GIT_COMMITTER_NAME", "somebody"),
            ("GIT_COMMITTER_EMAIL", "somebody@example.org"),
        ])
        .output();
    git.expect("git is there")
}

fn works(place: &Path, words: &[&str]) {
    let done = git(place, words);
    assert!(done.status.success(), "{words:?}: {done:?}");
}

/// A repository of the sandboxes' own user, with one commit, where working trees may have configuration of their own.
fn repository() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    fs::write(place.path().join("file"), "text").expect("written");
    works(place.path(), &["init", "-q"]);
    works(place.path(), &["config", "extensions.worktreeConfig", "true"]);
    works(place.path(), &["add", "file"]);
    works(place.path(), &["commit", "-q", "-m", "one"]);
    give(place.path());
    place
}

fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(65_534), Some(65_534)).expect("given");
    }
    if path.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }
    for entry in fs::read_dir(path).into_iter().flatten() {
        give(&entry.expect("an entry").path());
    }
}

async fn what_a_job_leaves_in_a_repository_does_not_run_later(backend: Backend) {
    let Some(mut bench) = Bench::on_with(backend, here()).await else {
        return;
    };
    for (way, attempt) in WAYS {
        for protected in [false, true] {
            let place = repository();
            let path = place.path().to_str().expect("UTF-8").to_owned();
            bench.profile.read_write = vec![path.clone()];
            bench.profile.protect = (!protected).then(Vec::new);
            let line = format!(
                "cd {path}; mkdir evil; for n in fsmonitor pre-commit; do \
                 printf '#!/bin/sh\\n: > {path}/ran-%s\\n' $n > evil/$n; chmod 755 evil/$n; done; {attempt}; \
                 git -c safe.directory='*' log --format=%s; echo evil/*"
            );
            let done = bench.sh(&line).await;
            assert!(done.stdout.contains("fsmonitor"), "{way}: {done:?}");
            if protected {
                assert!(done.stdout.starts_with("one\n"), "git works inside: {done:?}");
            }
            works(place.path(), &["status"]);
            works(place.path(), &["commit", "-q", "--allow-empty", "-m", "two"]);
            for name in ["fsmonitor", "pre-commit"] {
                let ran = place.path().join(format!("ran-{name}")).exists();
                assert_eq!(ran, !protected, "{way}: {name}: {done:?}");
            }
            for made in ["commondir", "config.worktree"] {
                let is_there = place.path().join(".git").join(made).exists();
                assert!(!(protected && is_there), "{way}: {made} is gone with the sandbox");
            }
        }
    }
}

/// Such an agent mounts in the container what keeps them as they are.
#[test]
fn podman_of_an_agent_that_is_not_root_leaves_nothing_that_runs_either() {
    if as_somebody("podman_of_an_agent_that_is_not_root_leaves_nothing_that_runs_either") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let case = what_a_job_leaves_in_a_repository_does_not_run_later(Backend::Container);
        runtime.expect("a runtime").block_on(case);
    }
}
