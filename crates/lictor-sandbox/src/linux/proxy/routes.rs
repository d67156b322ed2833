//! Who hears what the proxy says about which job.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lictor_proto::JobId;
use lictor_proto::egress::{Command, Event, IN_HAND, Refused};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::control::Control;

/// What of one job may wait to be taken: the records that it may have in hand, at its end one of asking and one of
/// ending for each connection that there can be, and what is said about the job itself.
const QUEUE: usize = IN_HAND as usize + 2 * 1024 + 8;

/// All jobs with a way out.
#[derive(Debug, Default)]
pub(super) struct Routes {
    jobs: Mutex<HashMap<JobId, Route>>,
    /// What has been heard of the proxy so far.
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Silent,
    Heard,
    Ended,
}

#[derive(Debug)]
struct Route {
    events: mpsc::Sender<Event>,
    /// Closed with the last that is heard of the job.
    until_closed: watch::Sender<()>,
}

impl Routes {
    fn map(&self) -> MutexGuard<'_, HashMap<JobId, Route>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is heard any more.
    pub(super) fn have_ended(&self) -> bool {
        *self.state.borrow() == State::Ended
    }

    /// Waits for the first word of the proxy.
    pub(super) async fn answered(&self) -> io::Result<()> {
        let mut state = self.state.subscribe();
        let now = state.wait_for(|state| *state != State::Silent).await.map(|s| *s);
        match now {
            Ok(State::Heard) => Ok(()),
            _ => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Takes in a job.
    pub(super) fn add(&self, job: &JobId) -> io::Result<mpsc::Receiver<Event>> {
        let (events, receiver) = mpsc::channel(QUEUE);
        let until_closed = watch::Sender::new(());
        match self.map().entry(job.clone()) {
            Entry::Occupied(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Entry::Vacant(entry) => {
                entry.insert(Route { events, until_closed });
                Ok(receiver)
            }
        }
    }

    pub(super) fn forget(&self, job: &JobId) {
        self.map().remove(job);
    }

    /// Ends with the last that is heard of a job; `None` when that was heard already.
    pub(super) fn last_of(&self, job: &JobId) -> Option<watch::Receiver<()>> {
        self.map().get(job).map(|route| route.until_closed.subscribe())
    }

    /// Passes on what the proxy says until it ends; then nobody hears of anything any more.
    pub(super) async fn serve(&self, control: &Control) {
        loop {
            match control.receive().await {
                Ok(Some(event)) => {
                    self.state.send_replace(State::Heard);
                    if let Err(error) = self.pass_on(event, control) {
                        tracing::error!(%error, "the egress proxy says more than it may");
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "the egress proxy says what cannot be read");
                    break;
                }
            }
        }
        self.state.send_replace(State::Ended);
        let mut jobs = std::mem::take(&mut *self.map());
        if !jobs.is_empty() {
            tracing::warn!(
                jobs = jobs.len(),
                "the egress proxy has ended; jobs that used it have no way out any more"
            );
        }
        jobs.clear();
    }

    /// Never waits: what one job has to say must not hold up what is said of others.
    fn pass_on(&self, event: Event, control: &Control) -> io::Result<()> {
        let (job, is_last) = match &event {
            Event::Opened { job } => (job, false),
            Event::Decision(decision) => (&decision.job, false),
            Event::Ended(ended) => (&ended.job, false),
            Event::Closed { job, .. } => (job, true),
            // It was closed twice; the last about it is still to come.
            Event::Refused {
                why: Refused::NotOpen,
                ..
            } => return Ok(()),
            Event::Refused { job, .. } => (job, true),
        };
        let job = job.clone();
        let events = self.map().get(&job).map(|route| route.events.clone());
        let is_heard = match events.map(|events| events.try_send(event)) {
            Some(Err(TrySendError::Full(_))) => return Err(io::ErrorKind::OutOfMemory.into()),
            Some(Err(TrySendError::Closed(_))) => false,
            Some(Ok(())) | None => true,
        };
        if is_last {
            self.forget(&job);
        } else if !is_heard && let Err(error) = control.try_send(&Command::Close { job }) {
            // It is tried again at its next record: nothing goes on whose records nobody takes.
            tracing::debug!(%error, "a job's way out is not closed yet");
        }
        Ok(())
    }
}
