//! Work on a workspace: a directory that a node keeps by name between jobs (`spec.sandbox`), as a whole.
//!
//! Jobs that work *in* one are of the other kinds. What is done here is done by the node's own program, in the sandbox of the
//! profile that the workspace belongs to, and what it finds out is its standard output.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::work::Process;
use super::{Invalid, ensure};
use crate::ids::Name;

/// A job of this kind sets no variables.
static NO_ENV: BTreeMap<String, String> = BTreeMap::new();

/// What is done. Those that look need no lock; the others have the workspace for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Says which workspaces the profile has on the node.
    List,
    /// Says the same of one.
    Show,
    /// Copies what it holds.
    Snapshot,
    /// Puts such a copy in the place of what it holds.
    Restore,
    /// Removes it, with its snapshots.
    Remove,
}

impl Operation {
    /// All there are.
    pub const ALL: &'static [Self] = &[
        Self::List,
        Self::Show,
        Self::Snapshot,
        Self::Restore,
        Self::Remove,
    ];

    /// The word in a job, and in policies.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Show => "show",
            Self::Snapshot => "snapshot",
            Self::Restore => "restore",
            Self::Remove => "remove",
        }
    }

    /// Whether it only says what is known about workspaces, without going into one.
    #[must_use]
    pub const fn looks(self) -> bool {
        matches!(self, Self::List | Self::Show)
    }
}

/// Something done with a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workspace {
    /// What.
    pub operation: Operation,
    /// With which of the profile's; left out to list them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<Name>,
    /// The snapshot to make or to restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Name>,
    /// Wall time after which it is given up, in milliseconds; `null` means the profile's.
    pub timeout_ms: Option<u64>,
}

impl Workspace {
    /// This, with this workspace.
    #[must_use]
    pub fn new(operation: Operation, sandbox: Option<Name>) -> Self {
        Self {
            operation,
            sandbox,
            snapshot: None,
            timeout_ms: None,
        }
    }

    pub(super) fn process(&self) -> Process<'_> {
        Process {
            timeout: self.timeout_ms.map(Duration::from_millis),
            // Who only looks keeps nobody waiting, and waits for nobody.
            sandbox: self.sandbox.as_ref().filter(|_| !self.operation.looks()),
            ..Process::plain(&NO_ENV)
        }
    }

    pub(super) fn words(&self) -> Vec<String> {
        let names = [&self.sandbox, &self.snapshot];
        let words = ["workspace".to_owned(), self.operation.as_str().to_owned()];
        let names = names.into_iter().flatten().map(Name::to_string);
        words.into_iter().chain(names).collect()
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        let of_one = self.operation != Operation::List;
        ensure(self.sandbox.is_some() == of_one, || {
            Invalid::field("spec.sandbox", "is there unless workspaces are listed")
        })?;
        let of_snapshot = matches!(self.operation, Operation::Snapshot | Operation::Restore);
        ensure(self.snapshot.is_some() == of_snapshot, || {
            Invalid::field(
                "spec.snapshot",
                "is there for snapshot and restore, and only there",
            )
        })?;
        self.process().check_times()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::{Operation, Workspace};
    use crate::doc::{JobKind, Spec};

    fn name(text: &str) -> Option<crate::Name> {
        Some(text.parse().expect("a name"))
    }

    #[test]
    fn each_operation_says_what_it_needs_and_nothing_else() {
        for operation in Operation::ALL.iter().copied() {
            for sandbox in [None, name("shop")] {
                for snapshot in [None, name("before")] {
                    let spec = Workspace {
                        snapshot: snapshot.clone(),
                        ..Workspace::new(operation, sandbox.clone())
                    };
                    let copies = matches!(operation, Operation::Snapshot | Operation::Restore);
                    let fits =
                        sandbox.is_some() == (operation != Operation::List) && snapshot.is_some() == copies;
                    assert_eq!(spec.validate().is_ok(), fits, "{spec:?}");
                    let locks = sandbox.is_some() && !operation.looks();
                    assert_eq!(spec.process().sandbox.is_some(), locks, "{spec:?}");
                }
            }
        }
    }

    #[test]
    fn it_is_read_by_its_kind_and_written_as_it_was() {
        for operation in Operation::ALL.iter().copied() {
            let spec = Spec::Workspace(Workspace::new(operation, name("shop")));
            let text = serde_json::to_string(&spec).expect("JSON");
            assert!(text.contains(operation.as_str()), "{text}");
            let value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(Spec::read(JobKind::Workspace, value), Ok(spec));
        }
        let unknown = serde_json::json!({ "operation": "empty", "sandbox": "shop", "timeout_ms": null });
        assert!(Spec::read(JobKind::Workspace, unknown).is_err());
    }
}
