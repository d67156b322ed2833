//! What this home holds of its org: the pinned law, and the nodes it has seen proof of.
//!
//! ```text
//! trust/law.json              root chain, bundle, freshness, revocations: exactly as signed
//! trust/nodes/all.json        every (grant, record) that held when it was seen, bounded
//! trust/nodes/by-name/NAME    the one node of that name, or why there is none
//! trust/nodes/by-id/ID        one node, or why it is not accepted
//! trust/refreshed             touched when the hub was last asked
//! trust/lock                  held by whoever changes any of it
//! ```
//!
//! # Invariants
//! - Law never goes back: a change starts from what is on disk, under the lock, whatever this process had read before.

mod kept;
mod nodes;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use lictor_proto::agent::LawDocs;
use lictor_proto::api::TrustPushed;
use lictor_proto::code::Refusal;
use lictor_proto::{Digest, OrgId, Timestamp};
use lictor_trust::{AcceptReport, OrgTrust};
use serde::Serialize;

use crate::error::Error;
use crate::home::{Home, HomeError, make_dir, replace};
use crate::hub::Hub;
use crate::lock::Lock;

pub use nodes::NodeDocs;

/// After this long the hub is asked for news before anything is signed.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

/// The pinned trust of one org.
#[derive(Debug)]
pub struct TrustStore {
    dir: PathBuf,
    trust: OrgTrust,
}

/// The store while nobody else may change it; for documents that are made from what is held.
#[derive(Debug)]
pub struct Held<'a> {
    store: &'a mut TrustStore,
    lock: Lock,
}

/// What asking the hub for news gave.
#[derive(Debug, Default)]
pub struct Refreshed {
    /// What became of the law.
    pub law: AcceptReport,
    /// Records that do not hold, by digest, and why.
    pub nodes: Vec<(Digest, Refusal)>,
    /// The hub's answer, when it had older law than this home and was handed the newer.
    pub pushed: Option<Result<TrustPushed, Error>>,
}

impl TrustStore {
    /// Reads and verifies what is pinned in a home.
    ///
    /// # Errors
    /// [`HomeError::Missing`] when nothing is, another [`Error::Home`] when it cannot be read; [`Error::Untrusted`]
    /// when it does not hold, or is another org's.
    pub fn open(home: &Home, org: &OrgId) -> Result<Self, Error> {
        let dir = home.trust_dir();
        let docs: LawDocs = read_json(&law_path(&dir))?.ok_or_else(|| HomeError::Missing(dir.clone()))?;
        let trust = OrgTrust::restore(org, &docs).map_err(Error::Untrusted)?;
        Ok(Self { dir, trust })
    }

    /// Pins an org by its root version 1; its hash must be the org's id. Whatever was pinned before is gone.
    ///
    /// # Errors
    /// [`Error::Untrusted`] when it is another org's.
    pub fn pin(home: &Home, org: &OrgId, root_v1: &str) -> Result<Self, Error> {
        let dir = home.trust_dir();
        let trust = OrgTrust::pin(org, root_v1).map_err(Error::Untrusted)?;
        let _lock = Lock::take(&dir)?;
        let store = Self { dir, trust };
        // What a hub was asked for another org says nothing about this one.
        match fs::remove_file(store.dir.join("refreshed")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(HomeError::io(&store.dir)(e).into()),
            _ => store.save()?,
        }
        Ok(store)
    }

    /// The org's trust.
    #[must_use]
    pub fn trust(&self) -> &OrgTrust {
        &self.trust
    }

    /// Takes newer law, and keeps it.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be written; refusals are in the report.
    pub fn accept(&mut self, docs: &LawDocs) -> Result<AcceptReport, Error> {
        self.hold()?.accept(docs)
    }

    /// Waits until nobody else changes what is held, and reads what others have changed since.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be read, [`Error::Untrusted`] when it no longer holds.
    pub fn hold(&mut self) -> Result<Held<'_>, Error> {
        let lock = Lock::take(&self.dir)?;
        if let Some(stored) = read_json::<LawDocs>(&law_path(&self.dir))? {
            let own = self.trust.docs();
            if stored != own {
                let mut trust = OrgTrust::restore(self.trust.org(), &stored).map_err(Error::Untrusted)?;
                // A file that was put back from a copy takes nothing away from what this process knows.
                let _ = trust.accept(&own, Timestamp::now());
                self.trust = trust;
            }
        }
        Ok(Held { store: self, lock })
    }

    /// Whether the hub has not been asked for a while.
    #[must_use]
    pub fn is_old(&self) -> bool {
        let asked = self.asked();
        !asked.is_some_and(|at| at.elapsed().is_ok_and(|age| age < REFRESH_AFTER))
    }

    /// When the hub was last asked; `None` in a home that never has.
    fn asked(&self) -> Option<SystemTime> {
        let file = fs::metadata(self.dir.join("refreshed"));
        file.and_then(|m| m.modified()).ok()
    }

    fn asked_at(&self) -> Option<Timestamp> {
        let since = self.asked()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        u64::try_from(since.as_millis()).ok().map(Timestamp::from_millis)
    }

    /// Asks the hub for law and nodes, believes what holds, and keeps it. What the hub has not is handed to it, but for
    /// a new root under which there is no law in force yet: that is for a person to push.
    ///
    /// # Errors
    /// When the hub cannot be asked or the home not written.
    pub async fn refresh(&mut self, hub: &Hub) -> Result<Refreshed, Error> {
        let view = hub.trust().await?;
        let law = self.accept(&view.docs)?;
        let own = self.trust.docs();
        let pushed = if lacks(&view.docs, &own) && !self.is_half_done(&view.docs) {
            Some(hub.push_trust(&own).await)
        } else {
            None
        };
        let shown = hub.nodes().await?.into_iter().map(|n| NodeDocs {
            grant: n.grant,
            record: n.record,
        });
        let nodes = self.remember(shown)?;
        replace(&self.dir.join("refreshed"), b"")?;
        Ok(Refreshed { law, nodes, pushed })
    }

    /// Hands the hub all that is held, but for a new root under which there is no law in force yet: that is for a person
    /// to push. `None` is such a root.
    ///
    /// # Errors
    /// When the hub cannot be asked, or does not take anything.
    pub async fn hand_over(&self, hub: &Hub) -> Result<Option<TrustPushed>, Error> {
        let view = hub.trust().await?;
        if self.is_half_done(&view.docs) {
            return Ok(None);
        }
        hub.push_trust(&self.trust.docs()).await.map(Some)
    }

    /// A new root may need law by its own keys first; without that, handing it on would stop all work.
    fn is_half_done(&self, hub: &LawDocs) -> bool {
        let newest = self.trust.root().version;
        newest > hub.roots.len() as u64 && self.trust.law(Timestamp::now()).is_err()
    }

    fn save(&self) -> Result<(), Error> {
        write_json(&law_path(&self.dir), &self.trust.docs())
    }
}

impl Held<'_> {
    /// The org's trust, as it stays until this is dropped.
    #[must_use]
    pub fn trust(&self) -> &OrgTrust {
        &self.store.trust
    }

    /// Takes newer law, keeps it, and judges the nodes by it.
    ///
    /// # Errors
    /// [`Error::Home`] when it cannot be written; refusals are in the report.
    pub fn accept(&mut self, docs: &LawDocs) -> Result<AcceptReport, Error> {
        let report = self.store.trust.accept(docs, Timestamp::now());
        self.store.save()?;
        if report.changed() {
            self.store.judge(&self.lock, [])?;
        }
        Ok(report)
    }
}

/// Whether the hub has less than we: older law, or not all revocations.
fn lacks(hub: &LawDocs, own: &LawDocs) -> bool {
    let shown: BTreeSet<&str> = hub.revocations.iter().map(String::as_str).collect();
    own.roots.len() > hub.roots.len()
        || (own.bundle.is_some() && own.bundle != hub.bundle)
        || (own.freshness.is_some() && own.freshness != hub.freshness)
        || own.revocations.iter().any(|r| !shown.contains(r.as_str()))
}

fn law_path(dir: &Path) -> PathBuf {
    dir.join("law.json")
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(HomeError::io(path)(e).into()),
    };
    let malformed = |e: serde_json::Error| HomeError::Malformed {
        path: path.to_owned(),
        why: e.to_string(),
    };
    Ok(Some(serde_json::from_slice(&bytes).map_err(malformed)?))
}

/// Replaces a file, unless it says the same already.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|e| Error::Malformed(e.to_string()))?;
    if let Some(dir) = path.parent() {
        make_dir(dir)?;
    }
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    Ok(replace(path, &bytes)?)
}
