//! `lictor org root`: the org's own keys. The next root is a file that is passed from holder to holder until the old
//! threshold and its own are met; then it is taken here, and pushed like any law.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Role, RoleName, Root};
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, KeyId, Timestamp};
use lictor_trust::keys::PublicLine;
use lictor_trust::rotation::{NextRoot, Quorum, RootChange};
use lictor_trust::{AcceptReport, OrgTrust};
use serde_json::{Value, json};

use crate::args::{OrgRootCommand, OrgRootNew, OrgRootSign};
use crate::commands::org::{Desk, directory};
use crate::commands::{confirm, keys};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::failed;

pub(super) fn run(desk: &Desk<'_>, command: &OrgRootCommand) -> Result {
    match command {
        OrgRootCommand::Show { file: None } => show_held(desk),
        OrgRootCommand::Show { file: Some(file) } => show(desk, file),
        OrgRootCommand::New(new) => draft(desk, new),
        OrgRootCommand::Sign(args) => sign(desk, args),
        OrgRootCommand::Merge { file, others } => merge(desk, file, others),
        OrgRootCommand::Take { file } => take(desk, file),
    }
}

fn show_held(desk: &Desk<'_>) -> Result {
    let store = desk.session.trust()?;
    let trust = store.trust();
    let root = trust.root();
    let roles: BTreeMap<_, _> = RoleName::ALL
        .map(|r| (r.as_str(), role_json(root.roles.get(r))))
        .into();
    let value = json!({ "org": trust.org(), "version": root.version, "digest": root.digest(), "name": root.name,
        "issued_at": root.issued_at, "expires_at": root.expires_at, "roles": roles });
    desk.session.out.either(&value, || {
        let head = format!(
            "root {} of {} ({})\nuntil      {}",
            root.version,
            root.name,
            trust.org(),
            root.expires_at
        );
        let lines = RoleName::ALL.map(|r| role_text(r, root.roles.get(r)));
        format!("{head}\n{}", lines.join("\n"))
    })?;
    Ok(Status::OK)
}

fn show(desk: &Desk<'_>, file: &Path) -> Result {
    let store = desk.session.trust()?;
    let next = read(desk, store.trust(), file)?;
    tell(desk, store.trust(), &next, "")
}

fn draft(desk: &Desk<'_>, args: &OrgRootNew) -> Result {
    let store = desk.session.trust()?;
    let trust = store.trust();
    let change = RootChange {
        remove: each(&args.remove, |text| key_id(desk, text))?,
        add: each(&args.add, |text| public_key(desk, text))?,
        threshold: args.threshold.clone(),
        valid: args.valid,
    };
    let next = NextRoot::draft(trust, &change, Timestamp::now())
        .map_err(|r| Failure::refused("this makes no root", &r))?;
    let name = format!("root.{}.json", next.root().version);
    let path = args.out.clone().unwrap_or_else(|| desk.dir.join(name));
    if path.exists() {
        return Err(Failure::new(format!("{} exists already", path.display())).hint(
            "`lictor org root show FILE` says what it is; move it away, or name another file with --out.",
        ));
    }
    match args.out {
        Some(_) => save(&path, &next)?,
        None => directory::write(&path, &next.wire())?,
    }
    let shown = path.display();
    tell(
        desk,
        trust,
        &next,
        &format!("next: lictor org root sign {shown}, by each holder; then: lictor org root take {shown}"),
    )
}

fn sign(desk: &Desk<'_>, args: &OrgRootSign) -> Result {
    let store = desk.session.trust()?;
    let trust = store.trust();
    let mut next = read(desk, trust, &args.file)?;
    if !args.yes {
        if desk.session.out.is_json() {
            return Err(
                Failure::new("nothing was signed: with --json nobody is shown the root and asked")
                    .hint("Look at it with `lictor org root show FILE`, then use --yes."),
            );
        }
        desk.session.out.line(describe(trust, &next))?;
        confirm::signing("Look at it with `lictor org root show FILE`, then use --yes.")?;
    }
    for name in &args.keys {
        let key = keys::load(&desk.session.home, name)?;
        next.sign(&key)
            .map_err(|r| Failure::refused(format!("key {name} cannot sign it"), &r))?;
    }
    save(&args.file, &next)?;
    let then = if next.is_complete() {
        format!("next: lictor org root take {}", args.file.display())
    } else {
        "next: pass the file on to whoever may still sign".to_owned()
    };
    tell(desk, trust, &next, &then)
}

fn merge(desk: &Desk<'_>, file: &Path, others: &[PathBuf]) -> Result {
    let store = desk.session.trust()?;
    let mut next = read(desk, store.trust(), file)?;
    for other in others {
        let copy = read(desk, store.trust(), other)?;
        next.merge(&copy)
            .map_err(|r| Failure::refused(format!("{} is no copy of it", other.display()), &r))?;
    }
    save(file, &next)?;
    tell(desk, store.trust(), &next, "")
}

fn take(desk: &Desk<'_>, file: &Path) -> Result {
    let mut store = desk.session.trust()?;
    let mut held = store
        .hold()
        .map_err(|e| failed("read the pinned trust of this home", &e))?;
    let next = read(desk, held.trust(), file)?;
    if !next.is_complete() {
        let text = standing(&next).join("; ");
        let refusal = Refusal::new(Code::ThresholdNotMet, text);
        return Err(Failure::refused("not enough have signed this root", &refusal)
            .hint("Pass the file on to whoever may still sign: `lictor org root sign FILE`."));
    }
    let docs = LawDocs {
        roots: vec![next.wire()],
        ..LawDocs::default()
    };
    let report = held.accept(&docs).map_err(|e| failed("keep the root", &e))?;
    if let Some((_, refusal)) = report.refused.first() {
        return Err(Failure::refused("the root does not hold", refusal));
    }
    let version = next.root().version;
    directory::write(
        &directory::signed(&desk.dir, &format!("root.{version}.json")),
        &next.wire(),
    )?;
    let todo = what_next(held.trust(), &report);
    let value = json!({ "root": version, "digest": next.digest(), "next": todo });
    desk.session.out.either(&value, || {
        let next: Vec<_> = todo.iter().map(|t| format!("next: {t}")).collect();
        format!("this home holds root {version} now\n{}", next.join("\n"))
    })?;
    Ok(Status::OK)
}

/// What has to be signed under the new root before it is pushed, so that no node is without law in between.
fn what_next(trust: &OrgTrust, report: &AcceptReport) -> Vec<&'static str> {
    let mut todo = Vec::new();
    if report.unloadable.is_some() {
        todo.push(
            "lictor org sign --key NAME, with the new bundle keys: under this root the law so far denies all",
        );
    }
    let freshness = &trust.root().roles.freshness;
    if !freshness.keys.is_empty() && trust.freshness().is_none() {
        todo.push(
            "lictor org freshness --key NAME: without a statement by the root's keys there is no new work",
        );
    }
    todo.push("lictor org push");
    todo
}

fn read(desk: &Desk<'_>, trust: &OrgTrust, file: &Path) -> Result<NextRoot> {
    let next = NextRoot::read(trust, &directory::text(file)?, Timestamp::now())
        .map_err(|r| Failure::refused(format!("{} is no root to sign here", file.display()), &r))?;
    if next.left_out() > 0 {
        desk.session.out.note(format!(
            "warning: {} of its signatures do not count and were left out",
            next.left_out()
        ));
    }
    Ok(next)
}

/// A file wherever somebody wants it; its directory is theirs to make.
fn save(path: &Path, next: &NextRoot) -> Result<()> {
    lictor_client::home::replace(path, next.wire().as_bytes()).doing("write the root")
}

fn tell(desk: &Desk<'_>, trust: &OrgTrust, next: &NextRoot, then: &str) -> Result {
    let quorum = |q: Quorum| json!({ "needed": q.needed, "signed": q.signed, "missing": q.missing });
    let value = json!({ "version": next.root().version, "digest": next.digest(), "changes": changes(trust.root(), next.root()),
        "old": quorum(next.by_old()), "new": quorum(next.by_new()), "complete": next.is_complete() });
    desk.session.out.either(&value, || {
        let text = describe(trust, next);
        if then.is_empty() {
            text
        } else {
            format!("{text}\n{then}")
        }
    })?;
    Ok(Status::OK)
}

/// All of it, before anybody signs.
fn describe(trust: &OrgTrust, next: &NextRoot) -> String {
    let root = next.root();
    let mut lines = vec![
        format!("root {} of {} ({})", root.version, root.name, trust.org()),
        format!("digest     {}", next.digest()),
        format!("dated      {}, until {}", root.issued_at, root.expires_at),
    ];
    lines.extend(RoleName::ALL.map(|r| role_text(r, root.roles.get(r))));
    lines.push(format!("against root {}:", trust.root().version));
    let changes = changes(trust.root(), root);
    if changes.is_empty() {
        lines.push("  nothing changes but its dates".to_owned());
    }
    lines.extend(changes.iter().map(|c| format!("  {}", escape(c))));
    lines.extend(standing(next));
    lines.join("\n")
}

fn standing(next: &NextRoot) -> Vec<String> {
    let one = |which: &str, q: Quorum| {
        let head = format!(
            "{which} root keys: {} of {} have signed",
            q.signed.len(),
            q.needed
        );
        if q.is_met() {
            return head;
        }
        let missing: Vec<_> = q.missing.iter().map(KeyId::to_string).collect();
        format!("{head}; may still sign: {}", missing.join(", "))
    };
    vec![one("old", next.by_old()), one("new", next.by_new())]
}

/// What the next root does otherwise, one sentence each.
fn changes(held: &Root, next: &Root) -> Vec<String> {
    let mut lines = Vec::new();
    if held.name != next.name {
        lines.push(format!("name: {} becomes {}", held.name, next.name));
    }
    for name in RoleName::ALL {
        let (old, new) = (held.roles.get(name), next.roles.get(name));
        let role = name.as_str();
        let gone = old.keys.iter().filter(|k| !new.keys.contains(k));
        lines.extend(gone.map(|k| format!("{role}: loses {}", k.id())));
        let come = new.keys.iter().filter(|k| !old.keys.contains(k));
        lines.extend(come.map(|k| format!("{role}: gets {}", k.id())));
        if old.threshold != new.threshold {
            lines.push(format!(
                "{role}: threshold {} becomes {}",
                old.threshold, new.threshold
            ));
        }
    }
    lines
}

fn role_json(role: &Role) -> Value {
    json!({ "threshold": role.threshold, "keys": role.keys.iter().map(PublicKey::id).collect::<Vec<_>>() })
}

fn role_text(name: RoleName, role: &Role) -> String {
    let mut lines = vec![match role.keys.len() {
        0 => format!("{:<9}  no keys", name.as_str()),
        n => format!("{:<9}  {} of {n}", name.as_str(), role.threshold),
    }];
    lines.extend(role.keys.iter().map(|k| format!("           {}", k.id())));
    lines.join("\n")
}

/// Reads the key of each pair.
fn each<T>(pairs: &[(RoleName, String)], read: impl Fn(&str) -> Result<T>) -> Result<Vec<(RoleName, T)>> {
    pairs
        .iter()
        .map(|(role, text)| Ok((*role, read(text)?)))
        .collect()
}

/// A public key as one line, or the name of a key of this home.
fn public_key(desk: &Desk<'_>, text: &str) -> Result<PublicKey> {
    if let Ok(line) = text.parse::<PublicLine>() {
        return Ok(line.key);
    }
    let name = text.parse().map_err(|_| {
        Failure::new(format!("{:?} is no key", escape(text))).hint(
            "Write the name of a key of this home, or what `lictor keys export-public` prints, in quotes.",
        )
    })?;
    keys::public(&desk.session.home, &name)
}

fn key_id(desk: &Desk<'_>, text: &str) -> Result<KeyId> {
    match text.parse::<KeyId>() {
        Ok(id) => Ok(id),
        Err(_) => public_key(desk, text).map(|k| k.id()),
    }
}
