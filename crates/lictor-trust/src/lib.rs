//! Keys, signatures, the trust bundle and everything an org signs: the rules of docs/protocol.md as code.
//!
//! | module | what |
//! |---|---|
//! | [`keys`], [`keyfile`] | Ed25519 keys, in memory and on disk |
//! | [`passkey`] | passkeys of operators, and what they sign |
//! | [`sign`](mod@sign), [`verify`] | document to envelope, and the one way back |
//! | [`org_trust`] | [`OrgTrust`]: what one party believes about one org |
//! | [`rotation`], [`cosigned`] | the next root, law and statements, while several people sign them |
//! | [`law`], [`roster`], [`fleet`], [`profiles`] | the bundle as it is loaded |
//! | [`egress`] | what a sandbox may reach |
//! | [`revocation`] | what has been taken away |
//! | `people` | jobs, approvals, cancels, revocations: methods of [`OrgTrust`] |
//! | [`enrol`], [`directory`] | grant, token, node record; who is which node |
//! | [`receipt`] | asks and receipts |
//!
//! # Invariants
//! - There is no way to a [`Verified`] but the verifying functions here.
//! - No network, no clock, no environment; no files but key files. The caller says what time it is.
#![forbid(unsafe_code)]

pub mod cosigned;
pub mod directory;
pub mod egress;
pub mod enrol;
pub mod fleet;
mod gather;
pub mod keyfile;
pub mod keys;
pub mod law;
pub mod org_trust;
pub mod passkey;
mod people;
pub mod profiles;
pub mod receipt;
pub mod revocation;
mod root;
pub mod roster;
pub mod rotation;
mod schedules;
pub mod seal;
pub mod sign;
mod unread;
pub mod verify;
mod window;

pub use cosigned::Cosigned;
pub use directory::NodeDirectory;
pub use enrol::NodeSecrets;
pub use fleet::Fleet;
pub use keys::SecretKey;
pub use law::LawFiles;
pub use org_trust::{AcceptReport, OrgTrust};
pub use receipt::NodeKeys;
pub use roster::Roster;
pub use rotation::NextRoot;
pub use schedules::Judged;
pub use sign::sign;
pub use unread::{UnreadJob, is_unread};
pub use verify::{Historic, Verified};
