//! Processes of Lictor's own: nothing of them is left behind, and what is killed comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::fs;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use common::OnThisMachine as _;
use common::{Bench, children, command, eventually, keepers, processes, processes_with};
use lictor_proto::doc::Exit;
use lictor_sandbox::{Capability, Handle, StdinSource};
use lictor_trust::profiles::Backend;

/// Those that this process's user can use.
fn backends() -> impl Iterator<Item = Backend> {
    let is_root = rustix::process::geteuid().is_root();
    let all = [
        Backend::Host,
        Backend::Landlock,
        Backend::Container,
        Backend::Gvisor,
        Backend::Bubblewrap,
    ];
    let of_root = [Backend::Landlock, Backend::Container, Backend::Gvisor];
    all.into_iter().filter(move |b| is_root || !of_root.contains(b))
}

fn zombies() -> Vec<(u32, String, String, u32)> {
    let own = std::process::id();
    processes()
        .into_iter()
        .filter(|p| p.3 == own && p.2 == "Z")
        .collect()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

#[tokio::test]
async fn no_zombies_are_left_by_finished_dropped_and_failed_jobs() {
    for backend in backends() {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        for _ in 0..10 {
            assert!(bench.run(&["true"]).await.succeeded());
            let exec = command(&["sleep", "60"]);
            let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
            drop(running);
            sandbox.destroy().await.expect("destroyed");
            let exec = command(&["sleep", "60"]);
            let (sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
            let stop = running.stop_switch();
            stop.stop(lictor_sandbox::StopReason::Canceled);
            drop(running.take_stdout());
            running.wait().await;
            // Not even destroyed.
            drop(sandbox);
        }
        // The keepers that were at work then have ended, so nothing that they looked after is left either.
        eventually("at most two keepers, both idle", || {
            let keepers = keepers();
            keepers.len() <= 2 && keepers.iter().all(|k| processes().iter().all(|p| p.3 != *k))
        });
        drop(bench);
        eventually("no zombie", || zombies().is_empty());
    }
}

#[tokio::test]
async fn keepers_take_one_job_after_another() {
    let bench = Bench::new(Backend::Host).await;
    assert!(bench.run(&["true"]).await.succeeded());
    let after_one = keepers();
    for _ in 0..10 {
        assert!(bench.run(&["true"]).await.succeeded());
    }
    assert_eq!(keepers(), after_one);
}

#[tokio::test]
async fn killed_zygote_and_keepers_come_back() {
    for backend in backends() {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        assert!(bench.run(&["true"]).await.succeeded());
        let own = std::process::id();
        for pids in [children(own, "lictor-zygote"), keepers()] {
            assert!(!pids.is_empty());
            pids.into_iter().for_each(kill);
        }
        eventually("no zombie", || zombies().is_empty());
        assert!(bench.run(&["true"]).await.succeeded(), "{backend:?}");
        let peak = bench.run(&["true"]).await.ended.usage.max_rss_bytes;
        // A kernel of its own is a process of the job's.
        let most = if backend == Backend::Gvisor {
            64_000_000
        } else {
            8_000_000
        };
        assert!(peak < most, "{peak} bytes");
    }
}

/// Started by the test below as a process of its own: an agent with one running job per backend, to be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let Ok(place) = std::env::var("LICTOR_TEST_AGENT") else {
        return;
    };
    let mark = std::env::var("LICTOR_TEST_MARK").expect("a mark");
    let mut jobs = Vec::new();
    for backend in backends() {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        bench.root.disable_cleanup(true);
        // For every kind of cgroup that this host has.
        bench.profile.limits.memory = Some(1 << 30);
        let line = format!(
            "setsid sleep {mark} & setsid -f sleep {mark}; (setsid sleep {mark} &) ; echo up; sleep {mark}"
        );
        let exec = command(&["sh", "-c", &line]);
        let (sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
        let mut out = running.take_stdout().expect("stdout");
        let mut bytes = bytes::BytesMut::new();
        out.read(&mut bytes, 64).await.expect("readable");
        let handle = serde_json::to_string(running.handle()).expect("JSON");
        let file = format!("{place}/{}", backend.as_str());
        fs::write(format!("{file}.new"), handle).expect("written");
        fs::rename(format!("{file}.new"), file).expect("renamed");
        jobs.push((bench, sandbox, running, out));
    }
    // Waits for the end that never comes, with everything held: a dropped sandbox ends its job.
    let (_bench, _sandbox, running, _out) = jobs.pop().expect("a job");
    running.wait().await;
}

fn start_agent(place: &std::path::Path, mark: &str) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed"])
        .env("LICTOR_TEST_AGENT", place)
        .env("LICTOR_TEST_MARK", mark)
        .stdout(Stdio::null())
        .spawn()
        .expect("an agent")
}

#[tokio::test]
async fn nothing_of_a_killed_agents_jobs_is_left_after_recovery() {
    let place = tempfile::tempdir().expect("a directory");
    let mark = format!("65.{}", std::process::id());
    let mut agent = start_agent(place.path(), &mark);
    let handle_of = |backend: Backend| place.path().join(backend.as_str());
    eventually("all jobs run", || backends().all(|b| handle_of(b).exists()));
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    let read = |backend| -> Handle {
        let text = fs::read_to_string(handle_of(backend)).expect("a handle");
        serde_json::from_str(&text).expect("a handle")
    };
    let alive = |pid: u32| processes().iter().any(|p| p.0 == pid && p.2 != "Z");
    for boxed in backends().filter(|b| b.is_namespaced()).map(read) {
        eventually("the box has ended by itself", || {
            boxed.roots.iter().all(|p| !alive(p.pid))
        });
    }
    // The host job goes on until an agent is back.
    assert!(!processes_with(&mark).is_empty());
    let written = read(Backend::Host);
    let found = Handle::look_for("host", &written.dir);
    assert_eq!(found, written, "also when nothing had been written down");
    let place = lictor_sandbox::Config::default().runtime_dir;
    let own = format!("{}.", agent.id());
    for backend in backends() {
        // Whoever uses the backend next takes away what the runtimes had written down.
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let handle = read(backend);
        let recovered = bench.backend.recover(handle.clone()).await.expect("found");
        recovered.destroy().await.expect("destroyed");
        assert!(!handle.dir.exists());
        assert!(
            handle
                .cgroup
                .iter()
                .chain(&handle.cgroups_v1)
                .all(|c| !c.exists())
        );
        if let Some(root) = handle.dir.parent() {
            fs::remove_dir_all(root).expect("removed");
        }
    }
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    let files = fs::read_dir(place).into_iter().flatten().flatten();
    let mut names = files.map(|f| f.file_name().to_string_lossy().into_owned());
    assert!(!names.any(|name| name.starts_with(&own)));
}

#[tokio::test]
async fn a_box_ends_with_its_agent_although_its_first_process_hears_of_that_last() {
    use rustix::process::Signal;
    let place = tempfile::tempdir().expect("a directory");
    let mark = format!("66.{}", std::process::id());
    let mut agent = start_agent(place.path(), &mark);
    let file = |backend: Backend| place.path().join(backend.as_str());
    eventually("all jobs run", || backends().all(|b| file(b).exists()));
    let read = |backend| -> Handle {
        let text = fs::read_to_string(file(backend)).expect("a handle");
        serde_json::from_str(&text).expect("a handle")
    };
    let [.., init, outer] = read(Backend::Bubblewrap).roots[..] else {
        panic!("a box has a first process, and one outside")
    };
    let pid = rustix::process::Pid::from_raw(init.pid.try_into().expect("a pid")).expect("a pid");
    let signal = |signal| rustix::process::kill_process(pid, signal).expect("signalled");
    signal(Signal::STOP);
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    let alive = |pid: u32| processes().iter().any(|p| p.0 == pid && p.2 != "Z");
    eventually("whoever watches it has ended", || !alive(outer.pid));
    signal(Signal::CONT);
    // Orphans of the job are below it, and sleep for a minute yet.
    eventually("the box has ended by itself", || !alive(init.pid));
    for backend in backends() {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let handle = read(backend);
        match bench.backend.recover(handle.clone()).await {
            Ok(recovered) => recovered.destroy().await.expect("destroyed"),
            Err(lictor_sandbox::RecoverError::Gone) => {}
            Err(e) => panic!("{e}"),
        }
        if let Some(root) = handle.dir.parent() {
            fs::remove_dir_all(root).expect("removed");
        }
    }
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

/// The test above, by an agent that may not look into its own keepers and has no cgroups.
#[test]
fn nothing_is_left_either_when_the_agent_is_not_root() {
    use std::os::unix::process::CommandExt as _;
    if !rustix::process::geteuid().is_root() {
        // Then the test above was that.
        return;
    }
    const NOBODY: u32 = 65_534;
    let own = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::chown(own.path(), Some(NOBODY), Some(NOBODY)).expect("given away");
    // Wherever this test lies, it may be below a directory that is closed to others.
    let copy = own.path().join("lifetime");
    fs::copy(std::env::current_exe().expect("this test"), &copy).expect("copied");
    let said = Command::new(&copy)
        .args([
            "--exact",
            "nothing_of_a_killed_agents_jobs_is_left_after_recovery",
        ])
        .current_dir(own.path())
        .env("TMPDIR", own.path())
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    assert!(String::from_utf8_lossy(&said.stdout).contains("1 passed"));
}

#[tokio::test]
async fn run_as_user_changes_every_id_and_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root can run jobs as another user");
    }
    let mut bench = Bench::new(Backend::Host).await;
    bench.profile.run_as = lictor_trust::profiles::RunAs::User("nobody".parse().expect("a name"));
    let outcome = bench
        .sh("id -u; id -g; id -G; grep -E '^(Uid|Gid|CapEff|CapPrm)' /proc/self/status; echo x > own; stat -c %u own")
        .await;
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    assert_eq!(lines[..3], ["65534", "65534", "65534"], "{outcome:?}");
    assert_eq!(lines[3], "Uid:\t65534\t65534\t65534\t65534");
    assert_eq!(lines[4], "Gid:\t65534\t65534\t65534\t65534");
    assert_eq!(lines[5], "CapPrm:\t0000000000000000");
    assert_eq!(lines[6], "CapEff:\t0000000000000000");
    assert_eq!(lines[7], "65534", "the job's own directory is writable");
    assert!(bench.sh("cat /etc/shadow").await.stdout.is_empty());
    // The keeper that has run this is not the user's to signal or read.
    let keeper = bench
        .sh("cat /proc/$PPID/environ; kill -9 $PPID; echo done")
        .await;
    assert_eq!(keeper.stdout, "done\n");
    assert!(bench.run(&["true"]).await.succeeded());
}

#[tokio::test]
async fn run_as_user_gets_no_privileges_back() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return common::skip("only root can run jobs as another user");
    }
    let mut bench = Bench::new(Backend::Host).await;
    let promised = |bench: &Bench| bench.plan(&command(&["true"])).applied().capabilities.clone();
    let word = "no_new_privileges".to_owned();
    let as_the_agent = bench.sh("grep -E '^(NoNewPrivs|CapBnd)' /proc/self/status").await;
    assert!(
        as_the_agent.stdout.contains("NoNewPrivs:\t0"),
        "the host as it is"
    );
    assert!(!promised(&bench).contains(&word));

    // Becomes root for whomever it is started by.
    let place = tempfile::tempdir().expect("a directory");
    let id = place.path().join("id");
    fs::copy("/usr/bin/id", &id).expect("copied");
    for (path, mode) in [(place.path(), 0o755), (&id, 0o4755)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("mode");
    }
    let plain = Command::new(&id).arg("-u").uid(NOBODY).gid(NOBODY).output();
    assert_eq!(plain.expect("it runs").stdout, b"0\n", "it works without a job");

    bench.profile.run_as = lictor_trust::profiles::RunAs::User("nobody".parse().expect("a name"));
    let line = format!(
        "grep -E '^(NoNewPrivs|CapBnd|CapAmb)' /proc/self/status; {} -u",
        id.display()
    );
    let outcome = bench.sh(&line).await;
    let nothing = "0000000000000000";
    let expected = format!("CapBnd:\t{nothing}\nCapAmb:\t{nothing}\nNoNewPrivs:\t1\n{NOBODY}\n");
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
    assert!(promised(&bench).contains(&word));
}

#[tokio::test]
async fn job_that_has_removed_its_own_cgroup_is_ended_all_the_same() {
    let bench = Bench::new(Backend::Host).await;
    if !bench.capabilities.has(Capability::Cgroup) || !rustix::process::geteuid().is_root() {
        return common::skip("it takes root and a cgroup v2");
    }
    let mark = format!("66.{}", std::process::id());
    let program = "import os,signal\nsignal.signal(signal.SIGTERM,signal.SIG_IGN)\n\
        root,mount=[l.split(' ')[3:5] for l in open('/proc/self/mountinfo') if ' - cgroup2 ' in l][0]\n\
        own=mount+open('/proc/self/cgroup').read().split('0::')[1].split('\\n')[0][len(root.rstrip('/')):]\n\
        open(mount+'/cgroup.procs','w').write('0')\nos.rmdir(own)\nprint('gone',flush=True)\n\
        while True: signal.pause()";
    let mut exec = command(&["/usr/bin/python3", "-c", program, &mark]);
    exec.timeout_ms = Some(2_000);
    exec.grace_ms = Some(100);
    let outcome = bench.run_with(&exec, StdinSource::Null).await;
    assert_eq!(outcome.stdout, "gone\n", "{outcome:?}");
    assert!(outcome.ended.killed);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

#[tokio::test]
async fn stranger_who_writes_into_a_jobs_pipe_does_not_keep_it_running() {
    let bench = Bench::new(Backend::Host).await;
    let exec = command(&["/bin/sh", "-c", "echo $$; exec sleep 60"]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let mut bytes = bytes::BytesMut::new();
    out.read(&mut bytes, 64).await.expect("readable");
    let pid: u32 = std::str::from_utf8(&bytes)
        .expect("text")
        .trim()
        .parse()
        .expect("a pid");
    // This test itself is the stranger: no process of the job's tree, with the write end of its own.
    let path = format!("/proc/{pid}/fd/1");
    let mut pipe = fs::File::options().write(true).open(path).expect("the write end");
    let watched = pipe.try_clone().expect("a copy");
    let stranger = std::thread::spawn(move || while pipe.write_all(&[b'x'; 64 * 1024]).is_ok() {});
    kill(pid);
    let ended = running.wait().await;
    assert_eq!(ended.exit, Some(Exit::Signal(9)));
    let mut after = 0;
    while out.read(&mut bytes, 256 * 1024).await.expect("readable") > 0 {
        after += bytes.len();
        eventually("the stranger has written again", || {
            rustix::io::ioctl_fionread(&watched).is_ok_and(|n| n > 0)
        });
        bytes.clear();
        assert!(after < 64 << 20, "it goes on and on");
    }
    // Now it has nobody left to write to.
    drop(out);
    stranger.join().expect("ended");
    sandbox.destroy().await.expect("destroyed");
}
