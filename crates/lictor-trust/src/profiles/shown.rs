//! What a profile shows of the host, hides of that, and keeps as it is.

use std::path::Path;

use super::{Profile, globs};

/// Most paths of each kind: each takes a descriptor of every start.
const MOST: usize = 32;
/// Most variables.
const MOST_VARIABLES: usize = 128;

/// What of a writable path others run, and what says what they run, or where that is said.
const PROTECTED: [&str; 4] = [
    ".git/hooks/",
    ".git/config",
    ".git/config.worktree",
    ".git/commondir",
];

impl Profile {
    /// What of its writable paths stays as it is.
    #[must_use]
    pub fn protected(&self) -> Vec<String> {
        let usual = || PROTECTED.map(str::to_owned).to_vec();
        self.protect.clone().unwrap_or_else(usual)
    }

    /// Whether there is anything to keep as it is.
    #[must_use]
    pub fn protects(&self) -> bool {
        !self.read_write.is_empty() && self.protect.as_ref().is_none_or(|paths| !paths.is_empty())
    }

    /// More of them would pass here and fail at every start.
    pub(super) fn validate_lengths(&self) -> Result<(), String> {
        let shown = self.read_only.len() + self.read_write.len();
        for (lists, entries, most) in [
            ("read_only and read_write together have", shown, MOST),
            ("devices has", self.devices.len(), MOST),
            ("path has", self.path.len(), MOST),
            ("env has", self.env.len(), MOST_VARIABLES),
            ("run_as_users has", self.run_as_users.len(), MOST),
            ("run_as_groups has", self.run_as_groups.len(), MOST),
        ] {
            if entries > most {
                return Err(format!("{lists} {entries} entries, which is more than {most}"));
            }
        }
        Ok(())
    }

    pub(super) fn validate_shown(&self) -> Result<(), String> {
        let shown = || self.read_only.iter().chain(&self.read_write);
        if let Some(p) = shown().find(|p| p.split('/').any(|part| part == "..")) {
            return Err(format!("{p:?} leads up"));
        }
        let same = |a: &str, b: &str| Path::new(a).components().eq(Path::new(b).components());
        if let Some(p) = self
            .read_only
            .iter()
            .find(|a| self.read_write.iter().any(|b| same(a, b)))
        {
            return Err(format!("{p:?} is in read_only and in read_write"));
        }
        let protect = self.protect.as_deref().unwrap_or_default();
        if self.deny.len() > globs::MOST || protect.len() > globs::MOST {
            return Err(format!("deny or protect has more than {} entries", globs::MOST));
        }
        for pattern in &self.deny {
            globs::check(pattern).map_err(|e| format!("deny: {pattern:?} {e}"))?;
        }
        for path in protect {
            let plain = path.strip_suffix('/').unwrap_or(path);
            globs::check(plain).map_err(|e| format!("protect: {path:?} {e}"))?;
            if plain.contains(['*', '?']) {
                return Err(format!("protect: {path:?} is a pattern; name the path itself"));
            }
        }
        Ok(())
    }
}
