//! What was judged is what runs, whatever happens to the files between the two and while they run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bytes::BytesMut;
use common::{Bench, command};
use lictor_proto::Digest;
use lictor_sandbox::{StartError, StdinSource};
use lictor_trust::profiles::Backend;

const BACKENDS: [Backend; 5] = [
    Backend::Host,
    Backend::Landlock,
    Backend::Bubblewrap,
    Backend::Container,
    Backend::Gvisor,
];
/// Somebody who is neither root nor anybody's run-as user.
const STRANGER: u32 = 54_321;

/// A bench that shows one more directory, a new one that anybody may read, and where a script lies in it.
async fn stage(backend: Backend) -> (Bench, tempfile::TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let bench = bench_with(place.path(), backend).await;
    let script = place.path().join("script");
    (bench, place, script)
}

/// A bench that shows one more directory, which anybody may read.
async fn bench_with(place: &Path, backend: Backend) -> Bench {
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).expect("mode");
    let mut bench = Bench::new(backend).await;
    if bench.hides() {
        let shown = place.to_str().expect("UTF-8").to_owned();
        bench.profile.read_only.push(shown);
    }
    bench
}

/// What a file is called inside that was copied as the nth of a program.
fn copy(backend: Backend, n: usize) -> String {
    match backend {
        Backend::Gvisor => format!("/.lictor/program/{n}"),
        _ => format!("/dev/fd/{}", n + 3),
    }
}

/// A script that prints a word once its interpreter goes on.
fn slow_script(word: &str) -> String {
    format!("{}print('{word}')\n", slow_line())
}

/// Waits until the job's directory has a file `go`, then runs the script that it was told; as one argument, and in a
/// line short enough for the kernel.
fn slow_line() -> String {
    let wait = "print('up',flush=True);[0 for _ in iter(lambda:os.path.exists('go'),True)]";
    let line = format!("#!/usr/bin/python3 -cimport os,sys;{wait};exec(open(sys.argv[1]).read())\n");
    assert!(line.len() < 250, "{}", line.len());
    line
}

fn write_program(path: &Path, content: &[u8], owner: Option<u32>) {
    fs::write(path, content).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
    if owner.is_some() {
        chown(path, owner, owner).expect("only root can give files away");
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        common::skip("only root can give files to a stranger");
    }
    root
}

/// Starts a script that waits, does `meanwhile` when its interpreter runs but has not read it, and returns the output.
async fn output_of_slow_script(bench: &Bench, script: &Path, meanwhile: impl FnOnce()) -> String {
    let exec = command(&[script.to_str().expect("UTF-8")]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let mut bytes = BytesMut::new();
    out.read(&mut bytes, 3).await.expect("readable");
    assert_eq!(&bytes[..], b"up\n", "the interpreter runs");
    meanwhile();
    fs::write(running.handle().dir.join("go"), "").expect("written");
    let (_, said) = tokio::join!(running.wait(), common::read_all(out));
    sandbox.destroy().await.expect("destroyed");
    said
}

#[tokio::test]
async fn script_of_a_stranger_is_read_as_it_was_judged() {
    if !is_root() {
        return;
    }
    let (good, evil) = (slow_script("good"), slow_script("evil"));
    for backend in BACKENDS {
        let (bench, place, script) = stage(backend).await;
        write_program(&script, good.as_bytes(), Some(STRANGER));
        let overwrite = || fs::write(&script, &evil).expect("overwritten in place");
        assert_eq!(output_of_slow_script(&bench, &script, overwrite).await, "good\n");

        write_program(&script, good.as_bytes(), Some(STRANGER));
        let swap = || {
            let other = place.path().join("other");
            write_program(&other, evil.as_bytes(), Some(STRANGER));
            fs::rename(&other, &script).expect("swapped");
        };
        assert_eq!(output_of_slow_script(&bench, &script, swap).await, "good\n");
        // It does run what is there when it is asked for the next time.
        let again = output_of_slow_script(&bench, &script, || ()).await;
        assert_eq!(again, "evil\n");
    }
}

#[tokio::test]
async fn script_of_root_in_a_strangers_directory_is_read_as_it_was_judged() {
    if !is_root() {
        return;
    }
    for backend in BACKENDS {
        let (bench, place, script) = stage(backend).await;
        write_program(&script, slow_script("good").as_bytes(), None);
        chown(place.path(), Some(STRANGER), None).expect("given away");
        let swap = || {
            fs::rename(&script, place.path().join("old")).expect("moved");
            write_program(&script, b"print('evil')\n", Some(STRANGER));
        };
        assert_eq!(output_of_slow_script(&bench, &script, swap).await, "good\n");
    }
}

#[tokio::test]
async fn link_of_a_stranger_is_not_followed_twice() {
    if !is_root() {
        return;
    }
    for backend in BACKENDS {
        let (bench, place, script) = stage(backend).await;
        write_program(&script, slow_script("good").as_bytes(), None);
        let links = place.path().join("links");
        fs::create_dir(&links).expect("made");
        let link = links.join("run");
        std::os::unix::fs::symlink("../script", &link).expect("linked");
        chown(&links, Some(STRANGER), None).expect("given away");
        let swap = || {
            fs::remove_file(&link).expect("removed");
            write_program(&link, b"print('evil')\n", Some(STRANGER));
        };
        assert_eq!(output_of_slow_script(&bench, &link, swap).await, "good\n");
    }
}

#[tokio::test]
async fn script_that_only_root_can_change_is_told_its_own_path() {
    if !is_root() {
        return;
    }
    // A directory of root's in one with the sticky bit is root's all the same.
    for backend in BACKENDS {
        let (bench, _place, script) = stage(backend).await;
        write_program(&script, b"#!/bin/sh -e\necho $0 $- $*\n", None);
        let name = script.to_str().expect("UTF-8");
        let own = bench.run(&[name, "a", "b"]).await.stdout;
        assert!(
            own.starts_with(name) && own.ends_with(" a b\n") && own.contains('e'),
            "{own}"
        );
        chown(&script, Some(STRANGER), None).expect("given away");
        let strangers = bench.run(&[name, "a", "b"]).await.stdout;
        assert_eq!(strangers, own.replace(name, &copy(backend, 0)));
    }
}

#[tokio::test]
async fn interpreters_that_others_can_change_run_as_they_were_judged() {
    if !is_root() {
        return;
    }
    for backend in BACKENDS {
        let place = tempfile::tempdir().expect("a directory");
        let bench = bench_with(place.path(), backend).await;
        let at = |name: &str| place.path().join(name);
        let text = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let shell = fs::read("/bin/sh").expect("a shell");
        write_program(&at("shell"), &shell, Some(STRANGER));
        let middle = format!("#!{} -u\necho middle $*\n. $2\n", text(at("shell")));
        write_program(&at("middle"), middle.as_bytes(), Some(STRANGER));
        let outer = format!(
            "#!{}  one two \necho outer $0; readlink /proc/$$/exe\n",
            text(at("middle"))
        );
        write_program(&at("outer"), outer.as_bytes(), Some(STRANGER));
        let said = bench.run(&[&text(at("outer")), "x"]).await;
        // As the kernel would have it, but for the names of the scripts.
        let [first, second] = [0, 1].map(|n| copy(backend, n));
        let expected = format!("middle one two {first} x\nouter {second}\n");
        let program = said.stdout.strip_prefix(&expected).expect("the same words");
        // A kernel of its own tells nobody what another process executes.
        let copied = "/memfd:lictor-program (deleted)\n";
        assert!(program == copied || backend == Backend::Gvisor, "{said:?}");
    }
}

#[tokio::test]
async fn binary_of_a_stranger_runs_from_a_copy_that_nobody_can_change() {
    if !is_root() {
        return;
    }
    let readlink = fs::read("/usr/bin/readlink").expect("a program");
    for backend in BACKENDS {
        let place = tempfile::tempdir().expect("a directory");
        let bench = bench_with(place.path(), backend).await;
        let program = place.path().join("program");
        write_program(&program, &readlink, Some(STRANGER));
        let name = program.to_str().expect("UTF-8");
        let said = bench.run(&[name, "/proc/self/exe"]).await;
        let copied = match backend {
            Backend::Gvisor => format!("{}\n", copy(backend, 0)),
            _ => "/memfd:lictor-program (deleted)\n".to_owned(),
        };
        assert_eq!(said.stdout, copied, "{said:?}");
        // Nobody gets a right by the copy that the original does not give.
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("mode");
        if bench.hides() {
            let exec = command(&[name, "/proc/self/exe"]);
            let error = bench
                .start(&exec, StdinSource::Null)
                .await
                .err()
                .expect("refused");
            assert!(matches!(error, StartError::Failed { .. }), "{error:?}");
        }
    }
}

#[tokio::test]
async fn digest_of_a_file_that_others_can_change_is_never_an_old_one() {
    let shared = Path::new("/dev/shm");
    if !is_root() || !shared.is_dir() {
        return;
    }
    // Of these file systems no write through a mapping changes any time stamp.
    let place = tempfile::tempdir_in(shared).expect("a directory");
    let bench = bench_with(place.path(), Backend::Host).await;
    let program = place.path().join("program");
    write_program(
        &program,
        &fs::read("/bin/true").expect("a program"),
        Some(STRANGER),
    );
    let changer = format!(
        "import mmap\nf=open({program:?},'r+b')\nm=mmap.mmap(f.fileno(),0)\nm[-1]=m[-1]\nprint('up',flush=True)\n\
         input()\nm[-1]=m[-1]^255\nprint('changed',flush=True)"
    );
    let mut changer = Command::new("/usr/bin/python3")
        .args(["-c", &changer])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    let mut lines = BufReader::new(changer.stdout.take().expect("stdout")).lines();
    assert_eq!(lines.next().expect("a line").expect("text"), "up");
    let meta = || fs::metadata(&program).expect("there");
    let before = (meta().ctime(), meta().ctime_nsec());
    common::eventually("its time stamp has settled", || {
        let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
        now > u64::try_from(before.0).expect("after 1970") + 3
    });
    let name = "p".parse().expect("a name");
    let exec = command(&[program.to_str().expect("UTF-8")]);
    let judged = || {
        let resolved = bench
            .host
            .resolve(&name, bench.profile(), &exec, &bench.job_dir());
        resolved.expect("there").facts().program.sha256
    };
    let now = || Digest::of(&fs::read(&program).expect("readable"));
    let old = judged();
    assert_eq!(old, now());
    writeln!(changer.stdin.take().expect("stdin")).expect("told");
    assert_eq!(lines.next().expect("a line").expect("text"), "changed");
    assert!(changer.wait().expect("ended").success());
    assert_eq!(before, (meta().ctime(), meta().ctime_nsec()), "nothing tells");
    assert_ne!(old, now());
    assert_eq!(judged(), now());
}
