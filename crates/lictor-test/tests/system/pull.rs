//! Root filesystems from a registry: by hand, and by an agent whose law lets it; and registries that lie.

mod index;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cli, Done, Split, SplitOptions, wait_until};

use crate::registry::{Image, Mood, Registry};
use crate::rootfs::tree;
use crate::steps::{SOON, add_profile, receipt};

/// A layer of a tree with a shell, `cat` and `ls`.
fn layer(place: &Path) -> Result<Vec<u8>> {
    tree(place)?;
    let made = Command::new("tar")
        .args(["-C", "tree", "-cf", "layer.tar", "."])
        .current_dir(place)
        .status()?;
    ensure!(made.success(), "the layer was not made");
    Ok(fs::read(place.join("layer.tar"))?)
}

/// A registry of it, and what its image is called.
fn registry(mood: Mood) -> Result<(Registry, Digest)> {
    let place = tempfile::tempdir()?;
    let image = Image::of_layer(layer(place.path())?);
    Ok((Registry::start(image.clone(), mood)?, image.digest))
}

/// Hub and agent; the agent's owner lets it speak with that registry, which has no TLS.
fn split(registry: &Registry) -> Result<Split> {
    Split::start_with(SplitOptions {
        agent_settings: format!("[rootfs]\ninsecure_registries = [\"{}\"]\n", registry.host()),
        ..SplitOptions::default()
    })
}

fn profile(name: &str, registry: &Registry, digest: &Digest, more: &str) -> String {
    format!(
        "\n[profiles.{name}]\nbackend = \"bubblewrap\"\nrootfs = \"{digest}\"\nimage = \"{}/team/name\"\n{more}\n",
        registry.host()
    )
}

fn run(cli: &Cli, profile: &str, line: &str) -> Result<Done> {
    let words = ["run", "--json", "--profile", profile, "local", "--"];
    cli.run(&[&words[..], &["/bin/sh", "-c", line]].concat())
}

fn has_run(done: &Done, says: &str) -> Result<()> {
    ensure!(
        done.code()? == 0 && done.text().contains(says),
        "{}\n{}",
        done.text(),
        done.stderr
    );
    Ok(())
}

#[test]
fn a_node_fetches_the_root_that_the_law_lets_it_when_a_job_names_it() -> Result<()> {
    let (registry, digest) = registry(Mood::Honest)?;
    let split = split(&registry)?;
    let cli = split.cli();
    let fetched = "pull = \"missing\"\nrootfs_writable = true";
    let both = profile("by-hand", &registry, &digest, "") + &profile("fetched", &registry, &digest, fetched);
    add_profile(cli, &both)?;
    let refused = run(cli, "by-hand", "true")?;
    ensure!(refused.code()? == 126, "{}", refused.text());
    ensure!(
        registry.asked().is_empty(),
        "nobody has asked for it: {:?}",
        registry.asked()
    );
    let done = run(cli, "fetched", "echo new > /etc/made && cat /etc/where /etc/made")?;
    has_run(&done, "inside")?;
    let id = done.result()?["job_id"].as_str().context("an id")?.to_owned();
    let receipt = receipt(cli, &id)?;
    ensure!(receipt.to_string().contains("writable_root"), "{receipt}");
    // What was written is gone, and what is there serves whoever may not fetch.
    let asked = registry.asked().len();
    let next = run(cli, "by-hand", "cat /etc/where; ls /etc")?;
    has_run(&next, "inside")?;
    ensure!(!next.text().contains("made"), "{}", next.text());
    ensure!(registry.asked().len() == asked, "{:?}", registry.asked());
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("a path")?;
    let listed = cli.run(&["--json", "agent", "rootfs", "--dir", agent, "ls"])?;
    ensure!(
        listed.text().contains(&digest.to_string()) && listed.text().contains("/team/name"),
        "{}",
        listed.text()
    );
    let audit = cli.ok(&["--json", "audit", "show", "--agent", agent])?;
    let mut events = audit.lines().filter(|line| line.contains("\"rootfs_fetched\""));
    let event = events.next().context("it is in the node's audit")?;
    ensure!(event.contains("/team/name") && events.next().is_none(), "{event}");
    Ok(())
}

#[test]
fn a_registry_without_tls_that_is_not_listed_is_not_spoken_with_whatever_the_machine_says() -> Result<()> {
    let (registry, digest) = registry(Mood::Honest)?;
    let host = registry.host();
    let told = pulled_with("", &registry, &digest)?;
    ensure!(told.code == 125 && told.left.is_empty(), "{told:?}");
    ensure!(told.text.contains(&format!("\"https://{host}")), "{told:?}");
    ensure!(registry.asked().is_empty(), "{:?}", registry.asked());

    let place = tempfile::tempdir()?;
    let settings = place.path().join("registries.conf");
    fs::write(
        &settings,
        format!("[[registry]]\nlocation = \"{host}\"\ninsecure = true\n"),
    )?;
    let settings = settings.display();
    let image = format!("docker://{host}/team/name@{digest}");
    let before = format!(
        "mount --bind {settings} /etc/containers/registries.conf && skopeo inspect --no-creds --raw {image} > /dev/null"
    );
    let told = pulled_on(&before, "", &registry, &digest)?;
    let asked = registry.asked().len();
    ensure!(asked > 0, "skopeo itself does what the machine says");
    ensure!(told.code == 125 && told.left.is_empty(), "{told:?}");
    ensure!(
        !registry.asked().iter().any(|r| r.contains("/blobs/")),
        "{:?}",
        registry.asked()
    );
    Ok(())
}

#[test]
fn a_pull_that_hangs_is_in_nobodys_way_and_a_killed_agent_leaves_no_process_of_it() -> Result<()> {
    let (registry, digest) = registry(Mood::Stalls)?;
    let mut split = split(&registry)?;
    let cli = split.cli().clone();
    add_profile(
        &cli,
        &profile("fetched", &registry, &digest, "pull = \"missing\""),
    )?;
    let words = ["run", "--json", "--detach", "--profile", "fetched", "local", "--"];
    let line = ["/bin/sh", "-c", "cat /etc/where"];
    let waiting = cli.run(&[&words[..], &line].concat())?;
    let id = waiting.result()?["job_id"].as_str().context("an id")?.to_owned();
    wait_until("a download under way", SOON, || {
        registry.was_asked_for_the_layer()
    })?;
    let other = cli.run(&[
        "run",
        "--json",
        "--profile",
        "host",
        "local",
        "--",
        "echo",
        "other",
    ])?;
    has_run(&other, "other")?;
    let fetching = || with_argument(&format!("docker://{}", registry.host()));
    ensure!(!fetching().is_empty(), "skopeo runs");
    let status = cli.json(&["job", &id])?;
    ensure!(status.to_string().contains("queued"), "{status}");

    split.agent()?.kill()?;
    wait_until("skopeo's end", SOON, || fetching().is_empty())?;
    registry.turn(Mood::Honest);
    split.start_agent()?;
    let done = cli.run(&["logs", "-f", "--json", &id])?;
    has_run(&done, "inside")
}

#[test]
fn a_job_hears_why_its_root_cannot_be_fetched_and_runs_once_it_can() -> Result<()> {
    let (registry, digest) = registry(Mood::Answers(404))?;
    let split = split(&registry)?;
    let cli = split.cli();
    add_profile(cli, &profile("fetched", &registry, &digest, "pull = \"missing\""))?;
    let words = ["run", "--json", "--detach", "--profile", "fetched", "local", "--"];
    let waiting = cli.run(&[&words[..], &["/bin/sh", "-c", "cat /etc/where"]].concat())?;
    let id = waiting.result()?["job_id"].as_str().context("an id")?.to_owned();
    let hears = |word: &str| {
        let job = cli.json(&["job", &id]);
        job.is_ok_and(|job| job.to_string().contains(word))
    };
    wait_until("the reason", SOON, || hears("rootfs_pull_failed"))?;
    ensure!(hears("404"), "{:?}", cli.json(&["job", &id]));
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("a path")?;
    let audit = cli.ok(&["--json", "audit", "show", "--agent", agent])?;
    ensure!(audit.contains("\"rootfs_fetch_failed\""), "{audit}");
    registry.turn(Mood::Honest);
    has_run(&cli.run(&["logs", "-f", "--json", &id])?, "inside")
}

/// Processes one of whose arguments begins so.
fn with_argument(text: &str) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let has = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|b| *b == 0);
        words.any(|w| w.starts_with(text.as_bytes()))
    };
    pids.filter(has).collect()
}

/// How `lictor agent rootfs pull` has ended.
#[derive(Debug)]
struct Pulled {
    code: i32,
    text: String,
    /// What is in the store then.
    left: Vec<String>,
}

fn pulled(registry: &Registry, digest: &Digest) -> Result<Pulled> {
    let listed = format!("insecure_registries = [\"{}\"]\n", registry.host());
    pulled_with(&listed, registry, digest)
}

fn pulled_with(settings: &str, registry: &Registry, digest: &Digest) -> Result<Pulled> {
    pulled_on("true", settings, registry, digest)
}

/// The same after `before`, a line of the shell that may do something about the node's directory, `$1`.
fn pulled_on(before: &str, settings: &str, registry: &Registry, digest: &Digest) -> Result<Pulled> {
    let (node, place) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let config = place.path().join("agent.toml");
    let dir = node.path().to_str().context("a path")?;
    let text = format!("dir = {dir:?}\n[rootfs]\npull_timeout_s = 5\npull_max_mib = 64\n{settings}");
    fs::write(&config, text)?;
    // The listing is made where the command ran, which may have mounts of its own.
    let line = format!(
        "{before} && \"$2\" agent rootfs pull --config \"$3\" \"$4\"; code=$?; ls -A \"$1/rootfs\" > \"$5\"; exit $code"
    );
    let left = place.path().join("left");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &line, "sh", dir])
        .arg(lictor_test::lictor()?)
        .arg(&config)
        .arg(format!("{}/team/name@{digest}", registry.host()))
        .arg(&left)
        .output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Ok(Pulled {
        code: output.status.code().unwrap_or(-1),
        text,
        left: fs::read_to_string(&left)?.lines().map(str::to_owned).collect(),
    })
}

#[test]
fn an_image_is_pulled_by_hand_and_called_by_its_digest() -> Result<()> {
    let (registry, digest) = registry(Mood::Honest)?;
    let told = pulled(&registry, &digest)?;
    ensure!(
        told.code == 0 && told.text.contains("in a profile: rootfs ="),
        "{told:?}"
    );
    let name = digest.to_string().replace(':', "-");
    ensure!(told.left == [name], "{told:?}");
    Ok(())
}

#[test]
fn registries_that_lie_fail_or_never_end_leave_nothing() -> Result<()> {
    for (mood, says) in [
        (Mood::OtherBytes, "igest"),
        (Mood::OtherManifest, "igest"),
        (Mood::Stalls, "longer than 5 s"),
        (Mood::Floods, "larger than 64 MiB"),
        (Mood::Answers(401), "nauthorized"),
        (Mood::Answers(404), "404"),
        (Mood::Answers(500), "500"),
    ] {
        let (registry, digest) = registry(mood)?;
        let told = pulled(&registry, &digest)?;
        ensure!(
            told.code == 125 && told.text.contains("[rootfs_") && told.text.contains(says),
            "{mood:?}: {told:?}"
        );
        ensure!(told.left.is_empty(), "{mood:?}: {told:?}");
    }
    let (registry, _) = registry(Mood::Honest)?;
    let another = pulled(&registry, &Digest::of(b"another"))?;
    ensure!(another.code == 125 && another.left.is_empty(), "{another:?}");
    Ok(())
}

#[test]
fn a_layer_of_another_size_than_its_manifest_says_is_not_taken() -> Result<()> {
    let place = tempfile::tempdir()?;
    let layer = layer(place.path())?;
    for size in [layer.len() - 512, layer.len() + 512] {
        let image = Image::with_size(layer.clone(), size);
        let registry = Registry::start(image.clone(), Mood::Honest)?;
        let told = pulled(&registry, &image.digest)?;
        ensure!(told.code == 125 && told.left.is_empty(), "{size}: {told:?}");
    }
    Ok(())
}

#[test]
fn a_registry_cannot_send_to_other_ports_of_hosts_inside() -> Result<()> {
    let (elsewhere, _) = registry(Mood::Honest)?;
    let (registry, digest) = registry(Mood::SendsTo(elsewhere.port()))?;
    let told = pulled(&registry, &digest)?;
    ensure!(told.code == 125 && told.left.is_empty(), "{told:?}");
    ensure!(elsewhere.asked().is_empty(), "{:?}", elsewhere.asked());
    // It is the port that is in the way: to its own one it may send.
    registry.turn(Mood::SendsTo(registry.port()));
    let told = pulled(&registry, &digest)?;
    ensure!(told.text.contains("stopped after 10 redirects"), "{told:?}");
    Ok(())
}

#[test]
fn a_disk_that_fills_up_ends_a_pull_and_leaves_nothing() -> Result<()> {
    let (registry, digest) = registry(Mood::Floods)?;
    let listed = format!("insecure_registries = [\"{}\"]\n", registry.host());
    let small = "mount -t tmpfs -o size=288m none \"$1\" && chmod 700 \"$1\"";
    let told = pulled_on(small, &listed, &registry, &digest)?;
    ensure!(
        told.code == 125 && told.text.contains("of the node's disk are free"),
        "{told:?}"
    );
    ensure!(told.left.is_empty(), "{told:?}");
    Ok(())
}

#[test]
fn what_grows_while_it_pulls_ends_at_its_bound_and_leaves_nothing() -> Result<()> {
    let (registry, digest) = registry(Mood::Honest)?;
    let listed = format!("insecure_registries = [\"{}\"]\n", registry.host());
    // In skopeo's place, something that keeps more and more; not below /tmp, which is its own there.
    let tool = tempfile::tempdir_in("/var/tmp")?;
    let path = tool.path().join("skopeo");
    let grows = |mib: u32| {
        let text = format!(
            "#!/usr/bin/python3 -S\nkept = [bytearray(1 << 20) for n in range({mib})]\nraise SystemExit('had all of it')\n"
        );
        fs::write(&path, text)
    };
    let pull = || pulled_with(&format!("{listed}skopeo = {path:?}\n"), &registry, &digest);
    grows(1)?;
    for path in [tool.path(), &path] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let little = pull()?;
    ensure!(little.text.contains("had all of it"), "it runs: {little:?}");
    grows(1100)?;
    let told = pull()?;
    ensure!(told.code == 125 && told.text.contains("MemoryError"), "{told:?}");
    ensure!(told.left.is_empty(), "{told:?}");
    Ok(())
}

#[test]
fn a_password_is_that_of_the_owners_file_and_of_no_other() -> Result<()> {
    let (registry, digest) = registry(Mood::Wants("bWU6c2VjcmV0"))?;
    let place = tempfile::tempdir()?;
    let file = place.path().join("auth.json");
    let host = registry.host();
    fs::write(
        &file,
        format!("{{\"auths\":{{\"{host}\":{{\"auth\":\"bWU6c2VjcmV0\"}}}}}}"),
    )?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let without = pulled(&registry, &digest)?;
    ensure!(without.code == 125, "{without:?}");
    let settings = format!("insecure_registries = [\"{host}\"]\ncredentials = {file:?}\n");
    let with = pulled_with(&settings, &registry, &digest)?;
    ensure!(with.code == 0, "{with:?}");
    Ok(())
}
