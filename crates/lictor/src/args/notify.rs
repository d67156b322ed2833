//! Arguments of `lictor notify`.

use clap::{Args, Subcommand, ValueEnum};
use lictor_proto::api::NoticeKind;

/// `lictor notify`.
#[derive(Debug, Args)]
pub(crate) struct Notify {
    #[command(subcommand)]
    pub(crate) command: NotifyCommand,
}

/// What to do with notifications. What they say is the hub's word.
#[derive(Debug, Subcommand)]
pub(crate) enum NotifyCommand {
    /// Have a webhook told; the secret that verifies what it gets is shown once
    Webhook {
        /// An https:// URL
        url: String,
        #[command(flatten)]
        on: On,
    },
    /// Have an e-mail address told, where the hub has an SMTP server
    Email {
        /// The address
        address: String,
        #[command(flatten)]
        on: On,
    },
    /// List who is told of what, what waits, and why the last one did not arrive
    #[command(visible_alias = "list")]
    Ls,
    /// Send a test
    Test {
        /// The id that `ls` shows
        id: String,
    },
    /// Tell one nothing any more, not even what waits
    #[command(visible_alias = "remove")]
    Rm {
        /// The id that `ls` shows
        id: String,
    },
}

/// Of what.
#[derive(Debug, Args)]
pub(crate) struct On {
    /// Of what
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [About::Approval, About::Failure, About::Node, About::Law])]
    pub(crate) on: Vec<About>,
}

/// What a notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum About {
    /// A job waits for approval
    Approval,
    /// A job failed, was denied, or came to no end
    Failure,
    /// A node is not heard of any more
    Node,
    /// The law is about to expire or to go stale, or has
    Law,
}

impl From<About> for NoticeKind {
    fn from(about: About) -> Self {
        match about {
            About::Approval => Self::Approval,
            About::Failure => Self::Failure,
            About::Node => Self::Node,
            About::Law => Self::Law,
        }
    }
}
