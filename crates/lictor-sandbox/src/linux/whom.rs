//! Who a job runs as on this host: whom it names itself, or else whom its profile does, or nobody in particular.

use lictor_proto::Name;
use lictor_proto::code::{Code, Refusal};
use lictor_proto::doc::Terms;
use lictor_trust::profiles::{Backend, Profile};

use super::users::{self, User};
use crate::plan::run_as;

/// Who a job runs as: whom it names, or else whom its profile does.
pub(super) fn runs(
    (profile, backend): (&Profile, Backend),
    terms: Option<&Terms>,
    sandbox: &User,
) -> Result<User, Refusal> {
    let own = users::current();
    let named = terms.and_then(|t| t.user.as_ref());
    let user = match named.or_else(|| run_as(profile)) {
        Some(name) => named_user(name)?,
        None if backend.is_unprivileged() && own.uid == 0 => sandbox.clone(),
        None => own,
    };
    let Some(terms) = terms.filter(|terms| terms.names_somebody()) else {
        return Ok(user);
    };
    let user = match &terms.group {
        Some(group) => in_named_group(user, group)?,
        None => user,
    };
    // Its users are two, with one group each; a group that is left out would be another user than the one that was asked for.
    let gives_one = matches!(backend, Backend::Container | Backend::Gvisor);
    if gives_one && user.groups.iter().any(|group| *group != user.gid) {
        let text = format!(
            "{backend} gives a job one group, and the user that this one names is in several; name a user in one group, or a \
             profile with backend = \"bubblewrap\""
        );
        return Err(Refusal::new(Code::Unenforceable, text));
    }
    Ok(user)
}

/// The group and all groups of a user whom the job has chosen, for its facts.
pub(super) fn told(terms: Option<&Terms>, user: &User) -> (Option<u32>, Vec<u32>) {
    if !terms.is_some_and(Terms::names_somebody) {
        return (None, Vec::new());
    }
    let mut groups = user.groups.clone();
    groups.sort_unstable();
    groups.dedup();
    (Some(user.gid), groups)
}

fn named_user(name: &Name) -> Result<User, Refusal> {
    let refuse = |message: String| Refusal::new(Code::Unenforceable, message);
    match users::by_name(name.as_str()) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(refuse(format!("this host has no user {name}"))),
        Err(e) => Err(refuse(format!("cannot find out who {name} is on this host: {e}"))),
    }
}

fn in_named_group(user: User, name: &Name) -> Result<User, Refusal> {
    let refuse = |message: String| Refusal::new(Code::Unenforceable, message);
    match users::in_group(user, name.as_str()) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(refuse(format!("this host has no group {name}"))),
        Err(e) => Err(refuse(format!(
            "cannot find out what group {name} is on this host: {e}"
        ))),
    }
}
