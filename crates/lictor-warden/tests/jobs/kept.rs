//! A kept sandbox through the warden: one job at a time, and there after a restart.

use lictor_proto::Code;
use lictor_proto::agent::{Offer, OfferReply, Reply, Request};
use lictor_proto::doc::{Outcome, Spec};

use crate::support::*;

const KEEPS: &str = "[profiles.keeps]\nbackend = \"host\"\nnetwork = \"host\"\npersist = {}\n";

fn in_sandbox(world: &World, argv: &[&str]) -> (lictor_proto::Digest, Offer) {
    let mut job = world.job("alice", argv);
    job.profile = name("keeps");
    let Spec::Exec(exec) = &mut job.spec;
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
