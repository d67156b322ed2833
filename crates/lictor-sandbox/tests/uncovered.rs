//! What is mounted over hidden and protected paths stays there, whatever a job tries with mounts, and whatever somebody
//! does with the paths while a sandbox is made.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use common::OnThisMachine as _;
use common::somebody::{as_somebody, here, own_place};
use common::{Bench, command, for_every_sandbox};
use lictor_sandbox::{Config, StdinSource};
use lictor_trust::profiles::Backend;

for_every_sandbox![what_is_covered_is_not_uncovered];

fn alone<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(what)
}

/// A directory of the sandboxes' user: a secret file, a secret directory, a repository.
fn shared() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    for dir in ["", "secrets", ".git", ".git/hooks"] {
        fs::create_dir_all(place.path().join(dir)).expect("made");
    }
    for file in [".env", "secrets/key", ".git/config", "plain"] {
        fs::write(place.path().join(file), "the-secret").expect("written");
    }
    give(place.path());
    place
}

fn give(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(65_534), Some(65_534)).expect("given");
    }
    let is_dir = path.is_dir();
    let mode = if is_dir { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    for entry in fs::read_dir(path).into_iter().flatten() {
        give(&entry.expect("an entry").path());
    }
}

/// Everything that takes a mount away, makes it weaker, or looks past it; in the job's own namespaces and in new ones. What
/// it gets at is printed, and what it may write is written.
const ATTEMPTS: &str = r#"
import ctypes, os
C = ctypes.CDLL(None, use_errno=True)
HERE = os.environ['HERE']
def looks():
    for path in '.env', 'secrets/key':
        for top in HERE, '/proc/1/root' + HERE, '/proc/self/root' + HERE:
            try: print(open(top + '/' + path).read())
            except OSError: pass
    for path in '.git/config', '.git/hooks/evil':
        try: open(HERE + '/' + path, 'w').write('evil')
        except OSError: pass
def tries():
    for path in '.env', 'secrets', '.git/config', '.git/hooks', '.git', '':
        at = (HERE + '/' + path).rstrip('/').encode()
        C.umount2(at, 2); C.umount2(at, 8)
        C.mount(None, at, None, 32 | 4096, None)
        C.mount(None, at, None, 4096 | 32 | 16384, None)
        C.mount(at, b'/tmp', None, 4096, None)
        clear = (ctypes.c_uint64 * 4)(0, 1 | 4, 0, 0)
        C.syscall(442, -100, at, 0x8000, clear, 32)
        C.syscall(428, -100, at, 1)
        for name in os.listdir('/tmp') if os.path.isdir('/tmp') else []:
            try: print(open('/tmp/' + name).read())
            except OSError: pass
    looks()
tries()
if os.fork() == 0:
    C.unshare(0x10000000 | 0x00020000)
    for file, text in ('setgroups', 'deny'), ('uid_map', '0 1000 1'), ('gid_map', '0 1000 1'):
        try: open('/proc/self/' + file, 'w').write(text)
        except OSError: pass
    tries()
    os._exit(0)
os.wait()
print('end')
"#;

async fn what_is_covered_is_not_uncovered(backend: Backend) {
    let Some(mut bench) = Bench::on_with(backend, here()).await else {
        return;
    };
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    let set = |bench: &mut Bench, deny: &[&str], protect: Option<Vec<String>>| {
        bench.profile.read_write = vec![path.clone()];
        bench.profile.deny = deny.iter().map(|d| (*d).to_owned()).collect();
        bench.profile.protect = protect;
    };
    let mut exec = command(&["/usr/bin/python3", "-c", ATTEMPTS]);
    exec.env.insert("HERE".to_owned(), path.clone());
    let is_evil = || {
        let evil = |file: &str| fs::read(place.path().join(file)).is_ok_and(|text| text == b"evil");
        evil(".git/config") || evil(".git/hooks/evil")
    };
    set(&mut bench, &[], Some(Vec::new()));
    let open = bench.run_with(&exec, StdinSource::Null).await;
    assert!(open.stdout.contains("the-secret"), "works without: {open:?}");
    assert!(is_evil(), "works without: {open:?}");
    fs::write(place.path().join(".git/config"), "as it was").expect("written");
    fs::remove_file(place.path().join(".git/hooks/evil")).expect("removed");
    give(place.path());
    set(&mut bench, &[".env", "secrets"], None);
    let held = bench.run_with(&exec, StdinSource::Null).await;
    assert!(held.stdout.ends_with("end\n"), "{held:?}");
    assert!(!held.stdout.contains("the-secret"), "{held:?}");
    assert!(!is_evil(), "{held:?}");
}

#[test]
fn podman_of_an_agent_that_is_not_root_keeps_covers_where_they_are() {
    if as_somebody("podman_of_an_agent_that_is_not_root_keeps_covers_where_they_are") {
        alone(what_is_covered_is_not_uncovered(Backend::Container));
    }
}

/// A podman that has something done first, once it is told to.
fn podman_after(line: &str) -> PathBuf {
    let place = own_place();
    let (script, told) = (place.join("podman"), place.join("told"));
    let text = format!(
        "#!/bin/sh\nif [ -e {told} ]; then rm {told}; {line}; fi\nexec /usr/bin/podman \"$@\"\n",
        told = told.display()
    );
    fs::write(&script, text).expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("a mode");
    script
}

/// Between the agent's look at the paths and the mounts inside lies all that podman does.
#[test]
fn what_is_not_there_any_more_when_podman_is_done_is_a_refusal() {
    if as_somebody("what_is_not_there_any_more_when_podman_is_done_is_a_refusal") {
        alone(refuses_what_has_changed());
    }
}

async fn refuses_what_has_changed() {
    let place = shared();
    let path = place.path().to_str().expect("UTF-8").to_owned();
    for (change, back) in [
        ("rm .env; mkdir .env", "rmdir .env; echo the-secret > .env"),
        ("rm .env; ln -s plain .env", "rm .env; echo the-secret > .env"),
        ("mv secrets s2; echo x > secrets", "rm secrets; mv s2 secrets"),
        ("mv secrets s2; ln -s s2 secrets", "rm secrets; mv s2 secrets"),
        ("mv .git/config c2; cp c2 .git/config", "mv c2 .git/config"),
        ("mv .git g2; cp -r g2 .git", "rm -r .git; mv g2 .git"),
        ("mv .git/hooks h2", "mv h2 .git/hooks"),
    ] {
        let config = Config {
            podman: podman_after(&format!("cd {path}; {change}")),
            ..here()
        };
        let mut bench = Bench::with(Backend::Container, config).await;
        bench.profile.read_write = vec![path.clone()];
        bench.profile.deny = vec![".env".into(), "secrets".into()];
        bench.profile.protect = None;
        assert!(bench.run(&["true"]).await.succeeded(), "while nothing changes");
        fs::write(own_place().join("told"), "").expect("told");
        let started = bench.start(&command(&["true"]), StdinSource::Null).await;
        let refused = started.err().expect(change).refusal();
        assert!(
            refused.message.contains("hidden or stays as it is"),
            "{change}: {}",
            refused.message
        );
        let line = format!("cd {path}; {back}");
        let done = std::process::Command::new("sh").args(["-ec", &line]).status();
        assert!(done.expect("sh runs").success(), "{back}");
    }
}
