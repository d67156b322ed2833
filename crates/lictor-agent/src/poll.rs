//! Poll mode: the same requests, replies and events as the link's, over ordinary HTTPS requests.
//!
//! ```text
//!   heartbeat --> [ GET jobs/next?wait=30 --> warden --> POST answers ]*      one loop: `orders`
//!   event     --> one task per execution: started, log, result, until acked   `report`
//! ```
//! A session ends at the first error, and the next begins with a new event feed, which says everything again
//! that was not acknowledged. So nothing here remembers anything: offsets come from the warden and the hub.

mod orders;
mod report;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lictor_link::LinkError;
use lictor_link::http::{Answer, HttpClient, RequestBody};
use lictor_link::hyper;
use lictor_proto::Digest;
use lictor_proto::agent::stream::Message;
use lictor_proto::agent::{Event, Heartbeat, Reply, Request};
use lictor_proto::api::StartedReport;
use lictor_proto::code::{Code, Refusal};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::port::WardenPort;
use report::{News, Report};

/// How long an ordinary request may take.
const WITHIN: Duration = Duration::from_secs(30);
/// Executions whose output is read and sent at once; what others have to say waits in the spool.
const REPORTS: usize = 8;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    /// The connection failed.
    #[error("{}: {}", .0.code(), .0.chain())]
    Link(#[from] LinkError),
    /// The hub, or the warden, said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What every request of a session needs. Cheap to clone.
#[derive(Clone)]
struct Session {
    port: Arc<dyn WardenPort>,
    http: HttpClient,
    sending: Arc<Semaphore>,
}

/// One session with the hub, until something fails or `stop`.
///
/// # Errors
/// [`PollError`]: the next session starts from what the warden holds.
pub async fn session(
    port: Arc<dyn WardenPort>,
    http: &HttpClient,
    stop: &CancellationToken,
) -> Result<(), PollError> {
    let session = Session {
        port,
        http: http.clone(),
        sending: Arc::new(Semaphore::new(REPORTS)),
    };
    let (beats, beat) = watch::channel(None);
    // Orders in hand are answered even when a report fails: what the warden has begun, the hub should know.
    let no_more = CancellationToken::new();
    let mut following = std::pin::pin!(orders::follow(&session, beat, &no_more));
    let both = async {
        tokio::select! {
            ended = following.as_mut() => ended,
            ended = listen(&session, beats) => {
                no_more.cancel();
                following.await.and(ended)
            }
        }
    };
    stop.run_until_cancelled(both).await.unwrap_or(Ok(()))
}

/// Takes the warden's events and hands each to its execution's task.
async fn listen(session: &Session, beats: watch::Sender<Option<Box<Heartbeat>>>) -> Result<(), PollError> {
    let acked = acknowledged(session).await?;
    let mut feed = session.port.events();
    let mut reports = JoinSet::new();
    let mut open: HashMap<Digest, mpsc::Sender<News>> = HashMap::new();
    loop {
        let message = tokio::select! {
            message = feed.next() => message,
            Some(ended) = reports.join_next() => {
                let job: Digest = ended.map_err(|e| Refusal::new(Code::Internal, e.to_string()))??;
                open.remove(&job);
                continue;
            }
        };
        let message = message.ok_or_else(|| Refusal::new(Code::Internal, "the warden has ended"))?;
        let (job, news) = match message {
            Message::Event(Event::Heartbeat(beat)) => {
                beats.send_replace(Some(beat));
                continue;
            }
            Message::Event(Event::Started { job, at, firing }) => {
                (job, News::Started(StartedReport { at, firing }))
            }
            Message::Event(Event::Finished(finished)) => (finished.job, News::Finished(finished)),
            // The bytes are in the spool as well; reading them there keeps one order and one offset.
            Message::Event(Event::OutputWaiting { job, .. }) | Message::Output { job, .. } => {
                (job, News::Output)
            }
            Message::KeepAlive => continue,
        };
        let to = open.entry(job).or_insert_with(|| {
            let (to, news) = mpsc::channel(16);
            let from = acked.get(&job).copied().unwrap_or(0);
            reports.spawn(Report::new(session.clone(), job, from, news).run());
            to
        });
        // Output only wakes: when its task is busy it looks again anyway. The others are few and must arrive.
        let full = match news {
            News::Output => false,
            news => to.send(news).await.is_err(),
        };
        if full {
            open.remove(&job); // its task has ended, and join_next says how
        }
    }
}

/// Log positions that the hub has acknowledged, by job.
async fn acknowledged(session: &Session) -> Result<HashMap<Digest, u64>, PollError> {
    match session.port.ask(Request::Status).await {
        Reply::Status(status) => Ok(status.executions.iter().map(|e| (e.job, e.acked)).collect()),
        Reply::Refused(refusal) => Err(refusal.into()),
        _ => Err(Refusal::new(Code::Internal, "the warden gave no status").into()),
    }
}

impl Session {
    async fn call(&self, request: hyper::Request<RequestBody>, limit: usize) -> Result<Answer, PollError> {
        Ok(self.http.call(request, limit, WITHIN).await?)
    }

    /// Posts `body` as JSON; anything but success is the hub's refusal.
    async fn post<T: serde::Serialize>(&self, path: &str, body: &T) -> Result<Answer, PollError> {
        let bytes = lictor_proto::json::to_vec(body).map_err(internal)?;
        let request = hyper::Request::post(path)
            .header("content-type", "application/json")
            .body(lictor_link::http::full(bytes))
            .map_err(internal)?;
        let answer = self.call(request, SMALL_ANSWER).await?;
        if answer.status.is_success() {
            Ok(answer)
        } else {
            Err(answer.refusal().into())
        }
    }
}

/// Answers that are no orders.
const SMALL_ANSWER: usize = 64 * 1024;

fn internal(e: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, e.to_string())
}
