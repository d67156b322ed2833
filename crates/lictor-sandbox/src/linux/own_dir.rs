//! Keeps the agent's own directory from what a job is shown, where no mount can be put over it.

use std::path::Path;

use lictor_trust::profiles::{Backend, Profile};

use super::shown::SHOWN;
use crate::plan::Unenforceable;

/// Refuses a profile of which a shown path is the agent's directory, lies in it or leads to it. The fixed paths are
/// looked at as well: nothing says where an agent keeps its files.
pub(super) fn is_left_out(profile: &Profile, backend: Backend, own: &Path) -> Result<(), Unenforceable> {
    // Without links, as the profile's own paths are; one that is not there yet is where it will be made.
    let own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
    let named = profile
        .read_only
        .iter()
        .chain(&profile.read_write)
        .map(String::as_str);
    let meets = |path: &&str| own.starts_with(path) || Path::new(path).starts_with(&own);
    match named.chain(SHOWN).find(meets) {
        Some(path) => Err(Unenforceable::OwnDirectory {
            backend,
            path: path.to_owned(),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn no_shown_path_meets_the_agents_directory() {
        let shows = |path: &str, own: &str| {
            let text = serde_json::json!({ "backend": "landlock", "read_only": [path] });
            let profile: Profile = serde_json::from_value(text).expect("a profile");
            is_left_out(&profile, Backend::Landlock, Path::new(own)).is_err()
        };
        assert!(!shows("/srv/data", "/nowhere/lictor/agent"));
        assert!(!shows("/nowhere/lictor-data", "/nowhere/lictor"));
        for path in [
            "/",
            "/nowhere",
            "/nowhere//lictor/",
            "/nowhere/./lictor/agent",
            "/nowhere/lictor/agent/work",
        ] {
            assert!(shows(path, "/nowhere/lictor/agent"), "{path}");
        }
        assert!(
            shows("/srv/data", "/usr/local/lictor"),
            "what is always shown counts too"
        );
    }
}
