//! The secrets that the job of a case uses.

use lictor_proto::doc::{Delivery, SecretUse};
use lictor_proto::{Digest, Name};
use serde::Deserialize;

use crate::facts::Facts;

/// One of them. No value is anywhere in a case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseSecret {
    /// What it is called.
    pub name: Name,
    /// Which version; 1 when left out.
    #[serde(default = "one")]
    pub version: u64,
    /// How it reaches the job; `"memfd"` when left out.
    #[serde(default = "memfd")]
    pub delivery: Delivery,
    /// Who has set it; who asks when left out.
    pub set_by: Option<Name>,
}

const fn one() -> u64 {
    1
}

const fn memfd() -> Delivery {
    Delivery::Memfd
}

/// In the order of a job.
pub(super) fn in_order(secrets: &[CaseSecret]) -> Vec<SecretUse> {
    let mut uses: Vec<SecretUse> = secrets
        .iter()
        .map(|secret| SecretUse {
            name: secret.name.clone(),
            version: secret.version,
            digest: Digest([8; 32]),
            delivery: secret.delivery,
        })
        .collect();
    uses.sort_by(|a, b| a.name.cmp(&b.name));
    uses
}

/// Puts into the facts who has set them.
pub(super) fn set_by(secrets: &[CaseSecret], facts: &mut Facts) {
    for found in &mut facts.secrets {
        let named = secrets.iter().find(|secret| secret.name == found.name);
        if let Some(who) = named.and_then(|secret| secret.set_by.as_ref()) {
            found.set_by.clone_from(who);
        }
    }
}
