//! The end of an execution: the rest of its log, its receipt, its result in the store, the acknowledgement.

use lictor_audit::{Event, EventType};
use lictor_proto::agent::{Ack, Finished, Request};
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Origin, Receipt};
use lictor_proto::{Code, Digest, JobId, Timestamp};
use lictor_trust::{Judged, Verified};
use tokio::sync::oneshot;

use super::kept::Rest;
use super::started::{ToldOf, check_time};
use super::{Execution, STALL, Told};
use crate::app::Error;
use crate::store::{JobRow, Recorded, ResultRow, SegmentRow};

/// A result that was brought to the store.
struct Ended {
    recorded: Recorded,
    receipt: Digest,
    state: ExecutionState,
    rest: Rest,
}

impl Execution {
    /// Ends the execution. Only what is stored for good is acknowledged; the node says the rest again.
    pub(super) async fn finish(
        &mut self,
        finished: Finished,
        answer: Option<oneshot::Sender<Told>>,
    ) -> Result<(), Error> {
        if self.live.place().at < finished.log_end
            && let Err(e) = self.read_to(&finished.job, finished.log_end).await
        {
            // The receipt counts for more than a part of the log; readers see a gap.
            tracing::warn!(job = %self.live.key.job_id, error = %e.chain(), "a log was not read to its end");
        }
        // Who has the receipt reads what it has not seen: by then that must be stored.
        let late = self.lacks(&finished);
        let receipt = StreamEvent::Receipt {
            receipt: finished.receipt.clone(),
        };
        if !late {
            self.live.event(receipt.clone()).await;
        }
        let outcome = self.record(&finished).await;
        if late && matches!(outcome, Ok(_) | Err(Error::Refused(_))) {
            self.live.end(receipt);
        }
        let app = &self.link.app;
        if matches!(outcome, Ok(_) | Err(Error::Refused(_))) {
            app.running.end(&self.live.key);
        }
        app.rollouts.poke(&self.live.key.org, &self.live.key.job_id);
        let told = match outcome {
            Ok(ended) => self.acknowledge(&finished, ended).await?,
            Err(Error::Refused(why)) => {
                let event = Event::new(EventType::ResultRejected)
                    .with_id("job_id", &self.live.key.job_id)
                    .with_id("node_id", &self.live.key.node_id);
                let app = &self.link.app;
                app.note(Some(&self.live.key.org), event.refused(&why)).await;
                self.put_aside(&finished, why.code).await?;
                // It may be lost by now.
                let rollouts = &self.link.app.rollouts;
                rollouts.poke(&self.live.key.org, &self.live.key.job_id);
                Told::Refused(why)
            }
            Err(e) => return Err(e),
        };
        if let Some(answer) = answer {
            let _ = answer.send(told);
        }
        Ok(())
    }

    async fn acknowledge(&mut self, finished: &Finished, ended: Ended) -> Result<Told, Error> {
        if ended.recorded == Recorded::New {
            metrics::counter!("lictor_hub_executions_ended_total", "state" => ended.state.as_str())
                .increment(1);
        }
        if ended.recorded == Recorded::Conflict {
            self.put_aside(finished, Code::ResultConflict).await?;
            return Ok(Told::Conflict);
        }
        if ended.rest == Rest::Missing {
            return Ok(Told::Incomplete);
        }
        let ack = Ack::Result {
            job: finished.job,
            receipt: ended.receipt,
        };
        self.link.tell(Request::Ack(ack));
        Ok(Told::Stored)
    }

    /// Reads the log on to its end, for those who watch; stops at a stall.
    async fn read_to(&mut self, job: &Digest, end: u64) -> Result<(), Error> {
        self.job = Some(*job);
        self.terms().await?;
        self.open(job, self.live.place().at).await?;
        while self.live.place().at < end && self.reading.is_wanted() {
            match tokio::time::timeout(STALL, self.reading.next()).await {
                Ok(read) => self.read(read).await?,
                Err(_) => break,
            }
        }
        self.reading.close();
        Ok(())
    }

    async fn record(&mut self, finished: &Finished) -> Result<Ended, Error> {
        let org = self.link.app.org(&self.live.key.org)?;
        // A job that was checked when it came is not checked a second time.
        let admitted = self.live.admitted(&finished.envelope);
        let receipt = org.with(|t| {
            let receipt = t.verify_receipt(&self.link.node.keys, &finished.receipt)?;
            receipt.check_for(&finished.job)?;
            Ok::<_, Refusal>(receipt)
        })?;
        let told = match admitted {
            Some(job) => ToldOf {
                digest: job.digest(),
                job: job.doc().clone(),
                wire: job.wire().to_owned(),
                judged: Judged::Yes,
            },
            None => self.told_of(&finished.envelope).await?,
        };
        if told.digest != finished.job {
            return Err(Refusal::from(Code::WrongJob).into());
        }
        // A node ends no job that was not for it, whatever it signs.
        if !told.job.nodes.contains(&self.link.node.node_id) {
            return Err(Refusal::from(Code::WrongNode).into());
        }
        check_time(&told.job)?;
        self.arrive_surely().await?;
        let (objects, key, pending) = (&self.link.app.objects, &self.live.key, &self.pending);
        let packed = self
            .shelf
            .patiently(|| objects.pack(key, pending.clone()))
            .await?;
        let rest = self.fetch_kept(finished, packed.as_ref()).await;
        let upto = packed.as_ref().map(|s| s.to);
        let result = self.result(finished, &receipt, told, packed);
        let store = &self.link.app.store;
        let recorded = self
            .shelf
            .patiently(|| async { Ok(store.record_result(&org.id, result.clone()).await?) })
            .await?;
        if let Some(upto) = upto {
            self.pending.clear();
            self.settled(upto);
        }
        Ok(Ended {
            recorded,
            receipt: receipt.digest(),
            state: receipt.outcome.into(),
            rest,
        })
    }

    fn result(
        &self,
        finished: &Finished,
        receipt: &Verified<Receipt>,
        told: ToldOf,
        segment: Option<SegmentRow>,
    ) -> ResultRow {
        let judged = told.judged;
        ResultRow {
            job: self.row(told),
            node_id: self.live.key.node_id.clone(),
            receipt_digest: receipt.digest(),
            receipt: finished.receipt.clone(),
            state: receipt.outcome.into(),
            refusal: match receipt.code {
                Some(code) => Some(Refusal::new(code, receipt.message.clone())),
                None => (judged == Judged::No).then(|| Code::FiringUnjudged.into()),
            },
            started_at: receipt.started_at,
            finished_at: receipt.finished_at,
            segments: segment.into_iter().collect(),
        }
    }

    /// A job as it is stored that its node brings.
    pub(super) fn row(&self, told: ToldOf) -> JobRow {
        let job = told.job;
        JobRow {
            job_id: JobId::from_digest(&told.digest),
            digest: told.digest,
            operator: job.operator,
            profile: job.profile,
            expires_at: job.expires_at,
            created_at: Timestamp::now(),
            envelope: told.wire,
            // What its nodes fire of a schedule the hub learns of from each of them.
            nodes: match job.origin {
                Origin::Firing(_) => vec![self.live.key.node_id.clone()],
                Origin::Job | Origin::Schedule => job.nodes,
            },
            stdin: None,
            origin: job.origin,
        }
    }
}
