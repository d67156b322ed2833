//! What people sign can be large, and much of it can wait: the hub has little of it in memory at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use lictor_hub::app::Caller;
use lictor_hub::store::{ExecutionKey, JobDocument, JobFilter, Paper, Step};
use lictor_link::hyper::Method;
use lictor_proto::agent::{Event, OfferReply, Reply, Request};
use lictor_proto::api::{ExecutionState, Page, PendingApproval, TokenScope};
use lictor_proto::code::Refusal;
use lictor_proto::doc::ApprovalFacts;
use lictor_proto::{Code, Digest, JobId, NodeId, Timestamp, limits};

use super::link::{heartbeat, view};
use super::node::{Node, job_digest, one};
use super::offers::submit;
use super::world::{Org, World, name, until};

/// An approval that is nearly as large as one may be.
fn fat_approval(org: &Org, job: &str) -> String {
    let facts = (0..4500u32).map(|n| ApprovalFacts {
        node_id: NodeId::derive(&org.id, &Digest::of(&n.to_be_bytes()).0),
        facts_digest: Digest::of(b"facts"),
    });
    let approval = org.approval_of(job, facts.collect());
    assert!(
        (limits::ENVELOPE / 2..limits::ENVELOPE).contains(&approval.len()),
        "{}",
        approval.len()
    );
    approval
}

/// As the hub would keep it when it was handed in; each `n` is another document.
async fn keep(world: &World, org: &Org, id: &JobId, (kind, n): (JobDocument, u64), wire: &str) {
    let paper = Paper {
        kind,
        digest: Digest::of(&n.to_be_bytes()),
        wire: wire.to_owned(),
        signer: name("alice"),
        issued_at: Timestamp::from_millis(n + 1),
    };
    world.hub.app().store.put_paper(&org.id, id, paper).await.unwrap();
}

fn id_of(job: &str) -> JobId {
    JobId::from_digest(&job_digest(job))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_node_is_rows_and_the_papers_of_a_job_are_those_of_its_node() {
    let (world, org, node) = one().await;
    let other = Node::enrol(&world, &org, "web-2").await;
    let job = org.job_on(&mut vec![node.id.clone(), other.id.clone()], &["true"]);
    let plain = org.job(&node.id, &["true"]);
    submit(&world, &org, &job).await;
    submit(&world, &org, &plain).await;
    let id = id_of(&job);
    let approval = org.approval(&job);
    keep(&world, &org, &id, (JobDocument::Approval, 0), &approval).await;
    for (n, of) in [(0, &node), (1, &other)] {
        let release = org.release(&job, &of.id);
        keep(&world, &org, &id, (JobDocument::Release, n), &release).await;
    }
    let cancel = org.cancel_on(&job, vec![other.id.clone()]);
    keep(&world, &org, &id, (JobDocument::Cancel, 0), &cancel).await;
    let store = &world.hub.app().store;
    let waiting = store.pending(&org.id, &node.id).await.unwrap();
    let flags = waiting
        .iter()
        .map(|w| (w.job_id.clone(), w.has_cancels, w.is_signed));
    let expected = vec![(id.clone(), true, true), (id_of(&plain), false, false)];
    assert_eq!(flags.collect::<Vec<_>>(), expected);
    let papers = async |node_id: &NodeId| {
        let key = ExecutionKey {
            org: org.id.clone(),
            job_id: id.clone(),
            node_id: node_id.clone(),
        };
        store.papers(&key).await.unwrap().unwrap()
    };
    let (mine, theirs) = (papers(&node.id).await, papers(&other.id).await);
    assert_eq!((mine.job.envelope, mine.approvals), (job, vec![approval]));
    assert_eq!((mine.releases.len(), mine.cancels.len()), (1, 0));
    assert_eq!((theirs.releases.len(), theirs.cancels), (1, vec![cancel]));
    assert_ne!(mine.releases, theirs.releases);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_jobs_with_large_papers_is_served_whole_and_is_never_in_memory_whole() {
    const JOBS: usize = 12;
    const ROOM: usize = 16 << 20;
    let (world, org, node) = one().await;
    let mut whole = 0;
    let mut jobs = BTreeSet::new();
    let first = org.job(&node.id, &["true"]);
    let approval = fat_approval(&org, &first);
    for n in 0..JOBS {
        let job = match n {
            0 => first.clone(),
            _ => org.job(&node.id, &["true"]),
        };
        submit(&world, &org, &job).await;
        for n in 0..4 {
            keep(&world, &org, &id_of(&job), (JobDocument::Approval, n), &approval).await;
            whole += approval.len();
        }
        jobs.insert(job);
    }
    assert!(whole > 2 * ROOM, "{whole} bytes wait");
    // Takes none at first: all of them wait, and are offered again.
    let takes = Arc::new(AtomicBool::new(false));
    let most = Arc::new(AtomicUsize::new(0));
    let refused: Arc<Mutex<BTreeMap<String, usize>>> = Arc::default();
    let (app, org_id, node_id) = (world.hub.app().clone(), org.id.clone(), node.id.clone());
    let (is_open, seen, asked) = (takes.clone(), most.clone(), refused.clone());
    let mut is_first = true;
    let mut link = node
        .link_answering(
            &world,
            Box::new(move |request| {
                let Request::Offer(offer) = request else {
                    return None;
                };
                let links = &app.links;
                let read = || links.get(&org_id, &node_id).map_or(0, |l| l.bytes_in_memory());
                // Answers when the hub has read what it has room for, and one more that waits for room.
                if std::mem::take(&mut is_first) {
                    let full = until("its room is full", async || read() > ROOM);
                    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(full));
                }
                seen.fetch_max(read(), Ordering::Relaxed);
                if is_open.load(Ordering::Relaxed) {
                    return None;
                }
                let mut asked = asked.lock().unwrap();
                asked.insert(offer.job.clone(), offer.approvals.len());
                let later = Refusal::plain(Code::TooManyJobs);
                Some(Ok(Reply::Offer(OfferReply::Later(later))))
            }),
        )
        .await;
    link.say(Event::Heartbeat(Box::new(heartbeat(&org, &node))));
    let links = &world.hub.app().links;
    until("all were offered, each with its approvals", async || {
        refused.lock().unwrap().len() == JOBS
    })
    .await;
    assert!(refused.lock().unwrap().values().all(|n| *n == 4));
    takes.store(true, Ordering::Relaxed);
    let mut taken = BTreeSet::new();
    while taken.len() < JOBS {
        taken.insert(link.offer().await);
    }
    assert_eq!(taken, jobs);
    let (most, of_one) = (most.load(Ordering::Relaxed), 4 * approval.len() + 2 * first.len());
    assert!(
        (ROOM..=ROOM + of_one).contains(&most),
        "{most} bytes were in memory at once, of {whole}"
    );
    until("nothing stays in memory", async || {
        links
            .get(&org.id, &node.id)
            .is_some_and(|link| link.bytes_in_memory() == 0)
    })
    .await;
    world.hub.shutdown().await;
}

/// As `lictor run` hands them in: each is offered before it is stored, and whoever has handed it in stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_for_a_busy_node_is_let_go_once_it_is_stored_and_is_served_from_there() {
    const JOBS: usize = 8;
    let (world, org, node) = one().await;
    let app = world.hub.app();
    let (takes, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (is_open, seen, hub) = (takes.clone(), most.clone(), app.clone());
    let (org_id, node_id) = (org.id.clone(), node.id.clone());
    let mut link = node
        .link_answering(
            &world,
            Box::new(move |request| {
                let is_refused = matches!(request, Request::Offer(_)) && !is_open.load(Ordering::Relaxed);
                let read = hub
                    .links
                    .get(&org_id, &node_id)
                    .map_or(0, |l| l.bytes_in_memory());
                seen.fetch_max(read, Ordering::Relaxed);
                let later = || OfferReply::Later(Refusal::plain(Code::TooManyJobs));
                is_refused.then(|| Ok(Reply::Offer(later())))
            }),
        )
        .await;
    let caller = Caller {
        org: org.id.clone(),
        scope: TokenScope::Admin,
        token_id: "t".to_owned(),
    };
    let large = "x".repeat(100 * 1024);
    let (mut jobs, mut followers) = (BTreeSet::new(), Vec::new());
    for _ in 0..JOBS {
        let job = org.job(&node.id, &["echo", &large]);
        followers.extend(app.submit_attached(&caller, job.clone()).await.unwrap());
        jobs.insert(job);
    }
    let is_let_go = |job: &String| {
        let key = ExecutionKey {
            org: org.id.clone(),
            job_id: id_of(job),
            node_id: node.id.clone(),
        };
        let live = app.live.get(&key);
        live.is_some_and(|live| live.admitted(job).is_none())
    };
    let in_memory = || {
        app.links
            .get(&org.id, &node.id)
            .map(|link| link.bytes_in_memory())
    };
    until("nothing of what waits is in memory", async || {
        in_memory() == Some(0) && jobs.iter().all(is_let_go)
    })
    .await;
    assert!(most.load(Ordering::Relaxed) > large.len(), "nothing was counted");
    takes.store(true, Ordering::Relaxed);
    let mut taken = BTreeSet::new();
    while taken.len() < JOBS {
        taken.insert(link.offer().await);
    }
    assert_eq!(taken, jobs);
    // Its end is believed though the hub has nothing of it in memory that was checked before.
    let job = jobs.first().unwrap();
    link.say(Event::Finished(Box::new(node.finished(job, b"", 1, 0))));
    link.ack_of_result().await;
    let state = view(&world, &org, &id_of(job)).await.executions[0].state;
    assert_eq!(state, ExecutionState::Succeeded);
    drop(followers);
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_approvals_ends_where_its_documents_are_many_and_the_next_one_goes_on() {
    let (world, org, node) = one().await;
    let mut all = BTreeSet::new();
    let first = org.job(&node.id, &["true"]);
    let approval = fat_approval(&org, &first);
    for n in 0..4 {
        let job = match n {
            0 => first.clone(),
            _ => org.job(&node.id, &["true"]),
        };
        submit(&world, &org, &job).await;
        let id = id_of(&job);
        let ask = node.ask(&job);
        let key = ExecutionKey {
            org: org.id.clone(),
            job_id: id.clone(),
            node_id: node.id.clone(),
        };
        let step = Step::Asked {
            release: false,
            digest: Digest::of(ask.as_bytes()),
            ask,
        };
        assert!(world.hub.app().store.advance(&key, step).await.unwrap());
        for n in 0..8 {
            keep(&world, &org, &id, (JobDocument::Approval, n), &approval).await;
        }
        all.insert(id);
    }
    let (mut seen, mut pages, mut cursor) = (BTreeSet::new(), 0, String::new());
    loop {
        let path = format!("/api/v1/approvals?limit=100{cursor}");
        let answer = world.call(Some(&org.secret), Method::GET, &path, "").await;
        assert!(answer.body.len() < 20 << 20, "{} bytes", answer.body.len());
        let page: Page<PendingApproval> = serde_json::from_slice(&answer.body).unwrap();
        assert!(!page.items.is_empty(), "at least one");
        seen.extend(page.items.into_iter().map(|p| p.job.job_id));
        pages += 1;
        let Some(next) = page.next_cursor else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, all);
    assert!(pages > 1, "all came at once");
    world.hub.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_jobs_ends_where_they_are_large_and_the_next_one_goes_on() {
    let (world, org, node) = one().await;
    let large = "x".repeat(100 * 1024);
    let mut all = BTreeSet::new();
    for _ in 0..90 {
        let job = org.job(&node.id, &["echo", &large]);
        submit(&world, &org, &job).await;
        all.insert(id_of(&job));
    }
    let store = &world.hub.app().store;
    let (mut seen, mut pages, mut after) = (BTreeSet::new(), 0, None);
    loop {
        let filter = JobFilter {
            after,
            limit: 1000,
            ..JobFilter::default()
        };
        let page = store.jobs(&org.id, filter).await.unwrap();
        let bytes: usize = page.jobs.iter().map(|(row, _)| row.envelope.len()).sum();
        assert!(bytes < 9 << 20, "{bytes}");
        seen.extend(page.jobs.into_iter().map(|(row, _)| row.job_id));
        pages += 1;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (all, 2));
    world.hub.shutdown().await;
}
