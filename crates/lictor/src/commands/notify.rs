//! `lictor notify`: whom the hub tells of what.

use lictor_proto::api::{NewNotifyTarget, NoticeKind, NoticeWay, NotifyTargetView};
use serde_json::json;

use crate::args::{Notify, NotifyCommand, On};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::Result;
use crate::out::table;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Notify) -> Result {
    let hub = session.hub()?;
    match &args.command {
        NotifyCommand::Webhook { url, on } => add(session, NoticeWay::Webhook, url, on).await?,
        NotifyCommand::Email { address, on } => add(session, NoticeWay::Email, address, on).await?,
        NotifyCommand::Ls => {
            let targets = hub.notify_targets().await;
            let targets = targets.map_err(|e| failed("list who is told", &e))?;
            session.out.either(&targets, || {
                let rows: Vec<_> = targets.iter().map(row).collect();
                table(
                    &["id", "to", "on", "waiting", "last delivered", "last error"],
                    &rows,
                )
            })?;
        }
        NotifyCommand::Test { id } => {
            let sent = hub.test_notify_target(id).await;
            sent.map_err(|e| failed("send a test", &e))?;
            session.out.either(&json!({ "testing": id }), || {
                "a test is on its way; `lictor notify ls` says whether it arrived".to_owned()
            })?;
        }
        NotifyCommand::Rm { id } => {
            let removed = hub.delete_notify_target(id).await;
            removed.map_err(|e| failed("remove it", &e))?;
            session
                .out
                .either(&json!({ "removed": id }), || format!("removed {}", escape(id)))?;
        }
    }
    Ok(Status::OK)
}

async fn add(session: &Session, way: NoticeWay, address: &str, on: &On) -> Result<()> {
    let new = NewNotifyTarget {
        way,
        address: address.to_owned(),
        on: on.on.iter().map(|about| (*about).into()).collect(),
    };
    let made = session.hub()?.new_notify_target(&new).await;
    let made = made.map_err(|e| failed("have that told", &e))?;
    session.out.either(&made, || match &made.secret {
        Some(secret) => {
            session.out.note(
                "this secret verifies what the webhook gets (docs/notifications.md); it is shown once:",
            );
            escape(secret)
        }
        None => format!(
            "{} is told; its id is {}",
            escape(address),
            escape(&made.target.target_id)
        ),
    })
}

fn word(kind: &NoticeKind) -> &'static str {
    match kind {
        NoticeKind::Approval => "approval",
        NoticeKind::Failure => "failure",
        NoticeKind::Node => "node",
        NoticeKind::Law => "law",
    }
}

fn row(target: &NotifyTargetView) -> Vec<String> {
    let on: Vec<&str> = target.on.iter().map(word).collect();
    vec![
        escape(&target.target_id),
        escape(&target.address),
        on.join(","),
        target.waiting.to_string(),
        target
            .delivered_at
            .map_or_else(|| "-".to_owned(), |t| t.to_string()[..19].to_owned()),
        target
            .last_error
            .as_deref()
            .map_or_else(|| "-".to_owned(), escape),
    ]
}
