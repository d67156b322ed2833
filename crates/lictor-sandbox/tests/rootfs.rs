//! Jobs whose root is one of the store: what they see, what is judged, and what keeps it there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::OnThisMachine as _;
use common::docker::Docker;
use common::somebody::{as_somebody, own_place};
use common::{Bench, command, for_every_sandbox, secrets};
use lictor_proto::{Code, Digest};
use lictor_rootfs::{Import, Limits, RootfsError, Store};
use lictor_sandbox::{Config, ContainerEngine, Plan, StdinSource, sync_file_system};
use lictor_trust::profiles::Backend;

for_every_sandbox![
    a_job_sees_its_own_root_and_nothing_of_the_hosts,
    programs_are_looked_up_and_judged_in_that_root,
    a_root_that_a_job_uses_stays_until_the_job_is_gone,
    what_the_profile_names_besides_is_the_hosts,
    a_link_in_the_place_of_what_is_shown_is_a_refusal,
    a_secret_is_a_file_beside_the_devices,
];

/// A root of the store has no place for it, and nothing is made there; each engine has another way of showing it.
async fn a_secret_is_a_file_beside_the_devices(on: impl Into<On>) {
    let Rooted {
        bench, node: _node, ..
    } = rooted(on).await;
    secrets::is_a_file_of_its_users_alone(&bench, "/dev/secrets").await;
}

#[tokio::test]
async fn crun_shows_a_secret_beside_the_devices_of_a_root_of_the_store() {
    let config = Config {
        container_engine: ContainerEngine::Crun,
        ..Config::default()
    };
    if Bench::on_with(Backend::Container, config.clone()).await.is_some() {
        a_secret_is_a_file_beside_the_devices(On(Backend::Container, config)).await;
    }
}

#[tokio::test]
async fn docker_shows_a_secret_beside_the_devices_of_a_root_of_the_store() {
    let Some(docker) = Docker::start() else { return };
    if Bench::on_with(Backend::Container, docker.config())
        .await
        .is_some()
    {
        a_secret_is_a_file_beside_the_devices(On(Backend::Container, docker.config())).await;
    }
}

/// It mounts files of its own into every root, for which the tree has no places.
#[tokio::test]
async fn podman_shows_a_root_of_the_store_and_leaves_that_as_it_is() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("it is about a root agent; another one is tried below");
    }
    let podman = |engine| {
        let config = Config {
            container_engine: engine,
            ..Config::default()
        };
        On(Backend::Container, config)
    };
    if Bench::on_with(Backend::Container, podman(ContainerEngine::Podman).1)
        .await
        .is_none()
    {
        return;
    }
    let on = || podman(ContainerEngine::Podman);
    a_job_sees_its_own_root_and_nothing_of_the_hosts(on()).await;
    programs_are_looked_up_and_judged_in_that_root(on()).await;
    what_the_profile_names_besides_is_the_hosts(on()).await;
    a_secret_is_a_file_beside_the_devices(on()).await;
    leaves_the_store_as_it_is(on()).await;
}

#[test]
fn podman_of_an_agent_that_is_not_root_shows_a_root_of_the_store_and_leaves_that_as_it_is() {
    let test = "podman_of_an_agent_that_is_not_root_shows_a_root_of_the_store_and_leaves_that_as_it_is";
    if !as_somebody(test) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let on = || {
            let config = Config {
                runtime_dir: own_place(),
                ..Config::default()
            };
            On(Backend::Container, config)
        };
        if Bench::on_with(Backend::Container, on().1).await.is_some() {
            a_job_sees_its_own_root_and_nothing_of_the_hosts(on()).await;
            leaves_the_store_as_it_is(on()).await;
        }
    });
}

/// Every name, and what it holds.
fn listing(dir: &Path) -> String {
    let line = "cd \"$0\" && find . -printf '%p %y %m %s %C@\\n' | sort";
    let found = Command::new("sh")
        .args(["-c", line])
        .arg(dir)
        .output()
        .expect("find");
    assert!(found.status.success());
    String::from_utf8(found.stdout).expect("UTF-8")
}

async fn leaves_the_store_as_it_is(on: On) {
    let rooted = rooted(on).await;
    let tree = rooted.store.hold(&rooted.digest).expect("held").tree().to_owned();
    let before = listing(&tree);
    assert!(before.contains("./etc/own"), "{before}");
    assert!(
        rooted
            .bench
            .sh("cat /etc/own /run/* /etc/resolv.conf")
            .await
            .stdout
            .contains("own")
    );
    assert_eq!(listing(&tree), before);
}

/// A directory with a shell, what its libraries are, and a few places and scripts.
fn make_tree(dir: &Path) {
    let shell = "for p in sh cat ls id touch mkdir head; do f=$(readlink -f $(command -v $p)); \
         install -D $f \"$0/bin/$p\"; \
         ldd $f | grep -o '/[^ ]*' | while read l; do install -D $(readlink -f $l) \"$0$l\"; done; done; \
         mkdir -p $0/opt/tool $0/srv/place $0/etc; ln -s /opt/tool/hello $0/bin/hi; ln -s ../../../../bin/cat $0/opt/cat; \
         printf '#!/bin/sh\\necho hello from $0\\n' > $0/opt/tool/hello; chmod 755 $0/opt/tool/hello; \
         ln -s /usr/bin/env $0/opt/outside; echo own > $0/etc/own; \
         printf 'root:x:0:0:root:/root:/bin/sh\\n' > $0/etc/passwd";
    let made = Command::new("sh").args(["-c", shell]).arg(dir).status();
    assert!(made.expect("a shell").success());
}

fn packed(dir: &Path, extra: &str) -> PathBuf {
    let tree = dir.join("tree");
    std::fs::create_dir_all(tree.join("etc")).expect("made");
    make_tree(&tree);
    std::fs::write(tree.join("etc/extra"), extra).expect("written");
    let tarball = dir.join("root.tar");
    let tar = Command::new("tar")
        .args([
            "-C",
            tree.to_str().expect("UTF-8"),
            "-cf",
            tarball.to_str().expect("UTF-8"),
            ".",
        ])
        .status();
    assert!(tar.expect("tar").success());
    tarball
}

struct Rooted {
    bench: Bench,
    node: tempfile::TempDir,
    store: Store,
    digest: Digest,
}

/// A backend, and what makes its sandboxes.
#[derive(Clone)]
struct On(Backend, Config);

impl From<Backend> for On {
    fn from(backend: Backend) -> Self {
        Self(backend, Config::default())
    }
}

/// A bench whose profile names a root that the store has.
async fn rooted(on: impl Into<On>) -> Rooted {
    let On(backend, config) = on.into();
    let node = tempfile::tempdir().expect("a directory");
    let store = Store::of_node(node.path());
    let digest = add(&store, &packed(node.path(), ""));
    let mut bench = Bench::with(backend, config).await;
    bench.host.use_rootfs(store.clone());
    bench.profile.rootfs = Some(digest);
    Rooted {
        bench,
        node,
        store,
        digest,
    }
}

fn add(store: &Store, tarball: &Path) -> Digest {
    let import = Import {
        store,
        limits: Limits::default(),
        sync: sync_file_system,
    };
    import.add(tarball, None).expect("added").digest
}

async fn a_job_sees_its_own_root_and_nothing_of_the_hosts(backend: impl Into<On>) {
    let Rooted {
        bench, node: _node, ..
    } = rooted(backend).await;
    let own = bench
        .sh("cat /etc/own; echo /usr/*; cd /opt; echo *; cat /etc/passwd; id -u; cat /etc/hosts | head -1")
        .await;
    assert!(own.succeeded(), "{own:?}");
    for word in [
        "own\n",
        "cat outside tool\n",
        "root:x:0:0:root:/root:/bin/sh\n",
        "lictor:x:1000",
        "\n1000\n",
        "localhost",
    ] {
        assert!(own.stdout.contains(word), "{word:?} in {own:?}");
    }
    assert!(!own.stdout.contains("/usr/share"), "the host's /usr: {own:?}");
    let written = bench
        .sh("touch /workspace/a /tmp/b && for p in / /etc /bin /opt/tool /run /etc/own /etc/passwd /bin/sh; do touch $p/x && echo wrote; echo x >> $p && echo wrote; done")
        .await;
    assert!(!written.stdout.contains("wrote"), "{written:?}");
    let usual = bench
        .sh("echo x > /dev/null; head -c1 /dev/urandom >/tmp/r; cat /proc/self/status | head -1; ls /proc/1")
        .await;
    assert!(usual.stdout.starts_with("Name:"), "{usual:?}");
}

async fn programs_are_looked_up_and_judged_in_that_root(backend: impl Into<On>) {
    let Rooted {
        bench, node: _node, ..
    } = rooted(backend).await;
    let name = "p".parse().expect("a name");
    let facts = |argv: &[&str]| {
        let resolved = bench
            .host
            .resolve(&name, bench.profile(), &command(argv), &bench.job_dir());
        resolved.map(|r| r.facts().clone())
    };
    let hello = facts(&["hi"]).expect("a script behind a link");
    assert_eq!(hello.program.path, "/opt/tool/hello");
    assert_eq!(hello.interpreters[0].path, "/bin/sh");
    let script = Digest::of(b"#!/bin/sh\necho hello from $0\n");
    assert_eq!(hello.program.sha256, script);
    assert_eq!(bench.run(&["hi"]).await.stdout, "hello from /bin/hi\n");
    // Links lead nowhere out of the root, however far up they go.
    assert_eq!(facts(&["/opt/cat"]).expect("a link up").program.path, "/bin/cat");
    assert_eq!(bench.run(&["/opt/cat", "/etc/own"]).await.stdout, "own\n");
    // The host has these; the root has not, or something else is shown there.
    for absent in [
        "/opt/outside",
        "/usr/bin/env",
        "env",
        "/../../../usr/bin/env",
        "/proc/self/exe",
        "/dev/null",
    ] {
        let refusal = facts(&[absent]).expect_err(absent);
        assert_eq!(refusal.code, Code::ProgramNotFound, "{absent}: {refusal}");
    }
}

async fn a_root_that_a_job_uses_stays_until_the_job_is_gone(backend: impl Into<On>) {
    let Rooted {
        bench,
        store,
        digest,
        node: _node,
    } = rooted(backend).await;
    let mut sandbox = bench
        .backend
        .create(bench.plan(&command(&["cat"])))
        .await
        .expect("created");
    assert!(matches!(store.remove(&digest), Err(RootfsError::InUse(_))));
    sandbox.destroy().await.expect("destroyed");
    drop(sandbox);
    store.remove(&digest).expect("removed");
    let name = "p".parse().expect("a name");
    let refusal = bench
        .host
        .resolve(&name, bench.profile(), &command(&["cat"]), &bench.job_dir())
        .expect_err("refused");
    assert_eq!(refusal.code, Code::Unenforceable);
    assert!(refusal.message.contains("lictor agent rootfs add"), "{refusal}");
}

async fn what_the_profile_names_besides_is_the_hosts(backend: impl Into<On> + Clone) {
    let Rooted { mut bench, node, .. } = rooted(backend.clone()).await;
    // As a user of the host sees it, whom the directories above let pass.
    let shown = tempfile::tempdir_in("/srv").expect("a directory");
    std::fs::write(shown.path().join("file"), "the host's\n").expect("written");
    let path = shown.path().to_str().expect("UTF-8").to_owned();
    bench.profile.read_only.push(path.clone());
    let started = bench.start(&command(&["cat"]), StdinSource::Null).await;
    let error = started.err().expect("no place for it").refusal();
    assert!(error.message.contains("no such place"), "{error}");
    bench.profile.read_only[0] = "/srv".into();
    drop(node);
    let name = "p".parse().expect("a name");
    let gone = bench
        .host
        .resolve(&name, bench.profile(), &command(&["cat"]), &bench.job_dir());
    assert!(gone.is_err());
    let Rooted {
        bench: mut fresh,
        node: _node,
        ..
    } = rooted(backend).await;
    fresh.profile.read_only.push("/srv".into());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(shown.path(), mode).expect("set");
    let seen = fresh.run(&["cat", &format!("{path}/file")]).await;
    assert_eq!(seen.stdout, "the host's\n", "{seen:?}");
}

#[tokio::test]
async fn backends_without_a_root_of_their_own_refuse_one() {
    let Rooted {
        store,
        digest,
        node: _node,
        ..
    } = rooted(Backend::Bubblewrap).await;
    for backend in [Backend::Host, Backend::Landlock] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        bench.host.use_rootfs(store.clone());
        bench.profile.rootfs = Some(digest);
        let refused =
            lictor_sandbox::can_hold(&bench.profile, backend, &bench.capabilities).expect_err("refused");
        assert!(refused.to_string().contains("own_root"), "{refused}");
        assert!(refused.to_string().contains("bubblewrap"), "{refused}");
        let name = "p".parse().expect("a name");
        let refusal = bench
            .host
            .resolve(&name, bench.profile(), &command(&["cat"]), &bench.job_dir())
            .expect_err("refused");
        assert_eq!(refusal.code, Code::Unenforceable, "{refusal}");
    }
}

async fn a_link_in_the_place_of_what_is_shown_is_a_refusal(backend: Backend) {
    let mut bench = Bench::new(backend).await;
    let place = tempfile::tempdir().expect("a directory");
    let (named, secret) = (place.path().join("named"), place.path().join("secret"));
    for dir in [&named, &secret] {
        std::fs::create_dir(dir).expect("made");
        std::fs::write(
            dir.join("file"),
            dir.file_name().expect("a name").as_encoded_bytes(),
        )
        .expect("written");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir, mode).expect("set");
    }
    let path = named.to_str().expect("UTF-8").to_owned();
    bench.profile.read_only.push(path.clone());
    let read = format!("cat {path}/file");
    // By an open descriptor: nobody has to be let through the directories above.
    assert_eq!(bench.sh(&read).await.stdout, "named");
    let exec = command(&["sh", "-c", &read]);
    let plan: Plan = bench.plan(&exec);
    std::fs::rename(&named, place.path().join("moved")).expect("moved");
    std::os::unix::fs::symlink(&secret, &named).expect("a link");
    // A path would have led there: the host does follow it.
    assert_eq!(
        std::fs::read_to_string(format!("{path}/file")).expect("there"),
        "secret"
    );
    let started = match bench.backend.create(plan).await {
        Ok(mut sandbox) => {
            let started = sandbox.exec(StdinSource::Null.into()).await.map(drop);
            sandbox.destroy().await.expect("destroyed");
            started
        }
        Err(e) => Err(e),
    };
    let error = started.expect_err("refused").refusal();
    assert!(error.message.contains("links are not followed"), "{error}");
}
