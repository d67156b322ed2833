//! The context of doing something with a workspace.

use cedar_policy::Context;
use lictor_proto::Name;
use lictor_proto::doc::Workspace;

use super::transfer::{Around, surround};
use super::{ContextError, Pairs, error, put, text};

/// The context of one operation. The workspace is under the name that it has in every other action.
pub(crate) fn workspace(workspace: &Workspace, around: Around<'_>) -> Result<Context, ContextError> {
    let name = |name: &Option<Name>| text(name.as_ref().map_or("", Name::as_str));
    let mut pairs: Pairs = Vec::with_capacity(20);
    surround(&mut pairs, around);
    put(&mut pairs, "operation", text(workspace.operation.as_str()));
    put(&mut pairs, "sandbox", name(&workspace.sandbox));
    put(&mut pairs, "snapshot", name(&workspace.snapshot));
    Context::from_pairs(pairs).map_err(error)
}
