//! Checks, tests, signs, pushes, shows and compares the law.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use lictor_client::{Home, SignedDoc, TrustStore};
use lictor_policy::Law;
use lictor_proto::agent::LawDocs;
use lictor_proto::doc::{Bundle, Document as _, MinVersions};
use lictor_proto::{Code, Digest, Name, Timestamp};
use lictor_trust::{LawFiles, OrgTrust, SecretKey, sign as seal};
use serde_json::json;

use crate::args::OrgSign;
use crate::commands::keys;
use crate::commands::org::{Desk, cosign, diff, directory};
use crate::escape::escape;
use crate::exit::{self, Status};
use crate::failure::{Doing as _, Failure, Result};
use crate::session::failed;

/// On which terms a bundle is signed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) valid: Duration,
    pub(crate) max_staleness: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        const DAY: u64 = 86_400;
        Self {
            valid: Duration::from_secs(30 * DAY),
            max_staleness: Duration::from_secs(7 * DAY),
        }
    }
}

pub(super) fn check(desk: &Desk<'_>) -> Result {
    let store = desk.session.trust()?;
    let files = load(&desk.dir, store.trust())?;
    let law = loaded(&files)?;
    let mut warnings: Vec<String> = lictor_policy::lint(&law, &files)
        .iter()
        .map(ToString::to_string)
        .collect();
    if store.trust().root().roles.freshness.keys.is_empty() {
        warnings.push(
            "the root names no freshness keys: a revocation that a hub withholds takes effect only when the bundle \
             expires (30 days by default); `lictor org root new --add freshness=KEY` names some"
                .to_owned(),
        );
    }
    let policies = law.policy_ids().count();
    let value = json!({ "loads": true, "policies": policies, "warnings": warnings });
    desk.session.out.either(&value, || {
        let mut lines = vec![format!(
            "the directory loads: {policies} policies, {} gates",
            law.gates().len()
        )];
        lines.extend(warnings.iter().map(|w| format!("warning: {}", escape(w))));
        lines.join("\n")
    })?;
    Ok(Status::OK)
}

pub(super) fn test(desk: &Desk<'_>) -> Result {
    let store = desk.session.trust()?;
    let files = load(&desk.dir, store.trust())?;
    let law = loaded(&files)?;
    let mut failures = Vec::new();
    let mut count = 0;
    for path in directory::list(&desk.dir.join("tests"))? {
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let name = path
            .file_name()
            .map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let cases = lictor_policy::cases::parse(&name, &directory::text(&path)?).doing("read the cases")?;
        let report = lictor_policy::run_cases(&law, &files, &cases);
        count += report.results.len();
        failures.extend(
            report
                .failures()
                .map(|r| format!("{name}: {}: {}", r.name, r.differences.join("; "))),
        );
    }
    let value = json!({ "cases": count, "failures": failures });
    desk.session.out.either(&value, || {
        let mut lines: Vec<_> = failures.iter().map(|f| format!("FAIL  {}", escape(f))).collect();
        lines.push(format!("{count} cases, {} failed", failures.len()));
        lines.join("\n")
    })?;
    Ok(if failures.is_empty() {
        Status::OK
    } else {
        Status(exit::OWN_ERROR)
    })
}

pub(super) fn sign(desk: &Desk<'_>, args: &OrgSign) -> Result {
    let mut store = desk.session.trust()?;
    let terms = Terms {
        valid: args.valid,
        max_staleness: args.max_staleness,
    };
    if let Some(file) = &args.out {
        let version = store.trust().bundle().map_or(0, |b| b.version) + 1;
        let bundle = draft(directory::read(&desk.dir)?, store.trust(), version, terms);
        loads(&bundle, store.trust())?;
        return cosign::begin(desk, bundle, &args.keys, file);
    }
    let (bundle, version) = sign_bundle(&desk.session.home, &mut store, &desk.dir, &args.keys, terms)?;
    let value = json!({ "version": version, "digest": bundle.digest });
    desk.session.out.either(&value, || {
        format!("signed law {version}, {}\nnext: lictor org push", bundle.digest)
    })?;
    Ok(Status::OK)
}

/// Signs the directory as the next bundle, when it loads, and takes it as this home's law.
pub(crate) fn sign_bundle(
    home: &Home,
    store: &mut TrustStore,
    dir: &Path,
    signers: &[Name],
    terms: Terms,
) -> Result<(SignedDoc, u64)> {
    let (signed, version) = sign_files(home, store, directory::read(dir)?, signers, terms)?;
    directory::write(&directory::signed(dir, "bundle.json"), &signed.wire)?;
    Ok((signed, version))
}

/// Signs these files as the next bundle, when they load, and takes it as this home's law.
pub(crate) fn sign_files(
    home: &Home,
    store: &mut TrustStore,
    files: BTreeMap<String, String>,
    signers: &[Name],
    terms: Terms,
) -> Result<(SignedDoc, u64)> {
    let secrets = signers
        .iter()
        .map(|n| keys::load(home, n))
        .collect::<Result<Vec<_>>>()?;
    let secrets: Vec<&SecretKey> = secrets.iter().collect();
    // Nobody else signs the same version meanwhile. What could wait for a person is done.
    let mut held = store
        .hold()
        .map_err(|e| failed("read the pinned trust of this home", &e))?;
    let version = held.trust().bundle().map_or(0, |b| b.version) + 1;
    let bundle = draft(files, held.trust(), version, terms);
    loaded(&load_bundle(&bundle, held.trust())?)?;
    let signed = SignedDoc::of(&seal(&bundle, &secrets));
    let docs = LawDocs {
        bundle: Some(signed.wire.clone()),
        ..LawDocs::default()
    };
    let report = held
        .accept(&docs)
        .map_err(|e| failed("keep the signed law", &e))?;
    if let Some((_, refusal)) = report.refused.first() {
        let failure = Failure::refused("the signed law does not hold", refusal);
        return Err(if refusal.code == Code::ThresholdNotMet {
            failure.hint("Sign with more keys at once: --key A --key B. Where they are in several homes: --out FILE, then `lictor org cosign`.")
        } else {
            failure
        });
    }
    Ok((signed, version))
}

pub(super) async fn push(desk: &Desk<'_>) -> Result {
    let hub = desk.session.hub()?;
    let store = desk.session.trust()?;
    if let Err(refusal) = store.trust().law(Timestamp::now()) {
        let why = escape(&refusal.to_string());
        desk.session
            .out
            .note(format!("warning: under what is pushed nothing new runs: {why}"));
    }
    let pushed = hub
        .push_trust(&store.trust().docs())
        .await
        .map_err(|e| failed("push the law", &e))?;
    if let Some(refusal) = pushed.refused.first() {
        return Err(Failure::refused("the hub refused some of it", refusal));
    }
    desk.session.out.either(&pushed, || {
        let news = if pushed.changed {
            "the hub has it now"
        } else {
            "the hub had it already"
        };
        format!("root {}, law {}: {news}", pushed.root, pushed.bundle)
    })?;
    Ok(Status::OK)
}

pub(super) fn show(desk: &Desk<'_>) -> Result {
    let store = desk.session.trust()?;
    let trust = store.trust();
    let held = trust.law_held(Timestamp::now());
    let files = trust.held().ok();
    let operators: BTreeMap<_, _> = files
        .iter()
        .flat_map(|f| f.roster.operators())
        .map(|o| {
            (
                o.name.to_string(),
                o.groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
            )
        })
        .collect();
    let profiles: BTreeMap<_, _> = files
        .iter()
        .flat_map(|f| &f.profiles.profiles)
        .map(|(name, p)| (name.to_string(), &p.backend))
        .collect();
    let meta = files.map(|f| (f.meta.issued_at, f.meta.expires_at));
    let value = json!({
        "org": trust.org(), "root": held.root, "bundle": held.bundle, "bundle_digest": held.bundle_digest,
        "issued_at": meta.map(|m| m.0), "expires_at": meta.map(|m| m.1), "freshness": held.freshness,
        "revocations": held.revocations, "deny_all": held.deny_all, "operators": operators, "profiles": profiles,
    });
    desk.session.out.either(&value, || {
        let mut lines = vec![
            format!("org          {}", trust.org()),
            format!("root         {}", held.root),
        ];
        lines.push(match (held.bundle_digest, meta) {
            (Some(d), Some((_, until))) => format!("law          {} until {until}, {d}", held.bundle),
            (Some(d), None) => format!("law          {}, {d}", held.bundle),
            (None, _) => "law          none".to_owned(),
        });
        lines.extend(held.freshness.map(|at| format!("freshness    said at {at}")));
        lines.push(format!("revocations  {}", held.revocations));
        lines.extend(
            held.deny_all
                .as_ref()
                .map(|r| format!("DENIES ALL   {}", escape(&r.to_string()))),
        );
        lines.extend(
            operators
                .iter()
                .map(|(name, groups)| format!("operator     {name} ({})", groups.join(", "))),
        );
        lines.extend(
            profiles
                .iter()
                .map(|(name, backend)| format!("profile      {name} ({backend})")),
        );
        lines.join("\n")
    })?;
    Ok(Status::OK)
}

pub(super) fn difference(desk: &Desk<'_>) -> Result {
    let store = desk.session.trust()?;
    let empty = BTreeMap::new();
    let old = store.trust().bundle().map_or(&empty, |b| &b.files);
    let new = directory::read(&desk.dir)?;
    let changed = changed(old, &new);
    desk.session.out.either(&changed, || {
        if changed.is_empty() {
            return "the directory is what was signed last".to_owned();
        }
        differences(&changed)
    })?;
    Ok(Status::OK)
}

/// The files that differ, each with its lines.
pub(super) fn changed(
    old: &BTreeMap<String, String>,
    new: &BTreeMap<String, String>,
) -> BTreeMap<String, Vec<String>> {
    let mut changed = BTreeMap::new();
    for path in old.keys().chain(new.keys()) {
        let (a, b) = (old.get(path), new.get(path));
        if a != b {
            let lines = diff::lines(a.map_or("", String::as_str), b.map_or("", String::as_str));
            changed.insert(path.clone(), lines);
        }
    }
    changed
}

pub(super) fn differences(changed: &BTreeMap<String, Vec<String>>) -> String {
    if changed.is_empty() {
        return "  no file differs".to_owned();
    }
    let files = changed.iter().map(|(path, lines)| {
        let lines: Vec<_> = lines.iter().map(|l| format!("  {}", escape(l))).collect();
        format!("{}\n{}", escape(path), lines.join("\n"))
    });
    files.collect::<Vec<_>>().join("\n")
}

/// The directory as if it were signed now.
pub(super) fn load(dir: &Path, trust: &OrgTrust) -> Result<LawFiles> {
    let version = trust.bundle().map_or(0, |b| b.version) + 1;
    load_bundle(
        &draft(directory::read(dir)?, trust, version, Terms::default()),
        trust,
    )
}

fn draft(files: BTreeMap<String, String>, trust: &OrgTrust, version: u64, terms: Terms) -> Bundle {
    let now = Timestamp::now();
    Bundle {
        tag: Default::default(),
        org: trust.org().clone(),
        version,
        min_root: trust.root().version,
        schema_version: lictor_policy::schema::VERSION,
        min_versions: MinVersions::default(),
        issued_at: now,
        expires_at: now.plus(terms.valid),
        max_staleness: terms.max_staleness.as_secs(),
        files,
        revocations: trust.to_vouch_for(),
    }
}

/// Refuses a bundle that would deny everything.
pub(super) fn loads(bundle: &Bundle, trust: &OrgTrust) -> Result<()> {
    loaded(&load_bundle(bundle, trust)?).map(drop)
}

fn load_bundle(bundle: &Bundle, trust: &OrgTrust) -> Result<LawFiles> {
    let unloadable = "the directory would not load as law";
    bundle
        .validate()
        .map_err(|e| Failure::new(unloadable).because(&e).code(e.code))?;
    LawFiles::load(bundle, Digest::of(b"draft"), trust.root()).map_err(|r| Failure::refused(unloadable, &r))
}

fn loaded(files: &LawFiles) -> Result<Law> {
    Law::load(files).map_err(|e| {
        e.problems.iter().fold(
            Failure::new("the policies would not load").code(Code::BundleUnloadable),
            |failure, problem| failure.why(problem.to_string()),
        )
    })
}
