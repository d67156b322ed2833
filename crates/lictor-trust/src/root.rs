//! The chain of roots: pinned by the org id, then link by link.
//!
//! # Invariants
//! - Version 1 is believed because its digest *is* the org id, and it carries its own threshold's signatures.
//! - Version N+1 carries a threshold of the old root's keys *and* of its own.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{DocKind, Role, RoleName, Root};
use lictor_proto::{Code, OrgId};

use crate::law::root_keys;
use crate::verify::{Keyring, Rule, Sealed, Verified};

/// All root versions of an org, from the first to the newest known.
#[derive(Debug, Clone)]
pub(crate) struct RootChain {
    org: OrgId,
    roots: Vec<Verified<Root>>,
}

impl RootChain {
    /// Starts a chain at version 1, whose digest must be the org.
    pub(crate) fn pin(org: &OrgId, wire: &str) -> Result<Self, Refusal> {
        let sealed = Sealed::open(DocKind::Root, wire)?;
        let actual = OrgId::from_root(&sealed.digest());
        if actual != *org {
            let text = format!("this root makes the org {actual}, not {org}");
            return Err(Refusal::new(Code::WrongOrg, text));
        }
        let mut root = sealed.read_unbound::<Root>(Vec::new())?;
        if root.version != 1 {
            let text = format!("an org starts at root version 1, this is {}", root.version);
            return Err(Refusal::new(Code::RootVersion, text));
        }
        check_keys(&root)?;
        let signers = check_role(&sealed, &root.roles.root)?;
        root = sealed.read_unbound(signers)?;
        Ok(Self {
            org: org.clone(),
            roots: vec![root],
        })
    }

    /// Takes the next version. `Ok(false)` when it is already there.
    pub(crate) fn extend(&mut self, wire: &str) -> Result<bool, Refusal> {
        let sealed = Sealed::open(DocKind::Root, wire)?;
        let digest = sealed.digest();
        if self.roots.iter().any(|r| r.digest() == digest) {
            return Ok(false);
        }
        let held = self.newest();
        let signers = match check_role(&sealed, &held.roles.root) {
            Ok(signers) => signers,
            // An older root of the same org is no forgery, only old.
            Err(refusal) => return Err(self.older(&sealed).unwrap_or(refusal)),
        };
        let root = sealed.read::<Root>(&self.org, signers)?;
        let (got, next) = (root.version, held.version + 1);
        if got != next {
            let code = if got < next {
                Code::RootOlder
            } else {
                Code::RootVersion
            };
            let text = format!("root version {got} does not follow {}", held.version);
            return Err(Refusal::new(code, text));
        }
        check_keys(&root)?;
        check_role(&sealed, &root.roles.root)?;
        self.roots.push(root);
        Ok(true)
    }

    /// `RootOlder`, if keys of an earlier root made this one.
    fn older(&self, sealed: &Sealed<'_>) -> Option<Refusal> {
        let earlier = self.roots.iter().rev().skip(1);
        let mut signers = earlier.filter_map(|r| check_role(sealed, &r.roles.root).ok());
        let root = sealed.read::<Root>(&self.org, signers.next()?).ok()?;
        let held = self.newest().version;
        let text = format!("root version {} is not newer than {held}", root.version);
        (root.version <= held).then(|| Refusal::new(Code::RootOlder, text))
    }

    /// The newest root.
    pub(crate) fn newest(&self) -> &Verified<Root> {
        // `pin` puts in the first and nothing takes one out.
        &self.roots[self.roots.len() - 1]
    }

    /// All roots, oldest first.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Verified<Root>> {
        self.roots.iter()
    }

    pub(crate) fn org(&self) -> &OrgId {
        &self.org
    }
}

/// Keyring and rule of a role; `None` when the role has no keys.
pub(crate) fn role(root: &Root, name: RoleName) -> Result<Option<(Keyring, Rule)>, Refusal> {
    let role = root.roles.get(name);
    if role.keys.is_empty() {
        return Ok(None);
    }
    Ok(Some((Keyring::new(&role.keys)?, Rule::Threshold(role.threshold))))
}

fn check_role(sealed: &Sealed<'_>, role: &Role) -> Result<Vec<lictor_proto::KeyId>, Refusal> {
    sealed.check(&Keyring::new(&role.keys)?, Rule::Threshold(role.threshold))
}

/// All keys of a root are good ones, and each is in one role only.
pub(crate) fn check_keys(root: &Root) -> Result<(), Refusal> {
    let mut seen = std::collections::BTreeSet::new();
    for key in root_keys(root) {
        let id = crate::keys::VerifyKey::new(key)?.id();
        if !seen.insert(id) {
            let text = format!("key {id} occurs more than once in the root");
            return Err(Refusal::new(Code::DuplicateKey, text));
        }
    }
    Ok(())
}
