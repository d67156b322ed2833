//! Properties over many inputs: no byte can be changed, no input panics, order is irrelevant.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Bundle, RevocationKind};
use lictor_trust::keys::VerifyKey;
use lictor_trust::law::Version;
use lictor_trust::{OrgTrust, Roster, SecretKey};
use proptest::prelude::*;
use support::{World, now, seed, wire};

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_byte_of_a_signed_job_can_be_changed(at in any::<prop::sample::Index>(), to in 0x20u8..0x7f) {
        let w = World::default();
        let mut bytes = wire(&w.job(), &[seed::ALICE]).into_bytes();
        let i = at.index(bytes.len());
        prop_assume!(bytes[i] != to);
        bytes[i] = to;
        let text = String::from_utf8(bytes).unwrap();
        // Space outside of strings is the envelope's own; whatever passes carries the very same document.
        if let Ok(job) = w.trust.verify_job(&text, now()) {
            prop_assert_eq!(job.digest(), w.job_digest());
        }
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,400}") {
        let w = World::default();
        prop_assert!(w.trust.verify_job(&text, now()).is_err());
        prop_assert!(OrgTrust::pin(&w.org, &text).is_err());
        let _ = Roster::parse(&text);
        let _ = Version::parse(&text);
    }

    #[test]
    fn signatures_verify_for_their_key_and_message_only(seed in any::<[u8; 32]>(), m in any::<Vec<u8>>(), flip in 0usize..64) {
        let secret = SecretKey::from_seed(&seed);
        let key = VerifyKey::new(&secret.public()).unwrap();
        let mut sig = secret.sign(&m);
        prop_assert!(key.verifies(&m, &sig));
        sig[flip] ^= 1;
        prop_assert!(!key.verifies(&m, &sig));
    }

    /// In whatever order and however often bundles arrive, the highest version is held.
    #[test]
    fn the_newest_bundle_wins_in_any_order(order in prop::collection::vec(1u64..6, 1..12)) {
        let mut w = World::default();
        for version in &order {
            let held = w.trust.bundle().unwrap().version;
            w.accept_bundle(&Bundle { version: *version, ..w.bundle() });
            prop_assert_eq!(w.trust.bundle().unwrap().version, held.max(*version));
        }
        let restored = OrgTrust::restore(&w.org, &w.trust.docs()).unwrap();
        prop_assert_eq!(restored.docs(), w.trust.docs());
    }

    /// A revocation never makes anything acceptable that was not.
    #[test]
    fn revocations_only_take_away(targets in prop::collection::vec(0usize..4, 0..4)) {
        let base = World::default();
        let all = [
            (RevocationKind::Operator, "bob".to_owned()),
            (RevocationKind::Operator, "alice".to_owned()),
            (RevocationKind::Key, support::key(seed::ALICE).id().to_string()),
            (RevocationKind::Node, base.secrets.node_id(&base.org).to_string()),
        ];
        let revocations = targets.iter().map(|i| wire(&base.revocation(all[*i].0, &all[*i].1), &[seed::ALICE]));
        let mut trust = base.trust.clone();
        trust.accept(&LawDocs { revocations: revocations.collect(), ..LawDocs::default() }, now());
        let job = wire(&base.job(), &[seed::ALICE]);
        let approval = wire(&base.approval(), &[seed::BOB]);
        let revoked = |i: &[usize]| targets.iter().any(|t| i.contains(t));
        prop_assert_eq!(trust.verify_job(&job, now()).is_err(), revoked(&[1, 2]));
        prop_assert_eq!(trust.verify_approval(&approval, now()).is_err(), revoked(&[0]));
    }
}
