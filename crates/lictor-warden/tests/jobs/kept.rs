//! A kept sandbox through the warden: one job at a time, and there after a restart.

use lictor_proto::Code;
use lictor_proto::agent::{Offer, OfferReply, Reply, Request};
use lictor_proto::doc::{Outcome, Spec};

use crate::support::*;

const KEEPS: &str = "[profiles.keeps]\nbackend = \"host\"\nnetwork = \"host\"\npersist = {}\n";

fn in_sandbox(world: &World, argv: &[&str]) -> (lictor_proto::Digest, Offer) {
    let mut job = world.job("alice", argv);
    job.profile = name("keeps");
    let Spec::Exec(exec) = &mut job.spec else {
        panic!("not a command")
    };
    exec.sandbox = Some(name("work"));
    world.sign_job(&job)
}

#[test]
fn kept_sandbox_is_one_jobs_at_a_time_and_outlives_the_agent() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut world = World::new();
    // So that work lies below it, also for root, and goes with it.
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(world.dir.path(), open).unwrap();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let law = world.next_profiles(KEEPS);
        let reply = warden.ask(Request::Law(law)).await;
        assert!(matches!(reply, Reply::Law(_)), "{reply:?}");
        let (job, o) = in_sandbox(&world, &["sh", "-c", "echo x > here"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let done = finished(&mut feed, job).await.1;
        let receipt = world.receipt(&done);
        assert_eq!(receipt.outcome, Outcome::Succeeded);
        let made = receipt.sandbox.clone().unwrap();
        assert_eq!((made.name, made.new), (name("work"), true));
        let (long, o) = in_sandbox(&world, &["sleep", "1000"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (second, waits) = in_sandbox(&world, &["cat", "here"]);
        let OfferReply::Later(refusal) = offer(&warden, waits.clone()).await else {
            panic!("somebody else works there")
        };
        assert_eq!(refusal.code, Code::SandboxBusy);
        let cancel = Request::Cancel(world.cancel(long, "alice"));
        assert!(matches!(warden.ask(cancel).await, Reply::Done));
        finished(&mut feed, long).await;
        assert_eq!(offer(&warden, waits).await, OfferReply::Accepted);
        assert_eq!(finished(&mut feed, second).await.0.stdout, b"x\n");
        warden.close().await;
        drop(feed);
        warden.join();
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = in_sandbox(&world, &["cat", "here"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (output, done) = finished(&mut feed, job).await;
        assert_eq!(output.stdout, b"x\n");
        let again = world.receipt(&done).sandbox.clone().unwrap();
        assert_eq!((again.made_at, again.new), (made.made_at, false));
        warden.close().await;
        assert!(world.dir.path().join("work/.kept").is_dir());
    });
}

/// A file that not even root can remove, until this is dropped.
struct Stuck(std::fs::File);

impl Stuck {
    fn in_dir(dir: &std::path::Path) -> Self {
        let file = std::fs::File::create(dir.join("stuck")).unwrap();
        rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE).unwrap();
        Self(file)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        rustix::fs::ioctl_setflags(&self.0, rustix::fs::IFlags::empty()).unwrap();
    }
}

#[test]
fn sandbox_that_cannot_be_taken_down_stays_its_jobs_until_it_can() {
    if !rustix::process::geteuid().is_root() {
        // Only root can make such a file.
        return;
    }
    let mut world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let law = world.next_profiles(KEEPS);
        assert!(matches!(warden.ask(Request::Law(law)).await, Reply::Law(_)));
        let (job, o) = in_sandbox(&world, &["sh", "-c", "echo up; exec sleep 1000"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        listen(&mut feed, job, |heard| !heard.stdout.is_empty()).await;
        let work = world.dir.path().join("work");
        let dirs = std::fs::read_dir(&work).unwrap().flatten().map(|e| e.path());
        let mut own = dirs.filter(|d| d.is_dir() && !d.ends_with(".kept"));
        let dir = own.next().unwrap();
        let stuck = Stuck::in_dir(&dir);
        let cancel = Request::Cancel(world.cancel(job, "alice"));
        assert_eq!(warden.ask(cancel).await, Reply::Done);
        // Its end is told all the same.
        finished(&mut feed, job).await;
        assert!(dir.exists());
        let (second, waits) = in_sandbox(&world, &["true"]);
        let OfferReply::Later(refusal) = offer(&warden, waits.clone()).await else {
            panic!("something of the first is left")
        };
        assert_eq!(refusal.code, Code::SandboxBusy);
        drop(stuck);
        until("it has been tried again", || !dir.exists()).await;
        // The directory goes first, the lock after it.
        let deadline = tokio::time::Instant::now() + DEADLINE;
        while let OfferReply::Later(refusal) = offer(&warden, waits.clone()).await {
            assert_eq!(refusal.code, Code::SandboxBusy);
            assert!(tokio::time::Instant::now() < deadline, "the lock stays");
            tokio::task::yield_now().await;
        }
        finished(&mut feed, second).await;
        warden.close().await;
    });
}
