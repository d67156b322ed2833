//! Which law there is: to act by now, or only to read by.

use std::sync::Arc;

use lictor_proto::agent::LawHeld;
use lictor_proto::code::Refusal;
use lictor_proto::doc::RevocationKind;
use lictor_proto::{Code, Timestamp, limits};

use super::OrgTrust;
use crate::law::{LawFiles, Version};
use crate::verify::Verified;

impl OrgTrust {
    /// The policy crate could not load the policies of the law held: everything is denied until a newer bundle.
    pub fn mark_unloadable(&mut self, why: Refusal) {
        if let Some(held) = &mut self.bundle {
            held.marked = Some(why);
        }
    }

    /// The law held, for reading documents; expired or stale law may still say who is who.
    ///
    /// # Errors
    /// [`Code::NoLaw`], or why the newest bundle cannot be loaded.
    pub fn held(&self) -> Result<&Arc<LawFiles>, Refusal> {
        let held = self.bundle.as_ref().ok_or(Code::NoLaw)?;
        match (&held.marked, &held.files) {
            (None, Ok(files)) => Ok(files),
            (Some(refusal), _) | (None, Err(refusal)) => Err(refusal.clone()),
        }
    }

    /// The law to act by, now.
    ///
    /// # Errors
    /// [`Code::ClockBack`], [`Code::NoLaw`], [`Code::BundleUnloadable`] (or a narrower reason),
    /// [`Code::AgentTooOld`], [`Code::BundleExpired`], [`Code::FreshnessMismatch`], [`Code::Stale`].
    pub fn law(&self, system: Timestamp) -> Result<&Arc<LawFiles>, Refusal> {
        let files = self.held()?;
        let floor = self.clock_floor();
        if system.plus(limits::CLOCK_AHEAD) < floor {
            let text = format!("the system clock says {system}, signed documents were made at {floor}");
            return Err(Refusal::new(Code::ClockBack, text));
        }
        let own = Version::parse(env!("CARGO_PKG_VERSION"));
        if files.meta.min_agent > own {
            let text = format!("this is {}", env!("CARGO_PKG_VERSION"));
            return Err(Refusal::new(Code::AgentTooOld, text));
        }
        let now = self.now(system);
        if files.meta.expires_at <= now {
            let text = format!(
                "bundle {} expired at {}",
                files.meta.version, files.meta.expires_at
            );
            return Err(Refusal::new(Code::BundleExpired, text));
        }
        self.check_freshness(files, now)?;
        Ok(files)
    }

    fn check_freshness(&self, law: &LawFiles, now: Timestamp) -> Result<(), Refusal> {
        if self.root().roles.freshness.keys.is_empty() {
            return Ok(());
        }
        let Some(held) = &self.freshness else {
            return Err(Refusal::new(Code::Stale, "no freshness statement has been seen"));
        };
        let (fresh, meta) = (&held.doc, &law.meta);
        let mismatch = |text: String| Err(Refusal::new(Code::FreshnessMismatch, text));
        if fresh.root_version > self.root().version {
            return mismatch(format!("root {} exists and is not held", fresh.root_version));
        }
        let other = fresh.bundle_version == meta.version && fresh.bundle_digest != meta.digest;
        if fresh.bundle_version > meta.version || other {
            return mismatch(format!(
                "bundle {} with {} exists and is not held",
                fresh.bundle_version, fresh.bundle_digest
            ));
        }
        if !held.covered {
            let (named, have) = (fresh.revocations.count, self.revocations.len());
            return mismatch(format!(
                "{named} revocations exist, {have} are held, not all the same"
            ));
        }
        let until = fresh.issued_at.plus(meta.max_staleness).min(fresh.expires_at);
        if until <= now {
            return Err(Refusal::new(
                Code::Stale,
                format!("the newest freshness statement held until {until}"),
            ));
        }
        Ok(())
    }

    /// Refuses if the law held is older than a document asks for.
    ///
    /// # Errors
    /// [`Code::StaleBundle`].
    pub fn require(&self, min_bundle: u64) -> Result<(), Refusal> {
        let held = self.bundle().map_or(0, |b| b.version);
        if min_bundle <= held {
            return Ok(());
        }
        let text = format!("bundle {min_bundle} is asked for, {held} is held");
        Err(Refusal::new(Code::StaleBundle, text))
    }

    /// Whether this has been revoked.
    #[must_use]
    pub fn is_revoked(&self, kind: RevocationKind, target: &str) -> bool {
        self.revocations.contains(kind, target)
    }

    /// What is held, in the words of a heartbeat.
    #[must_use]
    pub fn law_held(&self, system: Timestamp) -> LawHeld {
        LawHeld {
            root: self.root().version,
            bundle: self.bundle().map_or(0, |b| b.version),
            bundle_digest: self.bundle().map(Verified::digest),
            freshness: self.freshness().map(|f| f.issued_at),
            revocations: self.revocations.len() as u64,
            deny_all: self.law(system).err(),
        }
    }
}
