//! One turn: ask, follow where the server says that it is, and take what comes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use lictor_proto::agent::StdinPiece;
use lictor_proto::code::Refusal;
use lictor_proto::doc::FileUrl;
use lictor_proto::download::{Answer, Failed, LINE, Order, REDIRECTS, Why};
use lictor_proto::egress::Reason;
use lictor_proto::{Code, JobId, json};
use lictor_sandbox::{Errand, OnErrand};
use lictor_trust::profiles::check_url;
use tokio::time::Instant;

use super::Wanted;
use super::tries::{LOOK, SOMETHING};
use crate::core::Core;
use crate::egress;
use crate::offer::{room, take_over};
use crate::spool::stdin::StdinSpool;

/// Bytes taken at once.
const PIECE: usize = 256 * 1024;
/// How much memory the process may have that asks: a TLS connection and buffers take a tenth of it.
const MEMORY: u64 = 256 * 1024 * 1024;

/// Why the file is not here.
#[derive(Debug)]
pub(super) enum Broken {
    /// It may come the next time.
    Again(Refusal),
    /// It will not.
    Final(Refusal),
    /// Nobody may have it any more.
    Unwanted,
    /// Others wait, and it has had its time.
    OutOfTurn,
}

/// What one request came to.
enum Came {
    Whole,
    Elsewhere(FileUrl),
}

/// How the process was heard to its end.
enum Heard {
    Came(Came),
    Broken(Broken),
    /// It ended before the file did; it says why somewhere else.
    Ended,
}

impl From<Broken> for Heard {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

fn again(text: impl Into<String>) -> Broken {
    Broken::Again(Refusal::new(Code::DownloadFailed, text))
}

fn finally(code: Code, text: impl Into<String>) -> Broken {
    Broken::Final(Refusal::new(code, text))
}

/// One turn of a download.
pub(super) struct Turn<'a> {
    wanted: &'a Wanted,
    core: &'a Arc<Core>,
    /// When this try began.
    since: Instant,
    /// When the first did: whoever could have the same from elsewhere waits since then.
    begun: Instant,
}

impl<'a> Turn<'a> {
    /// It begins, or goes on with what has begun then.
    pub(super) fn of(wanted: &'a Wanted, core: &'a Arc<Core>, begun: Instant) -> Self {
        let since = Instant::now();
        Self {
            wanted,
            core,
            since,
            begun,
        }
    }

    /// Whether somebody else should have it.
    fn is_over(&self) -> bool {
        let (downloads, long) = (&self.core.downloads, self.core.turn());
        self.since.elapsed() >= long && downloads.queue.load(Ordering::Relaxed) > 0
            || self.begun.elapsed() >= long && downloads.known().has_another_way(self.wanted)
    }

    /// Asks for it, wherever it is.
    pub(super) async fn attempt(&self) -> Result<(), Broken> {
        let Self { wanted, core, .. } = *self;
        take_over(&core.downloads.spool, &wanted.content).await;
        let mut url = wanted.url.clone();
        for _ in 0..=REDIRECTS {
            // What has come by now counts: the last of it may have come with the try before.
            let elsewhere = coming_elsewhere(core);
            let from = {
                let mut spool = core.downloads.spool();
                if spool.get(&wanted.content).is_ok() {
                    return Ok(());
                }
                spool
                    .expect(&wanted.content, || room::free(core).saturating_sub(elsewhere))
                    .map_err(Broken::Again)?;
                spool.have(&wanted.content.sha256)
            };
            match self.request(&url, from).await? {
                Came::Whole => return Ok(()),
                Came::Elsewhere(to) => url = wanted.follow(&url, to)?,
            }
        }
        Err(finally(
            Code::DownloadFailed,
            format!("the file is elsewhere more than {REDIRECTS} times, the last time at {url}"),
        ))
    }

    /// One request, by a process of its own.
    async fn request(&self, url: &FileUrl, from: u64) -> Result<Came, Broken> {
        let Self { wanted, core, .. } = *self;
        let errand = wanted.errand(core, url, from)?;
        let sent = core.sandboxes.send(&errand).await;
        let mut sent = sent.map_err(|e| again(format!("nothing can be asked for: {e}")))?;
        let events = sent.take_egress();
        let digest = wanted.job.digest();
        let talk = async {
            let heard = self.listen(&mut sent, from).await;
            (heard, sent.end().await)
        };
        let (denied, (heard, words)) = tokio::join!(egress::audit(core, &digest, events), talk);
        let words = words.map_err(|e| again(format!("what asked for it cannot be ended: {e}")))?;
        match heard {
            Heard::Came(came) => Ok(came),
            Heard::Broken(broken) => Err(broken),
            Heard::Ended => {
                let why = denied.map(|(reason, detail)| refused(url, reason, &detail));
                Err(why.unwrap_or_else(|| wanted.failed(core, &words)))
            }
        }
    }

    async fn listen(&self, sent: &mut OnErrand, from: u64) -> Heard {
        let mut ear = Ear::new(self, sent, from);
        let answer = match ear.answer().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Heard::Ended,
            Err(broken) => return broken.into(),
        };
        match answer {
            Answer::Elsewhere { url } => Heard::Came(Came::Elsewhere(url)),
            Answer::Content { at } if at == 0 || at == from => match ear.content(at, from).await {
                Ok(true) => Heard::Came(Came::Whole),
                Ok(false) => Heard::Ended,
                Err(broken) => broken.into(),
            },
            Answer::Content { at } => again(format!("it begins at {at} in place of {from}")).into(),
        }
    }
}

impl Wanted {
    /// Where a server says that it is, if the law lets it come from there. The proxy would say so, too.
    fn follow(&self, from: &FileUrl, to: FileUrl) -> Result<FileUrl, Broken> {
        if from.as_str().starts_with("https:") && !to.as_str().starts_with("https:") {
            let text = format!("{from} leads to {to}, which is asked for in the clear");
            return Err(finally(Code::UrlRefused, text));
        }
        match check_url(&self.rules, &to) {
            Ok(()) => Ok(to),
            Err(why) => Err(finally(
                Code::UrlRefused,
                format!("{} leads to {}:{}: {why}", from.authority(), to.host(), to.port()),
            )),
        }
    }

    fn errand(&self, core: &Core, url: &FileUrl, from: u64) -> Result<Errand, Broken> {
        let none = || finally(Code::Unenforceable, "this agent downloads nothing");
        let downloader = core.config.downloader.as_ref().ok_or_else(none)?;
        let order = Order {
            url: url.clone(),
            from,
            size: self.content.size,
            certificates: downloader.certificates.clone(),
        };
        let order = json::to_vec(&order).map_err(|e| again(e.to_string()))?;
        let mut arguments = downloader.arguments.clone();
        arguments.push(String::from_utf8_lossy(&order).into_owned());
        Ok(Errand {
            arguments,
            job: JobId::from_digest(&self.job.digest()),
            rules: self.rules.clone(),
            dir: core.downloads_dir(),
            memory: MEMORY,
        })
    }

    /// What the process itself says, in its last line.
    fn failed(&self, core: &Core, words: &[u8]) -> Broken {
        let text = String::from_utf8_lossy(words);
        let last = text.trim_end().lines().next_back().unwrap_or_default();
        let Ok(Failed { why, text }) = serde_json::from_str(last) else {
            return again(format!("what asked for it ended: {}", plain(last)));
        };
        let text = plain(&text);
        match why {
            Why::Again => again(text),
            Why::Final => finally(Code::DownloadFailed, text),
            Why::Size => finally(Code::ContentMismatch, text),
            Why::Anew => {
                core.downloads.spool().begin_anew(&self.content.sha256);
                again(text)
            }
        }
    }
}

/// What the disk is promised for by what hubs bring.
fn coming_elsewhere(core: &Core) -> u64 {
    let spool = core.stdin.lock();
    spool.unwrap_or_else(PoisonError::into_inner).coming()
}

/// Words of a process that reads what strangers send, for people.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(600).collect()
}

/// What the proxy's own word means.
fn refused(url: &FileUrl, reason: Reason, detail: &str) -> Broken {
    let text = format!("{}:{}: {detail}", url.host(), url.port());
    match reason {
        Reason::Timeout
        | Reason::ConnectionsLimit
        | Reason::DnsFailed
        | Reason::DialFailed
        | Reason::JobEnded => again(text),
        _ => finally(Code::UrlRefused, format!("{text} ({reason})")),
    }
}

/// Hears what one process has to say, as long as it says enough and somebody wants it.
struct Ear<'a> {
    turn: &'a Turn<'a>,
    sent: &'a mut OnErrand,
    heard: BytesMut,
    stall: Duration,
    /// When it was last looked at whether all this is wanted.
    looked: Instant,
    /// Since when `came` bytes have come, and how many have to.
    since: Instant,
    came: u64,
    due: u64,
    left: u64,
}

impl<'a> Ear<'a> {
    fn new(turn: &'a Turn<'a>, sent: &'a mut OnErrand, from: u64) -> Self {
        let (now, left) = (Instant::now(), turn.wanted.content.size.saturating_sub(from));
        let stall = turn.core.config.downloader.as_ref().map(|d| d.stall);
        Self {
            turn,
            sent,
            heard: BytesMut::new(),
            stall: stall.unwrap_or_default(),
            looked: now,
            since: now,
            came: 0,
            due: SOMETHING.min(left),
            left,
        }
    }

    /// Hears more; `0` is the end.
    async fn more(&mut self) -> Result<usize, Broken> {
        loop {
            let read = tokio::time::timeout(LOOK, self.sent.read(&mut self.heard, PIECE)).await;
            self.look()?;
            match read {
                Ok(Ok(n)) => {
                    self.came += n as u64;
                    self.left = self.left.saturating_sub(n as u64);
                    return Ok(n);
                }
                Ok(Err(e)) => return Err(again(format!("what asked for it cannot be heard: {e}"))),
                Err(_) => {}
            }
        }
    }

    fn look(&mut self) -> Result<(), Broken> {
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        if !self.turn.wanted.is_wanted(self.turn.core) {
            return Err(Broken::Unwanted);
        }
        if self.turn.is_over() {
            return Err(Broken::OutOfTurn);
        }
        if self.since.elapsed() < self.stall {
            return Ok(());
        }
        if self.came < self.due {
            let text = format!(
                "no more than {} bytes came in {} s",
                self.came,
                self.stall.as_secs()
            );
            return Err(again(text));
        }
        (self.since, self.came, self.due) = (self.looked, 0, SOMETHING.min(self.left));
        Ok(())
    }

    /// The first line; `None` when there is none.
    async fn answer(&mut self) -> Result<Option<Answer>, Broken> {
        let end = loop {
            if let Some(end) = memchr::memchr(b'\n', &self.heard) {
                break end;
            }
            if self.heard.len() > LINE {
                return Err(again("what asked for it says too much"));
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        };
        let line = self.heard.split_to(end + 1);
        let read = json::from_slice(&line[..end]);
        read.map(Some)
            .map_err(|e| again(format!("what asked for it says what nobody understands: {e}")))
    }

    /// Takes the bytes from `at` on; says whether all have come.
    async fn content(&mut self, mut at: u64, from: u64) -> Result<bool, Broken> {
        let size = self.turn.wanted.content.size;
        loop {
            let bytes = std::mem::take(&mut self.heard);
            let end = at + bytes.len() as u64;
            if end > size {
                let text = format!("more than {size} bytes came");
                return Err(finally(Code::ContentMismatch, text));
            }
            if !bytes.is_empty() {
                self.take(at, bytes, from).await?;
            }
            at = end;
            if at == size {
                return Ok(true);
            }
            if self.more().await? == 0 {
                return Ok(false);
            }
        }
    }

    /// Spools a piece, on a thread that may wait for the disk.
    async fn take(&self, at: u64, bytes: BytesMut, from: u64) -> Result<(), Broken> {
        let wanted = self.turn.wanted;
        let content = wanted.content;
        let piece = StdinPiece {
            sha256: content.sha256,
            at,
            last: at + bytes.len() as u64 == content.size,
            bytes: bytes.into(),
        };
        let core = self.turn.core.clone();
        let taken =
            tokio::task::spawn_blocking(move || StdinSpool::take(&mut core.downloads.spool(), &piece));
        let taken = taken.await.map_err(|e| again(e.to_string()))?;
        taken.map_err(|why| match why.code {
            // What came of it before may have been of another file; without that there is nothing to hope for.
            Code::StdinMismatch if from == 0 => finally(
                Code::ContentMismatch,
                format!("what {} gives has another digest", wanted.url.authority()),
            ),
            Code::StdinMismatch => again("it had another digest; it begins anew"),
            _ => Broken::Again(why),
        })
    }
}
