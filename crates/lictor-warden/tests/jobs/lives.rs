//! What happens to jobs while they run: input, output, restarts, drain, newer law, limits.

use lictor_proto::agent::{Ack, OfferReply, ReadOutput, Reply, Request, StdinPiece};
use lictor_proto::doc::{LimitHit, Outcome, RevocationKind, Stdin};
use lictor_proto::{Code, Digest, JobId};

use crate::sleeper::Sleeper;
use crate::support::*;

#[test]
fn standard_input_is_checked_before_the_job_has_it() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let input: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
        let mut job = world.job("alice", &["sha256sum"]);
        job.stdin = Stdin::bytes(&input);
        let (job, o) = world.sign_job(&job);
        assert!(
            matches!(offer(&warden, o.clone()).await, OfferReply::Later(r) if r.code == Code::StdinMissing)
        );
        for (i, piece) in input.chunks(300_000).enumerate() {
            let piece = StdinPiece {
                sha256: Digest::of(&input),
                at: i as u64 * 300_000,
                last: i == 3,
                bytes: piece.to_vec(),
            };
            assert_eq!(warden.ask(Request::Stdin(piece)).await, Reply::Done);
        }
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (heard, _) = finished(&mut feed, job).await;
        let want = Digest::of(&input).to_string();
        assert!(
            String::from_utf8(heard.stdout)
                .unwrap()
                .starts_with(want.trim_start_matches("sha256:"))
        );
    });
}

#[test]
fn large_output_keeps_head_and_tail_and_a_live_reader_gets_all_of_it() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        // Each piece waits until the one before was read, so the reader keeps up however slow this machine is.
        let go = world.dir.path().join("go");
        let script = format!(
            "for i in 1 2 3 4 5 6 7 8; do head -c 1000000 /dev/zero; \
             while [ ! -e {}$i ]; do sleep 0.01; done; done",
            go.display()
        );
        let (job, o) = world.signed(&["sh", "-c", &script]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let heard = listen(&mut feed, job, |h| h.waiting_from.is_some()).await;
        let mut got = heard.stdout.len();
        let mut from = heard.waiting_from.unwrap();
        loop {
            let read = ReadOutput {
                job,
                from,
                max: 1 << 20,
                wait: true,
            };
            let (part, bytes) = warden.read_output(read).await.unwrap();
            assert_eq!(part.from, from, "no gap");
            let mut all = Heard::default();
            all.take(&bytes);
            got += all.stdout.len();
            from = part.to;
            std::fs::write(format!("{}{}", go.display(), got / 1_000_000), "").unwrap();
            if part.end {
                break;
            }
        }
        assert_eq!(got, 8_000_000);
        let (_, done) = finished(&mut feed, job).await;
        let receipt = world.receipt(&done);
        assert_eq!(receipt.stdout.bytes, 8_000_000);
        assert!(receipt.limits_hit.contains(&LimitHit::Output));
        assert_eq!((receipt.stdout.kept.len(), done.kept.len()), (2, 2));
        ack(&warden, &done).await;
        let left = std::fs::read_dir(world.dir.path().join("spool")).unwrap();
        let mut left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["stdin", "url"], "nothing of the job is left");
    });
}

#[test]
fn an_unacknowledged_result_is_said_again_after_a_restart_and_an_acknowledged_one_is_not() {
    let world = World::new();
    let (job, o) = world.signed(&["echo", "hello"]);
    let before = runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        assert_eq!(offer(&warden, o.clone()).await, OfferReply::Accepted);
        let (_, done) = finished(&mut feed, job).await;
        warden.close().await;
        done
    });
    runtime().block_on(async {
        let warden = world.warden().await;
        let (heard, again) = finished(&mut warden.events(), job).await;
        assert_eq!(heard.stdout, b"hello\n");
        assert_eq!(again, before);
        ack(&warden, &again).await;
        warden.close().await;
    });
    runtime().block_on(async {
        let warden = world.warden().await;
        let Reply::Status(status) = warden.ask(Request::Status).await else {
            panic!("no status")
        };
        assert!(status.executions.is_empty());
        assert_eq!(offer(&warden, o).await, OfferReply::Known);
    });
}

#[test]
fn a_job_that_ran_when_the_agent_went_down_ends_as_interrupted_and_its_tree_is_gone() {
    let world = World::new();
    let sleeper = Sleeper::new(&world, |pid| format!("echo before; echo $$ > {pid}; sleep 600"));
    sleeper.crash(&world, async |_| ());
    runtime().block_on(async {
        let warden = world.warden().await;
        let (heard, done) = finished(&mut warden.events(), sleeper.job).await;
        assert_eq!(heard.stdout, b"before\n", "output so far is kept");
        let receipt = world.receipt(&done);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Interrupted, Some(Code::Interrupted))
        );
        assert_eq!(receipt.stdout.sha256, Digest::of(b"before\n"));
        until("the process to be gone", || !sleeper.is_there()).await;
        assert_eq!(
            offer(&warden, sleeper.offer.clone()).await,
            OfferReply::Known,
            "it never starts again"
        );
        assert!(world.audit().iter().any(|k| k == "job_interrupted"));
    });
}

#[test]
fn a_job_that_runs_though_its_start_was_never_written_down_is_found_and_ended() {
    let world = World::new();
    let sleeper = Sleeper::new(&world, |pid| {
        format!("setsid sleep 600 & echo $! > {pid}; sleep 600")
    });
    sleeper.crash(&world, async |_| ());
    // As if the agent had gone down before the writer came to it.
    let journal = world.dir.path().join("journal.log");
    let mut bytes = std::fs::read(&journal).unwrap();
    let find = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).rposition(|w| w == what).unwrap();
    bytes.truncate(find(&bytes, b"\"job_started\""));
    bytes.truncate(find(&bytes, b"LJR1"));
    std::fs::write(&journal, &bytes).unwrap();
    assert!(sleeper.is_there(), "it goes on by itself");
    runtime().block_on(async {
        let warden = world.warden().await;
        let receipt = world.receipt(&finished(&mut warden.events(), sleeper.job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.started_at),
            (Outcome::Interrupted, None)
        );
        until("the process to be gone", || !sleeper.is_there()).await;
    });
}

#[test]
fn a_machine_that_lost_power_says_what_it_still_has_also_when_the_hub_has_more() {
    let world = World::new();
    let sleeper = Sleeper::new(&world, |pid| {
        format!("head -c 300000 /dev/zero; echo $$ > {pid}; sleep 600")
    });
    let mut acked = 0;
    sleeper.crash(&world, async |warden| {
        let of = async || match warden.ask(Request::Status).await {
            Reply::Status(status) => status.executions[0].clone(),
            reply => panic!("{reply:?}"),
        };
        acked = of().await.log_end;
        let (job, upto) = (sleeper.job, acked);
        assert_eq!(
            warden.ask(Request::Ack(Ack::Output { job, upto })).await,
            Reply::Done
        );
        // A note; it is in the journal before the record of a refusal that comes after it.
        warden.ask(Request::Approval("{}".to_owned())).await;
        assert_eq!(of().await.acked, acked);
    });
    // What was never written back: the last frame that the hub has is torn here, and what came after it is gone.
    let id = JobId::from_digest(&sleeper.job);
    let log = world.dir.path().join("spool").join(format!("{id}.log"));
    let log = std::fs::File::options().write(true).open(log).unwrap();
    log.set_len(acked - 1).unwrap();
    runtime().block_on(async {
        let warden = world.warden().await;
        let (_, done) = finished(&mut warden.events(), sleeper.job).await;
        let receipt = world.receipt(&done);
        assert_eq!(receipt.outcome, Outcome::Interrupted);
        assert!(done.log_end < acked);
        let left = usize::try_from(receipt.stdout.bytes).unwrap();
        assert!(left < 300_000, "{left}");
        assert_eq!(receipt.stdout.sha256, Digest::of(&vec![0; left]));
        ack(&warden, &done).await;
    });
}

#[test]
fn draining_takes_nothing_new_and_ends_what_outlasts_the_grace() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&["sleep", "600"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        listen(&mut feed, job, |h| h.order == ["started"]).await;
        assert_eq!(warden.ask(Request::Drain { grace_ms: 50 }).await, Reply::Done);
        assert_eq!(
            world.receipt(&finished(&mut feed, job).await.1).outcome,
            Outcome::Interrupted
        );
        let (_, o) = world.signed(&["true"]);
        assert!(matches!(offer(&warden, o).await, OfferReply::Later(r) if r.code == Code::Draining));
    });
}

#[test]
fn an_offer_that_waits_for_a_place_is_handed_back_when_the_agent_is_asked_to_end() {
    let world = World::new();
    runtime().block_on(async {
        let one_place = |c: &mut lictor_warden::Config| (c.max_jobs, c.queue_wait) = (1, MINUTE);
        let warden = world.warden_with(one_place).await;
        let mut feed = warden.events();
        let go = world.dir.path().join("go");
        let script = format!("while [ ! -e {} ]; do sleep 0.01; done", go.display());
        let (first, o) = world.signed(&["sh", "-c", &script]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (_, o) = world.signed(&["true"]);
        let waiting = offer(&warden, o);
        let draining = async {
            // By then the other has been verified, or will find the agent draining.
            listen(&mut feed, first, |h| h.order == ["started"]).await;
            let drain = warden.ask(Request::Drain { grace_ms: 60_000 });
            let (drained, ()) = tokio::join!(drain, async { std::fs::write(&go, "").unwrap() });
            assert_eq!(drained, Reply::Done);
        };
        let (reply, ()) = tokio::join!(waiting, draining);
        assert!(matches!(reply, OfferReply::Later(r) if r.code == Code::Draining));
        let receipt = world.receipt(&finished(&mut feed, first).await.1);
        assert_eq!(receipt.outcome, Outcome::Succeeded, "what ran may end");
    });
}

#[test]
fn newer_law_counts_at_once_and_one_that_cannot_be_loaded_denies_everything() {
    let mut world = World::new();
    let nothing = world.next_law("@id(\"none\") forbid(principal, action, resource);");
    let broken = world.next_law("permit(");
    let good = world.next_law(POLICY);
    runtime().block_on(async {
        let warden = world.warden().await;
        let held = |reply| match reply {
            Reply::Law(held) => held,
            reply => panic!("{reply:?}"),
        };
        assert_eq!(held(warden.ask(Request::Law(nothing)).await).bundle, 2);
        assert!(matches!(offer(&warden, world.signed(&["true"]).1).await, OfferReply::Denied(_)));
        let law = held(warden.ask(Request::Law(broken)).await);
        assert_eq!(law.deny_all.map(|r| r.code), Some(Code::BundleUnloadable));
        let (_, o) = world.signed(&["true"]);
        assert!(matches!(offer(&warden, o.clone()).await, OfferReply::Later(r) if r.code == Code::BundleUnloadable));
        warden.close().await;
        drop(warden);
        let warden = world.warden().await;
        assert!(matches!(offer(&warden, o.clone()).await, OfferReply::Later(_)), "also after a restart");
        assert_eq!(held(warden.ask(Request::Law(good)).await).deny_all, None);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let kinds = world.audit();
        assert!(kinds.iter().any(|k| k == "law_accepted") && kinds.iter().any(|k| k == "law_unloadable"));
    });
}

#[test]
fn a_revoked_job_ends_whether_it_waits_or_runs() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (running, o) = world.signed(&["sleep", "600"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        listen(&mut feed, running, |h| h.order == ["started"]).await;
        let (waiting, o) = world.sign_job(&world.job("carol", &["true"]));
        assert!(matches!(offer(&warden, o).await, OfferReply::Ask(_)));
        for (job, outcome) in [(waiting, Outcome::Denied), (running, Outcome::Canceled)] {
            let id = JobId::from_digest(&job);
            let docs = world.revocation(RevocationKind::Job, id.as_str());
            assert!(matches!(warden.ask(Request::Law(docs)).await, Reply::Law(_)));
            let receipt = world.receipt(&finished(&mut feed, job).await.1);
            assert_eq!((receipt.outcome, receipt.code), (outcome, Some(Code::JobRevoked)));
        }
    });
}

#[test]
fn an_identity_copied_to_another_machine_does_no_work() {
    let world = World::new();
    runtime().block_on(async {
        let other = Digest::of(b"another machine");
        let text = format!("{{\"fingerprint\":\"{other}\"}}");
        std::fs::write(world.dir.path().join("machine.json"), text).unwrap();
        let warden = world.warden().await;
        let (_, o) = world.signed(&["true"]);
        assert!(matches!(offer(&warden, o).await, OfferReply::Later(r) if r.code == Code::ClonedIdentity));
        assert!(world.audit().iter().any(|k| k == "identity_refused"));
    });
}

#[test]
fn many_jobs_at_once_all_end_and_their_receipts_are_one_chain() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let jobs: Vec<_> = (0..100)
            .map(|i| world.signed(&["echo", &i.to_string()]))
            .collect();
        let offers = jobs.iter().map(|(_, o)| offer(&warden, o.clone()));
        for reply in futures_util::future::join_all(offers).await {
            assert_eq!(reply, OfferReply::Accepted);
        }
        let mut chain = std::collections::BTreeMap::new();
        while chain.len() < jobs.len() {
            use lictor_proto::agent::{Event, stream::Message};
            if let Some(Message::Event(Event::Finished(f))) = feed.next().await {
                let receipt = world.receipt(&f);
                chain.insert(receipt.node_seq, (receipt.prev, receipt.digest()));
            }
        }
        let mut last = None;
        for (seq, (prev, digest)) in chain {
            assert_eq!(prev, last, "receipt {seq}");
            last = Some(digest);
        }
    });
}

#[test]
fn memory_stays_flat_whatever_a_job_prints() {
    let world = World::new();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|l| l.starts_with("RssAnon:"))
            .unwrap()
            .to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        world.run(&warden, &mut feed, &["true"]).await;
        let before = resident();
        let started = std::time::Instant::now();
        let zeros = ["head", "-c", "400000000", "/dev/zero"];
        let (_, done) = world.run(&warden, &mut feed, &zeros).await;
        println!("400 MB in {:?}", started.elapsed());
        let grown = resident().saturating_sub(before);
        assert!(grown < 16, "grew by {grown} MB");
        let receipt = world.receipt(&done);
        assert_eq!(receipt.stdout.bytes, 400_000_000);
        let kept: u64 = receipt.stdout.kept.iter().map(|r| r.to - r.from).sum();
        assert!(
            kept <= 1 << 20 && receipt.stdout.kept.len() == 2,
            "head and tail: {kept}"
        );
    });
}

#[test]
fn a_job_that_never_stops_printing_is_ended_in_time_even_on_one_thread() {
    let world = World::new();
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    rt.block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let mut job = world.job("alice", &["sh", "-c", "yes & yes >&2"]);
        let lictor_proto::doc::Spec::Exec(exec) = &mut job.spec else {
            panic!("not a command")
        };
        (exec.timeout_ms, exec.grace_ms) = (Some(500), Some(200));
        let (job, o) = world.sign_job(&job);
        let started = std::time::Instant::now();
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let Reply::Status(_) = warden.ask(Request::Status).await else {
            panic!("no status")
        };
        let (_, done) = finished(&mut feed, job).await;
        assert!(
            started.elapsed() < std::time::Duration::from_secs(20),
            "{:?}",
            started.elapsed()
        );
        let receipt = world.receipt(&done);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::TimedOut, Some(Code::TimedOut))
        );
        assert!(receipt.stdout.bytes > 0 && receipt.stderr.bytes > 0);
        let left = std::fs::read_dir(world.dir.path().join("work")).unwrap().count();
        assert_eq!(left, 0, "nothing is left when the end is told");
    });
}

#[test]
fn too_many_unacknowledged_results_hold_new_work_back() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden_with(|c| c.max_unacknowledged = 1).await;
        let mut feed = warden.events();
        let (_, done) = world.run(&warden, &mut feed, &["true"]).await;
        let (_, o) = world.signed(&["true"]);
        assert!(
            matches!(offer(&warden, o.clone()).await, OfferReply::Later(r) if r.code == Code::TooManyJobs)
        );
        ack(&warden, &done).await;
        // The acknowledgement is a note: it counts once the writer has it.
        let mut reply = offer(&warden, o.clone()).await;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while matches!(reply, OfferReply::Later(_)) && std::time::Instant::now() < deadline {
            reply = offer(&warden, o.clone()).await;
        }
        assert_eq!(reply, OfferReply::Accepted);
    });
}
