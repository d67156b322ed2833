//! `lictor org freshness` and `lictor org revoke`: small signed statements between two bundles.

use lictor_client::trust::Held;
use lictor_client::{SignedDoc, TrustStore};
use lictor_proto::Timestamp;
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Document, Freshness, Revocation, RevocationKind, RevocationSet};
use lictor_trust::{OrgTrust, SecretKey, sign};
use serde_json::json;

use crate::args::{OrgFreshness, OrgRevoke, RevokeKind};
use crate::commands::keys;
use crate::commands::org::{Desk, cosign, directory};
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::failed;

pub(super) fn freshness(desk: &Desk<'_>, args: &OrgFreshness) -> Result {
    let mut store = desk.session.trust()?;
    if let Some(file) = &args.out {
        let statement = statement(store.trust(), args)?;
        return cosign::begin(desk, statement, &args.keys, file);
    }
    let load = |name| keys::load(&desk.session.home, name);
    let secrets = args.keys.iter().map(load).collect::<Result<Vec<_>>>()?;
    let mut held = hold(&mut store)?;
    let statement = statement(held.trust(), args)?;
    let signed = seal(&statement, &secrets.iter().collect::<Vec<_>>())?;
    let docs = LawDocs {
        freshness: Some(signed.wire.clone()),
        ..LawDocs::default()
    };
    keep(desk, &mut held, &docs, "freshness.json", &signed)?;
    let value = json!({ "bundle": statement.bundle_version, "revocations": statement.revocations.count,
        "expires_at": statement.expires_at });
    desk.session.out.either(&value, || {
        format!(
            "said: law {} and {} revocations are all there is, until {}\nnext: lictor org push",
            statement.bundle_version, statement.revocations.count, statement.expires_at
        )
    })?;
    Ok(Status::OK)
}

/// All there is, as this home knows it.
fn statement(trust: &OrgTrust, args: &OrgFreshness) -> Result<Freshness> {
    let bundle = trust.bundle().ok_or_else(|| {
        Failure::new("there is no law yet").hint("`lictor org sign` makes the first bundle.")
    })?;
    let now = Timestamp::now();
    Ok(Freshness {
        tag: Default::default(),
        org: trust.org().clone(),
        root_version: trust.root().version,
        bundle_version: bundle.version,
        bundle_digest: bundle.digest(),
        revocations: RevocationSet::of(trust.revocations().iter().map(|r| r.digest())),
        issued_at: now,
        expires_at: now.plus(args.valid),
    })
}

pub(super) fn revoke(desk: &Desk<'_>, args: &OrgRevoke) -> Result {
    let session = desk.session;
    let key = session.key(None)?;
    let mut store = session.trust()?;
    let mut held = hold(&mut store)?;
    let revocation = Revocation {
        tag: Default::default(),
        org: held.trust().org().clone(),
        operator: session.config.operator.clone(),
        kind: match args.kind {
            RevokeKind::Key => RevocationKind::Key,
            RevokeKind::Operator => RevocationKind::Operator,
            RevokeKind::Node => RevocationKind::Node,
            RevokeKind::Job => RevocationKind::Job,
            RevokeKind::Schedule => RevocationKind::Schedule,
            RevokeKind::Grant => RevocationKind::Grant,
        },
        target: args.target.clone(),
        reason: args.reason.clone(),
        issued_at: Timestamp::now(),
    };
    let signed = seal(&revocation, &[&key])?;
    let docs = LawDocs {
        revocations: vec![signed.wire.clone()],
        ..LawDocs::default()
    };
    let hex = signed.digest.to_string().replace("sha256:", "");
    keep(
        desk,
        &mut held,
        &docs,
        &format!("revocation.{}.json", &hex[..16]),
        &signed,
    )?;
    let value = json!({ "revocation": signed.digest, "target": args.target });
    session.out.either(&value, || {
        "revoked, for good\nnext: lictor org freshness (where the org has that role); lictor org push"
            .to_owned()
    })?;
    Ok(Status::OK)
}

fn seal<T: Document>(doc: &T, keys: &[&SecretKey]) -> Result<SignedDoc> {
    doc.validate()
        .map_err(|e| Failure::new("it cannot be signed").because(&e).code(e.code))?;
    Ok(SignedDoc::of(&sign(doc, keys)))
}

/// Nobody else changes the law while a statement about it is made.
fn hold(store: &mut TrustStore) -> Result<Held<'_>> {
    store
        .hold()
        .map_err(|e| failed("read the pinned trust of this home", &e))
}

/// Believed here first, by the same rules as everywhere; then written beside the directory.
fn keep(desk: &Desk<'_>, held: &mut Held<'_>, docs: &LawDocs, name: &str, signed: &SignedDoc) -> Result<()> {
    let report = held.accept(docs).map_err(|e| failed("keep the statement", &e))?;
    if let Some((_, refusal)) = report.refused.first() {
        return Err(Failure::refused("the statement does not hold", refusal));
    }
    directory::write(&directory::signed(&desk.dir, name), &signed.wire)
}
