//! What becomes of an offer: run, refused, denied, asked about, canceled.

use lictor_proto::agent::{CancelJob, OfferReply, Reply, Request};
use lictor_proto::doc::{Exit, Outcome};
use lictor_proto::{Code, Digest};

use crate::support::*;

#[test]
fn a_permitted_job_runs_and_its_receipt_verifies() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&["sh", "-c", "echo out; echo err >&2"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let (heard, done) = finished(&mut feed, job).await;
        assert_eq!(heard.order, ["started", "output", "finished"]);
        assert_eq!(
            (heard.stdout.as_slice(), heard.stderr.as_slice()),
            (&b"out\n"[..], &b"err\n"[..])
        );
        let receipt = world.receipt(&done);
        assert_eq!(receipt.outcome, Outcome::Succeeded);
        assert_eq!(receipt.exit, Some(Exit::Status(0)));
        assert_eq!(receipt.stdout.sha256, Digest::of(b"out\n"));
        assert_eq!((receipt.node_seq, receipt.prev), (1, None));
        assert_eq!(receipt.policy_ids, ["run"]);
        let kinds = world.audit();
        for kind in ["job_permitted", "job_started", "job_finished"] {
            assert!(kinds.iter().any(|k| k == kind), "{kind} in {kinds:?}");
        }
    });
}

#[test]
fn a_job_for_another_kind_of_machine_is_denied_with_a_receipt_and_the_fact() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let mut wanted = world.job("alice", &["true"]);
        wanted.expect.os = Some("linux".to_owned());
        wanted.expect.version = Some(env!("CARGO_PKG_VERSION").to_owned());
        let (job, o) = world.sign_job(&wanted);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        assert_eq!(
            world.receipt(&finished(&mut feed, job).await.1).outcome,
            Outcome::Succeeded
        );
        wanted.expect.version = Some("0.0.7".to_owned());
        let (job, o) = world.sign_job(&wanted);
        let OfferReply::Denied(refusal) = offer(&warden, o).await else {
            panic!("it is another version")
        };
        assert_eq!(refusal.code, Code::ExpectationFailed);
        assert!(refusal.message.contains("version 0.0.7"), "{refusal}");
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code, receipt.started_at),
            (Outcome::Denied, Some(Code::ExpectationFailed), None)
        );
    });
}

#[test]
fn the_first_backend_that_can_hold_the_profile_runs_the_job_and_the_receipt_names_it() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let mut wanted = world.job("alice", &["true"]);
        wanted.profile = name("quiet");
        let (job, o) = world.sign_job(&wanted);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        let backend = receipt.backend.clone().unwrap();
        assert_eq!(backend.name, "landlock", "the host cannot take the network away");
        for word in ["no_network", "not_for_hostile_code"] {
            assert!(backend.capabilities.iter().any(|c| c == word), "{backend:?}");
        }
        wanted.profile = name("impossible");
        let (job, o) = world.sign_job(&wanted);
        let OfferReply::Denied(refusal) = offer(&warden, o).await else {
            panic!("nothing here can hold it")
        };
        assert_eq!(
            (refusal.code, refusal.message.as_str()),
            (
                Code::Unenforceable,
                "host cannot enforce no_network (it shows the host as it is) on this host; say backend = \"bubblewrap\" in the profile \
                 (on the node: apt install bubblewrap)"
            )
        );
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.code, receipt.started_at),
            (Some(Code::Unenforceable), None)
        );
    });
}

/// `landlock` can put nothing over what it shows, and the agent's own files lie below the path that the profile names.
#[test]
fn a_backend_that_cannot_hide_the_agents_own_directory_is_passed_over() {
    let mut world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let above = world.dir.path().parent().expect("a directory").display();
        let shows = |name: &str, backends: &str| {
            format!("[profiles.{name}]\nbackend = [{backends}]\nread_only = [\"{above}\"]\n")
        };
        let both = shows("alone", "\"landlock\"") + &shows("list", "\"landlock\", \"bubblewrap\"");
        let reply = warden.ask(Request::Law(world.next_profiles(&both))).await;
        assert!(matches!(reply, Reply::Law(_)), "{reply:?}");
        let mut wanted = world.job("alice", &["true"]);
        wanted.profile = name("alone");
        let (job, o) = world.sign_job(&wanted);
        let OfferReply::Denied(refusal) = offer(&warden, o).await else {
            panic!("it would be shown the agent's own files")
        };
        assert_eq!(refusal.code, Code::Unenforceable);
        assert!(refusal.message.contains("hidden_agent"), "{refusal:?}");
        finished(&mut feed, job).await;
        wanted.profile = name("list");
        let (job, o) = world.sign_job(&wanted);
        assert_eq!(
            offer(&warden, o).await,
            OfferReply::Accepted,
            "the next one is taken"
        );
        finished(&mut feed, job).await;
    });
}

#[test]
fn a_job_that_fails_or_does_not_exist_says_so() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&["sh", "-c", "exit 7"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.exit),
            (Outcome::Failed, Some(Exit::Status(7)))
        );
        let first = receipt.digest();
        let (job, o) = world.signed(&["/no/such/program"]);
        assert!(matches!(offer(&warden, o).await, OfferReply::Denied(r) if r.code == Code::ProgramNotFound));
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Failed, Some(Code::ProgramNotFound))
        );
        assert_eq!(
            (receipt.node_seq, receipt.prev),
            (2, Some(first)),
            "receipts are chained"
        );
    });
}

#[test]
fn a_job_starts_at_most_once_however_often_it_is_offered() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let marks = world.dir.path().join("marks");
        let (job, o) = world.signed(&["sh", "-c", &format!("echo x >> {}", marks.display())]);
        let offers = (0..8).map(|_| offer(&warden, o.clone()));
        let replies = futures_util::future::join_all(offers).await;
        assert_eq!(replies.iter().filter(|r| **r == OfferReply::Accepted).count(), 1);
        assert_eq!(replies.iter().filter(|r| **r == OfferReply::Known).count(), 7);
        let (_, done) = finished(&mut feed, job).await;
        assert_eq!(offer(&warden, o.clone()).await, OfferReply::Known);
        assert_eq!(
            finished(&mut feed, job).await.1,
            done,
            "what is due is said again"
        );
        ack(&warden, &done).await;
        assert_eq!(offer(&warden, o).await, OfferReply::Known);
        assert_eq!(std::fs::read_to_string(marks).unwrap(), "x\n");
        assert!(world.audit().iter().any(|k| k == "job_replayed"));
    });
}

#[test]
fn what_is_not_signed_for_this_node_is_refused_without_a_receipt() {
    let world = World::new();
    let other = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let code = |reply| match reply {
            OfferReply::Refused(r) => r.code,
            reply => panic!("{reply:?}"),
        };
        let (_, mut tampered) = world.signed(&["true"]);
        let swapped = world.signed(&["false"]).1.job;
        let payload = |w: &str| {
            w.split("\"payload\":\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap()
                .to_owned()
        };
        tampered.job = tampered.job.replace(&payload(&tampered.job), &payload(&swapped));
        assert_eq!(code(offer(&warden, tampered).await), Code::SignatureInvalid);
        assert_eq!(
            code(offer(&warden, other.signed(&["true"]).1).await),
            Code::WrongOrg
        );
        let mut elsewhere = world.job("alice", &["true"]);
        elsewhere.nodes = vec![other.node_id.clone()];
        assert_eq!(
            code(offer(&warden, world.sign_job(&elsewhere).1).await),
            Code::WrongNode
        );
        let garbage = lictor_proto::agent::Offer {
            job: "{".to_owned(),
            approvals: vec![],
            releases: Vec::new(),
            secrets: vec![],
        };
        assert_eq!(code(offer(&warden, garbage).await), Code::EnvelopeMalformed);
        let refused = world.audit().iter().filter(|k| *k == "offer_refused").count();
        assert_eq!(refused, 4);
        let Reply::Status(status) = warden.ask(Request::Status).await else {
            panic!("no status")
        };
        assert!(status.executions.is_empty());
    });
}

#[test]
fn the_node_starts_again_whatever_approvals_and_arguments_it_was_given() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, mut o) = world.sign_job(&world.job("carol", &["true"]));
        // A hub needs no key for these.
        o.approvals = (0..60).map(|i| format!("{i}{}", "\n".repeat(300_000))).collect();
        assert!(matches!(offer(&warden, o.clone()).await, OfferReply::Ask(_)));
        o.approvals.push(world.approval(digest_of_nothing(), "bob"));
        o.approvals.push(world.approval(job, "carol"));
        assert!(matches!(offer(&warden, o.clone()).await, OfferReply::Ask(_)));
        let journal = std::fs::metadata(world.dir.path().join("journal.log")).unwrap();
        assert!(journal.len() < 100_000, "{} bytes", journal.len());

        let hostile: Vec<String> = (0..64).map(|_| "\u{1}".repeat(1024)).collect();
        let mut argv = vec!["true"];
        argv.extend(hostile.iter().map(String::as_str));
        let (with_arguments, p) = world.signed(&argv);
        assert_eq!(offer(&warden, p).await, OfferReply::Accepted);
        finished(&mut feed, with_arguments).await;
        warden.close().await;
        drop((feed, warden));

        let warden = world.warden().await;
        assert!(world.audit().iter().any(|k| k == "job_permitted"));
        let approval = world.approval(job, "bob");
        assert_eq!(warden.ask(Request::Approval(approval)).await, Reply::Done);
        let mut feed = warden.events();
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(receipt.outcome, Outcome::Succeeded);
    });
}

fn digest_of_nothing() -> Digest {
    Digest::of(b"no job")
}

#[test]
fn a_denied_job_ends_with_a_receipt_that_names_the_rule() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.sign_job(&world.job("mallory", &["true"]));
        assert!(matches!(offer(&warden, o).await, OfferReply::Denied(r) if r.code == Code::Forbidden));
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Denied, Some(Code::Forbidden))
        );
        assert_eq!(receipt.policy_ids, ["not-mallory"]);
        let mut late = world.job("alice", &["true"]);
        let second = |d: lictor_proto::Timestamp, s: u64| {
            lictor_proto::Timestamp::from_millis(d.as_millis() - s * 1000)
        };
        (late.issued_at, late.not_before, late.expires_at) = (
            second(late.issued_at, 60),
            second(late.not_before, 60),
            second(late.issued_at, 1),
        );
        let (job, o) = world.sign_job(&late);
        assert!(matches!(offer(&warden, o).await, OfferReply::Denied(r) if r.code == Code::Expired));
        assert_eq!(
            world.receipt(&finished(&mut feed, job).await.1).outcome,
            Outcome::Expired
        );
    });
}

#[test]
fn a_gated_job_waits_for_approval_also_over_a_restart() {
    let world = World::new();
    runtime().block_on(async {
        let (job, o) = world.sign_job(&world.job("carol", &["echo", "approved"]));
        {
            let warden = world.warden().await;
            let OfferReply::Ask(ask) = offer(&warden, o.clone()).await else {
                panic!("it asks")
            };
            let ask = world.trust.verify_ask(&world.node, &ask).unwrap();
            assert_eq!(ask.gates[0].policy_id, "carol-asks");
            assert!(
                matches!(offer(&warden, o.clone()).await, OfferReply::Ask(_)),
                "it still asks"
            );
            warden.close().await;
        }
        let warden = world.warden().await;
        let mut feed = warden.events();
        let own = Request::Approval(world.approval(job, "carol"));
        assert!(matches!(warden.ask(own).await, Reply::Refused(r) if r.code == Code::SelfApproval));
        assert_eq!(
            warden.ask(Request::Approval(world.approval(job, "bob"))).await,
            Reply::Done
        );
        let (heard, done) = finished(&mut feed, job).await;
        assert_eq!(heard.stdout, b"approved\n");
        assert_eq!(world.receipt(&done).approvals.len(), 1);
    });
}

#[test]
fn an_approval_may_come_with_the_offer() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, mut o) = world.sign_job(&world.job("carol", &["true"]));
        o.approvals = vec![world.approval(job, "carol")];
        assert!(
            matches!(offer(&warden, o.clone()).await, OfferReply::Ask(_)),
            "nobody approves their own"
        );
        o.approvals.push(world.approval(job, "bob"));
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        assert_eq!(
            world.receipt(&finished(&mut feed, job).await.1).outcome,
            Outcome::Succeeded
        );
        assert!(world.audit().iter().any(|k| k == "approval_refused"));
    });
}

#[test]
fn a_signed_cancel_ends_the_tree_and_an_unsigned_or_strangers_one_does_not() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&["sh", "-c", "setsid sleep 600 & sleep 600"]);
        assert_eq!(offer(&warden, o).await, OfferReply::Accepted);
        listen(&mut feed, job, |h| h.order == ["started"]).await;
        let stranger = warden.ask(Request::Cancel(world.cancel(job, "bob"))).await;
        assert!(matches!(stranger, Reply::Refused(_)), "{stranger:?}");
        assert!(matches!(
            warden.ask(Request::Cancel("{}".into())).await,
            Reply::Refused(_)
        ));
        assert_eq!(
            warden.ask(Request::Cancel(world.cancel(job, "alice"))).await,
            Reply::Done
        );
        let receipt = world.receipt(&finished(&mut feed, job).await.1);
        assert_eq!(
            (receipt.outcome, receipt.code),
            (Outcome::Canceled, Some(Code::Canceled))
        );
        let kinds = world.audit();
        assert!(kinds.iter().any(|k| k == "cancel_accepted") && kinds.iter().any(|k| k == "cancel_refused"));
    });
}

#[test]
fn a_job_that_comes_with_its_cancel_ends_unstarted_and_never_starts_later() {
    let world = World::new();
    runtime().block_on(async {
        let warden = world.warden().await;
        let mut feed = warden.events();
        let (job, o) = world.signed(&["true"]);
        let (other, _) = world.signed(&["false"]);
        let with = |cancel: String| {
            let job = o.job.clone();
            Request::CancelJob(CancelJob { cancel, job })
        };
        for refused in [
            world.cancel(job, "bob"),
            world.cancel(other, "alice"),
            "{}".into(),
        ] {
            let reply = warden.ask(with(refused)).await;
            assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
        }
        assert_eq!(warden.ask(with(world.cancel(job, "alice"))).await, Reply::Done);
        let (heard, end) = finished(&mut feed, job).await;
        assert!(!heard.order.contains(&"started"), "{:?}", heard.order);
        let receipt = world.receipt(&end);
        assert_eq!(
            (receipt.outcome, receipt.code, receipt.started_at),
            (Outcome::Canceled, Some(Code::Canceled), None)
        );
        assert_eq!(offer(&warden, o.clone()).await, OfferReply::Known);
    });
}
