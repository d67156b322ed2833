//! Work on a workspace: a directory that a node keeps by name between jobs (`spec.sandbox`), as a whole.
//!
//! A clone is a workspace with the files of one commit in it, named by its full id.
//!
//! Jobs that work *in* one are of the other kinds. What is done here is done by the node's own program, in the sandbox of the
//! profile that the workspace belongs to, and what it finds out is its standard output.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::terms::Terms;
use super::work::Process;
use super::{Invalid, ensure};
use crate::ids::Name;
use crate::limits;

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
    /// Brings a commit of a repository into an empty one.
    Clone,
    /// Brings another commit into one that has such a clone.
    Fetch,
    /// Says what of its files is not as in the commit that was cloned into it.
    Diff,
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
        Self::Clone,
        Self::Fetch,
        Self::Diff,
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
            Self::Clone => "clone",
            Self::Fetch => "fetch",
            Self::Diff => "diff",
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

    /// Whether it brings a commit.
    #[must_use]
    pub const fn brings(self) -> bool {
        matches!(self, Self::Clone | Self::Fetch)
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
    /// What to clone, or to fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitCommit>,
    /// How to compare.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff: Option<DiffTerms>,
    /// Wall time after which it is given up, in milliseconds; `null` means the profile's.
    pub timeout_ms: Option<u64>,
    /// Whose workspace it is, where that is a user or group that jobs choose; left out for the profile's own user. Nothing but
    /// these two is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terms: Option<Terms>,
}

/// One commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitCommit {
    /// Where the repository is: `https://HOST[:PORT]/PATH`, or `http://`. No user, no password.
    pub url: String,
    /// The commit's full id, 40 hexadecimal digits in lower case.
    pub commit: String,
}

/// How files are compared with a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffTerms {
    /// The most bytes that the patch may have.
    pub max_bytes: u64,
    /// Whether new files are shown that the workspace's `.gitignore` files leave out.
    pub ignored: bool,
    /// The commit; left out for the one that was cloned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
}

impl GitCommit {
    /// Whether the way there is encrypted and the host proves who it is.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.url.starts_with("https://")
    }

    /// Host and port; `None` for a URL that does not validate.
    #[must_use]
    pub fn host(&self) -> Option<(&str, u16)> {
        let (rest, usual) = match self.url.strip_prefix("https://") {
            Some(rest) => (rest, 443),
            None => (self.url.strip_prefix("http://")?, 80),
        };
        let (authority, path) = rest.split_once('/')?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, usual),
        };
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
        let is_host = !host.is_empty() && host.bytes().all(plain) && !host.starts_with(['-', '.']);
        let printable = path
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"\\\"'`?#".contains(&b));
        (is_host && !path.is_empty() && printable && self.url.len() <= 2048).then_some((host, port))
    }

    /// Whether a credential is of use to it: it goes to the host in the clear only where that is the node itself.
    #[must_use]
    pub fn takes_credential(&self) -> bool {
        self.is_tls() || self.host().is_some_and(|(host, _)| host == "127.0.0.1")
    }

    pub(super) fn validate(&self) -> Result<(), Invalid> {
        ensure(self.host().is_some(), || {
            let what = "https://HOST[:PORT]/PATH in lower case, without user, query and fragment";
            Invalid::field("spec.git.url", what)
        })?;
        check_commit("spec.git.commit", &self.commit)
    }
}

fn check_commit(field: &'static str, id: &str) -> Result<(), Invalid> {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    ensure(id.len() == 40 && id.bytes().all(hex), || {
        Invalid::field(field, "a full id, 40 hexadecimal digits in lower case")
    })
}

impl Workspace {
    /// This, with this workspace.
    #[must_use]
    pub fn new(operation: Operation, sandbox: Option<Name>) -> Self {
        Self {
            operation,
            sandbox,
            snapshot: None,
            git: None,
            diff: None,
            timeout_ms: None,
            terms: None,
        }
    }

    /// Bytes of output that have to be kept for it, where there are more than of any job. Twice, since half of what is
    /// kept is kept of the end.
    #[must_use]
    pub fn keeps(&self) -> Option<u64> {
        let diff = self.diff.as_ref()?;
        Some(2 * (diff.max_bytes.min(limits::ARTIFACT) + limits::MANIFEST))
    }

    /// Whether one secret, as its standard input, is of use to it.
    #[must_use]
    pub fn takes_credential(&self) -> bool {
        self.git.as_ref().is_some_and(GitCommit::takes_credential)
    }

    pub(super) fn process(&self) -> Process<'_> {
        Process {
            timeout: self.timeout_ms.map(Duration::from_millis),
            // Who only looks keeps nobody waiting, and waits for nobody.
            sandbox: self.sandbox.as_ref().filter(|_| !self.operation.looks()),
            terms: self.terms.as_ref(),
            ..Process::plain(&NO_ENV)
        }
    }

    pub(super) fn words(&self) -> Vec<String> {
        let names = [&self.sandbox, &self.snapshot];
        let words = ["workspace".to_owned(), self.operation.as_str().to_owned()];
        let names = names.into_iter().flatten().map(Name::to_string);
        let git = self
            .git
            .iter()
            .flat_map(|git| [git.url.clone(), git.commit.clone()]);
        words.into_iter().chain(names).chain(git).collect()
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
        ensure(self.git.is_some() == self.operation.brings(), || {
            Invalid::field("spec.git", "is there for clone and fetch, and only there")
        })?;
        if let Some(terms) = &self.terms {
            terms.validate()?;
            ensure(terms.umask.is_none() && terms.limits.is_empty(), || {
                Invalid::field("spec.terms", "says nothing but user and group")
            })?;
        }
        ensure(self.diff.is_some() == (self.operation == Operation::Diff), || {
            Invalid::field("spec.diff", "is there for diff, and only there")
        })?;
        if let Some(git) = &self.git {
            git.validate()?;
        }
        if let Some(diff) = &self.diff {
            ensure((1..=limits::ARTIFACT).contains(&diff.max_bytes), || {
                Invalid::limit("spec.diff.max_bytes", "1 byte to 4 GiB")
            })?;
            if let Some(against) = &diff.against {
                check_commit("spec.diff.against", against)?;
            }
        }
        self.process().check_times()
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::{DiffTerms, GitCommit, Operation, Workspace};
    use crate::doc::{JobKind, Spec};

    fn name(text: &str) -> Option<crate::Name> {
        Some(text.parse().expect("a name"))
    }

    fn commit() -> GitCommit {
        GitCommit {
            url: "https://git.example.org/shop.git".to_owned(),
            commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
        }
    }

    fn terms() -> DiffTerms {
        DiffTerms {
            max_bytes: 1 << 20,
            ignored: false,
            against: None,
        }
    }

    #[test]
    fn a_repository_is_named_by_a_plain_url_and_a_commit_by_its_full_id() {
        let of = |url: &str| GitCommit {
            url: url.to_owned(),
            ..commit()
        };
        for (url, host) in [
            ("https://git.example.org/a/b.git", ("git.example.org", 443)),
            ("https://git.example.org:8443/~a/b", ("git.example.org", 8443)),
            ("http://127.0.0.1:80/b", ("127.0.0.1", 80)),
        ] {
            assert_eq!(of(url).host(), Some(host));
            assert_eq!(of(url).validate(), Ok(()));
        }
        for url in [
            "",
            "git.example.org/b",
            "ssh://git.example.org/b",
            "ext::sh -c evil",
            "file:///etc",
            "https://user:pass@git.example.org/b",
            "https://git.example.org",
            "https://git.example.org/",
            "https:///b",
            "https://GIT.example.org/b",
            "https://-oProxyCommand/b",
            "https://git.example.org:x/b",
            "https://git.example.org/b c",
            "https://git.example.org/b?c",
            "https://git.example.org/b\nc",
            "https://git.example.org\\@evil/b",
        ] {
            assert_eq!(of(url).host(), None, "{url}");
            assert!(of(url).validate().is_err(), "{url}");
        }
        for id in [
            "main",
            "0123456",
            "0123456789ABCDEF0123456789ABCDEF01234567",
            "--upload-pack=evil",
        ] {
            let other = GitCommit {
                commit: id.to_owned(),
                ..commit()
            };
            assert!(other.validate().is_err(), "{id}");
        }
    }

    #[test]
    fn each_operation_says_what_it_needs_and_nothing_else() {
        for operation in Operation::ALL.iter().copied() {
            for sandbox in [None, name("shop")] {
                for snapshot in [None, name("before")] {
                    let spec = Workspace {
                        snapshot: snapshot.clone(),
                        git: operation.brings().then(commit),
                        diff: (operation == Operation::Diff).then(terms),
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
    fn it_may_say_whose_it_is_and_nothing_else_about_its_process() {
        let of = |terms: &str| Workspace {
            terms: Some(serde_json::from_str(terms).expect("terms")),
            ..Workspace::new(Operation::Show, name("shop"))
        };
        let users = of(r#"{"user":"deploy","group":"www"}"#);
        assert_eq!(users.validate(), Ok(()));
        assert_eq!(users.process().terms, users.terms.as_ref());
        for other in [
            "{}",
            r#"{"umask":"0027"}"#,
            r#"{"user":"deploy","limits":{"pids":3}}"#,
        ] {
            assert!(of(other).validate().is_err(), "{other}");
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
