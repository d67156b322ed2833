//! A file from a URL to nodes, which fetch it themselves.

use std::ops::ControlFlow;

use lictor_proto::Digest;
use lictor_proto::doc::{Fetch, FileUrl};

use super::to::{Copying, named};
use crate::args::Copy;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// One job, which says all of it: from where, how many bytes, and which.
pub(super) async fn run(
    session: &Session,
    args: &Copy,
    url: &str,
    (targets, path): (&str, String),
) -> Result<Status> {
    let (url, sha256, size) = content(args, url)?;
    let to = named(path, Some(url.name()).filter(|name| !name.is_empty()));
    let copying = match Copying::to(session, args, targets).await? {
        ControlFlow::Continue(copying) => copying,
        ControlFlow::Break(shown) => return Ok(shown),
    };
    let fetch = Fetch {
        url: Some(url),
        ..copying.fetch(to, (sha256, size), "0644")
    };
    copying.submit(fetch).await
}

/// What is signed: a node takes nothing else, whatever the URL gives by then.
fn content(args: &Copy, url: &str) -> Result<(FileUrl, Digest, u64)> {
    let url = url
        .parse::<FileUrl>()
        .map_err(|e| Failure::new(format!("{url} is no URL that nodes fetch from")).because(&e))?;
    let (Some(sha256), Some(size)) = (args.sha256, args.size) else {
        return Err(
            Failure::new("what comes from a URL is signed by its digest and size").hint(
                "Say both, from whoever publishes the file or from a copy that you trust: --sha256 \
                 \"$(sha256sum FILE | cut -d' ' -f1)\" --size \"$(stat -c %s FILE)\".",
            ),
        );
    };
    Ok((url, sha256, size))
}
