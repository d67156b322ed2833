//! Takes what is due out of the outbox to where it goes, target by target.
//!
//! # Invariants
//! - To one target goes one at a time, and after it has failed nothing before its time has come.
//! - Targets that fail have at most half of the places, and no org has more than a quarter: what can be delivered is.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lictor_proto::api::NoticeWay;
use lictor_proto::{OrgId, Timestamp};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::mail::{self, Mailer};
use super::webhook::{self, Post, Sender};
use crate::app::{App, Error};
use crate::config::NotifySettings;
use crate::store::{Busy, DueNotice};

/// How often the outbox is looked into.
const LOOK: Duration = Duration::from_secs(1);
/// Deliveries under way: in all, of one org, and to targets that failed the last time.
const AT_ONCE: usize = 64;
const OF_ORG: usize = AT_ONCE / 4;
const AGAIN_AT_ONCE: usize = AT_ONCE / 2;
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
    under_way: UnderWay,
}

/// Targets to which something is on its way: whose each is, and whether it failed the last time. Cheap to clone.
#[derive(Debug, Clone, Default)]
struct UnderWay(Arc<Mutex<HashMap<String, (OrgId, bool)>>>);

/// A place among them, until it is dropped.
struct Place {
    under_way: UnderWay,
    target: String,
}

impl UnderWay {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (OrgId, bool)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for it, if there is one and nothing else is on its way to its target.
    fn enter(&self, due: &DueNotice) -> Option<Place> {
        let (target, has_failed) = (&due.target, due.tries > 0);
        let mut all = self.lock();
        let of_org = all.values().filter(|(org, _)| *org == target.org).count();
        let failing = all.values().filter(|(_, failing)| *failing).count();
        let is_full = all.len() >= AT_ONCE || of_org >= OF_ORG || (has_failed && failing >= AGAIN_AT_ONCE);
        if is_full || all.contains_key(&target.target_id) {
            return None;
        }
        all.insert(target.target_id.clone(), (target.org.clone(), has_failed));
        Some(Place {
            under_way: self.clone(),
            target: target.target_id.clone(),
        })
    }

    /// Whom not to look for.
    fn busy(&self) -> Busy {
        let all = self.lock();
        let mut of_orgs: HashMap<&OrgId, usize> = HashMap::new();
        for (org, _) in all.values() {
            *of_orgs.entry(org).or_default() += 1;
        }
        let full = of_orgs.into_iter().filter(|(_, n)| *n >= OF_ORG);
        Busy {
            orgs: full.map(|(org, _)| org.clone()).collect(),
            targets: all.keys().cloned().collect(),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.under_way.lock().remove(&self.target);
    }
}

impl Notifier {
    /// By these settings.
    ///
    /// # Errors
    /// What of them cannot be used.
    pub fn new(settings: NotifySettings, tasks: &TaskTracker) -> Result<Self, String> {
        let roots = own_roots(settings.ca_file.as_deref())?;
        let mailer = settings.smtp.as_ref().map(|smtp| Mailer::new(smtp, &roots));
        let mailer = mailer.transpose()?;
        let webhooks = Sender {
            allow_private: settings.allow_private,
            tls: tls(roots),
            tasks: tasks.clone(),
        };
        Ok(Self {
            webhooks,
            mailer,
            settings,
            bell: Notify::new(),
            under_way: UnderWay::default(),
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

/// The certificates of the file that the configuration names.
fn own_roots(ca_file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>, String> {
    let Some(file) = ca_file else {
        return Ok(Vec::new());
    };
    let failed = |why: &dyn std::fmt::Display| format!("notify.ca_file {}: {why}", file.display());
    let found = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = found.map_err(|e| failed(&e))?;
    let mut usable = rustls::RootCertStore::empty();
    for certificate in &found {
        usable.add(certificate.clone()).map_err(|e| failed(&e))?;
    }
    match found.is_empty() {
        true => Err(failed(&"there is no certificate in it")),
        false => Ok(found),
    }
}

/// Whom webhooks trust: what this machine trusts, and the file.
fn tls(own: Vec<CertificateDer<'static>>) -> Option<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(own);
    if roots.is_empty() {
        return None;
    }
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    Some(Arc::new(config.with_no_client_auth()))
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
            let busy = app.notifier.under_way.busy();
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
        let Some(place) = app.notifier.under_way.enter(&notice) else {
            continue;
        };
        let app = app.clone();
        let tasks = app.tasks.clone();
        tasks.spawn(async move {
            let stop = app.stop.clone();
            stop.run_until_cancelled(one(&app, &notice)).await;
            drop(place);
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

    fn due(target: u32, org: &str, tries: u32) -> DueNotice {
        let org = OrgId::from_root(&lictor_proto::Digest::of(org.as_bytes()));
        let target = crate::store::NotifyTarget {
            target_id: format!("{target}"),
            org,
            way: NoticeWay::Webhook,
            address: "https://example.com/".to_owned(),
            secret: Vec::new(),
            on: Vec::new(),
            created_at: Timestamp::from_millis(0),
            delivered_at: None,
            last_error: None,
            waiting: 1,
        };
        let (id, event, body) = (String::new(), String::new(), String::new());
        DueNotice {
            id,
            event,
            body,
            tries,
            target,
        }
    }

    #[test]
    fn neither_an_org_nor_targets_that_fail_take_all_places() {
        let under_way = UnderWay::default();
        let mut places = Vec::new();
        let mut enter = |n: u32, org: &str, tries| {
            let place = under_way.enter(&due(n, org, tries));
            let is_in = place.is_some();
            places.extend(place);
            is_in
        };
        let of_one = (0..50).filter(|n| enter(*n, "one", 1)).count();
        assert_eq!(of_one, OF_ORG);
        let others = (100..150).filter(|n| enter(*n, &format!("org {n}"), 1)).count();
        assert_eq!(
            of_one + others,
            AGAIN_AT_ONCE,
            "half is left to what does not fail"
        );
        assert!(enter(200, "two", 0) && !enter(200, "two", 0), "one at a time");
        let sound = (300..400).filter(|n| enter(*n, &format!("org {n}"), 0)).count();
        assert_eq!(1 + of_one + others + sound, AT_ONCE);
        let busy = under_way.busy();
        assert_eq!((busy.orgs.len(), busy.targets.len()), (1, AT_ONCE));
        places.clear();
        assert!(under_way.busy().targets.is_empty() && under_way.enter(&due(0, "one", 1)).is_some());
    }

    #[test]
    fn it_is_tried_ever_more_rarely_and_once_an_hour_at_last() {
        let pauses: Vec<u64> = (0..8).map(|n| pause(n).as_secs()).collect();
        assert_eq!(pauses, [5, 20, 80, 320, 1280, 3600, 3600, 3600]);
        assert_eq!(pause(u32::MAX), LAST);
    }
}
