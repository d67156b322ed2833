//! The law that this node holds: accepted, loaded, persisted, then used; always as one whole.
//!
//! Readers take a snapshot and judge a job by it from beginning to end. One update at a time makes the next
//! snapshot aside and puts it in place only when it is on disk.

use std::sync::{Arc, PoisonError, RwLock};

use lictor_policy::{Law, NodeContext};
use lictor_proto::agent::{LawDocs, LawHeld};
use lictor_proto::api::TrustView;
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Timestamp};
use lictor_trust::directory::Node;
use lictor_trust::{AcceptReport, LawFiles, OrgTrust, Verified};

use crate::node_dir::{NodeDir, NodeFile};

/// One consistent view of trust, policies and this node's place in them.
#[derive(Debug)]
pub struct Held {
    /// Documents and keys.
    pub trust: OrgTrust,
    law: Option<Arc<Law>>,
    node: Result<Arc<NodeContext>, Refusal>,
    /// Set when this machine is not the one that the identity was made on.
    cloned: Option<Refusal>,
}

/// Everything that is needed to judge a job now.
#[derive(Debug)]
pub struct Acting<'a> {
    /// The bundle.
    pub files: &'a Arc<LawFiles>,
    /// Its policies.
    pub law: &'a Law,
    /// This node.
    pub node: &'a NodeContext,
    /// The time to judge by.
    pub now: Timestamp,
}

impl Held {
    fn new(trust: OrgTrust, node: &NodeFile, cloned: Option<Refusal>) -> Self {
        let mut trust = trust;
        let loaded = trust.held().map(|files| Law::load(files));
        let law = match loaded {
            Ok(Ok(law)) => Some(Arc::new(law)),
            Ok(Err(e)) => {
                trust.mark_unloadable(e.into());
                None
            }
            Err(_) => None,
        };
        let node = Node::verify(&trust, &node.grant, &node.record).map(|n| Arc::new(NodeContext::from(&n)));
        Self {
            trust,
            law,
            node,
            cloned,
        }
    }

    /// The law to act by now.
    ///
    /// # Errors
    /// Why nothing may start at the moment.
    pub fn acting(&self, system: Timestamp) -> Result<Acting<'_>, Refusal> {
        if let Some(refusal) = &self.cloned {
            return Err(refusal.clone());
        }
        let files = self.trust.law(system)?;
        let law = self.law.as_deref().ok_or(Code::BundleUnloadable)?;
        let node = self.node.as_ref().map_err(Clone::clone)?;
        let now = self.trust.now(system);
        Ok(Acting {
            files,
            law,
            node,
            now,
        })
    }

    /// The law for ending things, which also expired or stale law may do.
    ///
    /// # Errors
    /// When there is none that can be read.
    pub fn ending(&self, system: Timestamp) -> Result<Acting<'_>, Refusal> {
        let files = self.trust.held()?;
        let law = self.law.as_deref().ok_or(Code::BundleUnloadable)?;
        let node = self.node.as_ref().map_err(Clone::clone)?;
        let now = self.trust.now(system);
        Ok(Acting {
            files,
            law,
            node,
            now,
        })
    }

    /// Whether what the other, held before, permitted is judged by the same still: root, bundle, and what is revoked. Newer
    /// freshness only says that all this holds longer.
    pub(crate) fn judges_as(&self, before: &Self) -> bool {
        let of = |held: &Self| {
            let bundle = held.trust.bundle().map(Verified::digest);
            // Of one node they only become more.
            (held.trust.root().digest(), bundle, held.trust.revocations().len())
        };
        of(self) == of(before)
    }

    /// In the words of a heartbeat.
    #[must_use]
    pub fn law_held(&self, now: Timestamp) -> LawHeld {
        let mut held = self.trust.law_held(now);
        held.deny_all = self.acting(now).err();
        held
    }
}

/// Keeps the law.
#[derive(Debug)]
pub struct LawDesk {
    dir: NodeDir,
    node: NodeFile,
    held: RwLock<Arc<Held>>,
    updating: tokio::sync::Mutex<()>,
}

/// What an update did.
#[derive(Debug)]
pub struct Update {
    /// What was taken and what was refused.
    pub report: AcceptReport,
    /// Why everything is denied now, if the new law cannot be loaded.
    pub unloadable: Option<Refusal>,
}

impl LawDesk {
    /// Reads back what was stored; every signature is checked again.
    ///
    /// # Errors
    /// When there is nothing, or it does not hold.
    pub fn open(
        dir: NodeDir,
        node: NodeFile,
        trust: &TrustView,
        cloned: Option<Refusal>,
    ) -> Result<Self, Refusal> {
        let trust = OrgTrust::restore(&trust.org, &trust.docs)?;
        let held = Arc::new(Held::new(trust, &node, cloned));
        Ok(Self {
            dir,
            node,
            held: RwLock::new(held),
            updating: tokio::sync::Mutex::new(()),
        })
    }

    /// The law now.
    #[must_use]
    pub fn current(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes newer documents: accepted, loaded and on disk before they count.
    ///
    /// # Errors
    /// When they could not be stored; the law is then as before.
    pub async fn accept(self: &Arc<Self>, docs: LawDocs, system: Timestamp) -> Result<Update, Refusal> {
        let _one_at_a_time = self.updating.lock().await;
        let desk = self.clone();
        // Verifying and loading a bundle takes milliseconds, and storing waits for the disk.
        tokio::task::spawn_blocking(move || desk.update(&docs, system))
            .await
            .map_err(|e| Refusal::new(Code::Internal, e.to_string()))?
    }

    fn update(&self, docs: &LawDocs, system: Timestamp) -> Result<Update, Refusal> {
        let before = self.current();
        let mut trust = before.trust.clone();
        let report = trust.accept(docs, system);
        if !report.changed() {
            return Ok(Update {
                report,
                unloadable: None,
            });
        }
        let next = Held::new(trust, &self.node, before.cloned.clone());
        let view = TrustView {
            org: next.trust.org().clone(),
            docs: next.trust.docs(),
        };
        self.dir
            .set_trust(&view)
            .map_err(|e| Refusal::new(Code::JournalFailed, format!("the law could not be stored: {e}")))?;
        let unloadable = if report.law_changed() {
            next.trust.held().err()
        } else {
            None
        };
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        Ok(Update { report, unloadable })
    }
}
