//! What people have signed about jobs: approvals, releases, remarks, cancels.
//!
//! # Invariants
//! - Of one person a job has so many of a kind and no more, and so many bytes. People are those of the roster, so all together
//!   are bounded, and nobody crowds out another.
//! - What stays of a person is the newest, by when it says it was signed: whoever hands in an old one again moves nothing.

use lictor_audit::{Event, EventType};
use lictor_proto::{Code, JobId, OrgId, limits};

use super::documents::insert_document;
use super::rows::ms;
use super::writer::{Tx, Write};
use crate::store::named::canceled_nodes;
use crate::store::{DocumentRow, Inserted, JobDocument, Paper, StoreError, Stored};

type Result<T> = std::result::Result<T, StoreError>;

/// Bytes of one kind, of one person about one job.
const BYTES: usize = 8 * limits::ENVELOPE;

/// What of one kind one person may have about one job.
#[derive(Debug, Clone, Copy)]
struct Bound {
    most: usize,
    /// Whether the oldest goes for a newer one. A cancel may still have to reach a node: it goes for none but one of all
    /// nodes, which says the same and more. So whoever has signed many can still end the whole job.
    makes_room: bool,
}

fn bound(kind: JobDocument) -> Result<(EventType, Bound)> {
    let (event, most, makes_room) = match kind {
        // Asks come one after the other, and each approval names what was asked until then.
        JobDocument::Approval => (EventType::ApprovalSubmitted, 16, true),
        // A rollout node by node has one for each.
        JobDocument::Release => (EventType::ReleaseSubmitted, 1024, true),
        // A review is said anew when more receipts have come.
        JobDocument::Remark => (EventType::RemarkSubmitted, 8, true),
        JobDocument::Cancel => (EventType::CancelSubmitted, 256, false),
        // They come with a change of state: `Step::Asked` and `RecordResult`.
        JobDocument::Ask | JobDocument::Receipt => {
            return Err(StoreError::Corrupt("comes with a state".to_owned()));
        }
    };
    Ok((event, Bound { most, makes_room }))
}

pub(super) struct PutPaper {
    pub(super) org: OrgId,
    pub(super) job_id: JobId,
    pub(super) paper: Paper,
}

/// One of the same person, kind and job.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct Kept {
    digest: Vec<u8>,
    issued_at: i64,
    bytes: i64,
}

impl Write for PutPaper {
    type Out = Stored;
    async fn apply(&self, tx: &mut Tx) -> Result<Stored> {
        let (event, mut bound) = bound(self.paper.kind)?;
        bound.makes_room |=
            self.paper.kind == JobDocument::Cancel && canceled_nodes(&self.paper.wire).is_empty();
        let kept: Vec<Kept> = sqlx::query_as(
            "SELECT digest, issued_at, length(wire) AS bytes FROM documents
             WHERE org = ?1 AND job_id = ?2 AND kind = ?3 AND signer = ?4",
        )
        .bind(self.org.as_str())
        .bind(self.job_id.as_str())
        .bind(self.paper.kind.as_str())
        .bind(self.paper.signer.as_str())
        .fetch_all(&mut tx.conn)
        .await?;
        let new = Kept {
            digest: self.paper.digest.0.to_vec(),
            issued_at: ms(self.paper.issued_at),
            bytes: i64::try_from(self.paper.wire.len()).unwrap_or(i64::MAX),
        };
        if kept.iter().any(|k| k.digest == new.digest) {
            return Ok(Stored::Same);
        }
        let going = match room_for(new, kept, bound) {
            Some(going) => going,
            None => return Ok(Stored::Full),
        };
        for digest in going {
            self.remove(tx, &digest).await?;
        }
        self.insert(tx, event).await
    }
}

/// Which have to go for the new one; none when it has no place itself.
fn room_for(new: Kept, mut all: Vec<Kept>, bound: Bound) -> Option<Vec<Vec<u8>>> {
    let digest = new.digest.clone();
    all.push(new);
    all.sort_by(|a, b| (b.issued_at, &b.digest).cmp(&(a.issued_at, &a.digest)));
    let (mut places, mut bytes) = (bound.most, BYTES as i64);
    let mut going = Vec::new();
    for one in all {
        if places > 0 && one.bytes <= bytes {
            (places, bytes) = (places - 1, bytes - one.bytes);
        } else {
            going.push(one.digest);
        }
    }
    let has_place = !going.contains(&digest) && (going.is_empty() || bound.makes_room);
    has_place.then_some(going)
}

impl PutPaper {
    async fn insert(&self, tx: &mut Tx, event: EventType) -> Result<Stored> {
        let paper = &self.paper;
        let doc = DocumentRow {
            kind: paper.kind,
            digest: paper.digest,
            node_id: None,
            wire: paper.wire.clone(),
        };
        // One of an earlier hub is there without a signer.
        if insert_document(tx, &self.org, &self.job_id, &doc).await? == Inserted::Same {
            return Ok(Stored::Same);
        }
        sqlx::query(
            "UPDATE documents SET signer = ?5, issued_at = ?6 WHERE org = ?1 AND job_id = ?2 AND kind = ?3 AND digest = ?4",
        )
        .bind(self.org.as_str())
        .bind(self.job_id.as_str())
        .bind(paper.kind.as_str())
        .bind(paper.digest.0.as_slice())
        .bind(paper.signer.as_str())
        .bind(ms(paper.issued_at))
        .execute(&mut tx.conn)
        .await?;
        if paper.kind == JobDocument::Cancel {
            self.mark_waiting(tx).await?;
        }
        let event = Event::new(event)
            .with_id("job_id", &self.job_id)
            .with_id("digest", &paper.digest);
        tx.note(Some(&self.org), event);
        Ok(Stored::New)
    }

    async fn remove(&self, tx: &mut Tx, digest: &[u8]) -> Result<()> {
        sqlx::query("DELETE FROM documents WHERE org = ?1 AND job_id = ?2 AND kind = ?3 AND digest = ?4")
            .bind(self.org.as_str())
            .bind(self.job_id.as_str())
            .bind(self.paper.kind.as_str())
            .bind(digest)
            .execute(&mut tx.conn)
            .await?;
        Ok(())
    }

    /// The hub has no say in whether a cancel counts: what waits stays as it is until its node answers with a
    /// receipt, and says why it waits.
    async fn mark_waiting(&self, tx: &mut Tx) -> Result<()> {
        let named = canceled_nodes(&self.paper.wire);
        // No name is all of them.
        let named = (!named.is_empty()).then(|| serde_json::to_string(&named).unwrap_or_default());
        sqlx::query(
            "UPDATE executions SET code = ?3, message = ?4
             WHERE org = ?1 AND job_id = ?2
               AND state IN ('queued', 'held', 'awaiting_approval', 'awaiting_release')
               AND (?5 IS NULL OR node_id IN (SELECT value FROM json_each(?5)))",
        )
        .bind(self.org.as_str())
        .bind(self.job_id.as_str())
        .bind(Code::Canceled.as_str())
        .bind("a signed cancel waits for the node, which decides")
        .bind(named)
        .execute(&mut tx.conn)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(n: u8, issued_at: i64, bytes: i64) -> Kept {
        Kept {
            digest: vec![n],
            issued_at,
            bytes,
        }
    }

    #[test]
    fn of_one_person_the_newest_stay_and_an_old_one_moves_nothing() {
        let bound = Bound {
            most: 3,
            makes_room: true,
        };
        let kept = vec![one(1, 10, 1), one(2, 20, 1), one(3, 30, 1)];
        assert_eq!(room_for(one(4, 40, 1), kept[..2].to_vec(), bound), Some(vec![]));
        assert_eq!(room_for(one(4, 40, 1), kept.clone(), bound), Some(vec![vec![1]]));
        assert_eq!(
            room_for(one(4, 5, 1), kept.clone(), bound),
            None,
            "older than all"
        );
        let large = room_for(one(4, 40, BYTES as i64), kept.clone(), bound);
        assert_eq!(large, Some(vec![vec![3], vec![2], vec![1]]));
        assert_eq!(room_for(one(4, 40, BYTES as i64 + 1), kept.clone(), bound), None);
        let stays = Bound {
            makes_room: false,
            ..bound
        };
        assert_eq!(room_for(one(4, 40, 1), kept, stays), None, "no cancel goes");
    }
}
