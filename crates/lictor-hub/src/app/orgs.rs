//! What the hub believes about each org, in memory: enough to check shape, signature, roster and size.
//!
//! The hub gives no policy verdict. What it checks here, every node and client checks again.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use lictor_proto::agent::LawDocs;
use lictor_proto::code::Refusal;
use lictor_proto::{Name, OrgId, Timestamp};
use lictor_trust::profiles::Profile;
use lictor_trust::{AcceptReport, OrgTrust};
use tokio::sync::watch;

/// One org.
pub struct Org {
    /// Its id.
    pub id: OrgId,
    trust: RwLock<OrgTrust>,
    docs: watch::Sender<Arc<LawDocs>>,
    /// Serialises pushes, so that what is stored and what is believed go forward together.
    pub(crate) pushing: tokio::sync::Mutex<()>,
}

impl Org {
    /// An org whose documents are these.
    ///
    /// # Errors
    /// When the root or the bundle does not verify.
    pub fn restore(id: &OrgId, docs: &LawDocs) -> Result<Self, Refusal> {
        let trust = OrgTrust::restore(id, docs)?;
        let docs = watch::Sender::new(Arc::new(trust.docs()));
        Ok(Self {
            id: id.clone(),
            trust: RwLock::new(trust),
            docs,
            pushing: tokio::sync::Mutex::new(()),
        })
    }

    /// Asks the org's trust something. Nothing may wait in here.
    pub fn with<T>(&self, ask: impl FnOnce(&OrgTrust) -> T) -> T {
        ask(&self.trust.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The law, now and whenever it changes.
    pub fn watch_docs(&self) -> watch::Receiver<Arc<LawDocs>> {
        self.docs.subscribe()
    }

    /// What would be believed with these documents too; nothing changes yet.
    pub(crate) fn try_accept(&self, docs: &LawDocs) -> (OrgTrust, AcceptReport) {
        let mut trust = self.with(OrgTrust::clone);
        let report = trust.accept(docs, Timestamp::now());
        (trust, report)
    }

    /// Believes it, and tells every link.
    pub(crate) fn believe(&self, trust: OrgTrust) {
        let docs = Arc::new(trust.docs());
        *self.trust.write().unwrap_or_else(PoisonError::into_inner) = trust;
        self.docs.send_replace(docs);
    }

    /// The profile of that name, as the law held says.
    pub fn profile(&self, name: &Name) -> Option<Profile> {
        self.with(|t| {
            t.held()
                .ok()
                .and_then(|law| law.profiles.profiles.get(name).cloned())
        })
    }
}

/// All orgs.
#[derive(Default)]
pub struct OrgBook(RwLock<HashMap<OrgId, Arc<Org>>>);

impl OrgBook {
    /// One org.
    pub fn get(&self, id: &OrgId) -> Option<Arc<Org>> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(id)
            .cloned()
    }

    /// All there are.
    pub fn ids(&self) -> Vec<OrgId> {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        book.keys().cloned().collect()
    }

    /// Puts an org in, unless it is there.
    pub fn insert(&self, org: Org) {
        let mut book = self.0.write().unwrap_or_else(PoisonError::into_inner);
        book.entry(org.id.clone()).or_insert_with(|| Arc::new(org));
    }
}
