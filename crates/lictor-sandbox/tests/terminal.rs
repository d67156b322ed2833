//! Jobs with a terminal: what programs expect of one holds in every backend.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Bench, OnThisMachine as _, command, for_every_backend, processes_with};
use lictor_proto::doc::Exit;
use lictor_sandbox::Stdio;
use lictor_sandbox::conformance::terminal::*;
use lictor_trust::profiles::Backend;

for_every_backend![
    ; but for gvisor
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

/// Started by the test below as a process of its own: an agent with a job at a terminal, to be killed.
#[tokio::test]
async fn agent_to_be_killed() {
    let Ok(place) = std::env::var("LICTOR_TEST_AGENT") else {
        return;
    };
    let mut bench = Bench::new(Backend::Host).await;
    bench.root.disable_cleanup(true);
    let mark = std::env::var("LICTOR_TEST_MARK").expect("a mark");
    let line = format!("trap '' HUP; (setsid sleep {mark} &); echo up; while :; do sleep {mark}; done");
    let mut seat = Seat::of(&bench, &["/bin/sh", "-c", &line]).await;
    seat.until("up\r\n").await;
    let running = seat.running.take().expect("it runs");
    let handle = serde_json::to_string(running.handle()).expect("JSON");
    std::fs::write(format!("{place}/new"), handle).expect("written");
    std::fs::rename(format!("{place}/new"), format!("{place}/handle")).expect("renamed");
    running.wait().await;
}

#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn job_at_a_terminal_is_found_and_ended_when_its_agent_was_killed() {
    let place = tempfile::tempdir().expect("a directory");
    let mark = format!("75.{}", std::process::id());
    let mut agent = std::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "agent_to_be_killed"])
        .env("LICTOR_TEST_AGENT", place.path())
        .env("LICTOR_TEST_MARK", &mark)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("an agent");
    let written = place.path().join("handle");
    common::eventually("it runs", || written.exists());
    agent.kill().expect("killed");
    agent.wait().expect("gone");
    let text = std::fs::read_to_string(written).expect("a handle");
    let handle: lictor_sandbox::Handle = serde_json::from_str(&text).expect("a handle");
    assert!(!processes_with(&mark).is_empty(), "it ignores the hang-up");
    let bench = Bench::new(Backend::Host).await;
    let recovered = bench.backend.recover(handle.clone()).await.expect("found");
    recovered.destroy().await.expect("destroyed");
    assert_eq!(processes_with(&mark), Vec::<String>::new());
    std::fs::remove_dir_all(handle.dir.parent().expect("a root")).expect("removed");
}

#[tokio::test]
async fn sandboxed_jobs_cannot_load_line_disciplines() {
    // N_NULL, which takes whatever is printed afterwards.
    let program = "import fcntl,struct\ntry: fcntl.ioctl(0,0x5423,struct.pack('i',27)); n=40\nexcept OSError as e: n=e.errno\nraise SystemExit(n)";
    for (backend, status) in [
        (Backend::Host, 40),
        (Backend::Landlock, 1),
        (Backend::Bubblewrap, 1),
    ] {
        let Some(bench) = Bench::on(backend).await else {
            continue;
        };
        let seat = Seat::of(&bench, &["/usr/bin/python3", "-c", program]).await;
        let (ended, shown) = seat.end().await;
        assert_eq!(ended.exit, Some(Exit::Status(status)), "{backend:?} {shown}");
    }
}

/// A kernel of its own has none that stops a reader in the background: see decision 14.
#[tokio::test]
async fn gvisor_refuses_a_terminal_and_says_which_backends_have_one() {
    let Some(bench) = Bench::on(Backend::Gvisor).await else {
        return;
    };
    let mut sandbox = bench
        .backend
        .create(bench.plan(&command(&["true"])))
        .await
        .expect("created");
    let refused = sandbox.exec(Stdio::Terminal(SIZE)).await.expect_err("refused");
    let said = refused.refusal().message;
    assert!(
        said.contains("gvisor has none; say backend = \"container\""),
        "{said}"
    );
    sandbox.destroy().await.expect("destroyed");
    assert!(!bench.capabilities.has(lictor_sandbox::Capability::Terminal));
    assert!(bench.run(&["true"]).await.succeeded(), "without one it starts");
}

#[test]
fn every_case_of_the_list_is_a_test_here() {
    common::is_a_test_of_each(TERMINAL, include_str!("terminal.rs"));
}
