//! Takes what is due out of the outbox to where it goes, target by target.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lictor_proto::Timestamp;
use lictor_proto::api::NoticeWay;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::{Notify, Semaphore};
use tokio_util::task::TaskTracker;

use super::mail::{self, Mailer};
use super::webhook::{self, Post, Sender};
use crate::app::{App, Error};
use crate::config::NotifySettings;
use crate::store::DueNotice;

/// How often the outbox is looked into.
const LOOK: Duration = Duration::from_secs(1);
/// Deliveries under way.
const AT_ONCE: usize = 64;
/// After the first failure; four times as long after each that follows, up to [`LAST`].
const AGAIN: Duration = Duration::from_secs(5);
const LAST: Duration = Duration::from_secs(3600);
/// After so long a notification is given up.
const GIVEN_UP: Duration = Duration::from_secs(24 * 3600);
/// Characters that are kept of a reason.
const REASON: usize = 300;

/// How notifications go out.
pub struct Notifier {
    webhooks: Sender,
    mailer: Option<Mailer>,
    /// Times of the watch.
    pub(super) settings: NotifySettings,
    bell: Notify,
    /// Targets to which something is on its way.
    busy: Mutex<HashSet<String>>,
    places: Arc<Semaphore>,
}

impl Notifier {
    /// By these settings.
    ///
    /// # Errors
    /// What of them cannot be used.
    pub fn new(settings: NotifySettings, tasks: &TaskTracker) -> Result<Self, String> {
        let mailer = settings.smtp.as_ref().map(Mailer::new).transpose()?;
        let webhooks = Sender {
            allow_private: settings.allow_private,
            tls: tls(settings.ca_file.as_deref())?,
            tasks: tasks.clone(),
        };
        Ok(Self {
            webhooks,
            mailer,
            settings,
            bell: Notify::new(),
            busy: Mutex::default(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }

    pub(super) fn check_url(&self, url: &str) -> Result<(), String> {
        webhook::check(url, self.settings.allow_private).map(drop)
    }

    pub(super) fn check_email(&self, address: &str) -> Result<(), String> {
        if self.mailer.is_none() {
            return Err("this hub sends no e-mail: its configuration has no [notify.smtp]".to_owned());
        }
        mail::check(address).map(drop)
    }

    /// Something may be due.
    pub(super) fn wake(&self) {
        self.bell.notify_one();
    }

    fn busy(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, due: &DueNotice) -> Result<(), String> {
        match due.target.way {
            NoticeWay::Webhook => {
                let post = Post {
                    url: &due.target.address,
                    id: &due.id,
                    at: Timestamp::now().as_millis() / 1000,
                    body: &due.body,
                    secret: &due.target.secret,
                };
                self.webhooks.send(&post).await
            }
            NoticeWay::Email => match &self.mailer {
                Some(mailer) => mailer.send(due).await,
                None => Err(
                    "this hub sends no e-mail any more: its configuration has no [notify.smtp]".to_owned(),
                ),
            },
        }
    }
}

/// Whom webhooks trust: what this machine trusts, and the file.
fn tls(ca_file: Option<&Path>) -> Result<Option<Arc<rustls::ClientConfig>>, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = ca_file {
        let certificates =
            CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = certificates.map_err(|e| format!("notify.ca_file {}: {e}", file.display()))?;
        roots.add_parsable_certificates(certificates);
    }
    if roots.is_empty() {
        return Ok(None);
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    Ok(Some(Arc::new(config.with_no_client_auth())))
}

/// When a target is tried again that failed `tries` times before.
fn pause(tries: u32) -> Duration {
    AGAIN.saturating_mul(4u32.saturating_pow(tries.min(10))).min(LAST)
}

/// Delivers until the hub stops.
pub(crate) async fn deliver(app: Arc<App>) {
    let stop = app.stop.clone();
    let delivering = async {
        loop {
            let busy = app.notifier.busy().iter().cloned().collect();
            match app.store.due_notices(Timestamp::now(), busy).await {
                Ok(due) => begin(&app, due),
                Err(e) => tracing::error!(error = %Error::from(e).chain(), "the outbox was not read"),
            }
            // Whether rung or not: what failed is due by the clock.
            let _ = tokio::time::timeout(LOOK, app.notifier.bell.notified()).await;
        }
    };
    stop.run_until_cancelled(delivering).await;
}

/// Begins as many as there are places for; the others are looked for again when one gets free.
fn begin(app: &Arc<App>, due: Vec<DueNotice>) {
    for notice in due {
        let Ok(place) = app.notifier.places.clone().try_acquire_owned() else {
            return;
        };
        let target = notice.target.target_id.clone();
        if !app.notifier.busy().insert(target.clone()) {
            continue;
        }
        let app = app.clone();
        let tasks = app.tasks.clone();
        tasks.spawn(async move {
            let stop = app.stop.clone();
            stop.run_until_cancelled(one(&app, &notice)).await;
            drop(place);
            app.notifier.busy().remove(&target);
            // The next one may be waiting for this.
            app.notifier.wake();
        });
    }
}

async fn one(app: &App, notice: &DueNotice) {
    let target = &notice.target.target_id;
    // Its target may have been deleted since. When that cannot be read it goes out: at least once.
    if matches!(app.store.is_waiting(&notice.id).await, Ok(false)) {
        return;
    }
    let stored = match app.notifier.send(notice).await {
        Ok(()) => app.store.notice_delivered(target, &notice.id).await,
        Err(why) => {
            tracing::info!(to = %target, id = %notice.id, why, "a notification was not delivered");
            let now = Timestamp::now();
            let day = u64::try_from(GIVEN_UP.as_millis()).unwrap_or(u64::MAX);
            let oldest = Timestamp::from_millis(now.as_millis().saturating_sub(day));
            let why: String = why.chars().take(REASON).collect();
            let next = now.plus(pause(notice.tries));
            app.store.notice_failed(notice, why, next, oldest).await
        }
    };
    if let Err(e) = stored {
        // It goes out once more, with the same id.
        tracing::error!(error = %Error::from(e).chain(), "what became of a notification was not stored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_tried_ever_more_rarely_and_once_an_hour_at_last() {
        let pauses: Vec<u64> = (0..8).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [5, 20, 80, 320, 1280, 3600, 3600, 3600]);
        assert_eq!(pause(u32::MAX), LAST);
    }
}
