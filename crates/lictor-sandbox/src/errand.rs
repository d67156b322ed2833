//! The agent's own program, sent to ask somebody outside for one thing: it holds nothing, and reaches nobody but the egress
//! proxy, by one connection that it finds as its standard input.

use std::io;
use std::path::PathBuf;

use bytes::BytesMut;
use lictor_proto::JobId;
use lictor_proto::egress::Rules;

use crate::imp;
use crate::running::EgressEvents;

/// The word that makes this program download a file for a warden; the order is its next argument.
pub const DOWNLOAD: &str = "download-file";

/// What it is sent for, and by which rules.
#[derive(Debug, Clone)]
pub struct Errand {
    /// Arguments of this program.
    pub arguments: Vec<String>,
    /// Whose it is: what it asks for is recorded as that job's. One at a time.
    pub job: JobId,
    /// What it may ask for.
    pub rules: Rules,
    /// A directory that nobody else may look into, for a moment.
    pub dir: PathBuf,
    /// How much memory of its own it may have, in bytes.
    pub memory: u64,
}

/// One that is under way. Dropped, its process is ended.
#[derive(Debug)]
pub struct OnErrand {
    egress: Option<EgressEvents>,
    inner: imp::OnErrand,
}

impl OnErrand {
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn new(egress: EgressEvents, inner: imp::OnErrand) -> Self {
        Self {
            egress: Some(egress),
            inner,
        }
    }

    /// What it asks the proxy for; `None` the second time. Nothing goes out whose record nobody takes, so whoever sends it
    /// reads this, beside what it says, to the end.
    pub fn take_egress(&mut self) -> Option<EgressEvents> {
        self.egress.take()
    }

    /// Appends what it has written, at most `limit` bytes; `0` is the end. Waits when nothing has come yet. It may be given
    /// up at any time, and nothing is lost.
    ///
    /// # Errors
    /// Only the system's, on a broken descriptor.
    pub async fn read(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        self.inner.read(into, limit).await
    }

    /// Ends it, unless it has ended, and gives the first 4 KiB of what it had to say on standard error. Its way out is closed
    /// when this returns.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub async fn end(self) -> io::Result<Vec<u8>> {
        self.inner.end().await
    }
}
