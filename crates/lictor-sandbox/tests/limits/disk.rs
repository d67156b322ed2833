//! Disks: how fast a job reads and writes them, and how much of its own places it may fill.

use super::*;
use crate::common::OnThisMachine as _;

pub(super) async fn bytes_per_second_from_and_to_a_disk_are_limited(mut bench: Bench) {
    const SLOW: Duration = Duration::from_secs(3);
    // Past the cache, by which nothing would reach the disk in time.
    let both = "dd if=/dev/zero of=big bs=1M count=8 oflag=direct && dd if=big of=/dev/null bs=1M iflag=direct && echo both";
    if !bench.capabilities.has(Capability::IoOfTree) {
        // Refused then, which another case tries; where it can be held is the guest of `cargo xtask guest`.
        return;
    }
    let free = bench.sh(both).await;
    assert!(free.succeeded() && free.took < SLOW, "{free:?}");
    let limits = &mut bench.profile.limits;
    limits.write_bytes_per_s = Some(2 * MIB);
    let written = bench.sh(both).await;
    assert!(written.succeeded() && written.took > SLOW, "{written:?}");
    let limits = &mut bench.profile.limits;
    (limits.write_bytes_per_s, limits.read_bytes_per_s) = (None, Some(2 * MIB));
    let read = bench.sh(both).await;
    assert!(read.succeeded() && read.took > SLOW, "{read:?}");
    assert_eq!(read.ended.limits_hit, [], "being slowed down is no end");
}

#[tokio::test]
async fn what_a_job_writes_to_its_own_places_has_an_end_in_bytes_and_files() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a job's own disk");
    }
    let fill = "for d in $D; do for i in 1 2 3 4 5 6; do head -c 1048576 /dev/zero > $d/f$i || echo full; done; done";
    let many = "i=0; while [ $i -lt 300 ]; do true > $D/n$i || { echo full; break; }; i=$((i+1)); done";
    for (backend, places) in [
        (
            Backend::Bubblewrap,
            vec![".", "/tmp", "/dev/shm", "/tmp . /dev/shm"],
        ),
        (
            Backend::Container,
            vec![".", "/tmp", "/dev/shm", "/tmp . /dev/shm"],
        ),
        (Backend::Gvisor, vec![".", "/tmp", "/dev/shm", "/tmp . /dev/shm"]),
        (Backend::Landlock, vec!["."]),
    ] {
        let Some(mut bench) = Bench::on(backend).await else {
            continue;
        };
        if !bench.capabilities.has(Capability::Disk) {
            return skip("a disk is memory, which nothing limits here");
        }
        for place in places {
            let line = format!("D='{place}'; {fill}");
            bench.profile.limits.disk = None;
            bench.profile.limits.files = None;
            assert!(
                !bench.sh(&line).await.stdout.contains("full"),
                "{backend}: works without a limit"
            );
            bench.profile.limits.disk = Some(4 << 20);
            let full = bench.sh(&line).await;
            assert!(full.stdout.contains("full"), "{backend} {place}: {full:?}");
            assert_eq!(full.ended.limits_hit, [LimitHit::Disk], "{backend} {place}");
            let Some(place) = Some(place).filter(|p| !p.contains(' ')) else {
                continue;
            };
            let line = format!("D='{place}'; {many}");
            assert!(
                !bench.sh(&line).await.stdout.contains("full"),
                "{backend}: 300 files have room"
            );
            bench.profile.limits.files = Some(100);
            let full = bench.sh(&line).await;
            assert!(full.stdout.contains("full"), "{backend} {place}: {full:?}");
            assert_eq!(full.ended.limits_hit, [LimitHit::Disk], "{backend} {place}");
        }
        bench.profile.limits.files = None;
        let usual = bench.sh("echo x > f; cp /bin/true t; ./t && cat f").await;
        assert_eq!(
            (usual.stdout.as_str(), usual.ended.limits_hit.len()),
            ("x\n", 0),
            "{usual:?}"
        );
    }
    let mut host = Bench::new(Backend::Host).await;
    host.profile.limits.disk = Some(4 << 20);
    let refused =
        lictor_sandbox::can_hold(&host.profile, Backend::Host, &host.capabilities).expect_err("refused");
    assert!(refused.to_string().contains("run the agent as root"), "{refused}");
}

#[tokio::test]
async fn a_jobs_own_disk_is_gone_with_the_job_and_after_an_agent_that_was_killed() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can mount a job's own disk");
    }
    let mounted = |dir: &std::path::Path| {
        let table = std::fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        table.contains(dir.to_str().expect("UTF-8"))
    };
    let mut bench = Bench::new(Backend::Bubblewrap).await;
    if !bench.capabilities.has(Capability::Disk) {
        return skip("a disk is memory, which nothing limits here");
    }
    bench.profile.limits.disk = Some(4 << 20);
    let plan = bench.plan(&command(&["true"]));
    let dir = plan.dir().to_owned();
    let mut sandbox = bench.backend.create(plan).await.expect("created");
    assert!(mounted(&dir));
    sandbox.destroy().await.expect("destroyed");
    assert!(!mounted(&dir) && !dir.exists());
    // An agent that comes back has the directory alone to go by.
    let plan = bench.plan(&command(&["true"]));
    let dir = plan.dir().to_owned();
    let sandbox = bench.backend.create(plan).await.expect("created");
    drop(sandbox);
    assert!(mounted(&dir));
    lictor_sandbox::remove_job_dir(&dir).expect("removed");
    assert!(!mounted(&dir) && !dir.exists());
}
