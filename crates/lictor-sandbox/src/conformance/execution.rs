//! Execution is exact: what every backend must pass, whoever makes its sandboxes.

// The name of a case is what it holds, as a sentence.
#![allow(missing_docs, clippy::expect_used)]

use std::fs;
use std::io::{Seek as _, Write as _};
use std::time::Duration;

use bytes::BytesMut;
use lictor_proto::doc::{Exit, LimitHit};
use lictor_trust::profiles::Backend;

use super::bench::{Bench, command};
use super::case::{Case, cases};
use super::looks::{own_kib, processes_with};
use crate::backend::StartError;
use crate::running::{Cause, StdinSource, StopReason};

/// All of them.
pub const EXECUTION: &[Case] = cases![
    keeps_output_from_before_a_timeout,
    ends_sessions_and_double_forks_at_a_timeout,
    reports_success_at_once_when_a_background_child_holds_stdout,
    megabyte_of_stdin_reaches_cat_and_does_not_block_true,
    environment_is_exactly_what_was_declared,
    large_output_costs_no_memory,
    killed_child_reports_its_signal,
    exit_status_137_is_no_signal,
    stop_ends_the_tree,
    grace_lets_a_job_clean_up,
    destroy_leaves_nothing,
    cpu_time_is_measured,
    cpu_limit_is_told_by_its_name,
    peak_memory_is_measured,
    small_program_is_not_charged_with_the_agents_memory,
    no_descriptor_is_inherited,
    changed_program_does_not_start,
    script_runs_with_its_interpreter,
    handle_finds_the_job_again,
    suspended_job_stands_still_until_it_is_resumed,
    suspended_job_ends_at_its_time_limit_and_can_clean_up,
    suspended_job_is_killed_by_destroy,
    starts_once,
    missing_program_is_not_found,
];

pub async fn keeps_output_from_before_a_timeout(bench: &Bench) {
    let mut exec = command(&["/bin/sh", "-c", "echo before; echo err >&2; exec sleep 60"]);
    exec.timeout_ms = Some(1_000);
    exec.grace_ms = Some(1_000);
    let outcome = bench.run_with(&exec, StdinSource::Null).await;
    assert_eq!(outcome.ended.cause, Cause::TimedOut);
    assert_eq!(outcome.ended.limits_hit, [LimitHit::WallTime]);
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("before\n", "err\n")
    );
}

pub async fn ends_sessions_and_double_forks_at_a_timeout(bench: &Bench) {
    let line = "setsid sleep 60.4711 & setsid -f sleep 60.4711; (setsid sleep 60.4711 &) & sleep 60.4711";
    let mark = format!("60.{}", std::process::id());
    let mut exec = command(&["sh", "-c", &line.replace("60.4711", &mark)]);
    exec.timeout_ms = Some(2_000);
    exec.grace_ms = Some(1_000);
    let outcome = bench.run_with(&exec, StdinSource::Null).await;
    assert_eq!(outcome.ended.cause, Cause::TimedOut);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert!(outcome.took < Duration::from_millis(4_500), "{:?}", outcome.took);
}

pub async fn reports_success_at_once_when_a_background_child_holds_stdout(bench: &Bench) {
    let mark = format!("61.{}", std::process::id());
    let line = format!("sleep {mark} & (setsid sleep {mark} &) ; echo done");
    let outcome = bench.sh(&line).await;
    assert_eq!(outcome.ended.exit, Some(Exit::Status(0)));
    assert_eq!(outcome.ended.cause, Cause::Exited);
    assert_eq!(outcome.stdout, "done\n");
    assert!(outcome.ended.leftovers >= 1, "{:?}", outcome.ended);
    assert!(outcome.took < Duration::from_secs(3), "{:?}", outcome.took);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

pub async fn megabyte_of_stdin_reaches_cat_and_does_not_block_true(bench: &Bench) {
    let content = vec![b'x'; 1_000_000];
    let file = || {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&content).expect("written");
        file.rewind().expect("rewound");
        StdinSource::File(file)
    };
    let cat = bench.run_with(&command(&["cat"]), file()).await;
    assert_eq!(
        (cat.ended.exit, cat.stdout.len()),
        (Some(Exit::Status(0)), content.len())
    );
    let no_reader = bench.run_with(&command(&["true"]), file()).await;
    assert_eq!(no_reader.ended.exit, Some(Exit::Status(0)));
}

pub async fn environment_is_exactly_what_was_declared(bench: &Bench) {
    let mut exec = command(&["env"]);
    exec.env.insert("LICTOR_TEST".to_owned(), "a b=c".to_owned());
    let outcome = bench.run_with(&exec, StdinSource::Null).await;
    assert_eq!(outcome.stdout, "LICTOR_TEST=a b=c\n");
    assert_eq!(bench.run(&["env"]).await.stdout, "");
}

pub async fn large_output_costs_no_memory(bench: &Bench) {
    const SIZE: usize = 400_000_000;
    let before = own_kib("VmRSS");
    let exec = command(&["head", "-c", &SIZE.to_string(), "/dev/zero"]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let count = async {
        let (mut bytes, mut total) = (BytesMut::new(), 0);
        while out.read(&mut bytes, 256 * 1024).await.expect("readable") > 0 {
            total += bytes.len();
            bytes.clear();
        }
        total
    };
    let (ended, total) = tokio::join!(running.wait(), count);
    sandbox.destroy().await.expect("destroyed");
    assert_eq!((ended.exit, total), (Some(Exit::Status(0)), SIZE));
    let grown = own_kib("VmRSS").saturating_sub(before);
    assert!(grown < 16 * 1024, "grew by {grown} KiB");
}

pub async fn killed_child_reports_its_signal(bench: &Bench) {
    assert_eq!(bench.sh("kill -9 $$").await.ended.exit, Some(Exit::Signal(9)));
    assert_eq!(bench.sh("kill -15 $$").await.ended.exit, Some(Exit::Signal(15)));
}

pub async fn exit_status_137_is_no_signal(bench: &Bench) {
    assert_eq!(bench.sh("exit 137").await.ended.exit, Some(Exit::Status(137)));
}

pub async fn stop_ends_the_tree(bench: &Bench) {
    let mark = format!("62.{}", std::process::id());
    let line = format!("trap '' TERM; (setsid sleep {mark} &); echo up; while :; do sleep {mark}; done");
    let mut exec = command(&["sh", "-c", &line]);
    exec.grace_ms = Some(300);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let switch = running.stop_switch();
    let stop = async {
        let mut bytes = BytesMut::new();
        out.read(&mut bytes, 64).await.expect("readable");
        // The client is gone; only the switch is left.
        drop(out);
        switch.stop(StopReason::Canceled);
        switch.stop(StopReason::Shutdown);
        bytes
    };
    let (ended, first) = tokio::join!(running.wait(), stop);
    assert_eq!(&first[..], b"up\n");
    assert_eq!(ended.cause, Cause::Stopped(StopReason::Canceled));
    assert!(ended.killed);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    sandbox.destroy().await.expect("destroyed");
}

pub async fn grace_lets_a_job_clean_up(bench: &Bench) {
    let line = "trap 'echo bye; exit 3' TERM; sleep 60 & echo up; wait";
    let mut exec = command(&["sh", "-c", line]);
    exec.timeout_ms = Some(1_000);
    exec.grace_ms = Some(20_000);
    let outcome = bench.run_with(&exec, StdinSource::Null).await;
    assert_eq!(outcome.stdout, "up\nbye\n");
    assert_eq!(
        (outcome.ended.exit, outcome.ended.killed),
        (Some(Exit::Status(3)), false)
    );
    assert!(outcome.took < Duration::from_secs(10), "{:?}", outcome.took);
}

pub async fn destroy_leaves_nothing(bench: &Bench) {
    let mark = format!("63.{}", std::process::id());
    let line = format!("mkdir -p a/b; echo x > a/b/c; chmod 000 a/b; (setsid sleep {mark} &); sleep {mark}");
    let exec = command(&["sh", "-c", &line]);
    let mounts = || {
        fs::read_to_string("/proc/self/mountinfo")
            .expect("mounts")
            .lines()
            .count()
    };
    let before = mounts();
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let handle = running.handle().clone();
    assert!(handle.dir.is_dir());
    assert!(handle.cgroup.as_ref().is_none_or(|c| c.is_dir()));
    sandbox.destroy().await.expect("destroyed while it runs");
    assert!(!handle.dir.exists());
    assert!(handle.cgroup.as_ref().is_none_or(|c| !c.exists()));
    assert!(
        handle
            .roots
            .iter()
            .all(|p| !fs::exists(format!("/proc/{}", p.pid)).unwrap_or(false)
                || fs::read_to_string(format!("/proc/{}/stat", p.pid)).is_ok_and(|s| s.contains(") Z")))
    );
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert_eq!(mounts(), before);
    sandbox.destroy().await.expect("twice is once");
}

pub async fn cpu_time_is_measured(bench: &Bench) {
    let program = "import resource as r\nwhile r.getrusage(r.RUSAGE_SELF).ru_utime + r.getrusage(r.RUSAGE_SELF).ru_stime < 1.0: pass";
    let outcome = bench.python(program).await;
    let cpu = outcome.ended.usage.cpu_user_us + outcome.ended.usage.cpu_system_us;
    // A kernel of its own counts in its own ticks, whoever had the processor, and takes time of the job's.
    let own_kernel = bench.backend.name() == Backend::Gvisor;
    let (least, most) = if own_kernel {
        (400_000, 4_000_000)
    } else {
        (900_000, 1_200_000)
    };
    assert!((least..most).contains(&cpu), "{cpu} us");
}

pub async fn cpu_limit_is_told_by_its_name(bench: &Bench) {
    let mut bench = bench.again().await;
    bench.profile.limits.cpu_seconds = Some(1);
    let outcome = bench.python("while True: pass").await;
    assert_eq!(outcome.ended.exit, Some(Exit::Signal(24)), "SIGXCPU");
    assert_eq!(outcome.ended.limits_hit, [LimitHit::Cpu]);
    let deaf = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass";
    let outcome = bench.python(deaf).await;
    assert_eq!(outcome.ended.exit, Some(Exit::Signal(9)), "a second later");
}

pub async fn peak_memory_is_measured(bench: &Bench) {
    let outcome = bench
        .python("b = bytearray(200_000_000)\nfor i in range(0, len(b), 4096): b[i] = 1")
        .await;
    let peak = outcome.ended.usage.max_rss_bytes;
    assert!((190_000_000..240_000_000).contains(&peak), "{peak} bytes");
}

pub async fn small_program_is_not_charged_with_the_agents_memory(bench: &Bench) {
    let ballast = vec![1_u8; 100_000_000];
    let outcome = bench.run(&["true"]).await;
    assert!(ballast.iter().step_by(4096).all(|b| *b == 1));
    let peak = outcome.ended.usage.max_rss_bytes;
    // A kernel of its own is a process of the job's.
    let own_kernel = bench.backend.name() == Backend::Gvisor;
    let most = if own_kernel { 64_000_000 } else { 8_000_000 };
    assert!((200_000..most).contains(&peak), "{peak} bytes");
}

pub async fn no_descriptor_is_inherited(bench: &Bench) {
    let leaked = tempfile::tempfile().expect("a file");
    // Deliberately without close-on-exec.
    rustix_clear_cloexec(&leaked);
    let outcome = bench
        .python("import os; print(*sorted(os.listdir('/proc/self/fd')))")
        .await;
    // 3 is the directory that is being read.
    assert_eq!(outcome.stdout, "0 1 2 3\n");
}

fn rustix_clear_cloexec(file: &fs::File) {
    rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty()).expect("flags are set");
}

pub async fn changed_program_does_not_start(bench: &Bench) {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    let program = place.path().join("program");
    fs::copy("/bin/true", &program).expect("copied");
    let mut bench = bench.again().await;
    if bench.hides() {
        bench
            .profile
            .read_only
            .push(place.path().to_str().expect("UTF-8").to_owned());
    }
    let exec = command(&[program.to_str().expect("UTF-8")]);
    let plan = bench.plan(&exec);
    fs::copy("/bin/false", place.path().join("other")).expect("copied");
    fs::rename(place.path().join("other"), &program).expect("swapped");
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    let error = sandbox.exec(StdinSource::Null.into()).await.expect_err("refused");
    assert!(matches!(error, StartError::ProgramChanged { .. }), "{error:?}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn script_runs_with_its_interpreter(bench: &Bench) {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    let script = place.path().join("script");
    fs::write(&script, "#!/bin/sh\necho \"$1\"\n").expect("written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("mode");
    let mut bench = bench.again().await;
    if bench.hides() {
        bench
            .profile
            .read_only
            .push(place.path().to_str().expect("UTF-8").to_owned());
    }
    let exec = command(&[script.to_str().expect("UTF-8"), "hello"]);
    let outcome = bench.run_with(&exec, StdinSource::Null).await;
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("hello\n", "")
    );
}

pub async fn handle_finds_the_job_again(bench: &Bench) {
    let mark = format!("64.{}", std::process::id());
    let line = format!("(setsid sleep {mark} &); sleep {mark}");
    let exec = command(&["sh", "-c", &line]);
    let (_sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let text = serde_json::to_string(running.handle()).expect("JSON");
    let handle = serde_json::from_str(&text).expect("a handle");
    let mut recovered = bench.backend.recover(handle).await.expect("found");
    recovered.kill().await.expect("killed");
    recovered.wait().await;
    recovered.destroy().await.expect("destroyed");
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert!(!running.handle().dir.exists());
    let gone = bench.backend.recover(running.handle().clone()).await;
    assert!(gone.is_err());
}

/// A job of two processes, the second in a session of its own, that count as fast as they can.
const COUNTERS: &str = "import os\n\
    n = 0\n\
    if os.fork() == 0: os.setsid()\n\
    while True:\n\
    \x20   n += 1\n\
    \x20   if n % 100000 == 0: os.write(1, b'.')\n";

pub async fn suspended_job_stands_still_until_it_is_resumed(bench: &Bench) {
    let exec = command(&["/usr/bin/python3", "-c", COUNTERS]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let mut bytes = BytesMut::new();
    out.read(&mut bytes, 64 * 1024).await.expect("both count");
    let switch = running.stop_switch();
    let (ended, ()) = tokio::join!(running.wait(), async {
        let suspension = sandbox.suspension().expect("every backend here can");
        suspension.suspend().await.expect("suspended");
        suspension.suspend().await.expect("twice is once");
        let used = |usage: lictor_proto::doc::Usage| usage.cpu_user_us + usage.cpu_system_us;
        let before = used(sandbox.usage().await.expect("it lives"));
        // Somebody else gets the processors meanwhile.
        assert!(
            bench
                .again()
                .await
                .python("sum(range(3000000))")
                .await
                .succeeded()
        );
        let after = used(sandbox.usage().await.expect("it lives"));
        // What it has used of a moment in which it was stopped may be counted a little later.
        assert!(after - before < 2_000, "it used processor time while it was held");
        suspension.resume().await.expect("resumed");
        // What was written before ends some time, and then there is only what is written now.
        while used(sandbox.usage().await.expect("it lives")) <= after {
            assert!(out.read(&mut bytes, 64 * 1024).await.expect("it goes on") > 0);
        }
        suspension.resume().await.expect("nothing to do");
        switch.stop(StopReason::Canceled);
        while out.read(&mut bytes, 64 * 1024).await.expect("readable") > 0 {}
    });
    assert_eq!(ended.cause, Cause::Stopped(StopReason::Canceled));
    let gone = sandbox.suspension().expect("still there").suspend().await;
    assert!(gone.is_err(), "nothing runs");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn suspended_job_ends_at_its_time_limit_and_can_clean_up(bench: &Bench) {
    let line = "trap 'echo bye; exit 3' TERM; echo up; while :; do :; done";
    let mut exec = command(&["sh", "-c", line]);
    exec.timeout_ms = Some(1_500);
    exec.grace_ms = Some(20_000);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let (ended, said) = tokio::join!(running.wait(), async {
        let mut bytes = BytesMut::new();
        out.read(&mut bytes, 64).await.expect("readable");
        let suspension = sandbox.suspension().expect("every backend here can");
        suspension.suspend().await.expect("suspended");
        while out.read(&mut bytes, 64).await.expect("readable") > 0 {}
        bytes
    });
    assert_eq!(&said[..], b"up\nbye\n");
    assert_eq!(
        (ended.cause, ended.exit),
        (Cause::TimedOut, Some(Exit::Status(3)))
    );
    assert!(!ended.killed, "within the grace");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn suspended_job_is_killed_by_destroy(bench: &Bench) {
    let mark = format!("66.{}", std::process::id());
    let line = format!("echo up; (setsid sleep {mark} &); sleep {mark}");
    let exec = command(&["sh", "-c", &line]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    out.read(&mut BytesMut::new(), 64).await.expect("readable");
    let suspension = sandbox.suspension().expect("every backend here can");
    suspension.suspend().await.expect("suspended");
    sandbox.destroy().await.expect("destroyed");
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    assert!(!running.handle().dir.exists());
}

pub async fn starts_once(bench: &Bench) {
    let exec = command(&["true"]);
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    running.wait().await;
    let again = sandbox.exec(StdinSource::Null.into()).await.expect_err("refused");
    assert!(matches!(again, StartError::AlreadyStarted));
    sandbox.destroy().await.expect("destroyed");
}

pub async fn missing_program_is_not_found(bench: &Bench) {
    let name = "p".parse().expect("a name");
    for program in ["no-such-program", "/no/such", "./relative", "/etc", "/etc/passwd"] {
        let refusal = bench
            .host
            .resolve(&name, bench.profile(), &command(&[program]), &bench.job_dir());
        let code = refusal.expect_err(program).code;
        assert_eq!(code, lictor_proto::Code::ProgramNotFound, "{program}");
    }
}
