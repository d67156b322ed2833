//! A commit of a declared repository, into a workspace that is empty.
//!
//! ```text
//!   empty workspace -> .git -> objects of the commit, by its full id -> its files -> HEAD is that commit
//!          '----------- whatever goes wrong: it is empty again -----------'
//! ```

use std::fs;
use std::io::{self, Read, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use lictor_proto::Code;
use rustix::fs::MemfdFlags;
use serde::{Deserialize, Serialize};

use super::git::{Git, failed};
use crate::carry::CarryError;

/// Bytes of a credential.
const CREDENTIAL: u64 = 64 * 1024;

/// What is to be brought, and where to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::linux) struct Clone {
    /// The workspace, as the process sees it.
    pub(super) at: String,
    pub(super) url: String,
    pub(super) commit: String,
    /// The sandbox's way out, where it has one.
    pub(super) proxy: Option<String>,
    /// Who is trusted to say who the host is, in a file; the host's own list where there is none.
    pub(super) authorities: Option<String>,
}

impl Clone {
    /// Does it. Standard input is the credential, or empty.
    pub(super) fn carry_out(&self, stdin: impl Read) -> Result<(), CarryError> {
        let at = Path::new(&self.at);
        let credential = credential(stdin)?;
        let unreadable = |e: io::Error| failed(format!("the workspace cannot be read: {e}"));
        if fs::read_dir(at).map_err(unreadable)?.next().is_some() {
            let why = "the workspace is not empty: remove it first, or name another";
            return Err(CarryError::new(Code::DestinationExists, why));
        }
        self.bring(at, credential.as_ref()).inspect_err(|_| empty(at))
    }

    fn bring(&self, at: &Path, credential: Option<&OwnedFd>) -> Result<(), CarryError> {
        let dir = at.join(".git");
        let git = self.objects(dir.clone(), credential)?;
        self.check_out(&git, &dir)
    }

    /// The commit's objects, in a new repository at `dir`.
    pub(super) fn objects(&self, dir: PathBuf, credential: Option<&OwnedFd>) -> Result<Git, CarryError> {
        let mut git = Git::new(dir, Path::new(&self.at));
        git.make()?;
        if self.url.starts_with("http://") {
            git.settings.push("protocol.http.allow=always".to_owned());
        }
        if let Some(proxy) = &self.proxy {
            git.settings.push(format!("http.proxy={proxy}"));
        }
        if let Some(authorities) = &self.authorities {
            git.settings.push(format!("http.sslCAInfo={authorities}"));
        }
        if let Some(file) = credential {
            // Read by git's own child, from memory that only this process and its children have.
            let file = format!("/proc/self/fd/{}", file.as_raw_fd());
            let helper = format!("!f() {{ test \"$1\" = get && cat {file}; }}; f");
            git.settings.push(format!("credential.helper={helper}"));
        }
        let fetch = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            self.url.as_str(),
            self.commit.as_str(),
        ];
        git.run(&fetch)?;
        if git.ask(&["cat-file", "-t", &self.commit])? != "commit" {
            return Err(mismatch(format!("{} is no commit", self.commit)));
        }
        Ok(git)
    }

    /// Its files, over what is there, and HEAD. What is as it should be already is not written again.
    pub(super) fn check_out(&self, git: &Git, dir: &Path) -> Result<(), CarryError> {
        git.run(&["read-tree", &self.commit])?;
        git.run(&["update-index", "-q", "--refresh"])?;
        git.run(&["checkout", "--quiet", "--force", "--detach", &self.commit])?;
        let head = git.ask(&["rev-parse", "--verify", "HEAD"])?;
        if head != self.commit {
            return Err(mismatch(format!("HEAD is {head}")));
        }
        git.run(&["config", "remote.origin.url", &self.url])?;
        // From here on jobs use it as any other clone.
        let attributes = fs::remove_file(dir.join("info/attributes"));
        attributes.map_err(|e| failed(format!("the clone cannot be finished: {e}")))
    }
}

fn mismatch(why: String) -> CarryError {
    CarryError::new(Code::ContentMismatch, why)
}

/// The credential in git's words, in memory: `USER:PASSWORD`, or a token alone.
pub(super) fn credential(stdin: impl Read) -> Result<Option<OwnedFd>, CarryError> {
    let wrong = |e: io::Error| failed(format!("the credential cannot be read: {e}"));
    let mut text = String::new();
    stdin.take(CREDENTIAL).read_to_string(&mut text).map_err(wrong)?;
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if text.contains(['\n', '\0']) {
        return Err(failed("the credential is more than one line".to_owned()));
    }
    let (user, password) = text.split_once(':').unwrap_or(("git", text));
    // It is passed on to git's children, and closed in none of them.
    let file = rustix::fs::memfd_create("credential", MemfdFlags::empty()).map_err(|e| wrong(e.into()))?;
    let mut file = fs::File::from(file);
    file.write_all(format!("username={user}\npassword={password}\n").as_bytes())
        .map_err(wrong)?;
    Ok(Some(file.into()))
}

/// Takes away what an attempt has left, so that the next one finds it as this one did.
fn empty(at: &Path) {
    for entry in fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let _ = match is_dir {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::{Clone, credential};

    #[test]
    fn a_credential_is_one_line_in_memory() {
        for (given, made) in [
            ("amy:pass:word\n", "username=amy\npassword=pass:word\n"),
            ("token", "username=git\npassword=token\n"),
        ] {
            let file = credential(given.as_bytes()).expect("readable").expect("one");
            let path = crate::linux::remove::link_of(&file);
            let mut text = String::new();
            std::fs::File::open(path.as_str())
                .and_then(|mut f| f.read_to_string(&mut text))
                .expect("readable");
            assert_eq!(text, made);
        }
        assert!(credential(&b""[..]).expect("readable").is_none());
        assert!(credential(&b"a\nprotocol=file"[..]).is_err());
    }

    #[test]
    fn a_workspace_with_something_in_it_stays_as_it_is() {
        let place = tempfile::tempdir().expect("a directory");
        std::fs::write(place.path().join("file"), "content").expect("written");
        let clone = Clone {
            at: place.path().to_str().expect("UTF-8").to_owned(),
            url: "https://example.org/x.git".to_owned(),
            commit: "0".repeat(40),
            proxy: None,
            authorities: None,
        };
        let error = clone.carry_out(&b""[..]).expect_err("not empty");
        assert_eq!(error.code(), lictor_proto::Code::DestinationExists);
        assert!(place.path().join("file").exists());
    }
}
