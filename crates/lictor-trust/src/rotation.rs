//! The next root while it is being signed: what changes, who must sign, who has, who is missing.
//!
//! The holders of the old and of the new keys sit at different machines, so a root travels as a file until enough of
//! them have signed. Nobody but they counts: what comes back is judged by [`OrgTrust::accept`] like any other root.
//!
//! ```text
//! draft --sign--> some signatures --sign, merge--> old threshold and new threshold met --OrgTrust::accept--> root N+1
//! ```
//!
//! # Invariants
//! - It is version N+1 of this org, its keys are good ones, each in one role and in nobody's roster entry.
//! - Nobody is asked to sign one that is dated ahead of their clock.
//! - Only signatures by keys of the old or of the new role `root` count.

use std::time::Duration;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Document as _, Role, RoleName, Root, RootRoles};
use lictor_proto::envelope::Envelope;
use lictor_proto::ids::PublicKey;
use lictor_proto::{Code, Digest, KeyId, Timestamp, json};

use crate::gather::{self, Gathering};
use crate::keys::SecretKey;
use crate::law::root_keys;
use crate::org_trust::OrgTrust;
use crate::root::check_keys;
use crate::sign::sign;

pub use crate::gather::Quorum;

/// What the next root does otherwise than the one held. Removals come first, thresholds last.
#[derive(Debug, Clone, Default)]
pub struct RootChange {
    /// Keys that lose a role.
    pub remove: Vec<(RoleName, KeyId)>,
    /// Keys that get a role. A role that had none begins with threshold 1.
    pub add: Vec<(RoleName, PublicKey)>,
    /// How many distinct keys of a role must sign.
    pub threshold: Vec<(RoleName, u32)>,
    /// For how long bundles are taken under it.
    pub valid: Duration,
}

/// Root N+1, perhaps not signed by enough yet.
#[derive(Debug, Clone)]
pub struct NextRoot {
    root: Root,
    /// Who must sign besides the root's own holders.
    old: Role,
    gathering: Gathering,
}

impl RootChange {
    fn apply(&self, roles: &mut RootRoles) -> Result<(), Refusal> {
        for (name, key) in &self.remove {
            let role = roles.get_mut(*name);
            let before = role.keys.len();
            role.keys.retain(|k| k.id() != *key);
            if role.keys.len() == before {
                let text = format!("the role {} has no key {key}", name.as_str());
                return Err(Refusal::new(Code::DocumentInvalid, text));
            }
        }
        for (name, key) in &self.add {
            roles.get_mut(*name).keys.push(*key);
        }
        for name in RoleName::ALL {
            let role = roles.get_mut(name);
            role.threshold = match (role.keys.is_empty(), role.threshold) {
                (true, _) => 0,
                (false, n) => n.max(1),
            };
        }
        for (name, n) in &self.threshold {
            roles.get_mut(*name).threshold = *n;
        }
        Ok(())
    }
}

impl NextRoot {
    /// The root after the one held, with these changes, signed by nobody yet.
    ///
    /// # Errors
    /// [`Code::DocumentInvalid`], [`Code::LimitExceeded`], [`Code::WeakKey`], [`Code::DuplicateKey`].
    pub fn draft(trust: &OrgTrust, change: &RootChange, now: Timestamp) -> Result<Self, Refusal> {
        let held = trust.root();
        let mut root = Root {
            org: Some(trust.org().clone()),
            version: held.version + 1,
            issued_at: now,
            expires_at: now.plus(change.valid),
            ..held.doc().clone()
        };
        change.apply(&mut root.roles)?;
        Self::checked(trust, root.clone(), sign(&root, &[]), now)
    }

    /// Reads a root that follows the one held, with the signatures that it has so far.
    ///
    /// # Errors
    /// As [`NextRoot::draft`]; [`Code::EnvelopeMalformed`], [`Code::WrongType`], [`Code::PayloadMalformed`],
    /// [`Code::WrongOrg`]; [`Code::RootOlder`] or [`Code::RootVersion`] when it does not follow;
    /// [`Code::IssuedInFuture`].
    pub fn read(trust: &OrgTrust, text: &str, now: Timestamp) -> Result<Self, Refusal> {
        let envelope = gather::open(DocKind::Root, text)?;
        let root: Root = json::from_slice(&envelope.payload)
            .map_err(|e| Refusal::new(Code::PayloadMalformed, e.to_string()))?;
        Self::checked(trust, root, envelope, now)
    }

    fn checked(trust: &OrgTrust, root: Root, envelope: Envelope, now: Timestamp) -> Result<Self, Refusal> {
        root.validate().map_err(|e| Refusal::new(e.code, e.to_string()))?;
        gather::check_date(root.issued_at, now)?;
        let (held, got) = (trust.root().version, root.version);
        if root.org.as_ref() != Some(trust.org()) {
            let text = format!("the root is not bound to {}", trust.org());
            return Err(Refusal::new(Code::WrongOrg, text));
        }
        if got != held + 1 {
            let code = if got <= held {
                Code::RootOlder
            } else {
                Code::RootVersion
            };
            let text = format!("root version {got} does not follow {held}, which is held here");
            return Err(Refusal::new(code, text));
        }
        check_keys(&root)?;
        check_roster(trust, &root)?;
        let old = trust.root().roles.root.clone();
        let holders = old.keys.iter().chain(&root.roles.root.keys);
        Ok(Self {
            gathering: Gathering::new(envelope, holders),
            root,
            old,
        })
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.gathering.digest()
    }

    /// The threshold of the root held now.
    #[must_use]
    pub fn by_old(&self) -> Quorum {
        self.gathering.quorum(&self.old)
    }

    /// The threshold of the root itself.
    #[must_use]
    pub fn by_new(&self) -> Quorum {
        self.gathering.quorum(&self.root.roles.root)
    }

    /// How many signatures of the file were left out, since they do not hold or are of nobody who counts.
    #[must_use]
    pub fn left_out(&self) -> usize {
        self.gathering.left_out()
    }

    /// Whether every party that holds the old root would take it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.by_old().is_met() && self.by_new().is_met()
    }

    /// Adds one holder's signature.
    ///
    /// # Errors
    /// [`Code::SignerUnknown`] when the key counts for neither root, [`Code::SignatureCount`] when there are 16 already.
    pub fn sign(&mut self, key: &SecretKey) -> Result<(), Refusal> {
        self.gathering.sign(key)
    }

    /// Takes over the signatures of another copy.
    ///
    /// # Errors
    /// [`Code::DocumentInvalid`] when it is a copy of another root, [`Code::SignatureCount`] when they are too many.
    pub fn merge(&mut self, other: &Self) -> Result<(), Refusal> {
        self.gathering.merge(&other.gathering)
    }

    /// The file to pass on; complete, it is the root as everybody takes it.
    #[must_use]
    pub fn wire(&self) -> String {
        self.gathering.wire()
    }
}

/// A key of the root that somebody in the roster holds would make the law held unloadable everywhere.
fn check_roster(trust: &OrgTrust, root: &Root) -> Result<(), Refusal> {
    let Ok(law) = trust.held() else {
        return Ok(());
    };
    let mut taken = root_keys(root).filter_map(|k| law.roster.holder(&k.id()));
    taken.next().map_or(Ok(()), |(operator, key)| {
        let text = format!("key {} is {}'s in the roster", key.key.id(), operator.name);
        Err(Refusal::new(Code::DuplicateKey, text))
    })
}
