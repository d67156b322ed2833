//! The context of doing something with a workspace.

use cedar_policy::Context;
use lictor_proto::Name;
use lictor_proto::doc::{GitCommit, Workspace};

use super::transfer::{Around, surround};
use super::{ContextError, Pairs, Value, error, long, put, text};

/// The context of one operation. The workspace is under the name that it has in every other action.
pub(crate) fn workspace(workspace: &Workspace, around: Around<'_>) -> Result<Context, ContextError> {
    let name = |name: &Option<Name>| text(name.as_ref().map_or("", Name::as_str));
    let mut pairs: Pairs = Vec::with_capacity(20);
    surround(&mut pairs, around);
    put(&mut pairs, "operation", text(workspace.operation.as_str()));
    put(&mut pairs, "sandbox", name(&workspace.sandbox));
    put(&mut pairs, "snapshot", name(&workspace.snapshot));
    let terms = workspace.terms.as_ref();
    put(&mut pairs, "user", name(&terms.and_then(|t| t.user.clone())));
    put(&mut pairs, "group", name(&terms.and_then(|t| t.group.clone())));
    git(workspace.git.as_ref(), &mut pairs);
    let diff = workspace.diff.as_ref();
    let against = diff.and_then(|diff| diff.against.as_deref());
    put(&mut pairs, "against", text(against.unwrap_or_default()));
    put(
        &mut pairs,
        "max_bytes",
        long(diff.map_or(0, |diff| diff.max_bytes)),
    );
    put(
        &mut pairs,
        "ignored",
        Value::new_bool(diff.is_some_and(|diff| diff.ignored)),
    );
    Context::from_pairs(pairs).map_err(error)
}

/// What is brought from where; empty where nothing is.
pub(super) fn git(git: Option<&GitCommit>, pairs: &mut Pairs) {
    let (host, port) = git.and_then(GitCommit::host).unwrap_or_default();
    put(pairs, "git_url", text(git.map_or("", |git| &git.url)));
    put(pairs, "git_host", text(host));
    put(pairs, "git_port", Value::new_long(i64::from(port)));
    put(pairs, "git_commit", text(git.map_or("", |git| &git.commit)));
}
