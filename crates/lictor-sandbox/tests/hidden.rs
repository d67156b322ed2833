//! What is hidden and what is protected in the paths that a profile shows: each attempt is first shown to work where
//! the profile says nothing about it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use common::docker::Docker;
use common::somebody::{as_somebody, here};
use common::{Bench, command, for_every_sandbox, skip};
use lictor_sandbox::{Config, ContainerEngine, StdinSource, can_hold};
use lictor_trust::profiles::Backend;

for_every_sandbox![
    what_lies_between_a_protected_name_and_its_path_keeps_its_own_rights,
    what_is_denied_cannot_be_read_by_any_of_its_names_inside,
    what_cannot_be_hidden_is_a_refusal,
    hooks_and_configuration_of_a_repository_stay_as_they_are,
    no_job_sees_the_agents_own_directory,
];

/// A directory of the sandboxes' own user, with something that is nobody's business in it.
fn shared() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    for dir in ["", "deep/er", "keys", "secrets/inner", ".git/hooks", "repo"] {
        fs::create_dir_all(place.path().join(dir)).expect("made");
    }
    for file in [
        ".env",
        "deep/er/.env",
        "keys/a.pem",
        "keys/a.pub",
        "secrets/inner/s",
        "plain",
        ".git/config",
    ] {
        fs::write(place.path().join(file), "the-secret").expect("written");
    }
    give(place.path());
    place
}

fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(65_534), Some(65_534)).expect("given");
    }
    let meta = fs::symlink_metadata(path).expect("there");
    fs::set_permissions(
        path,
        fs::Permissions::from_mode(if meta.is_dir() { 0o755 } else { 0o644 }),
    )
    .expect("set");
    if meta.is_dir() {
        for entry in fs::read_dir(path).expect("a directory") {
            give(&entry.expect("an entry").path());
        }
    }
}

/// Why no job starts.
async fn refusal(bench: &Bench) -> lictor_proto::code::Refusal {
    let started = bench.start(&command(&["true"]), StdinSource::Null).await;
    started.err().expect("refused").refusal()
}

thread_local! {
    /// Who makes containers in this test.
    static ENGINE: Cell<ContainerEngine> = const { Cell::new(ContainerEngine::Auto) };
}

fn config() -> Config {
    Config {
        container_engine: ENGINE.get(),
        ..here()
    }
}

async fn bench(backend: Backend) -> Bench {
    let mut bench = Bench::with(backend, config()).await;
    bench.profile.protect = Some(Vec::new());
    bench
}

/// Such an agent mounts in the container what takes the place of hidden and protected paths.
#[test]
fn podman_of_an_agent_that_is_not_root_hides_and_protects_the_same() {
    if as_somebody("podman_of_an_agent_that_is_not_root_hides_and_protects_the_same") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .expect("a runtime")
            .block_on(a_container_hides_and_protects());
    }
}

async fn a_container_hides_and_protects() {
    let backend = Backend::Container;
    what_lies_between_a_protected_name_and_its_path_keeps_its_own_rights(backend).await;
    what_is_denied_cannot_be_read_by_any_of_its_names_inside(backend).await;
    what_cannot_be_hidden_is_a_refusal(backend).await;
    hooks_and_configuration_of_a_repository_stay_as_they_are(backend).await;
    no_job_sees_the_agents_own_directory(backend).await;
}

/// crun shows nothing of what is mounted below a path, covers that were laid out there included.
#[tokio::test]
async fn crun_hides_and_protects_the_same() {
    if !rustix::process::geteuid().is_root() {
        return skip("it takes a root agent");
    }
    ENGINE.set(ContainerEngine::Crun);
    a_container_hides_and_protects().await;
}

#[tokio::test]
async fn podman_of_a_root_agent_hides_and_protects_the_same() {
    if !rustix::process::geteuid().is_root() {
        return skip("it takes a root agent");
    }
    ENGINE.set(ContainerEngine::Podman);
    a_container_hides_and_protects().await;
}

#[tokio::test]
async fn docker_hides_and_protects_the_same() {
    let Some(docker) = Docker::start() else { return };
    let mut bench = Bench::with(Backend::Container, docker.config()).await;
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    let line = format!("cat {path}/.env; echo x > {path}/.git/config; cat {path}/plain");
    bench.profile.read_write = vec![path.clone()];
    bench.profile.protect = Some(Vec::new());
    assert_eq!(bench.sh(&line).await.stdout, "the-secretthe-secret");
    let written = || fs::read_to_string(place.path().join(".git/config")).expect("there") == "x\n";
    assert!(written());
    fs::write(place.path().join(".git/config"), "as it was").expect("written");
    bench.profile.protect = None;
    bench.profile.deny = vec![".env".into()];
    assert_eq!(bench.sh(&line).await.stdout, "the-secret");
    assert!(!written());
}

async fn what_is_denied_cannot_be_read_by_any_of_its_names_inside(backend: Backend) {
    let mut bench = bench(backend).await;
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    for writable in [false, true] {
        bench.profile.deny.clear();
        (bench.profile.read_only, bench.profile.read_write) = match writable {
            true => (Vec::new(), vec![path.clone()]),
            false => (vec![path.clone()], Vec::new()),
        };
        let attempts = format!(
            "cd {path}; cat .env deep/er/.env keys/a.pem secrets/inner/s; ln .env /workspace/e && cat /workspace/e; \
             ln .env other && cat other; mv deep moved && cat moved/er/.env; mv moved deep; mv secrets s2 && cat s2/inner/s; \
             mv s2 secrets; rm other; cp -r secrets /workspace/s && cat /workspace/s/inner/s; head -c 99 < .env; \
             cat /proc/self/cwd/.env; cat /proc/self/root{path}/.env"
        );
        let open = bench.sh(&attempts).await;
        assert!(
            open.stdout.matches("the-secret").count() >= 6,
            "works without: {open:?}"
        );
        bench.profile.deny = [".env", "*.pem", "secrets"].map(str::to_owned).to_vec();
        let hidden = bench.sh(&attempts).await;
        assert!(
            !hidden.stdout.contains("the-secret"),
            "writable {writable}: {hidden:?}"
        );
        let rest = bench.sh(&format!("cat {path}/plain {path}/keys/a.pub; ls -A {path}/secrets; rm {path}/.env; echo x > {path}/.env; touch {path}/secrets/x; mv {path}/.env {path}/y")).await;
        assert_eq!(rest.stdout, "the-secretthe-secret", "{rest:?}");
        // And on the host all is as it was.
        assert_eq!(
            fs::read_to_string(place.path().join(".env")).expect("there"),
            "the-secret"
        );
        assert!(place.path().join("secrets/inner/s").exists() && !place.path().join("y").exists());
    }
}

async fn what_cannot_be_hidden_is_a_refusal(backend: Backend) {
    let mut bench = bench(backend).await;
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    bench.profile.read_only = vec![path];
    bench.profile.deny = vec!["link".into()];
    assert!(bench.run(&["true"]).await.succeeded());
    symlink("plain", place.path().join("link")).expect("a link");
    let error = refusal(&bench).await;
    assert!(error.message.contains("denied and a link"), "{error}");
    bench.profile.deny = vec!["x".into()];
    let deep = (0..70).fold(place.path().to_owned(), |p, _| p.join("d"));
    fs::create_dir_all(deep).expect("made");
    let error = refusal(&bench).await;
    assert!(error.message.contains("too much"), "{error}");
    for backend in [Backend::Host, Backend::Landlock] {
        let is_root = rustix::process::geteuid().is_root();
        if backend == Backend::Landlock && !is_root {
            continue;
        }
        let mut other = Bench::new(backend).await;
        other.profile.deny = vec!["x".into()];
        let refused = can_hold(&other.profile, backend, &other.capabilities).expect_err("refused");
        assert!(refused.to_string().contains("hidden_paths"), "{refused}");
        other.profile.deny.clear();
        other.profile.read_write = vec!["/srv".into()];
        other.profile.protect = Some(vec!["x".into()]);
        assert!(can_hold(&other.profile, backend, &other.capabilities).is_err());
    }
}

async fn hooks_and_configuration_of_a_repository_stay_as_they_are(backend: Backend) {
    let mut bench = bench(backend).await;
    let attempts = |path: &str| {
        format!(
            "cd {path}; echo evil > .git/hooks/pre-commit; echo evil > .git/config; \
             mv .git/config .git/c2; echo evil > .git/config; \
             mv .git/hooks .git/h2; mkdir .git/hooks; echo evil > .git/hooks/post-merge; \
             mv .git g2; mkdir -p .git/hooks; echo evil > .git/hooks/post-checkout; echo evil > .git/config; \
             rm -rf .git; ln -s /workspace .git; chmod 777 .git/hooks; true"
        )
    };
    let is_evil = |place: &Path| {
        let evil = |p: &str| fs::read_to_string(place.join(p)).is_ok_and(|t| t.contains("evil"));
        let linked = fs::symlink_metadata(place.join(".git")).is_ok_and(|m| m.is_symlink());
        let hooks = ["pre-commit", "post-merge", "post-checkout"];
        linked || evil(".git/config") || hooks.iter().any(|h| evil(&format!(".git/hooks/{h}")))
    };
    for absent in [&[][..], &[".git/hooks"], &[".git/config"], &[".git"]] {
        for protected in [false, true] {
            let place = shared();
            for gone in absent {
                let gone = place.path().join(gone);
                if gone.is_dir() {
                    fs::remove_dir_all(gone)
                } else {
                    fs::remove_file(gone)
                }
                .expect("removed");
            }
            let path = place.path().to_str().expect("UTF-8").to_owned();
            bench.profile.read_write = vec![path.clone()];
            bench.profile.protect = (!protected).then(Vec::new);
            let before = fs::metadata(place.path().join(".git/hooks"))
                .map(|m| m.ino())
                .ok();
            let tried = bench.sh(&attempts(&path)).await;
            assert_eq!(is_evil(place.path()), !protected, "{absent:?}: {tried:?}");
            if protected {
                let after = fs::metadata(place.path().join(".git/hooks"))
                    .map(|m| m.ino())
                    .ok();
                assert_eq!(
                    before, after,
                    "what was made to be mounted on is gone again: {absent:?}"
                );
                let usual = bench
                    .sh(&format!(
                        "cd {path}; echo x > new; mkdir -p repo/.git/hooks; cat new"
                    ))
                    .await;
                assert_eq!(usual.stdout, "x\n", "{usual:?}");
            }
        }
    }
}

async fn no_job_sees_the_agents_own_directory(backend: Backend) {
    let mut bench = bench(backend).await;
    let place = shared();
    let node = place.path().join("deep/agent");
    fs::create_dir(&node).expect("made");
    fs::write(node.join("identity.key"), "the-key").expect("written");
    give(place.path());
    let path = place.path().to_str().expect("UTF-8").to_owned();
    bench.profile.read_write = vec![path.clone()];
    let attempts = format!(
        "cd {path}; cat deep/agent/identity.key; mv deep d2; cat d2/agent/identity.key; mv d2 deep; touch deep/agent/x"
    );
    assert!(
        bench.sh(&attempts).await.stdout.contains("the-key"),
        "works while it is anybody's directory"
    );
    fs::remove_file(node.join("x")).expect("it was written to");
    bench.host.use_rootfs(lictor_rootfs::Store::of_node(&node));
    let hidden = bench.sh(&attempts).await;
    assert!(!hidden.stdout.contains("the-key"), "{hidden:?}");
    assert!(place.path().join("deep/agent/identity.key").exists() && !node.join("x").exists());
    // And of the home that it lies in, where it lies in one, nothing else.
    let key = format!("cat {path}/deep/er/.env");
    assert!(
        bench.sh(&key).await.stdout.contains("the-secret"),
        "it is anybody's"
    );
    let config = lictor_sandbox::Config {
        node_dir: Some(place.path().join("deep")),
        ..config()
    };
    let mut bench = Bench {
        profile: bench.profile.clone(),
        ..Bench::with(backend, config).await
    };
    let hidden = bench
        .sh(&format!("{key}; ls -A {path}/deep; cat {path}/plain"))
        .await;
    assert_eq!(hidden.stdout, "the-secret", "{hidden:?}");
    for shown in [node.as_path(), &place.path().join("deep/er")] {
        bench.profile.read_write = vec![shown.to_str().expect("UTF-8").to_owned()];
        let error = refusal(&bench).await;
        assert!(error.message.contains("agent's own directory"), "{error}");
    }
}

#[tokio::test]
async fn what_one_job_protects_stays_protected_when_another_one_there_ends() {
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    bench.profile.read_write = vec![path.clone()];
    bench.profile.protect = Some(vec!["ci/".into()]);
    let line = format!(
        "mkfifo go; echo up; read x < go; echo x > {path}/ci/build; mkdir {path}/ci; ls -A {path}/ci; echo end"
    );
    let mut first = bench
        .backend
        .create(bench.plan(&command(&["true"])))
        .await
        .expect("created");
    let exec = command(&["/bin/sh", "-c", &line]);
    let (mut second, mut running) = bench
        .start(&exec, lictor_sandbox::StdinSource::Null)
        .await
        .expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    out.read(&mut bytes::BytesMut::new(), 64).await.expect("readable");
    first.destroy().await.expect("destroyed");
    drop(first);
    fs::write(running.handle().dir.join("go"), "\n").expect("told to go on");
    let (_, said) = tokio::join!(running.wait(), common::read_all(out));
    assert_eq!(said, "end\n");
    assert_eq!(
        fs::read_dir(place.path().join("ci"))
            .expect("it is there")
            .count(),
        0
    );
    second.destroy().await.expect("destroyed");
}

#[tokio::test]
async fn no_job_is_shown_the_agents_own_directory_where_nothing_can_be_put_over_it() {
    if !rustix::process::geteuid().is_root() {
        return skip("it takes a root agent");
    }
    let place = shared();
    let node = place.path().join("deep/agent");
    fs::create_dir(&node).expect("made");
    fs::write(node.join("identity.key"), "the-key").expect("written");
    give(place.path());
    let read = format!("cat {}/identity.key", node.display());
    let mut bench = Bench::new(Backend::Landlock).await;
    bench.profile.read_only = vec![place.path().to_str().expect("UTF-8").to_owned()];
    assert_eq!(
        bench.sh(&read).await.stdout,
        "the-key",
        "while it is anybody's directory"
    );

    let config = lictor_sandbox::Config {
        node_dir: Some(node.clone()),
        ..lictor_sandbox::Config::default()
    };
    let mut agents = Bench::with(Backend::Landlock, config).await;
    let name = "p".parse().expect("a name");
    for shown in [place.path(), &node, &node.join("work")] {
        agents.profile.read_only = vec![shown.to_str().expect("UTF-8").to_owned()];
        let missing = can_hold(&agents.profile, Backend::Landlock, &agents.capabilities);
        let missing = missing
            .expect_err("another backend of a list is taken")
            .to_string();
        assert!(missing.contains("hidden_agent"), "{missing}");
        let exec = command(&["true"]);
        let found = agents
            .host
            .resolve(&name, agents.profile(), &exec, &agents.job_dir());
        let refused = found.expect_err("refused").message;
        assert!(refused.contains("agent's own directory"), "{refused}");
    }
    agents.profile.read_only = vec![place.path().join("keys").to_str().expect("UTF-8").to_owned()];
    assert!(agents.run(&["true"]).await.succeeded());
}

#[tokio::test]
async fn what_is_protected_by_default_is_in_the_receipt_or_refused() {
    let place = shared();
    for backend in [Backend::Bubblewrap, Backend::Landlock] {
        if backend == Backend::Landlock && !rustix::process::geteuid().is_root() {
            return skip("it takes a root agent");
        }
        let mut bench = Bench::new(backend).await;
        bench.profile.read_write = vec![place.path().to_str().expect("UTF-8").to_owned()];
        bench.profile.protect = Some(Vec::new());
        let word = "protected_paths".to_owned();
        let plan = bench.plan(&command(&["true"]));
        assert!(
            !plan.applied().capabilities.contains(&word),
            "nothing is protected"
        );
        bench.profile.protect = None;
        if backend == Backend::Landlock {
            let refused = can_hold(&bench.profile, backend, &bench.capabilities).expect_err("refused");
            assert!(refused.to_string().contains("protect = []"), "{refused}");
            continue;
        }
        let plan = bench.plan(&command(&["true"]));
        assert!(plan.applied().capabilities.contains(&word));
    }
}

#[tokio::test]
async fn a_read_only_path_in_a_writable_one_is_not_written() {
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    let write = format!("echo x > {path}/keys/new; echo x > {path}/keys/deep/new; cat {path}/plain");
    fs::create_dir(place.path().join("keys/deep")).expect("made");
    give(place.path());
    let written = || fs::remove_file(place.path().join("keys/new")).is_ok();
    for backend in [
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
        Backend::Landlock,
    ] {
        if backend == Backend::Landlock && !rustix::process::geteuid().is_root() {
            return skip("it takes a root agent");
        }
        let mut bench = Bench::new(backend).await;
        bench.profile.protect = Some(Vec::new());
        bench.profile.read_write = vec![path.clone()];
        bench.sh(&write).await;
        assert!(written(), "{backend}: it is writable without the other line");
        bench.profile.read_only = vec![format!("{path}/keys")];
        if backend == Backend::Landlock {
            let refused = can_hold(&bench.profile, backend, &bench.capabilities).expect_err("refused");
            assert!(refused.to_string().contains("read-only within"), "{refused}");
            continue;
        }
        let tried = bench.sh(&write).await;
        assert!(!written(), "{tried:?}");
        assert_eq!(tried.stdout, "the-secret");
        // And a writable one in that is writable again.
        bench.profile.read_write.push(format!("{path}/keys/deep"));
        bench.sh(&write).await;
        assert!(!written() && place.path().join("keys/deep/new").exists());
    }
}

async fn what_lies_between_a_protected_name_and_its_path_keeps_its_own_rights(backend: Backend) {
    let mut bench = bench(backend).await;
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    fs::create_dir_all(place.path().join(".git/objects")).expect("made");
    give(place.path());
    bench.profile.read_write = vec![path.clone()];
    bench.profile.protect = None;
    let write = format!("echo x > {path}/.git/objects/new; echo x > {path}/.git/hooks/new; true");
    let written = |name: &str| fs::remove_file(place.path().join(name)).is_ok();
    bench.sh(&write).await;
    assert!(written(".git/objects/new") && !written(".git/hooks/new"));
    // The directory above both is mounted on itself, so that it cannot be renamed.
    for read_only in [".git/objects", ".git"] {
        bench.profile.read_only = vec![format!("{path}/{read_only}")];
        let tried = bench.sh(&write).await;
        assert!(!written(".git/objects/new"), "{read_only}: {tried:?}");
        assert!(!written(".git/hooks/new"), "{read_only}: {tried:?}");
    }
}
