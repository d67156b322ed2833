//! What a sandbox mounts something at has to be there, since the tree itself is never written to: directories, and
//! files that are replaced by ones about the sandbox's own user and host.

use std::path::Path;

use super::tree::Tree;
use crate::error::RootfsError;

const DIRECTORIES: [&str; 8] = ["dev", "etc", "proc", "run", "sys", "tmp", "var", "workspace"];
const FILES: [&str; 3] = ["etc/group", "etc/hosts", "etc/passwd"];
/// Longest of these files that is taken over from where a link leads.
const MOST: u64 = 1 << 20;

/// Makes them where they are missing. Where a file is a link, its content takes the link's place: what is mounted on a
/// link ends up wherever it leads.
pub(super) fn make(tree: &mut Tree) -> Result<(), RootfsError> {
    for name in DIRECTORIES {
        let path = Path::new(name);
        match tree.look(path) {
            None => tree.directory(path, 0o755)?,
            Some(meta) if meta.is_dir() => {}
            Some(_) => return Err(RootfsError::Invalid(format!("its /{name} is no directory"))),
        }
    }
    for name in FILES {
        let path = Path::new(name);
        match tree.look(path) {
            Some(meta) if meta.is_file() => {}
            Some(meta) if meta.is_dir() => {
                return Err(RootfsError::Invalid(format!("its /{name} is a directory")));
            }
            Some(_) => {
                let content = tree.read(name.as_bytes(), MOST).unwrap_or_default();
                tree.put(path, &content)?;
            }
            None => tree.put(path, b"")?,
        }
    }
    if tree.look(Path::new("oci-layout")).is_some() && tree.look(Path::new("blobs")).is_some() {
        return Err(RootfsError::Invalid(
            "it is the archive of an OCI image, in a form that is not read here; decompress it, or unpack it and name \
             the directory"
                .into(),
        ));
    }
    let listed = tree.read(b"manifest.json", MOST).unwrap_or_default();
    if listed.trim_ascii_start().starts_with(b"[") && contains(&listed, b"\"Layers\"") {
        return Err(RootfsError::Invalid(
            "it is the archive of an image as older tools save it; make one that can be checked: `skopeo copy \
             docker-archive:FILE oci-archive:NEW`"
                .into(),
        ));
    }
    Ok(())
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|w| w == word)
}
