//! The end of a job on several nodes: what is left to be said of each, and what it comes to.

use lictor_proto::code::Refusal;
use serde_json::Value;

use super::rows::{self, Row};
use super::{FleetUntil, FleetWatch, Scene};
use crate::commands::result::ResultLine;
use crate::commands::screen::Unwritten;
use crate::commands::watch::READER_GONE;
use crate::failure::{Failure, Result};

impl<'a> FleetWatch<'a> {
    /// What is there has been read: nobody else is followed.
    pub(super) fn give_up_silently(&self, scene: &mut Scene<'_>) {
        for node in self.nodes {
            scene.fleet.close(node.id());
        }
        scene.is_read = true;
    }

    /// Of those that are not over, nothing is proven.
    pub(super) fn give_up(&self, scene: &mut Scene<'_>, why: &Refusal) {
        let id = self.id();
        scene.judging.clear();
        for row in scene.rows.values_mut().filter(|r| r.end.is_none()) {
            row.end = Some(ResultLine::unconfirmed(id.clone(), &why.clone().into(), row.seen));
        }
    }

    /// The end of all: what is left of the output, the table, and what it comes to.
    pub(super) async fn conclude(&self, scene: &mut Scene<'a>) -> Result {
        let unwritable = |e| match e {
            Unwritten::ReaderGone => None,
            Unwritten::Failed(e) => Some(Failure::new("could not write the output").because(&e)),
        };
        if let Err(e) = self.last_lines(scene).await {
            return unwritable(e).map_or(Ok(READER_GONE), Err);
        }
        let (out, id) = (self.session.out, self.id());
        // By name, as people look for them.
        let mut rows: Vec<&Row> = scene.rows.values().collect();
        rows.sort_by(|a, b| a.node.name().cmp(b.node.name()));
        out.remark(rows::text(rows.iter().copied()));
        if rows.iter().any(|r| r.is_stopped()) {
            out.note(format!(
                "nodes that are held have not begun: `lictor rollout continue {id}` goes on, `lictor cancel {id}` ends it"
            ));
        } else if rows.iter().any(|r| r.end.is_none()) {
            let waits = match self.until {
                _ if self.into.is_some() => "what is away brings nothing here when it is back",
                FleetUntil::Now => "some have not ended",
                FleetUntil::All | FleetUntil::Present => "the job waits for those that are away",
            };
            out.note(format!(
                "{waits}: `lictor logs -f {id}` follows it on, `lictor cancel {id}` ends it"
            ));
        }
        Ok(match self.until {
            FleetUntil::Now if rows.iter().all(|r| r.end.as_ref().is_none_or(|e| e.confirmed)) => {
                crate::exit::Status::OK
            }
            _ => rows::status(rows.iter().copied()),
        })
    }

    async fn last_lines(&self, scene: &mut Scene<'a>) -> std::result::Result<(), Unwritten> {
        let id = self.id();
        let screen = &mut scene.screen;
        for row in scene.rows.values_mut() {
            for (stream, rest) in row.rest() {
                screen.write(stream, rest).await?;
            }
        }
        let left: Vec<Value> = scene
            .rows
            .values()
            .filter(|r| r.end.is_none())
            .map(|r| r.result(&id))
            .collect();
        for line in left {
            screen.event(&line).await?;
        }
        screen.event(&rows::summary(&id, scene.rows.values())).await?;
        screen.finish().await
    }
}
