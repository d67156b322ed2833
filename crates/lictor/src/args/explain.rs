//! What else `lictor explain` can be asked about: wide jobs, what they bring, where they work, and workspaces.

use clap::Args;
use lictor_proto::Name;
use lictor_proto::doc::Operation;

/// How many nodes, and what is said about the process or the file.
#[derive(Debug, Args)]
pub(crate) struct ExplainMore {
    /// For a job on so many nodes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) nodes: u32,
    /// In this working directory [default: the profile's]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fetch", "collect", "workspace"])]
    pub(crate) cwd: Option<String>,
    /// In this kept sandbox; with --workspace, the workspace that it is about
    #[arg(long, value_name = "NAME")]
    pub(crate) sandbox: Option<Name>,
    /// With standard input, of --size bytes
    #[arg(long)]
    pub(crate) stdin: bool,
    /// With --fetch: in the place of a file that is there
    #[arg(long, requires = "fetch")]
    pub(crate) replace: bool,
    /// Whether this may be done with a workspace: list, show, clone, fetch, diff, snapshot, restore, remove
    #[arg(long, value_name = "OPERATION", value_parser = operation, conflicts_with_all = ["fetch", "collect", "script", "named_script", "command"])]
    pub(crate) workspace: Option<Operation>,
    /// With --workspace snapshot or restore: what the copy is called
    #[arg(long, value_name = "NAME", requires = "workspace")]
    pub(crate) snapshot: Option<Name>,
    /// With --workspace clone or fetch: https://HOST/PATH
    #[arg(long, value_name = "URL", requires_all = ["workspace", "git_commit"])]
    pub(crate) git_url: Option<String>,
    /// With --workspace clone or fetch: the commit's full id
    #[arg(long, value_name = "COMMIT", requires_all = ["workspace", "git_url"])]
    pub(crate) git_commit: Option<String>,
}

fn operation(text: &str) -> Result<Operation, String> {
    let all = Operation::ALL.iter();
    let found = all.clone().find(|operation| operation.as_str() == text);
    found.copied().ok_or_else(|| {
        let words: Vec<_> = all.map(|operation| operation.as_str()).collect();
        format!("one of {}", words.join(", "))
    })
}
