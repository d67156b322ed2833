//! Jobs with a terminal: what programs expect of one holds in every backend that has them.

// The name of a case is what it holds, as a sentence.
#![allow(missing_docs, clippy::expect_used)]

use std::io;

use bytes::BytesMut;
use lictor_proto::doc::{Exec, Exit};

use super::bench::{Bench, command};
use super::case::{Case, cases};
use super::looks::{processes, processes_with};
use crate::backend::Sandbox;
use crate::running::{Ended, OutputReader, Running, StopReason};
use crate::terminal::{Stdio, Terminal, TerminalSize};

/// All of them.
pub const TERMINAL: &[Case] = cases![
    terminal_is_the_sessions_and_the_jobs_alone,
    keys_are_read_as_lines_and_control_d_ends_them,
    shell_has_job_control,
    python_is_interactive,
    pager_shows_a_file_and_takes_keys,
    control_c_interrupts_the_foreground,
    new_size_is_told,
    terminal_can_be_opened_again_and_no_other,
    terminal_is_its_users_alone,
    interactive_shell_that_is_stopped_ends_in_order,
    child_that_ignores_the_hang_up_is_ended_with_the_leader,
    pasted_text_waits_for_whoever_reads_late,
    everything_printed_before_the_end_is_read,
    output_goes_on_when_a_job_has_closed_its_own_for_a_moment,
    keys_for_a_job_that_has_ended_are_an_error,
    dropping_the_terminal_hangs_up,
    destroying_a_job_ends_its_terminal,
];

/// What terminals begin with.
pub const SIZE: TerminalSize = TerminalSize {
    rows: 40,
    columns: 120,
};

/// A job at its terminal.
pub struct Seat {
    /// Its sandbox.
    pub sandbox: Box<dyn Sandbox>,
    /// Until somebody waits for its end.
    pub running: Option<Running>,
    /// Its keys.
    pub terminal: Option<Terminal>,
    /// What it prints.
    pub screen: Option<OutputReader>,
    /// All that was read of that.
    pub shown: String,
}

impl Seat {
    /// Starts a job there.
    pub async fn take(bench: &Bench, exec: &Exec) -> Self {
        let mut sandbox = bench.backend.create(bench.plan(exec)).await.expect("created");
        let mut running = sandbox.exec(Stdio::Terminal(SIZE)).await.expect("starts");
        assert!(running.take_stderr().is_none(), "there is one stream");
        Self {
            terminal: running.take_terminal(),
            screen: running.take_stdout(),
            running: Some(running),
            sandbox,
            shown: String::new(),
        }
    }

    /// Starts one with these words.
    pub async fn of(bench: &Bench, argv: &[&str]) -> Self {
        let mut exec = command(argv);
        exec.env.insert("TERM".to_owned(), "vt100".to_owned());
        Self::take(bench, &exec).await
    }

    /// Types.
    pub async fn keys(&self, keys: &str) {
        let terminal = self.terminal.as_ref().expect("a terminal");
        let mut left = keys.as_bytes();
        while !left.is_empty() {
            let written = terminal.write(left).await.expect("it takes keys");
            left = &left[written..];
        }
    }

    /// Reads on; whether it was the end.
    pub async fn look(&mut self) -> bool {
        let mut bytes = BytesMut::new();
        let screen = self.screen.as_mut().expect("a screen");
        let end = screen.read(&mut bytes, 4096).await.expect("readable") == 0;
        self.shown.push_str(&String::from_utf8_lossy(&bytes));
        end
    }

    /// Reads on until it has printed that.
    pub async fn until(&mut self, text: &str) {
        while !self.shown.contains(text) {
            assert!(!self.look().await, "it ended without {text:?}: {:?}", self.shown);
        }
    }

    /// Its end, with all that it has printed.
    pub async fn end(mut self) -> (Ended, String) {
        let running = self.running.take().expect("it runs");
        let rest = async { while !self.look().await {} };
        let (ended, ()) = tokio::join!(running.wait(), rest);
        self.sandbox.destroy().await.expect("destroyed");
        (ended, self.shown)
    }
}

pub async fn terminal_is_the_sessions_and_the_jobs_alone(bench: &Bench) {
    let program = "import os,sys\n\
        print([os.isatty(n) for n in (0,1,2)], tuple(os.get_terminal_size()))\n\
        print(os.getsid(0)==os.getpid(), os.tcgetpgrp(0)==os.getpgrp())\n\
        open('/dev/tty','w').write('by its name\\n')\n\
        print('aside', file=sys.stderr)\n\
        print(sorted(map(int, os.listdir('/proc/self/fd')))[:-1])";
    let (ended, shown) = Seat::of(bench, &["/usr/bin/python3", "-c", program])
        .await
        .end()
        .await;
    assert_eq!(ended.exit, Some(Exit::Status(0)), "{shown}");
    assert_eq!(
        shown,
        "[True, True, True] (120, 40)\r\nTrue True\r\nby its name\r\naside\r\n[0, 1, 2]\r\n"
    );
}

pub async fn keys_are_read_as_lines_and_control_d_ends_them(bench: &Bench) {
    let mut seat = Seat::of(bench, &["cat"]).await;
    seat.keys("ö\u{7f}heard\n").await;
    seat.until("heard\r\nheard\r\n").await;
    seat.keys("\u{4}").await;
    assert_eq!(seat.end().await.0.exit, Some(Exit::Status(0)));
}

pub async fn shell_has_job_control(bench: &Bench) {
    let mut seat = Seat::of(bench, &["/bin/sh", "-i"]).await;
    seat.keys("echo $((6*7)); stty size; set -m; true & wait; exit 3\n")
        .await;
    seat.until("42\r\n40 120\r\n").await;
    let (ended, shown) = seat.end().await;
    assert_eq!(ended.exit, Some(Exit::Status(3)), "{shown}");
    assert!(!shown.contains("job control"), "{shown}");
}

pub async fn python_is_interactive(bench: &Bench) {
    let mut seat = Seat::of(bench, &["/usr/bin/python3", "-q"]).await;
    seat.until(">>> ").await;
    seat.keys("print('4'+'2')\n").await;
    seat.until("\n42\r\n").await;
    seat.keys("exit(5)\n").await;
    assert_eq!(seat.end().await.0.exit, Some(Exit::Status(5)));
}

pub async fn pager_shows_a_file_and_takes_keys(bench: &Bench) {
    let mut seat = Seat::of(bench, &["less", "/etc/passwd"]).await;
    seat.until("nobody:x:").await;
    seat.keys("q").await;
    assert_eq!(seat.end().await.0.exit, Some(Exit::Status(0)));
}

pub async fn control_c_interrupts_the_foreground(bench: &Bench) {
    let program = "import signal\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n\
        print('up', flush=True)\n\
        signal.sigwait([signal.SIGINT])\n\
        print('stopped')";
    let mut seat = Seat::of(bench, &["/usr/bin/python3", "-c", program]).await;
    seat.until("up\r\n").await;
    seat.keys("\u{3}").await;
    let (ended, shown) = seat.end().await;
    assert_eq!(ended.exit, Some(Exit::Status(0)));
    assert!(shown.ends_with("stopped\r\n"), "{shown}");
}

pub async fn new_size_is_told(bench: &Bench) {
    let program = "import os,signal\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])\n\
        print('up', flush=True)\n\
        signal.sigwait([signal.SIGWINCH])\n\
        print(tuple(os.get_terminal_size()))";
    let mut seat = Seat::of(bench, &["/usr/bin/python3", "-c", program]).await;
    seat.until("up\r\n").await;
    let size = TerminalSize {
        rows: 50,
        columns: 132,
    };
    seat.terminal
        .as_ref()
        .expect("a terminal")
        .resize(size)
        .expect("resized");
    seat.until("(132, 50)").await;
    assert_eq!(seat.end().await.0.exit, Some(Exit::Status(0)));
}

pub async fn terminal_can_be_opened_again_and_no_other(bench: &Bench) {
    let line = "echo a >/dev/stderr; echo b >/proc/self/fd/1; echo c >/dev/tty; read x </dev/stdin; echo $x";
    let mut seat = Seat::of(bench, &["/bin/sh", "-c", line]).await;
    seat.until("a\r\nb\r\nc\r\n").await;
    seat.keys("d\n").await;
    let (ended, shown) = seat.end().await;
    assert_eq!(ended.exit, Some(Exit::Status(0)), "{shown}");
    assert!(shown.ends_with("d\r\n"), "{shown}");
    if !bench.hides() {
        return;
    }
    let program = "import os\ntry: os.open(os.sys.argv[1], os.O_RDWR|os.O_NOCTTY); print('opened')\nexcept OSError: print('held')";
    let first = Seat::of(bench, &["/bin/sh", "-c", "echo up; exec sleep 60"]).await;
    let mut first = first;
    first.until("up\r\n").await;
    let handle = first.running.as_ref().expect("it runs").handle().clone();
    let pid = handle.roots.first().expect("a keeper").pid;
    let job = processes().into_iter().find(|p| p.3 == pid);
    let name = std::fs::read_link(format!("/proc/{}/fd/0", job.expect("the job").0)).expect("its terminal");
    let argv = ["/usr/bin/python3", "-c", program, name.to_str().expect("UTF-8")];
    let shown = Seat::of(bench, &argv).await.end().await.1;
    assert_eq!(shown, "held\r\n", "{}", name.display());
    first.sandbox.destroy().await.expect("destroyed");
}

pub async fn terminal_is_its_users_alone(bench: &Bench) {
    use std::os::unix::fs::MetadataExt as _;
    let mut seat = Seat::of(bench, &["/bin/sh", "-c", "echo up; exec sleep 60"]).await;
    seat.until("up\r\n").await;
    let keeper = seat.running.as_ref().expect("it runs").handle().roots[0].pid;
    let job = processes()
        .into_iter()
        .find(|p| p.3 == keeper)
        .expect("the job")
        .0;
    let meta = std::fs::metadata(format!("/proc/{job}/fd/0")).expect("its terminal");
    assert_eq!(meta.mode() & 0o7777, 0o600);
    let status = std::fs::metadata(format!("/proc/{job}/stat")).expect("the job");
    assert_eq!(meta.uid(), status.uid());
    seat.sandbox.destroy().await.expect("destroyed");
}

pub async fn interactive_shell_that_is_stopped_ends_in_order(bench: &Bench) {
    let mut exec = command(&["/bin/sh", "-i"]);
    exec.grace_ms = Some(60_000);
    let mut seat = Seat::take(bench, &exec).await;
    seat.keys("echo u''p\n").await;
    seat.until("up\r\n").await;
    let switch = seat.running.as_ref().expect("it runs").stop_switch();
    switch.stop(StopReason::Canceled);
    let (ended, shown) = seat.end().await;
    assert!(!ended.killed, "{ended:?} {shown}");
}

pub async fn child_that_ignores_the_hang_up_is_ended_with_the_leader(bench: &Bench) {
    let mark = format!("74.{}", std::process::id());
    let line = format!("(trap '' HUP; exec setsid sleep {mark}) & echo up");
    let (ended, shown) = Seat::of(bench, &["/bin/sh", "-c", &line]).await.end().await;
    assert_eq!((ended.exit, shown.as_str()), (Some(Exit::Status(0)), "up\r\n"));
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

pub async fn pasted_text_waits_for_whoever_reads_late(bench: &Bench) {
    let line = "stty raw -echo; echo up; read x; head -c 100000 | wc -c";
    let mut seat = Seat::of(bench, &["/bin/sh", "-c", line]).await;
    seat.until("up").await;
    seat.keys("\n").await;
    seat.keys(&"x".repeat(100_000)).await;
    seat.until("100000").await;
    assert_eq!(seat.end().await.0.exit, Some(Exit::Status(0)));
}

pub async fn everything_printed_before_the_end_is_read(bench: &Bench) {
    let program = "import sys\nsys.stdout.write('x'*78+'\\n'); sys.stdout.flush()\n\
        for n in range(20000): sys.stdout.write('%078d\\n' % n)";
    let seat = Seat::of(bench, &["/usr/bin/python3", "-c", program]).await;
    let (ended, shown) = seat.end().await;
    assert_eq!((ended.exit, shown.len()), (Some(Exit::Status(0)), 20_001 * 80));
    assert!(shown.ends_with("19999\r\n"));
}

pub async fn output_goes_on_when_a_job_has_closed_its_own_for_a_moment(bench: &Bench) {
    let line = "echo up; exec </dev/null >/dev/null 2>&1; sleep 0.2; echo later >/dev/tty";
    let seat = Seat::of(bench, &["/bin/sh", "-c", line]).await;
    let (ended, shown) = seat.end().await;
    assert_eq!(ended.exit, Some(Exit::Status(0)));
    assert_eq!(shown, "up\r\nlater\r\n");
}

pub async fn keys_for_a_job_that_has_ended_are_an_error(bench: &Bench) {
    let mut seat = Seat::of(bench, &["true"]).await;
    let terminal = seat.terminal.take().expect("a terminal");
    seat.end().await;
    let error = terminal.write(b"x").await.expect_err("nobody reads it");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

pub async fn dropping_the_terminal_hangs_up(bench: &Bench) {
    let mut seat = Seat::of(bench, &["/bin/sh", "-c", "echo up; exec sleep 60"]).await;
    seat.until("up\r\n").await;
    drop((seat.terminal.take(), seat.screen.take()));
    let ended = seat.running.take().expect("it runs").wait().await;
    assert_eq!(ended.exit, Some(Exit::Signal(1)), "SIGHUP");
    seat.sandbox.destroy().await.expect("destroyed");
}

pub async fn destroying_a_job_ends_its_terminal(bench: &Bench) {
    let mark = format!("72.{}", std::process::id());
    let line = format!("trap '' HUP; (setsid sleep {mark} &); echo up; sleep {mark}");
    let mut seat = Seat::of(bench, &["/bin/sh", "-c", &line]).await;
    seat.until("up\r\n").await;
    seat.sandbox.destroy().await.expect("destroyed while it runs");
    drop(seat.running.take());
    while !seat.look().await {}
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}
