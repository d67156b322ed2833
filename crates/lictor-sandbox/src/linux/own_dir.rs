//! Which of the paths that a job is shown leads to the agent's own directory.

use std::path::Path;

use lictor_trust::profiles::Backend;

use super::shown::SHOWN;

/// The first that is the agent's directory (`own`, without links, as a profile's paths are), lies in it or leads to it. Where a backend shows the host's own tree, the fixed
/// paths are looked at as well: nothing says where an agent keeps its files.
pub(crate) fn leads_to_agent<'a>(
    named: impl Iterator<Item = &'a str>,
    backend: Backend,
    own: &Path,
) -> Option<&'a str> {
    let fixed: &[&str] = if backend.is_namespaced() { &[] } else { &SHOWN };
    let meets = |path: &&str| own.starts_with(path) || Path::new(path).starts_with(own);
    named.chain(fixed.iter().copied()).find(meets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_shown_path_meets_the_agents_directory() {
        let shows = |path: &'static str, own: &str| {
            leads_to_agent([path].into_iter(), Backend::Landlock, Path::new(own)).is_some()
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
