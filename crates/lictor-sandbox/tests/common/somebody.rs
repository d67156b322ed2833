//! Tests that run as a user who is not root.

use std::path::{Path, PathBuf};

/// The directory that is that user's own.
pub fn own_place() -> PathBuf {
    std::env::var_os(AS_SOMEBODY).expect("a directory").into()
}

/// An agent's configuration for whoever this is: that user's files lie in that directory.
pub fn here() -> lictor_sandbox::Config {
    match std::env::var_os(AS_SOMEBODY) {
        Some(place) => lictor_sandbox::Config {
            runtime_dir: PathBuf::from(place).join("agent"),
            ..lictor_sandbox::Config::default()
        },
        None => lictor_sandbox::Config::default(),
    }
}

/// Tells the test that it is the user that was made for it, and where that has its runtime directory.
const AS_SOMEBODY: &str = "LICTOR_TEST_AS_SOMEBODY";

/// `true` for a user who is not root and has more ids, who is there in mounts of the test's own alone; as root it runs
/// the test as that user and holds that it passes.
pub fn as_somebody(test: &str) -> bool {
    as_somebody_who_writes(test, None)
}

/// Where such a test writes something for the one that has started it.
pub fn written_to() -> Option<PathBuf> {
    std::env::var_os(WRITES_TO).map(PathBuf::from)
}

const WRITES_TO: &str = "LICTOR_TEST_WRITES_TO";

/// The same, of a test that has something to tell: what it has written is in the file.
pub fn as_somebody_who_writes(test: &str, to: Option<&Path>) -> bool {
    become_somebody(test, to, ":")
}

/// The same, after root has run these lines of shell in the test's own mounts: `$at` is that user's directory, `$user` that
/// user.
pub fn as_somebody_after(test: &str, first: &str) -> bool {
    become_somebody(test, None, first)
}

fn become_somebody(test: &str, to: Option<&Path>, first: &str) -> bool {
    if std::env::var_os(AS_SOMEBODY).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        super::skip("only root can make a user for it");
        return false;
    }
    let place = tempfile::tempdir().expect("a directory");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(place.path(), open).expect("a mode");
    let own = place.path().join("run");
    std::fs::create_dir(&own).expect("a directory");
    std::os::unix::fs::chown(&own, Some(61234), Some(61234)).expect("its owner");
    let here = std::env::current_exe().expect("this test");
    std::fs::copy(here, place.path().join("test")).expect("a copy that others can run");
    let status = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            BECOME_SOMEBODY,
            "sh",
        ])
        .arg(place.path())
        .args(["--exact", test, "--nocapture"])
        .env(AS_SOMEBODY, &own)
        .env("LICTOR_TEST_FIRST", first)
        .envs(to.map(|file| (WRITES_TO, file)))
        .status();
    assert!(status.expect("unshare runs").success(), "{test} as somebody else");
    false
}

/// Tells the test that users in several groups are there.
const AMONG_MEMBERS: &str = "LICTOR_TEST_AMONG_MEMBERS";

/// `true` where this host has the user `member` (61235) of the groups `member`, `crew` (61236) and `press` (61237), in mounts
/// of the test's own alone; as root it runs the test there and holds that it passes.
pub fn among_members(test: &str) -> bool {
    if std::env::var_os(AMONG_MEMBERS).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() {
        super::skip("only root can run jobs as another user");
        return false;
    }
    let place = tempfile::tempdir().expect("a directory");
    let status = std::process::Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            MAKE_MEMBERS,
            "sh",
        ])
        .arg(place.path())
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env(AMONG_MEMBERS, "1")
        .status();
    assert!(status.expect("unshare runs").success(), "{test} among members");
    false
}

const MAKE_MEMBERS: &str = r#"
place=$1; shift
cp /etc/passwd /etc/group "$place"
echo "member:x:61235:61235::/tmp:/bin/sh" >> "$place/passwd"
printf 'member:x:61235:\ncrew:x:61236:member\npress:x:61237:daemon,member\n' >> "$place/group"
for file in passwd group; do mount --bind "$place/$file" "/etc/$file"; done
exec "$@"
"#;

const BECOME_SOMEBODY: &str = r#"
place=$1; shift
cp /etc/passwd /etc/group "$place"
echo "somebody:x:61234:61234::/tmp:/bin/sh" >> "$place/passwd"
echo "somebody:x:61234:" >> "$place/group"
echo "somebody:3000000:65536" | tee "$place/subuid" > "$place/subgid"
for file in passwd group subuid subgid; do mount --bind "$place/$file" "/etc/$file"; done
at="$place/run" user=61234
eval "$LICTOR_TEST_FIRST"
exec setpriv --reuid 61234 --regid 61234 --clear-groups "$place/test" "$@"
"#;
