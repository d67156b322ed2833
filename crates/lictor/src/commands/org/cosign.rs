//! `lictor org cosign` and `lictor org take`: law and freshness statements whose role takes keys of several people.
//! `--out` of `org sign` and `org freshness` begins such a file; it is passed on like the next root.

use std::path::Path;

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Bundle, DocKind, Freshness, MinVersions, RevocationSet};
use lictor_proto::{Code, Digest, Envelope, KeyId, Name, Timestamp, limits};
use lictor_trust::cosigned::{Cosigned, OfRole};
use lictor_trust::{OrgTrust, Verified};
use serde_json::json;

use crate::args::OrgCosign;
use crate::commands::org::{Desk, directory, law};
use crate::commands::{confirm, keys};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::failed;

const LOOK: &str = "Look at it with `lictor org cosign FILE` on a terminal, then use --yes.";

/// What can be signed by several: shown in full, and checked against what this home holds.
pub(super) trait Proposal: OfRole {
    /// Refuses what no holder should sign.
    fn check(&self, trust: &OrgTrust) -> Result<()>;
    /// All of it, for whoever signs.
    fn describe(&self, trust: &OrgTrust) -> Vec<String>;
    /// Which one this home holds.
    fn held(trust: &OrgTrust) -> Option<Digest>;
    /// The document where law is accepted.
    fn docs(wire: String) -> LawDocs;
}

impl Proposal for Bundle {
    /// What is not shown line by line must be as `org sign` makes it.
    fn check(&self, trust: &OrgTrust) -> Result<()> {
        let held = trust.bundle().map_or(0, |b| b.version);
        if self.version != held + 1 {
            let code = if self.version <= held {
                Code::BundleOlder
            } else {
                Code::DocumentInvalid
            };
            let text = format!("version {} is offered, {held} is held", self.version);
            let refusal = Refusal::new(code, text);
            return Err(Failure::refused("this is not the next law", &refusal)
                .hint("Let this home ask the hub for news; or begin a new file."));
        }
        if self.revocations != trust.to_vouch_for() {
            let text = "it names other revocations than this home knows";
            let refusal = Refusal::new(Code::DocumentInvalid, text);
            return Err(
                Failure::refused("this home cannot vouch for its revocations", &refusal).hint(
                    "Let this home ask the hub for news, or push there what it lacks; or begin a new file.",
                ),
            );
        }
        let is_ours = self.schema_version == lictor_policy::schema::VERSION
            && self.min_versions == MinVersions::default();
        if !is_ours {
            let text = "it is for another schema, or ends the work of older agents";
            let refusal = Refusal::new(Code::DocumentInvalid, text);
            return Err(Failure::refused("this is no law as it is signed here", &refusal)
                .hint("Begin and sign it with the same version of lictor."));
        }
        law::loads(self, trust)
    }

    fn describe(&self, trust: &OrgTrust) -> Vec<String> {
        let mut lines = vec![
            format!("law        {}, for root {} on", self.version, self.min_root),
            format!("dated      {}, until {}", self.issued_at, self.expires_at),
            format!("stale      {} s after a freshness statement", self.max_staleness),
            format!("revokes    {}, all that this home knows", self.revocations.len()),
            format!("schema     {}, for any version", self.schema_version),
        ];
        let none = std::collections::BTreeMap::new();
        let old = trust.bundle().map_or(&none, |b| &b.files);
        let version = trust.bundle().map_or(0, |b| b.version);
        lines.push(format!("against law {version}:"));
        lines.push(law::differences(&law::changed(old, &self.files)));
        lines
    }

    fn held(trust: &OrgTrust) -> Option<Digest> {
        trust.bundle().map(Verified::digest)
    }

    fn docs(wire: String) -> LawDocs {
        LawDocs {
            bundle: Some(wire),
            ..LawDocs::default()
        }
    }
}

impl Proposal for Freshness {
    /// It says what all there is; whoever holds anything else cannot say so.
    fn check(&self, trust: &OrgTrust) -> Result<()> {
        let known = RevocationSet::of(trust.revocations().iter().map(Verified::digest));
        let same = self.root_version == trust.root().version
            && Some(self.bundle_digest) == trust.bundle().map(Verified::digest)
            && Some(self.bundle_version) == trust.bundle().map(|b| b.version)
            && self.revocations == known;
        if same {
            return Ok(());
        }
        let refusal = Refusal::new(Code::FreshnessMismatch, "it names other law than this home holds");
        Err(Failure::refused("this home cannot say so", &refusal)
            .hint("Let this home ask the hub for news, or push there what it lacks."))
    }

    fn describe(&self, _: &OrgTrust) -> Vec<String> {
        vec![
            format!(
                "newest     root {}, law {}",
                self.root_version, self.bundle_version
            ),
            format!("law is     {}", self.bundle_digest),
            format!("revokes    {}", self.revocations.count),
            format!("dated      {}, until {}", self.issued_at, self.expires_at),
        ]
    }

    fn held(trust: &OrgTrust) -> Option<Digest> {
        trust.freshness().map(Verified::digest)
    }

    fn docs(wire: String) -> LawDocs {
        LawDocs {
            freshness: Some(wire),
            ..LawDocs::default()
        }
    }
}

/// Begins a file: signed by these keys, and taken by nobody yet.
pub(super) fn begin<T: Proposal>(desk: &Desk<'_>, doc: T, signers: &[Name], file: &Path) -> Result {
    let store = desk.session.trust()?;
    let mut draft = Cosigned::draft(store.trust(), doc, Timestamp::now())
        .map_err(|r| Failure::refused("it cannot be signed", &r))?;
    add(desk, &mut draft, signers)?;
    if file.exists() {
        return Err(Failure::new(format!("{} exists already", file.display()))
            .hint("Move it away, or name another file."));
    }
    save(desk, file, &draft)
}

pub(super) fn cosign(desk: &Desk<'_>, args: &OrgCosign) -> Result {
    let text = read(&args.file)?;
    match kind(&text)? {
        DocKind::Freshness => sign::<Freshness>(desk, args, &text),
        _ => sign::<Bundle>(desk, args, &text),
    }
}

pub(super) fn take(desk: &Desk<'_>, file: &Path) -> Result {
    let text = read(file)?;
    match kind(&text)? {
        DocKind::Freshness => keep::<Freshness>(desk, &text, "freshness.json"),
        _ => keep::<Bundle>(desk, &text, "bundle.json"),
    }
}

fn sign<T: Proposal>(desk: &Desk<'_>, args: &OrgCosign, text: &str) -> Result {
    let store = desk.session.trust()?;
    let mut draft = open::<T>(desk, store.trust(), text)?;
    if !args.yes {
        if desk.session.out.is_json() {
            let what = "nothing was signed: with --json nobody is shown the document and asked";
            return Err(Failure::new(what).hint(LOOK));
        }
        let mut lines = vec![format!("{} {}", T::KIND.as_str(), draft.digest())];
        lines.extend(draft.doc().describe(store.trust()));
        lines.push(standing(&draft));
        desk.session.out.line(lines.join("\n"))?;
        confirm::signing(LOOK)?;
    }
    add(desk, &mut draft, &args.keys)?;
    save(desk, &args.file, &draft)
}

fn keep<T: Proposal>(desk: &Desk<'_>, text: &str, name: &str) -> Result {
    let mut store = desk.session.trust()?;
    let mut held = store
        .hold()
        .map_err(|e| failed("read the pinned trust of this home", &e))?;
    let draft = open::<T>(desk, held.trust(), text)?;
    if !draft.quorum().is_met() {
        let refusal = Refusal::new(Code::ThresholdNotMet, standing(&draft));
        return Err(Failure::refused("not enough have signed it", &refusal)
            .hint("Pass the file on to whoever may still sign: `lictor org cosign FILE --key NAME`."));
    }
    let wire = draft.wire();
    let report = held
        .accept(&T::docs(wire.clone()))
        .map_err(|e| failed("keep it", &e))?;
    if let Some((_, refusal)) = report.refused.first() {
        return Err(Failure::refused("it does not hold", refusal));
    }
    if T::held(held.trust()) != Some(draft.digest()) {
        return Err(Failure::new(
            "this home holds a newer one already; nothing was taken",
        ));
    }
    directory::write(&directory::signed(&desk.dir, name), &wire)?;
    let value = json!({ "kind": T::KIND.as_str(), "digest": draft.digest() });
    desk.session.out.either(&value, || {
        format!(
            "this home holds the {} now\nnext: lictor org push",
            T::KIND.as_str()
        )
    })?;
    Ok(Status::OK)
}

fn open<T: Proposal>(desk: &Desk<'_>, trust: &OrgTrust, text: &str) -> Result<Cosigned<T>> {
    let draft = Cosigned::<T>::read(trust, text, Timestamp::now())
        .map_err(|r| Failure::refused("this is nothing to sign here", &r))?;
    if draft.left_out() > 0 {
        desk.session.out.note(format!(
            "warning: {} of its signatures do not count and were left out",
            draft.left_out()
        ));
    }
    draft.doc().check(trust)?;
    Ok(draft)
}

fn add<T: OfRole>(desk: &Desk<'_>, draft: &mut Cosigned<T>, signers: &[Name]) -> Result<()> {
    for name in signers {
        let key = keys::load(&desk.session.home, name)?;
        draft
            .sign(&key)
            .map_err(|r| Failure::refused(format!("key {name} cannot sign it"), &r))?;
    }
    Ok(())
}

fn save<T: OfRole>(desk: &Desk<'_>, file: &Path, draft: &Cosigned<T>) -> Result {
    lictor_client::home::replace(file, draft.wire().as_bytes()).doing("write the file")?;
    let q = draft.quorum();
    let value = json!({ "kind": T::KIND.as_str(), "digest": draft.digest(), "needed": q.needed, "signed": q.signed,
        "missing": q.missing, "complete": q.is_met() });
    desk.session.out.either(&value, || {
        let next = if q.is_met() { "take" } else { "cosign" };
        format!("{}\nnext: lictor org {next} {}", standing(draft), file.display())
    })?;
    Ok(Status::OK)
}

fn standing<T: OfRole>(draft: &Cosigned<T>) -> String {
    let q = draft.quorum();
    let head = format!("{} of {} have signed", q.signed.len(), q.needed);
    if q.is_met() {
        return head;
    }
    let missing: Vec<_> = q.missing.iter().map(KeyId::to_string).collect();
    format!("{head}; may still sign: {}", missing.join(", "))
}

fn read(file: &Path) -> Result<String> {
    directory::text_within(file, limits::BUNDLE_ENVELOPE as u64)
}

/// Bundle or freshness statement; nothing else is taken here.
fn kind(text: &str) -> Result<DocKind> {
    let envelope = Envelope::parse_draft(text.as_bytes(), limits::BUNDLE_ENVELOPE).map_err(|e| {
        Failure::new("this is no signed document")
            .because(&e)
            .code(e.code())
    })?;
    let is = |kind: DocKind| envelope.payload_type == kind.payload_type();
    match [DocKind::Bundle, DocKind::Freshness].into_iter().find(|k| is(*k)) {
        Some(kind) => Ok(kind),
        None if is(DocKind::Root) => {
            Err(Failure::new("this is a root")
                .hint("`lictor org root sign FILE`, `lictor org root take FILE`."))
        }
        None => {
            let text = format!("this is {}", escape(&envelope.payload_type));
            let refusal = Refusal::new(Code::WrongType, text);
            Err(Failure::refused(
                "this is neither law nor a freshness statement",
                &refusal,
            ))
        }
    }
}
