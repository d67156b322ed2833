//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The workspace's root directory.
#[must_use]
pub fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).unwrap_or(manifest).to_path_buf()
}

/// The `lictor` binary: `LICTOR_BIN`, or the one that cargo put beside the running test.
///
/// # Errors
/// When there is none: `cargo nextest run -p lictor-test` alone doesn't build it.
pub fn lictor() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("LICTOR_BIN") {
        return Ok(path.into());
    }
    sibling("lictor")
}

/// A binary of the workspace, beside the running test.
///
/// # Errors
/// When it isn't there.
pub fn sibling(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("path of the running test")?;
    let mut dir = test.parent().context("the running test has no directory")?;
    if dir.ends_with("deps") {
        dir = dir.parent().unwrap_or(dir);
    }
    let path = dir.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing; build it with `cargo build --workspace --bins`",
            path.display()
        );
    }
    Ok(path)
}
