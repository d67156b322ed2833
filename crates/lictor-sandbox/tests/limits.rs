//! Limits over a whole tree: each abuse first shown to work without its limit, then ended or held by it and told,
//! while the agent and a neighbour go on.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "limits/disk.rs"]
mod disk;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use common::OnThisMachine;
use common::{Bench, command, processes_with, skip};
use disk::bytes_per_second_from_and_to_a_disk_are_limited;
use lictor_proto::doc::{Exit, LimitHit};
use lictor_sandbox::{Capabilities, Capability, StdinSource, can_hold};
use lictor_trust::profiles::{Backend, Limits};

macro_rules! for_every_backend {
    ($($case:ident),* $(,)?) => {
        mod host {
            $(#[tokio::test]
            async fn $case() {
                use super::OnThisMachine as _;
                if let Some(bench) = super::Bench::on(super::Backend::Host).await {
                    super::$case(bench).await;
                }
            })*
        }
        mod landlock {
            $(#[tokio::test]
            async fn $case() {
                use super::OnThisMachine as _;
                if let Some(bench) = super::Bench::on(super::Backend::Landlock).await {
                    super::$case(bench).await;
                }
            })*
        }
        mod container {
            $(#[tokio::test]
            async fn $case() {
                use super::OnThisMachine as _;
                if let Some(bench) = super::Bench::on(super::Backend::Container).await {
                    super::$case(bench).await;
                }
            })*
        }
        mod bubblewrap {
            $(#[tokio::test]
            async fn $case() {
                use super::OnThisMachine as _;
                if let Some(bench) = super::Bench::on(super::Backend::Bubblewrap).await {
                    super::$case(bench).await;
                }
            })*
        }
    };
}

/// Those that hold a limit which the backend with a kernel of its own has. What that kernel's processes are in is not seen
/// from inside, and how many the job's are is not seen from outside.
macro_rules! for_gvisor {
    ($($case:ident),* $(,)?) => {
        mod gvisor {
            $(#[tokio::test]
            async fn $case() {
                use super::OnThisMachine as _;
                if let Some(bench) = super::Bench::on(super::Backend::Gvisor).await {
                    super::$case(bench).await;
                }
            })*
        }
    };
}

for_gvisor![
    memory_of_all_processes_together_is_limited,
    whole_tree_ends_when_memory_is_out,
    memory_hog_leaves_its_neighbour_alone,
    processors_of_the_whole_tree_are_limited,
    descriptor_hog_is_stopped_by_its_own_limit,
    output_flood_leaves_its_neighbour_alone,
    cgroups_of_every_kind_are_removed,
    job_without_limits_has_no_cgroup_of_version_1,
    a_kernel_of_its_own_counts_processes_threads_and_zombies,
];

for_every_backend![
    memory_of_all_processes_together_is_limited,
    whole_tree_ends_when_memory_is_out,
    memory_hog_leaves_its_neighbour_alone,
    fork_bomb_is_held_and_leaves_its_neighbour_alone,
    processors_of_the_whole_tree_are_limited,
    bytes_per_second_from_and_to_a_disk_are_limited,
    descriptor_hog_is_stopped_by_its_own_limit,
    output_flood_leaves_its_neighbour_alone,
    no_process_is_ever_outside_its_cgroups,
    cgroups_of_every_kind_are_removed,
    job_without_limits_has_no_cgroup_of_version_1,
];

const MIB: u64 = 1 << 20;

/// Whether this host holds it; a host that does not, refuses the profile, which `plan` tests.
fn has(bench: &Bench, capability: Capability) -> bool {
    let has = bench.capabilities.has(capability);
    if !has {
        skip(&format!("no {capability} here"));
    }
    has
}

/// Three processes that take so many MiB each and then wait for each other, as a tree.
fn three_of(mib: u64) -> String {
    format!(
        "import os, sys\n\
         def take():\n\
         \x20   b = bytearray({mib} << 20)\n\
         \x20   for i in range(0, len(b), 4096): b[i] = 1\n\
         \x20   return b\n\
         pids = []\n\
         r, w = os.pipe()\n\
         for _ in range(3):\n\
         \x20   pid = os.fork()\n\
         \x20   if pid == 0:\n\
         \x20       b = take()\n\
         \x20       os.write(w, b'x')\n\
         \x20       os.read(0, 1)\n\
         \x20       import time; time.sleep(600)\n\
         \x20   pids.append(pid)\n\
         got = 0\n\
         while got < 3: got += len(os.read(r, 3))\n\
         for p in pids: os.kill(p, 9)\n\
         print('all three')\n"
    )
}

async fn neighbour_finishes(backend: Backend) {
    let neighbour = Bench::new(backend).await;
    let outcome = neighbour.sh("echo still here").await;
    assert!(outcome.succeeded(), "{outcome:?}");
    assert_eq!(outcome.stdout, "still here\n");
}

async fn memory_of_all_processes_together_is_limited(mut bench: Bench) {
    if !has(&bench, Capability::MemoryOfTree) {
        return;
    }
    let free = bench.python(&three_of(60)).await;
    assert_eq!(free.stdout, "all three\n", "{free:?}");
    assert_eq!(free.ended.limits_hit, []);
    // Enough for any one of them.
    bench.profile.limits.memory = Some(128 * MIB);
    let held = bench.python(&three_of(60)).await;
    assert_eq!(held.ended.limits_hit, [LimitHit::Memory], "{held:?}");
    assert_eq!(held.stdout, "");
    let peak = held.ended.usage.memory_peak_bytes.expect("measured");
    // Those that end already may take a page more.
    assert!((100 * MIB..129 * MIB).contains(&peak), "{peak}");
    assert!(held.ended.usage.max_rss_bytes < 100 * MIB, "{held:?}");
    bench.profile.limits.memory = Some(1024 * MIB);
    let enough = bench.python(&three_of(60)).await;
    assert_eq!(
        (enough.stdout.as_str(), enough.ended.limits_hit),
        ("all three\n", vec![])
    );
    let peak = enough.ended.usage.memory_peak_bytes.expect("measured");
    assert!(peak > 180 * MIB, "{peak}");
}

async fn whole_tree_ends_when_memory_is_out(mut bench: Bench) {
    if !has(&bench, Capability::MemoryOfTree) {
        return;
    }
    bench.profile.limits.memory = Some(64 * MIB);
    let mark = format!("71.{}", std::process::id());
    // The kernel would end the largest process alone; its parent and the others would go on.
    let line = format!(
        "(setsid sleep {mark} &); sleep {mark} & \
         /usr/bin/python3 -c 'b = bytearray(300 << 20)'; echo survived; sleep {mark}"
    );
    let outcome = bench.sh(&line).await;
    assert_eq!(outcome.ended.exit, Some(Exit::Signal(9)), "{outcome:?}");
    assert_eq!(outcome.ended.limits_hit, [LimitHit::Memory]);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

async fn memory_hog_leaves_its_neighbour_alone(mut bench: Bench) {
    if !has(&bench, Capability::MemoryOfTree) {
        return;
    }
    bench.profile.limits.memory = Some(96 * MIB);
    let backend = bench.backend.name();
    let hog = bench.python("l = []\nwhile True: l.append(bytearray(1 << 20))");
    let (hog, ()) = tokio::join!(hog, neighbour_finishes(backend));
    assert_eq!(hog.ended.exit, Some(Exit::Signal(9)));
    assert_eq!(hog.ended.limits_hit, [LimitHit::Memory]);
}

/// Forks until it is refused and says how many there were, while they all live.
const FORKS: &str = "import os, time\n\
    n = 0\n\
    try:\n\
    \x20   while n < 60:\n\
    \x20       if os.fork() == 0: time.sleep(600)\n\
    \x20       n += 1\n\
    except BlockingIOError: pass\n\
    print(n, flush=True)\n";

async fn fork_bomb_is_held_and_leaves_its_neighbour_alone(mut bench: Bench) {
    let free = bench.python(FORKS).await;
    assert_eq!((free.stdout.as_str(), free.ended.limits_hit), ("60\n", vec![]));
    if !has(&bench, Capability::Pids) {
        return;
    }
    bench.profile.limits.pids = Some(20);
    let held = bench.python(FORKS).await;
    assert_eq!(held.stdout, "19\n", "itself and these");
    assert_eq!(held.ended.limits_hit, [LimitHit::Pids]);
    // Each generation makes two of itself, for ever.
    let mark = format!("72.{}", std::process::id());
    let bomb = format!(
        "import os\nmark = '{mark}'\nwhile True:\n\
         \x20   try: os.fork()\n\
         \x20   except OSError: pass\n"
    );
    let mut exec = command(&["/usr/bin/python3", "-c", &bomb]);
    // Long enough for a machine without hardware support that is busy besides.
    exec.timeout_ms = Some(8_000);
    exec.grace_ms = Some(100);
    let backend = bench.backend.name();
    let bomb = bench.run_with(&exec, StdinSource::Null);
    let (bomb, ()) = tokio::join!(bomb, neighbour_finishes(backend));
    assert_eq!(bomb.ended.limits_hit, [LimitHit::WallTime, LimitHit::Pids]);
    assert_eq!(processes_with(&mark), Vec::<String>::new());
}

async fn a_kernel_of_its_own_counts_processes_threads_and_zombies(mut bench: Bench) {
    let threads = "import threading, time\nn = 0\ntry:\n\
        \x20   while n < 60: threading.Thread(target=time.sleep, args=(600,), daemon=True).start(); n += 1\n\
        except RuntimeError: pass\nimport os\nos.write(1, b'%d\\n' % n)\nos._exit(0)";
    let zombies = "import os\nn = 0\ntry:\n    while n < 60:\n        if os.fork() == 0: os._exit(0)\n        n += 1\n\
        except BlockingIOError: pass\nprint(n)\nfor _ in range(n): os.wait()\n\
        for _ in range(200): os.fork() and os.wait() or os._exit(0)";
    let nested = "unshare -U true; echo $?";
    for (program, free, held) in [
        (FORKS, "60\n", "19\n"),
        (threads, "60\n", "19\n"),
        (zombies, "60\n", "19\n"),
    ] {
        bench.profile.limits.pids = None;
        assert_eq!(bench.python(program).await.stdout, free);
        bench.profile.limits.pids = Some(20);
        let outcome = bench.python(program).await;
        assert_eq!(outcome.stdout, held, "itself and these: {outcome:?}");
        assert_eq!(outcome.ended.limits_hit, [], "that kernel tells nobody");
    }
    // In users of its own somebody would have the privileges that no limit counts for.
    assert_ne!(bench.sh(nested).await.stdout, "0\n");
    bench.profile.limits.pids = Some(2);
    assert_eq!(bench.python(FORKS).await.stdout, "1\n");
}

/// Two processes that end when each has used 0.15 s of a processor.
const BUSY: &str = "import os, time\n\
    child = os.fork()\n\
    while time.process_time() < 0.15: pass\n\
    if child: os.wait()\n";

async fn processors_of_the_whole_tree_are_limited(mut bench: Bench) {
    let free = bench.python(BUSY).await;
    assert!(free.succeeded(), "{free:?}");
    if !has(&bench, Capability::CpuOfTree) {
        return;
    }
    bench.profile.limits.cpu_millis = Some(200);
    let held = bench.python(BUSY).await;
    assert!(held.succeeded(), "{held:?}");
    // Both together have a fifth of a processor, and use at least 0.27 s of one; without the limit on the tree they would
    // need half of that.
    assert!(
        held.took > Duration::from_millis(1_000),
        "{held:?} and {:?} free",
        free.took
    );
    assert_eq!(held.ended.limits_hit, [], "being slowed down is no end");
}

async fn descriptor_hog_is_stopped_by_its_own_limit(mut bench: Bench) {
    let hog = "import os\nn = 0\ntry:\n\
        \x20   while n < 200:\n\
        \x20       os.dup(0)\n\
        \x20       n += 1\n\
        except OSError: pass\n\
        print(n)\n";
    assert_eq!(bench.python(hog).await.stdout, "200\n");
    bench.profile.limits.open_files = Some(64);
    let backend = bench.backend.name();
    let (held, ()) = tokio::join!(bench.python(hog), neighbour_finishes(backend));
    assert_eq!(held.stdout, "61\n", "besides its first three");
    assert_eq!(held.ended.limits_hit, [], "the program was told, and went on");
}

async fn output_flood_leaves_its_neighbour_alone(bench: Bench) {
    let mut exec = command(&["/bin/sh", "-c", "exec cat /dev/zero"]);
    exec.timeout_ms = Some(1_000);
    exec.grace_ms = Some(100);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let mut out = running.take_stdout().expect("stdout");
    let drain = async {
        let mut bytes = BytesMut::new();
        let mut total = 0_u64;
        while out.read(&mut bytes, 256 * 1024).await.expect("readable") > 0 {
            total += bytes.len() as u64;
            bytes.clear();
        }
        total
    };
    let (ended, total, ()) = tokio::join!(running.wait(), drain, neighbour_finishes(bench.backend.name()));
    assert!(total > MIB, "{total}");
    assert_eq!(ended.limits_hit, [LimitHit::WallTime]);
    sandbox.destroy().await.expect("destroyed");
}

/// Every limit that is held here.
fn limit_everything(bench: &mut Bench) {
    let limits = &mut bench.profile.limits;
    let has = |c| bench.capabilities.has(c);
    limits.memory = Some(256 * MIB);
    limits.pids = has(Capability::Pids).then_some(30);
    limits.cpu_millis = has(Capability::CpuOfTree).then_some(4_000);
}

async fn no_process_is_ever_outside_its_cgroups(mut bench: Bench) {
    limit_everything(&mut bench);
    // Asked by the program itself, as it begins, and by a child; in a cgroup namespace the paths are cut short.
    let line = "cat /proc/self/cgroup; exec < /dev/null; (setsid cat /proc/self/cgroup)";
    let exec = command(&["/bin/sh", "-c", line]);
    let (mut sandbox, mut running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let handle = running.handle().clone();
    let out = running.take_stdout().expect("stdout");
    let (_, text) = tokio::join!(running.wait(), common::read_all(out));
    let job = handle.dir.file_name().and_then(|n| n.to_str()).expect("a name");
    for dir in handle.cgroups_v1.iter().chain(&handle.cgroup) {
        assert!(dir.ends_with(job), "{dir:?}");
    }
    let inside = text.lines().filter(|l| l.contains(job)).count();
    let expected = handle.cgroups_v1.len() + usize::from(handle.cgroup.is_some());
    assert_eq!(inside, 2 * expected, "{text}{handle:?}");
    sandbox.destroy().await.expect("destroyed");
}

async fn cgroups_of_every_kind_are_removed(mut bench: Bench) {
    limit_everything(&mut bench);
    let exec = command(&["/bin/sh", "-c", "(setsid sleep 600 &); sleep 600"]);
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let handle = running.handle().clone();
    let dirs: Vec<PathBuf> = handle.cgroups_v1.into_iter().chain(handle.cgroup).collect();
    assert!(dirs.iter().all(|d| d.is_dir()), "{dirs:?}");
    sandbox.destroy().await.expect("destroyed while it runs");
    assert!(dirs.iter().all(|d| !d.exists()), "{dirs:?}");
    let agents: Vec<PathBuf> = dirs.iter().filter_map(|d| Some(d.parent()?.to_owned())).collect();
    drop((running, sandbox, bench));
    assert!(agents.iter().all(|d| !d.exists()), "{agents:?}");
}

async fn job_without_limits_has_no_cgroup_of_version_1(bench: Bench) {
    let exec = command(&["true"]);
    let (mut sandbox, running) = bench.start(&exec, StdinSource::Null).await.expect("starts");
    let handle = running.handle().clone();
    running.wait().await;
    sandbox.destroy().await.expect("destroyed");
    if handle.cgroup.is_some() {
        assert_eq!(handle.cgroups_v1, Vec::<PathBuf>::new());
    }
    assert!(!fs::exists(handle.dir).unwrap());
}

#[tokio::test]
async fn limit_that_a_host_cannot_hold_is_refused_with_its_fix() {
    let mut bench = Bench::new(Backend::Host).await;
    type Set = fn(&mut Limits);
    let limited: [(Capability, Set); 4] = [
        (Capability::Pids, |l| l.pids = Some(10)),
        (Capability::CpuOfTree, |l| l.cpu_millis = Some(500)),
        (Capability::IoOfTree, |l| l.read_bytes_per_s = Some(MIB)),
        (Capability::IoOfTree, |l| l.write_bytes_per_s = Some(MIB)),
    ];
    let all: Capabilities = Capability::ALL.into_iter().collect();
    for (capability, limit) in limited {
        bench.profile.limits = Limits::default();
        limit(&mut bench.profile.limits);
        assert_eq!(can_hold(&bench.profile, Backend::Host, &all), Ok(()));
        let others: Capabilities = Capability::ALL.into_iter().filter(|c| *c != capability).collect();
        let error = can_hold(&bench.profile, Backend::Host, &others)
            .expect_err("refused")
            .to_string();
        assert!(error.contains(capability.as_str()), "{error}");
        assert!(error.contains("Delegate=yes"), "{error}");
    }
}
