//! What a job brings besides its words, its standard input or the file that it puts: seen before anybody signs for it.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use lictor_client::Hub;
use lictor_client::files::Hash;
use lictor_proto::doc::{Job, StdinBytes};
use lictor_proto::{Code, Digest, JobId, limits};

use crate::escape::escape;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::failed;

/// What people are shown of it.
pub(crate) enum Input {
    /// There is none.
    None,
    /// All of it, as text.
    Text(String),
    /// The file that they have named is it.
    Held(String),
}

impl Input {
    /// What the job brings: the file that is `held`, if that is it, or else the text that the hub has of it.
    ///
    /// # Errors
    /// When it can be neither; then nobody signs.
    pub(crate) async fn of(hub: &Hub, (id, job): (&JobId, &Job), held: Option<&Path>) -> Result<Self> {
        let fetched = job.download().map(|(_, content)| content);
        match (job.input().or(fetched), held) {
            // The URL, digest and size are shown; the hub has nothing of it.
            (Some(_), None) if fetched.is_some() => Ok(Self::None),
            (None, None) => Ok(Self::None),
            (None, Some(_)) => Err(Failure::new("this job brings nothing").hint("Leave --input out.")),
            (Some(input), Some(path)) => is_held(input, path),
            (Some(input), None) => Ok(Self::Text(text(hub, id, input).await?)),
        }
    }
}

fn is_held(input: StdinBytes, path: &Path) -> Result<Input> {
    let shown = escape(&path.display().to_string());
    let (digest, size) = digest_of(path).doing(format!("read {shown}"))?;
    if (digest, size) == (input.sha256, input.size) {
        return Ok(Input::Held(shown));
    }
    let why = format!(
        "the job brings {} bytes with {}, and that file has {size} bytes with {digest}",
        input.size, input.sha256
    );
    Err(
        Failure::new(format!("nothing was signed: {shown} is not what this job brings"))
            .code(Code::StdinMismatch)
            .why(why),
    )
}

fn digest_of(path: &Path) -> std::io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    let (mut hash, mut size) = (Hash::default(), 0);
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hash.finish(), size));
        }
        hash.update(&buffer[..n]);
        size += n as u64;
    }
}

async fn text(hub: &Hub, id: &JobId, input: StdinBytes) -> Result<String> {
    if input.size > limits::INPUT_SHOWN {
        let why = format!(
            "it has {} bytes, and at most {} are shown",
            input.size,
            limits::INPUT_SHOWN
        );
        return Err(unseen(&why).code(Code::LimitExceeded));
    }
    let bytes = hub
        .input(id)
        .await
        .map_err(|e| failed("fetch what this job brings", &e))?;
    if Digest::of(&bytes) != input.sha256 {
        let why = format!(
            "the hub gave other bytes than the ones that were signed, {}",
            input.sha256
        );
        return Err(
            Failure::new("nothing was signed: what this job brings cannot be shown")
                .code(Code::StdinMismatch)
                .why(why)
                .hint("It was changed on the way; look at the hub."),
        );
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| unseen("it is no text"))
}

fn unseen(why: &str) -> Failure {
    Failure::new("nothing was signed: what this job brings cannot be shown")
        .why(why)
        .hint("Get it from who asks, look at it, and name it with --input FILE: it counts if it is what was signed.")
}
