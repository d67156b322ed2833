//! What is the agent's own is seen by no job, by whatever name the host has it mounted: its directory, the one above, what is
//! in it, its runtime directory, a disk of its own, a file of passwords.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::OnThisMachine as _;
use common::somebody::{as_somebody_after, own_place};
use common::{Bench, command, with_own_mounts};
use lictor_sandbox::{Config, ContainerEngine, StdinSource, can_hold};
use lictor_trust::profiles::Backend;

/// Lays out an agent's files at `$at` for a sandbox's user, and shows them once more below `$at/shown`.
const LAY_OUT: &str = r#"
mkdir -p "$at/home/agent/keys" "$at/home/agent/work" "$at/runtime" "$at/other"
for name in whole above part run disk; do mkdir -p "$at/shown/$name"; done
mount -t tmpfs tmpfs "$at/home/agent/work"
for file in home/agent/identity.key home/agent/keys/e2e.key home/agent/work/output runtime/bundle shown/passwords; do
  echo the-key > "$at/$file"
done
echo plain > "$at/shown/plain"; touch "$at/shown/file"
chmod -R a+rX "$at"
chown -R "$user:$user" "$at"
chown "$agent:$agent" "$at/runtime" "$at/other"
mount --bind "$at/home/agent" "$at/shown/whole"
mount --bind "$at/home" "$at/shown/above"
mount --bind "$at/home/agent/keys" "$at/shown/part"
mount --bind "$at/home/agent/identity.key" "$at/shown/file"
mount --bind "$at/runtime" "$at/shown/run"
mount --bind "$at/home/agent/work" "$at/shown/disk"
"#;

const READ: &str =
    "cat whole/identity.key above/agent/identity.key part/e2e.key file run/bundle disk/output passwords";
/// How often that reads a key where nothing is hidden.
const KEYS: usize = 7;

fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(what)
}

/// Such a directory of a root agent's, in mounts of this test's own; they have to go before it.
struct Laid(tempfile::TempDir);

impl Laid {
    fn out() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let made = Command::new("sh")
            .args(["-euc", LAY_OUT])
            .env("at", place.path())
            .envs([("user", "65534"), ("agent", "0")])
            .status();
        assert!(made.expect("a shell").success());
        Self(place)
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        let names = ["whole", "above", "part", "file", "run", "disk"];
        let points = names.map(|name| self.0.path().join("shown").join(name));
        let disk = self.0.path().join("home/agent/work");
        let gone = Command::new("umount").arg("-l").args(points).arg(disk).status();
        assert!(gone.expect("umount").success());
    }
}

/// An agent that keeps nothing there, and the one that does.
fn configs(at: &Path, engine: ContainerEngine) -> [Config; 2] {
    let usual = || Config {
        container_engine: engine,
        runtime_dir: at.join("other"),
        ..Config::default()
    };
    let own = Config {
        node_dir: Some(at.join("home/agent")),
        runtime_dir: at.join("runtime"),
        own: vec![at.join("shown/passwords")],
        ..usual()
    };
    [usual(), own]
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

async fn nobody_sees_it(at: &Path, backend: Backend, engine: ContainerEngine) {
    let [anybodys, own] = configs(at, engine);
    let shown = at.join("shown");
    let line = format!(
        "cd {}; {READ}; cat plain; echo x > whole/new; echo x > above/agent/new; mv above/agent above/b; \
         cat above/b/identity.key; mv above/b above/agent",
        shown.display()
    );
    let Some(mut before) = Bench::on_with(backend, anybodys).await else {
        return;
    };
    before.profile.protect = Some(Vec::new());
    before.profile.read_write = vec![text(&shown)];
    let said = before.sh(&line).await;
    assert_eq!(
        said.stdout.matches("the-key").count(),
        KEYS + 1,
        "it can be read where it is anybody's: {said:?}"
    );
    fs::remove_file(at.join("home/agent/new")).expect("and written to");

    let mut bench = Bench::with(backend, own).await;
    bench.profile = before.profile.clone();
    let said = bench.sh(&line).await;
    assert_eq!(said.stdout, "plain\n", "{said:?}");
    assert!(!at.join("home/agent/new").exists() && at.join("home/agent/identity.key").exists());
    for name in ["whole", "above/agent", "part", "file", "run", "disk"] {
        bench.profile.read_write = vec![text(&shown.join(name))];
        let started = bench.start(&command(&["true"]), StdinSource::Null).await;
        let refused = started.err().expect(name).refusal().message;
        assert!(refused.contains("agent's own directory"), "{refused}");
    }
    what_lies_above_it_hides_it(at, [&mut before, &mut bench]).await;
    if backend == Backend::Bubblewrap {
        before.profile.read_write = vec![text(&shown)];
        what_is_not_there_yet_is_made_before_a_job_could(at, &before).await;
    }
}

/// The directory above, by another name, and nothing mounted in that.
async fn what_lies_above_it_hides_it(at: &Path, [before, bench]: [&mut Bench; 2]) {
    let above = at.join("shown/above");
    let line = format!("cd {}; cat agent/identity.key; ls", above.display());
    for (bench, said) in [(before, "the-key\nagent\n"), (bench, "agent\n")] {
        bench.profile.protect = Some(Vec::new());
        bench.profile.read_write = vec![text(&above)];
        assert_eq!(bench.sh(&line).await.stdout, said);
    }
}

/// A runtime directory is made when it is needed; a job that could make it would say what is in it.
async fn what_is_not_there_yet_is_made_before_a_job_could(at: &Path, bench: &Bench) {
    let later = at.join("shown/later");
    let config = Config {
        own: vec![later.clone()],
        ..configs(at, ContainerEngine::Auto)[0].clone()
    };
    let line = format!("mkdir {0}; echo evil > {0}/bundle; ls {0}", later.display());
    let said = bench.sh(&line).await;
    assert_eq!(said.stdout, "bundle\n", "it can where it is nobody's: {said:?}");
    fs::remove_dir_all(&later).expect("removed");
    let mut own = Bench::with(Backend::Bubblewrap, config).await;
    own.profile.protect = Some(Vec::new());
    own.profile.read_write = bench.profile.read_write.clone();
    let said = own.sh(&line).await;
    assert_eq!(said.stdout, "", "{said:?}");
    let made = fs::metadata(&later).expect("made");
    assert_eq!(made.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(fs::read_dir(&later).expect("empty").count(), 0);
    fs::remove_dir(&later).expect("removed");
}

fn of_root(test: &str, backend: Backend, engine: ContainerEngine) {
    if !rustix::process::geteuid().is_root() {
        return common::skip("it takes a root agent");
    }
    if with_own_mounts(test) {
        let laid = Laid::out();
        alone(nobody_sees_it(laid.0.path(), backend, engine));
    }
}

fn of_somebody(test: &str, backend: Backend, engine: ContainerEngine) {
    let first = format!("agent=$user\n{LAY_OUT}");
    if as_somebody_after(test, &first) {
        alone(nobody_sees_it(&own_place(), backend, engine));
    }
}

#[test]
fn bubblewrap_hides_the_agents_own_by_every_name() {
    of_root(
        "bubblewrap_hides_the_agents_own_by_every_name",
        Backend::Bubblewrap,
        ContainerEngine::Auto,
    );
}

#[test]
fn bubblewrap_of_an_agent_that_is_not_root_hides_its_own_by_every_name() {
    of_somebody(
        "bubblewrap_of_an_agent_that_is_not_root_hides_its_own_by_every_name",
        Backend::Bubblewrap,
        ContainerEngine::Auto,
    );
}

#[test]
fn a_container_hides_the_agents_own_by_every_name() {
    of_root(
        "a_container_hides_the_agents_own_by_every_name",
        Backend::Container,
        ContainerEngine::Auto,
    );
}

/// crun, which podman uses, shows a root agent's jobs nothing of what is mounted below a path that they see.
fn by_a_name_of_the_directory_above(test: &str, engine: ContainerEngine) {
    if !rustix::process::geteuid().is_root() {
        return common::skip("it takes a root agent");
    }
    if with_own_mounts(test) {
        let laid = Laid::out();
        alone(async {
            let [anybodys, own] = configs(laid.0.path(), engine);
            let Some(mut before) = Bench::on_with(Backend::Container, anybodys).await else {
                return;
            };
            let mut bench = Bench::with(Backend::Container, own).await;
            what_lies_above_it_hides_it(laid.0.path(), [&mut before, &mut bench]).await;
        });
    }
}

#[test]
fn podman_hides_the_agents_own_where_the_directory_above_has_another_name() {
    by_a_name_of_the_directory_above(
        "podman_hides_the_agents_own_where_the_directory_above_has_another_name",
        ContainerEngine::Podman,
    );
}

#[test]
fn crun_hides_the_agents_own_where_the_directory_above_has_another_name() {
    by_a_name_of_the_directory_above(
        "crun_hides_the_agents_own_where_the_directory_above_has_another_name",
        ContainerEngine::Crun,
    );
}

#[test]
fn podman_of_an_agent_that_is_not_root_hides_its_own_by_every_name() {
    of_somebody(
        "podman_of_an_agent_that_is_not_root_hides_its_own_by_every_name",
        Backend::Container,
        ContainerEngine::Podman,
    );
}

#[test]
fn gvisor_hides_the_agents_own_by_every_name() {
    of_root(
        "gvisor_hides_the_agents_own_by_every_name",
        Backend::Gvisor,
        ContainerEngine::Auto,
    );
}

/// Nothing can be put over it there.
#[test]
fn landlock_shows_no_path_that_leads_to_the_agents_own_by_any_name() {
    let test = "landlock_shows_no_path_that_leads_to_the_agents_own_by_any_name";
    if !rustix::process::geteuid().is_root() {
        return common::skip("it takes a root agent");
    }
    if !with_own_mounts(test) {
        return;
    }
    let laid = Laid::out();
    let shown = laid.0.path().join("shown");
    alone(async {
        let [anybodys, own] = configs(laid.0.path(), ContainerEngine::Auto);
        let mut bench = Bench::with(Backend::Landlock, anybodys).await;
        bench.profile.read_only = vec![text(&shown)];
        let said = bench.sh(&format!("cd {}; {READ}", shown.display())).await;
        assert_eq!(said.stdout.matches("the-key").count(), KEYS, "{said:?}");
        let mut own = Bench::with(Backend::Landlock, own).await;
        for name in ["", "whole", "above", "part", "file", "run", "disk", "passwords"] {
            own.profile.read_only = vec![text(&shown.join(name))];
            is_refused(&own);
        }
        own.profile.read_only = vec![text(&shown.join("plain"))];
        let read = format!("cat {}", shown.join("plain").display());
        assert_eq!(own.sh(&read).await.stdout, "plain\n");
    });
}

fn is_refused(bench: &Bench) {
    let backend = bench.backend.name();
    let missing = can_hold(&bench.profile, backend, &bench.capabilities).expect_err("refused");
    assert!(missing.to_string().contains("hidden_agent"), "{missing}");
    has_no_plan(bench);
}

fn has_no_plan(bench: &Bench) {
    let (name, exec) = ("p".parse().expect("a name"), command(&["true"]));
    let found = bench
        .host
        .resolve(&name, bench.profile(), &exec, &bench.job_dir());
    let refused = found.expect_err("refused").message;
    assert!(refused.contains("hidden_agent"), "{refused}");
    assert!(refused.contains("keep what is the agent's own"), "{refused}");
}

/// Every job sees the host's programs, and nothing of those can be covered.
#[test]
fn nothing_starts_while_what_every_job_sees_leads_to_the_agents_own() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root can mount that");
    }
    if !with_own_mounts("nothing_starts_while_what_every_job_sees_leads_to_the_agents_own") {
        return;
    }
    let laid = Laid::out();
    alone(async {
        let own = configs(laid.0.path(), ContainerEngine::Auto)[1].clone();
        for backend in [
            Backend::Landlock,
            Backend::Bubblewrap,
            Backend::Container,
            Backend::Gvisor,
        ] {
            let Some(bench) = Bench::on_with(backend, own.clone()).await else {
                continue;
            };
            assert!(bench.run(&["true"]).await.succeeded());
            let programs = PathBuf::from("/usr/share");
            let mount = |words: &[&str]| {
                let done = Command::new(words[0]).args(&words[1..]).arg(&programs).status();
                assert!(done.expect("mount").success());
            };
            mount(&["mount", "--bind", &text(&laid.0.path().join("home"))]);
            has_no_plan(&bench);
            mount(&["umount"]);
            assert!(bench.run(&["true"]).await.succeeded(), "{backend}: it is gone");
        }
    });
}

#[tokio::test]
async fn a_socket_of_the_host_is_shown_to_no_job() {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    let path = place.path().join("service.sock");
    let _service = std::os::unix::net::UnixListener::bind(&path).expect("bound");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("mode");
    let path = path.display().to_string();
    let connect = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('{path}')\nprint('connected')\n"
    );
    let host = Bench::new(Backend::Host).await;
    assert_eq!(host.python(&connect).await.stdout, "connected\n");
    for backend in [
        Backend::Landlock,
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
    ] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        for writable in [false, true] {
            let shown = vec![path.clone()];
            let profile = &mut bench.profile;
            profile.protect = Some(Vec::new());
            (profile.read_only, profile.read_write) = if writable {
                (Vec::new(), shown)
            } else {
                (shown, Vec::new())
            };
            let started = bench.start(&command(&["true"]), StdinSource::Null).await;
            let refusal = started.err().expect("refused").refusal();
            assert!(
                refusal.message.contains("socket"),
                "{backend}: {}",
                refusal.message
            );
        }
    }
}
