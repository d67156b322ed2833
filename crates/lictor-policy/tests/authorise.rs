//! The door itself: real keys, real signatures, the real verifier, then `authorise`.

mod common;

use std::time::Duration;

use common::{bundle, org_with, root};
use lictor_policy::{
    Authorise, AuthoriseCancel, Decision, Denial, Facts, Law, NodeContext, Permit, authorise,
    authorise_cancel,
};
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{
    Approval, ApprovalFacts, Cancel, Document, Exec, Job, JobKind, NodeKind, Spec, Stdin,
};
use lictor_proto::{Code, Digest, NodeId, OrgId, Timestamp};
use lictor_trust::{OrgTrust, SecretKey, Verified, sign};

const OPS: &str = r#"@id("ops") permit(principal in Group::"ops", action, resource);"#;
const BOUND: &str = r#"@id("bound") @approvals("1") @approvers("leads") @binds("facts") forbid(principal, action == Action::"exec", resource);"#;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// alice is 10, bob 11, carol 12, as the roster of `common` has them.
const ALICE: u8 = 10;
const CAROL: u8 = 12;

struct Org {
    trust: OrgTrust,
    law: Law,
    node: NodeContext,
    now: Timestamp,
}

impl Org {
    fn new(policies: &[(&str, &str)]) -> Self {
        Self::with_profile(policies, "")
    }

    /// One whose law has a further profile.
    fn with_profile(policies: &[(&str, &str)], profile: &str) -> Self {
        let mut files = org_with(policies);
        if let Some(text) = files.get_mut("profiles.toml") {
            text.push_str(profile);
        }
        let now = Timestamp::from_millis(1_700_000_100_000);
        let root = sign(&root(100), &[&key(100)]);
        let org = OrgId::from_root(&root.digest());
        let mut trust = OrgTrust::pin(&org, &lictor_trust::sign::to_wire(&root)).expect("pins");
        let wire = Self::wire(&bundle(org.clone(), &files), 101);
        trust.accept(
            &LawDocs {
                bundle: Some(wire),
                ..LawDocs::default()
            },
            now,
        );
        let law = Law::load(trust.law(now).expect("law")).expect("loads");
        let node = NodeContext {
            id: NodeId::derive(&org, &[5; 32]),
            name: "n".parse().expect("name"),
            labels: Default::default(),
            groups: Vec::new(),
            kind: NodeKind::Server,
        };
        Self {
            trust,
            law,
            node,
            now,
        }
    }

    fn wire<T: Document>(doc: &T, seed: u8) -> String {
        lictor_trust::sign::to_wire(&sign(doc, &[&key(seed)]))
    }

    fn job_doc(&self, profile: &str, argv: &[&str]) -> Job {
        Job {
            tag: Default::default(),
            org: self.trust.org().clone(),
            operator: "carol".parse().expect("name"),
            nonce: vec![1; 16],
            nodes: vec![self.node.id.clone()],
            kind: JobKind::Exec,
            spec: Spec::Exec(Exec::new(argv.iter().map(|s| (*s).to_owned()).collect())),
            profile: profile.parse().expect("name"),
            stdin: Stdin::NONE,
            secrets: Default::default(),
            after: Default::default(),
            expect: Default::default(),
            output_to: Default::default(),
            reason: String::new(),
            retry_of: None,
            min_bundle: 0,
            issued_at: self.now,
            not_before: self.now,
            expires_at: self.now.plus(Duration::from_secs(300)),
            origin: Default::default(),
        }
    }

    fn verified(&self, job: &Job) -> Verified<Job> {
        self.trust
            .verify_job(&Self::wire(job, CAROL), self.now)
            .expect("job")
    }

    fn facts(&self, job: &Job) -> Facts {
        let files = self.trust.law(self.now).expect("law");
        Facts::assume(files.profiles.profiles.get(&job.profile), job)
    }

    fn approval(&self, seed: u8, who: &str, job: Digest, facts: Vec<ApprovalFacts>) -> Verified<Approval> {
        let doc = Approval {
            tag: Default::default(),
            org: self.trust.org().clone(),
            job_digest: job,
            approver: who.parse().expect("name"),
            facts,
            min_bundle: 0,
            issued_at: self.now,
            expires_at: self.now.plus(Duration::from_secs(60)),
        };
        self.trust
            .verify_approval(&Self::wire(&doc, seed), self.now)
            .expect("approval")
    }

    fn judge(
        &self,
        job: Verified<Job>,
        facts: Facts,
        approvals: &[Verified<Approval>],
        now: Timestamp,
    ) -> Decision {
        let files = self.trust.held().expect("law");
        authorise(Authorise {
            law: &self.law,
            files,
            job,
            node: &self.node,
            facts,
            approvals,
            releases: &[],
            now,
        })
    }

    fn run(&self, job: &Job) -> Decision {
        self.judge(self.verified(job), self.facts(job), &[], self.now)
    }

    fn seen(&self, facts: &Facts) -> Vec<ApprovalFacts> {
        vec![ApprovalFacts {
            node_id: self.node.id.clone(),
            facts_digest: facts.digest(),
        }]
    }
}

fn permit(decision: Decision) -> Permit {
    match decision {
        Decision::Permit(permit) => *permit,
        other => panic!("{other:?}"),
    }
}

fn denial(decision: Decision) -> Denial {
    match decision {
        Decision::Deny(denial) => denial,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_permit_carries_what_was_decided_and_by_what() {
    let org = Org::new(&[("p", OPS)]);
    let job = org.job_doc("sandbox", &["true"]);
    let permit = permit(org.run(&job));
    assert_eq!(permit.job().doc(), &job);
    assert_eq!(permit.profile_name().as_str(), "sandbox");
    assert_eq!(permit.profile().digest(), permit.facts().profile_digest);
    assert_eq!(
        (permit.action(), permit.policy_ids()),
        ("exec", ["ops".to_owned()].as_slice())
    );
    assert_eq!(
        (permit.bundle_version(), permit.bundle_digest()),
        (7, *org.law.digest())
    );
    assert!(!permit.break_glass() && permit.approvals().is_empty());
}

#[test]
fn time_and_node_are_judged_again_at_start() {
    let org = Org::new(&[("p", OPS)]);
    let doc = org.job_doc("sandbox", &["true"]);
    let late = org.now.plus(Duration::from_secs(300));
    let denied = denial(org.judge(org.verified(&doc), org.facts(&doc), &[], late));
    assert_eq!(denied.refusal.code, Code::Expired);
    let mut early = doc.clone();
    early.not_before = org.now.plus(Duration::from_secs(100));
    let wire = Org::wire(&early, CAROL);
    let verified = org.trust.verify_job(&wire, early.not_before).expect("job");
    assert_eq!(
        denial(org.judge(verified, org.facts(&early), &[], org.now))
            .refusal
            .code,
        Code::NotYetValid
    );
    let mut elsewhere = doc;
    elsewhere.nodes = vec![NodeId::derive(org.trust.org(), &[6; 32])];
    assert_eq!(denial(org.run(&elsewhere)).refusal.code, Code::WrongNode);
}

#[test]
fn facts_of_another_profile_are_refused() {
    let org = Org::new(&[("p", OPS)]);
    let job = org.job_doc("host", &["true"]);
    let sandboxed = org.facts(&org.job_doc("sandbox", &["true"]));
    let mut relabelled = org.facts(&job);
    relabelled.namespaced = true;
    for facts in [sandboxed, relabelled] {
        let denied = denial(org.judge(org.verified(&job), facts, &[], org.now));
        assert_eq!(denied.refusal.code, Code::PolicyError);
    }
}

#[test]
fn a_root_that_a_profile_names_by_an_index_is_judged_as_the_image_that_it_is() {
    let (index, image, bad) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
    let rule = format!(
        "@id(\"bad\") forbid(principal, action == Action::\"exec\", resource) when {{ context.rootfs == \"{bad}\" && context.rootfs_index == \"{index}\" }};"
    );
    let profile = format!("\n[profiles.rooted]\nbackend = \"bubblewrap\"\nrootfs = \"{index}\"\n");
    let org = Org::with_profile(&[("p", OPS), ("bad", &rule)], &profile);
    let job = org.job_doc("rooted", &["true"]);
    let judged = |rootfs, rootfs_index| {
        let mut facts = org.facts(&job);
        (facts.rootfs, facts.rootfs_index) = (rootfs, rootfs_index);
        org.judge(org.verified(&job), facts, &[], org.now)
    };
    let by_index = permit(judged(Some(image), Some(index)));
    assert_eq!(by_index.facts().named_rootfs(), Some(index));
    permit(judged(Some(index), None));
    assert_eq!(
        denial(judged(Some(bad), Some(index))).refusal.code,
        Code::Forbidden
    );
    // Facts of what the profile does not name are of no use.
    for (rootfs, index) in [
        (Some(image), None),
        (Some(image), Some(image)),
        (Some(index), Some(image)),
        (None, Some(index)),
        (None, None),
    ] {
        let denied = denial(judged(rootfs, index));
        assert_eq!(denied.refusal.code, Code::PolicyError, "{rootfs:?} {index:?}");
    }
}

#[test]
fn an_approval_counts_until_it_expires_and_only_for_its_job() {
    let org = Org::new(&[("p", OPS), ("g", BOUND)]);
    let doc = org.job_doc("sandbox", &["true"]);
    let (job, facts) = (org.verified(&doc), org.facts(&doc));
    let Decision::Ask(asked) = org.run(&doc) else {
        panic!("asks")
    };
    assert_eq!(
        (asked.gates[0].policy_id.as_str(), asked.gates[0].n),
        ("bound", 1)
    );
    assert_eq!(
        (&asked.facts, asked.policy_ids.as_slice()),
        (&facts, ["bound".to_owned(), "ops".to_owned()].as_slice())
    );
    let yes = org.approval(ALICE, "alice", job.digest(), org.seen(&facts));
    let given = permit(org.judge(job.clone(), facts.clone(), std::slice::from_ref(&yes), org.now));
    assert_eq!(given.approvals(), [yes.digest()]);
    let later = org.now.plus(Duration::from_secs(60));
    assert!(matches!(
        org.judge(job.clone(), facts.clone(), &[yes], later),
        Decision::Ask(_)
    ));
    let other = org.approval(ALICE, "alice", Digest([3; 32]), org.seen(&facts));
    assert!(matches!(
        org.judge(job, facts, &[other], org.now),
        Decision::Ask(_)
    ));
}

#[test]
fn a_gate_that_binds_facts_refuses_other_facts_and_does_not_count_unseen_ones() {
    let org = Org::new(&[("p", OPS), ("g", BOUND)]);
    let doc = org.job_doc("sandbox", &["true"]);
    let (job, before) = (org.verified(&doc), org.facts(&doc));
    let mut after = before.clone();
    after.program.sha256 = Digest([9; 32]);
    let yes = org.approval(ALICE, "alice", job.digest(), org.seen(&before));
    let denied = denial(org.judge(job.clone(), after.clone(), &[yes], org.now));
    assert_eq!(
        (denied.refusal.code, denied.policy_ids),
        (Code::FactsChanged, vec!["bound".to_owned()])
    );
    let blind = org.approval(ALICE, "alice", job.digest(), Vec::new());
    assert!(matches!(
        org.judge(job, after, &[blind], org.now),
        Decision::Ask(_)
    ));
}

#[test]
fn an_approval_by_a_key_that_left_the_roster_does_not_count() {
    let org = Org::new(&[("p", OPS), ("g", BOUND)]);
    let doc = org.job_doc("sandbox", &["true"]);
    let (job, facts) = (org.verified(&doc), org.facts(&doc));
    let yes = org.approval(ALICE, "alice", job.digest(), org.seen(&facts));
    let mut newer = org_with(&[("p", OPS), ("g", BOUND)]);
    let roster = newer["roster.toml"].replace(&common::public_line(ALICE), &common::public_line(99));
    newer.insert("roster.toml".into(), roster);
    let files = common::files_of(&newer);
    let law = Law::load(&files).expect("loads");
    let decision = authorise(Authorise {
        law: &law,
        files: &files,
        job,
        node: &org.node,
        facts,
        approvals: &[yes],
        releases: &[],
        now: org.now,
    });
    assert!(matches!(decision, Decision::Ask(_)));
}

#[test]
fn a_job_by_a_key_that_left_the_roster_is_denied() {
    let org = Org::new(&[("p", OPS)]);
    let doc = org.job_doc("sandbox", &["true"]);
    let (job, facts) = (org.verified(&doc), org.facts(&doc));
    let mut newer = org_with(&[("p", OPS)]);
    let roster = newer["roster.toml"].replace(&common::public_line(CAROL), &common::public_line(99));
    newer.insert("roster.toml".into(), roster);
    let files = common::files_of(&newer);
    let law = Law::load(&files).expect("loads");
    let decision = authorise(Authorise {
        law: &law,
        files: &files,
        job,
        node: &org.node,
        facts,
        approvals: &[],
        releases: &[],
        now: org.now,
    });
    assert_eq!(denial(decision).refusal.code, Code::SignerMismatch);
}

#[test]
fn a_cancel_is_judged_under_its_own_action() {
    let own = r#"@id("own") permit(principal, action == Action::"cancel", resource) when { context.requester == principal };"#;
    let org = Org::new(&[("p", own)]);
    let job = org.verified(&org.job_doc("sandbox", &["true"]));
    let cancel = |who: &str, seed: u8, digest: Digest| {
        let doc = Cancel {
            tag: Default::default(),
            org: org.trust.org().clone(),
            job_digest: digest,
            operator: who.parse().expect("name"),
            reason: "enough".into(),
            nodes: Vec::new(),
            min_bundle: 0,
            issued_at: org.now,
            expires_at: org.now.plus(Duration::from_secs(60)),
        };
        let cancel = org
            .trust
            .verify_cancel(&Org::wire(&doc, seed), org.now)
            .expect("cancel");
        let files = org.trust.held().expect("law");
        authorise_cancel(AuthoriseCancel {
            law: &org.law,
            files,
            cancel,
            digest: job.digest(),
            job: job.doc(),
            node: &org.node,
            now: org.now,
        })
    };
    let permit = cancel("carol", CAROL, job.digest()).expect("her own");
    assert_eq!(
        (permit.job_digest(), permit.policy_ids()),
        (job.digest(), ["own".to_owned()].as_slice())
    );
    assert_eq!(
        cancel("alice", ALICE, job.digest())
            .expect_err("not hers")
            .refusal
            .code,
        Code::NoMatch
    );
    assert_eq!(
        cancel("carol", CAROL, Digest([3; 32]))
            .expect_err("another job")
            .refusal
            .code,
        Code::WrongJob
    );
}
