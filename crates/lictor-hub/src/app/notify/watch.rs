//! What is told by the clock: nodes that are not heard of, and law that is about to end.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lictor_proto::api::NoticeKind;
use lictor_proto::{OrgId, Timestamp};

use crate::app::{App, Error, Org};
use crate::store::Notice;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(5);
/// Nodes that are away for longer than this when somebody begins to be told are no news.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// What was told that is remembered; beyond it all is asked of the store once more.
const TOLD: usize = 10_000;

/// What was told already, as far as is remembered: the store knows, but each question there is a write.
#[derive(Default)]
struct Told(HashSet<(OrgId, String)>);

impl Told {
    /// Tells it, unless that was done. Where nobody wants to know yet, it is told to who wants to later.
    async fn tell(&mut self, app: &App, org: &OrgId, notice: Notice) -> Result<(), Error> {
        let key = (org.clone(), notice.key.clone());
        if self.0.contains(&key) {
            return Ok(());
        }
        if app.store.notify(org, notice).await? {
            if self.0.len() >= TOLD {
                self.0.clear();
            }
            self.0.insert(key);
        }
        Ok(())
    }
}

/// Looks until the hub stops.
pub(crate) async fn watch(app: Arc<App>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = app.stop.clone();
    let (began, mut told) = (Timestamp::now(), Told::default());
    let watching = async {
        loop {
            tick.tick().await;
            let now = Timestamp::now();
            // Nobody could be heard of while the hub was away.
            let lost_after = Duration::from_secs(app.notifier.settings.node_lost_seconds);
            if began.plus(lost_after) <= now
                && let Err(e) = nodes(&app, now, &mut told).await
            {
                tracing::error!(error = %e.chain(), "looking for nodes that are lost");
            }
            if let Err(e) = laws(&app, now, &mut told).await {
                tracing::error!(error = %e.chain(), "looking for law that ends");
            }
        }
    };
    stop.run_until_cancelled(watching).await;
}

fn before(now: Timestamp, ago: Duration) -> Timestamp {
    let ms = u64::try_from(ago.as_millis()).unwrap_or(u64::MAX);
    Timestamp::from_millis(now.as_millis().saturating_sub(ms))
}

async fn nodes(app: &App, now: Timestamp, told: &mut Told) -> Result<(), Error> {
    let lost = before(now, Duration::from_secs(app.notifier.settings.node_lost_seconds));
    let quiet = app.store.quiet_nodes(before(lost, OLD), lost).await?;
    for node in quiet {
        if app.links.get(&node.org, &node.node_id).is_some() {
            continue;
        }
        let notice = Notice {
            kind: NoticeKind::Node,
            event: "node.lost",
            key: format!("node.lost {} {}", node.node_id, node.last_seen_at),
            says: vec![
                ("org", node.org.to_string()),
                ("node", node.name.to_string()),
                ("node_id", node.node_id.to_string()),
                ("last_seen_at", node.last_seen_at.to_string()),
                ("verify", "lictor nodes".to_owned()),
            ],
        };
        told.tell(app, &node.org, notice).await?;
    }
    Ok(())
}

async fn laws(app: &App, now: Timestamp, told: &mut Told) -> Result<(), Error> {
    let soon = Duration::from_secs(u64::from(app.notifier.settings.law_days) * 86_400);
    for id in app.orgs.ids() {
        let Some(org) = app.orgs.get(&id) else { continue };
        for notice in ends(&org, now, soon) {
            told.tell(app, &id, notice).await?;
        }
    }
    Ok(())
}

/// What of an org's law ends, or has ended.
fn ends(org: &Org, now: Timestamp, soon: Duration) -> Vec<Notice> {
    let (expires, stale) = org.with(|t| {
        let bundle = t.bundle().map(|b| (b.version, b.expires_at, b.max_staleness));
        let stale = bundle.and_then(|(_, _, most)| {
            let freshness = t.freshness()?;
            let stale_at = freshness
                .issued_at
                .plus(Duration::from_secs(most))
                .min(freshness.expires_at);
            Some((stale_at, Duration::from_secs(most)))
        });
        (bundle.map(|(version, at, _)| (version, at)), stale)
    });
    let mut notices = Vec::new();
    if let Some((version, at)) = expires {
        let what = match () {
            () if at <= now => Some("law.expired"),
            () if at.since(now) <= soon => Some("law.expiring"),
            () => None,
        };
        let says = |event| {
            says(
                &org.id,
                event,
                at,
                format!("bundle {version}"),
                "lictor org sign, then lictor org push",
            )
        };
        notices.extend(what.map(says));
    }
    if let Some((at, most)) = stale {
        // Statements live for days: a warning a quarter of that ahead leaves time, and comes once per statement.
        let what = match () {
            () if at <= now => Some("law.stale"),
            () if at.since(now) <= soon.min(most / 4) => Some("law.staling"),
            () => None,
        };
        let says = |event| {
            says(
                &org.id,
                event,
                at,
                "freshness statement".to_owned(),
                "lictor org freshness, then lictor org push",
            )
        };
        notices.extend(what.map(says));
    }
    notices
}

fn says(org: &OrgId, event: &'static str, at: Timestamp, what: String, to_do: &str) -> Notice {
    Notice {
        kind: NoticeKind::Law,
        event,
        key: format!("{event} {what} {at}"),
        says: vec![
            ("org", org.to_string()),
            ("what", what),
            ("until", at.to_string()),
            ("what_to_do", to_do.to_owned()),
            ("verify", "lictor doctor".to_owned()),
        ],
    }
}
