//! Approvals that a passkey signed, verified as a node does it.

#![allow(clippy::unwrap_used)]

mod support;

use lictor_proto::webauthn::{Assertion, challenge_of};
use lictor_proto::{Code, Digest, json};
use lictor_trust::sign;
use lictor_trust::sign::to_wire;
use passkey::authenticator::{Authenticator, UiHint, UserCheck, UserValidationMethod};
use passkey::client::{Client, DefaultClientData};
use passkey::crypto::AvailableBackend;
use passkey::types::ctap2::{Aaguid, Ctap2Error};
use passkey::types::webauthn;
use proptest::prelude::*;
use support::passkey::{self as software, ORIGIN, RP_ID, Words};
use support::{World, key, now, public_line, refused, roster_toml, seed, wire};

/// An org whose roster has these words beside bob's passkey.
fn try_world(line: &str, beside: &str) -> (World, bool) {
    listed_in(World::default(), line, beside)
}

fn listed_in(mut w: World, line: &str, beside: &str) -> (World, bool) {
    let mut newer = w.bundle();
    newer.version = 2;
    let bob = format!("keys = [{{ public = \"{}\" }}]", public_line(seed::BOB));
    let roster = roster_toml();
    assert!(roster.contains(&bob), "{roster}");
    let listed = bob.replace("}]", &format!("}}, {{ public = \"{line}\", {beside} }}]"));
    newer
        .files
        .insert("roster.toml".into(), roster.replace(&bob, &listed));
    let loaded = w.accept_bundle(&newer).unloadable.is_none();
    (w, loaded)
}

fn world(beside: &str) -> World {
    let (w, loaded) = try_world(&software::line(seed::PASSKEY), beside);
    assert!(loaded, "{beside}");
    w
}

const APPROVES: &str =
    r#"origin = "https://hub.example", rp_id = "hub.example", class = "web", approves = true"#;

#[test]
fn a_passkey_approves_by_an_assertion_of_its_own_page() {
    let w = world(APPROVES);
    let approval = w.approval();
    let verified = w
        .trust
        .verify_approval(
            &software::wire(&approval, seed::PASSKEY, &Words::default()),
            now(),
        )
        .unwrap();
    assert_eq!(verified.signers(), [software::id(seed::PASSKEY)]);
    // A browser may say more, and may leave out what is false.
    let more = Words {
        more: r#","other_keys_can_be_added_here":"x""#,
        ..Words::default()
    };
    w.trust
        .verify_approval(&software::wire(&approval, seed::PASSKEY, &more), now())
        .unwrap();
}

/// The one envelope of the vectors that a passkey signed.
#[test]
fn the_published_assertion_holds() {
    let path = support::vectors::directory().join("assertion.json");
    let v: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |name: &str| v[name].as_str().unwrap();
    let beside = format!(
        "origin = {:?}, rp_id = {:?}, approves = true",
        text("origin"),
        text("rp_id")
    );
    let (w, loaded) = listed_in(World::with_freshness(), text("line"), &beside);
    assert!(loaded);
    let approval = w
        .trust
        .verify_approval(text("assertion_envelope"), now())
        .unwrap();
    assert_eq!(approval.digest().to_string(), text("digest"));
    assert_eq!(approval.signers()[0].to_string(), text("key_id"));
    assert_eq!(challenge_of(&approval.digest()), text("challenge"));
}

#[test]
fn an_assertion_of_another_document_page_or_moment_is_refused() {
    let w = world(APPROVES);
    let approval = w.approval();
    let words = Words::default;
    let faults = [
        (
            "a registration",
            Words {
                kind: "webauthn.create",
                ..words()
            },
        ),
        (
            "another document",
            Words {
                challenge: Some(Digest::of(b"other")),
                ..words()
            },
        ),
        (
            "another page",
            Words {
                origin: "https://hub.example.evil.example",
                ..words()
            },
        ),
        (
            "another port",
            Words {
                origin: "https://hub.example:8443",
                ..words()
            },
        ),
        (
            "plain HTTP",
            Words {
                origin: "http://hub.example",
                ..words()
            },
        ),
        (
            "within another page",
            Words {
                more: r#","crossOrigin":true"#,
                ..words()
            },
        ),
        (
            "another rp id",
            Words {
                rp_id: "example",
                ..words()
            },
        ),
        ("nobody there", Words { flags: 4, ..words() }),
        ("nobody known", Words { flags: 1, ..words() }),
        (
            "an attested credential",
            Words {
                flags: 5 | 1 << 6,
                ..words()
            },
        ),
        (
            "extensions",
            Words {
                flags: 5 | 1 << 7,
                ..words()
            },
        ),
    ];
    for (what, words) in faults {
        let verified = w
            .trust
            .verify_approval(&software::wire(&approval, seed::PASSKEY, &words), now());
        refused(what, verified, Code::AssertionInvalid);
    }
}

#[test]
fn a_passkeys_signature_holds_only_as_it_was_made() {
    let w = world(APPROVES);
    let approval = w.approval();
    let verify = |envelope| w.trust.verify_approval(&to_wire(&envelope), now());
    let good = software::envelope(&approval, seed::PASSKEY, &Words::default());
    verify(good.clone()).unwrap();

    let mut without = good.clone();
    without.signatures[0].assertion = None;
    refused("no assertion", verify(without), Code::SignatureInvalid);

    let mut over_pae = good.clone();
    over_pae.signatures[0].sig = key(seed::PASSKEY).sign(&good.pae()).to_vec();
    refused("an Ed25519 signature", verify(over_pae), Code::SignatureInvalid);

    // The same words, in other bytes.
    let mut spaced = good.clone();
    let assertion = spaced.signatures[0].assertion.as_mut().unwrap();
    assertion.client_data.push(b' ');
    refused("other client data", verify(spaced), Code::SignatureInvalid);

    let mut counted = good.clone();
    let assertion = counted.signatures[0].assertion.as_mut().unwrap();
    assertion.authenticator_data[36] = 1;
    refused("another count", verify(counted), Code::SignatureInvalid);

    let mut stranger = software::envelope(&approval, seed::PASSKEY + 1, &Words::default());
    refused(
        "a passkey that nobody has",
        verify(stranger.clone()),
        Code::SignerUnknown,
    );
    stranger.signatures[0].keyid = software::id(seed::PASSKEY);
    refused(
        "under the name of another",
        verify(stranger),
        Code::SignatureInvalid,
    );

    let mut twice = good.clone();
    twice.signatures.push(good.signatures[0].clone());
    refused("two signatures", verify(twice), Code::SignatureCount);

    // A key with an assertion that proves nothing.
    let mut beside = sign(&approval, &[&key(seed::BOB)]);
    verify(beside.clone()).unwrap();
    beside.signatures[0].assertion = good.signatures[0].assertion.clone();
    refused(
        "an assertion beside a key's",
        verify(beside),
        Code::SignatureInvalid,
    );
}

#[test]
fn a_passkey_approves_and_signs_nothing_else() {
    let w = world(APPROVES);
    let assertion = |wire: String| {
        let mut envelope = lictor_proto::Envelope::parse(wire.as_bytes(), 1 << 20).unwrap();
        let approved = software::envelope(&w.approval(), seed::PASSKEY, &Words::default());
        envelope.signatures = approved.signatures;
        to_wire(&envelope)
    };
    let job = assertion(wire(&w.job(), &[seed::BOB]));
    refused(
        "a job",
        w.trust.verify_job(&job, now()),
        Code::AssertionUnsupported,
    );
    let cancel = assertion(wire(&w.cancel(), &[seed::BOB]));
    refused(
        "a cancel",
        w.trust.verify_cancel(&cancel, now()),
        Code::AssertionUnsupported,
    );
    let grant = assertion(wire(&w.grant(), &[seed::BOB]));
    refused(
        "a grant",
        w.trust.verify_grant(&grant),
        Code::AssertionUnsupported,
    );
    // And its assertion for one approval is none for another.
    let other = lictor_proto::doc::Approval {
        job_digest: Digest::of(b"another job"),
        ..w.approval()
    };
    let other = assertion(wire(&other, &[seed::BOB]));
    refused(
        "another approval",
        w.trust.verify_approval(&other, now()),
        Code::AssertionInvalid,
    );
}

#[test]
fn a_passkey_of_a_page_that_the_hub_could_serve_approves_only_if_the_roster_says_so() {
    let of = |beside: &str, words: &Words| {
        let w = world(beside);
        let wire = software::wire(&w.approval(), seed::PASSKEY, words);
        w.trust.verify_approval(&wire, now())
    };
    let web = r#"origin = "https://hub.example", rp_id = "hub.example""#;
    refused("by itself", of(web, &Words::default()), Code::KeyClass);
    let said = format!("{web}, class = \"web\"");
    refused("class web", of(&said, &Words::default()), Code::KeyClass);
    of(APPROVES, &Words::default()).unwrap();
    // A page that comes from the operator's own machine is no page of the hub's.
    let local = Words {
        origin: "http://localhost:8421",
        rp_id: "localhost",
        ..Words::default()
    };
    let own = r#"origin = "http://localhost:8421", rp_id = "localhost", class = "own""#;
    of(own, &local).unwrap();
    refused(
        "another port of it",
        of(&own.replace("8421", "8422"), &local),
        Code::AssertionInvalid,
    );
}

#[test]
fn a_roster_with_a_passkey_that_proves_nothing_does_not_load() {
    let line = software::line(seed::PASSKEY);
    let loads = |line: &str, beside: &str| try_world(line, beside).1;
    let at = |origin: &str, rp_id: &str| format!("origin = \"{origin}\", rp_id = \"{rp_id}\"");
    for (origin, rp_id) in [
        (ORIGIN, RP_ID),
        ("https://a.hub.example", RP_ID),
        ("https://hub.example:8443", RP_ID),
        ("http://localhost:8421", "localhost"),
        ("http://ui.localhost", "ui.localhost"),
    ] {
        assert!(loads(&line, &at(origin, rp_id)), "{origin}, {rp_id}");
    }
    for (origin, rp_id) in [
        ("http://hub.example", RP_ID),
        ("https://hub.example/", RP_ID),
        ("https://hub.example:443", RP_ID),
        ("https://hub.example:080", RP_ID),
        ("https://hub.example:99999", RP_ID),
        ("https://Hub.example", RP_ID),
        ("https://user@hub.example", RP_ID),
        ("https://127.0.0.1", "127.0.0.1"),
        ("https://[::1]", "[::1]"),
        ("https://hub.example", "example"),
        ("https://hub.example", "other.example"),
        ("https://evilhub.example", RP_ID),
        ("https://hub.example", ""),
        ("hub.example", RP_ID),
        ("", ""),
    ] {
        assert!(!loads(&line, &at(origin, rp_id)), "{origin}, {rp_id}");
    }
    let good = at(ORIGIN, RP_ID);
    for (what, line, beside) in [
        ("no origin", line.clone(), r#"rp_id = "hub.example""#.to_owned()),
        (
            "no rp id",
            line.clone(),
            r#"origin = "https://hub.example""#.to_owned(),
        ),
        (
            "own, of another machine",
            line.clone(),
            format!("{good}, class = \"own\""),
        ),
        (
            "a field that is none",
            line.clone(),
            format!("{good}, counter = 1"),
        ),
        (
            "no point",
            format!("lictor-es256 {}", json::encode_base64(&[4; 33])),
            good.clone(),
        ),
        (
            "the identity",
            format!("lictor-es256 {}", json::encode_base64(&[0])),
            good.clone(),
        ),
        ("a long point", line.replace(' ', " BB"), good.clone()),
        ("another key's words", public_line(seed::STRANGER), good.clone()),
        (
            "a key that approves",
            public_line(seed::STRANGER),
            "approves = true".to_owned(),
        ),
    ] {
        assert!(!loads(&line, &beside), "{what}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// No bit of what a passkey signs can change.
    #[test]
    fn no_bit_of_an_assertion_can_change(at in 0_usize..10_000, bit in 0_u8..8) {
        let w = world(APPROVES);
        let good = software::envelope(&w.approval(), seed::PASSKEY, &Words::default());
        let mut bad = good.clone();
        let signature = &mut bad.signatures[0];
        let assertion = signature.assertion.as_mut().unwrap();
        let (client, data) = (assertion.client_data.len(), assertion.authenticator_data.len());
        let place = at % (client + data + signature.sig.len());
        let byte = match place {
            n if n < client => &mut assertion.client_data[n],
            n if n < client + data => &mut assertion.authenticator_data[n - client],
            n => &mut signature.sig[n - client - data],
        };
        *byte ^= 1 << bit;
        prop_assert!(w.trust.verify_approval(&to_wire(&bad), now()).is_err());
    }
}

/// Somebody who is there, and is known.
struct Person;

#[async_trait::async_trait]
impl UserValidationMethod for Person {
    type PasskeyItem = passkey::types::Passkey;

    async fn check_user<'a>(
        &self,
        _hint: UiHint<'a, Self::PasskeyItem>,
        presence: bool,
        verification: bool,
    ) -> Result<UserCheck, Ctap2Error> {
        Ok(UserCheck {
            presence,
            verification,
        })
    }

    fn is_presence_enabled(&self) -> bool {
        true
    }

    fn is_verification_enabled(&self) -> Option<bool> {
        Some(true)
    }
}

/// Another implementation of browser and authenticator makes a passkey, and approves with it.
#[tokio::test]
async fn a_browser_and_an_authenticator_by_others_approve() {
    let store: Option<passkey::types::Passkey> = None;
    let backend = AvailableBackend;
    let authenticator = Authenticator::new(Aaguid::new_empty(), store, Person, backend);
    let mut browser = Client::new(authenticator);
    let page = url::Url::parse(ORIGIN).unwrap();
    let made = browser
        .register(&page, creation(), DefaultClientData)
        .await
        .unwrap();
    let spki = made.response.public_key.unwrap();
    let public =
        <p256::ecdsa::VerifyingKey as p256::pkcs8::DecodePublicKey>::from_public_key_der(&spki).unwrap();
    let point = public.to_sec1_point(true);
    let line = format!("lictor-es256 {}", json::encode_base64(point.as_bytes()));

    let (w, loaded) = try_world(&line, APPROVES);
    assert!(loaded);
    let mut envelope = sign(&w.approval(), &[&key(seed::BOB)]);
    let asked = webauthn::PublicKeyCredentialRequestOptions {
        challenge: envelope.digest().0.to_vec().into(),
        timeout: None,
        rp_id: Some(RP_ID.to_owned()),
        allow_credentials: None,
        user_verification: webauthn::UserVerificationRequirement::Required,
        hints: None,
        attestation: Default::default(),
        attestation_formats: None,
        extensions: None,
    };
    let request = webauthn::CredentialRequestOptions { public_key: asked };
    let answer = browser
        .authenticate(&page, request, DefaultClientData)
        .await
        .unwrap()
        .response;
    envelope.signatures[0].keyid = lictor_proto::KeyId::of("es256", point.as_bytes());
    envelope.signatures[0].sig = answer.signature.to_vec();
    envelope.signatures[0].assertion = Some(Assertion {
        authenticator_data: answer.authenticator_data.to_vec(),
        client_data: answer.client_data_json.to_vec(),
    });
    w.trust.verify_approval(&to_wire(&envelope), now()).unwrap();
}

fn creation() -> webauthn::CredentialCreationOptions {
    let made = webauthn::PublicKeyCredentialCreationOptions {
        rp: webauthn::PublicKeyCredentialRpEntity {
            id: Some(RP_ID.to_owned()),
            name: "hub".to_owned(),
        },
        user: webauthn::PublicKeyCredentialUserEntity {
            id: vec![7; 16].into(),
            display_name: "Bob".to_owned(),
            name: "bob".to_owned(),
        },
        challenge: vec![1; 32].into(),
        pub_key_cred_params: vec![webauthn::PublicKeyCredentialParameters {
            ty: webauthn::PublicKeyCredentialType::PublicKey,
            alg: passkey::crypto::iana::Algorithm::ES256,
        }],
        timeout: None,
        exclude_credentials: None,
        authenticator_selection: None,
        hints: None,
        attestation: Default::default(),
        attestation_formats: None,
        extensions: None,
    };
    webauthn::CredentialCreationOptions { public_key: made }
}
