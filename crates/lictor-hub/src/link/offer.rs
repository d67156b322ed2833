//! Offering a job to a node, until it takes it, refuses it, or goes away.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::agent::{Offer, OfferReply, Reply, Request, Wire};
use lictor_proto::api::{ExecutionState, StreamEvent};
use lictor_proto::code::Refusal;
use lictor_proto::doc::Origin;
use lictor_proto::{Code, Digest, Timestamp};
use tokio::sync::{SemaphorePermit, watch};

use super::input::PIECE;
use super::papers::{Papers, Signed};
use super::{NodeLink, PeerError};
use crate::app::Error;
use crate::app::running::Turn;
use crate::app::submit::{Admission, Along};
use crate::relay::Live;
use crate::store::{JobRow, Pending, Step};

/// Between two offers of a job that the node cannot take now.
pub(super) const AGAIN_FIRST: Duration = Duration::from_millis(500);
pub(super) const AGAIN_LAST: Duration = Duration::from_secs(30);

/// What an offer is made with: a slot of its node, and a place of its org if it takes one.
type Allowed<'a> = (SemaphorePermit<'a>, Option<Turn>);

/// A job on its way to a node.
pub struct Offered {
    /// Its followers.
    pub live: Arc<Live>,
    /// Its digest.
    pub digest: Digest,
    /// Until when it may start.
    pub expires_at: Timestamp,
    origin: Origin,
    /// Whether the hub takes it too.
    admission: watch::Receiver<Admission>,
    /// Its documents, while they are in memory.
    papers: Option<Papers>,
    /// Whether its input is large, as far as is known.
    is_large: bool,
}

impl Offered {
    /// A job that has come in and that nothing is signed about, while it is not known whether the hub takes it.
    pub fn fresh(
        row: &Arc<JobRow>,
        along: &Arc<Along>,
        admission: watch::Receiver<Admission>,
        live: Arc<Live>,
    ) -> Self {
        Self {
            admission,
            ..Self::stored(row, along, Signed::default(), live)
        }
    }

    /// A job that is stored, with what is signed about it.
    pub fn stored(row: &Arc<JobRow>, along: &Arc<Along>, signed: Signed, live: Arc<Live>) -> Self {
        Self {
            live,
            digest: row.digest,
            expires_at: row.expires_at,
            origin: row.origin,
            admission: watch::channel(Admission::Stored).1,
            is_large: along.is_large(),
            papers: Some(Papers::new(row, along, signed)),
        }
    }

    /// A job that waits: its documents are read when its turn comes.
    pub fn waiting(row: &Pending, live: Arc<Live>) -> Self {
        Self {
            live,
            digest: row.digest,
            expires_at: row.expires_at,
            origin: row.origin.unwrap_or(Origin::Job),
            admission: watch::channel(Admission::Stored).1,
            papers: None,
            is_large: false,
        }
    }

    /// Waits, perhaps for long: nothing stays in memory that can be read again, from when it can be.
    async fn wait<T>(&mut self, until: impl Future<Output = T>) -> T {
        let mut until = pin!(until);
        let is_stored = tokio::select! {
            came = &mut until => return came,
            is_stored = stored(&mut self.admission) => is_stored,
        };
        if is_stored {
            self.let_go();
        }
        until.await
    }

    fn let_go(&mut self) {
        self.papers = None;
        self.live.forget();
    }
}

/// Waits until the job is stored; `false` where that failed, and it is nowhere but in memory.
async fn stored(admission: &mut watch::Receiver<Admission>) -> bool {
    admission.wait_for(|a| *a == Admission::Stored).await.is_ok()
}

/// What a node, or the hub, said last of why a job waits.
#[derive(Default)]
struct Said(Option<Refusal>);

impl Said {
    /// Whether it is to be told: once, not each time that it is still so. Of a download also when it waits for its turn, or has
    /// it; what else differs are numbers.
    fn is_news(&mut self, why: &Refusal) -> bool {
        let is_same = |said: &Refusal| {
            said.code == why.code && (why.code != Code::Downloading || said.message == why.message)
        };
        let is_news = !self.0.as_ref().is_some_and(is_same);
        if is_news {
            self.0 = Some(why.clone());
        }
        is_news
    }
}

/// What became of one attempt.
enum Attempt {
    Answered(OfferReply),
    /// Its input is large, as its documents say: it has to wait for another slot.
    Large,
    /// There is nothing to offer: it is not stored any more, or is what a node has fired.
    Nothing,
}

impl NodeLink {
    /// Offers a job; what becomes of it goes to the store and to its followers.
    pub fn offer(self: &Arc<Self>, mut offered: Offered) {
        if let Some(papers) = &mut offered.papers {
            papers.count(&self.reading);
        }
        let link = self.clone();
        self.spawn(async move {
            let job = offered.live.key.job_id.clone();
            if let Err(e) = link.offer_until_settled(offered).await {
                tracing::debug!(%job, node = %link.node.node_id, error = %e, "offer ended; it is made again on reconnect");
            }
        });
    }

    async fn offer_until_settled(&self, mut offered: Offered) -> Result<(), PeerError> {
        let mut again = AGAIN_FIRST;
        let mut said = Said::default();
        // A small input costs less than a round trip to find out whether the node has it, but only once.
        let mut goes_ahead = true;
        while offered.expires_at > Timestamp::now() {
            let Some((slot, turn)) = self.turn(&mut offered, &mut said).await? else {
                return Ok(());
            };
            let attempt = self.attempt(&mut offered, &mut goes_ahead).await;
            drop(slot);
            let reply = match attempt {
                Ok(Attempt::Answered(reply)) => Ok(reply),
                Ok(Attempt::Large) => continue,
                Ok(Attempt::Nothing) => return Ok(()),
                Err(e) => Err(e),
            };
            if matches!(reply, Ok(OfferReply::Accepted)) {
                offered.live.begin();
            }
            let admitted = offered.admission.wait_for(|a| *a != Admission::Open).await;
            if admitted.map_or(true, |a| *a == Admission::Refused) {
                return Ok(());
            }
            match reply {
                Ok(OfferReply::Later(why)) => {
                    if said.is_news(&why) {
                        self.handed_back(&offered, &why).await;
                    }
                }
                Ok(OfferReply::Ask(ask)) => {
                    self.asked(&offered, ask).await;
                    // An approval that came meanwhile found no execution that waits for it.
                    if self.is_signed_since(&mut offered).await {
                        continue;
                    }
                    return Ok(());
                }
                // It is sent from there with the next offer.
                Ok(OfferReply::Wanted { .. }) => {}
                Ok(reply) => {
                    self.settle(&offered, reply, turn).await;
                    return Ok(());
                }
                // Whether the node has it is not known; if it has, it says so to the next offer. This task ends
                // with the link.
                Err(e) => {
                    tracing::debug!(job = %offered.live.key.job_id, node = %self.node.node_id, error = %e, "an offer failed; it is made again")
                }
            }
            drop(turn);
            offered.wait(tokio::time::sleep(again)).await;
            if self.is_held(&offered).await {
                return Ok(());
            }
            again = (again * 2).min(AGAIN_LAST);
        }
        Ok(())
    }

    /// Offers it once, with what is in memory of it or is read for this.
    async fn attempt(&self, offered: &mut Offered, goes_ahead: &mut bool) -> Result<Attempt, PeerError> {
        if offered.papers.is_none() {
            let read = self.papers(&offered.live.key).await?;
            let Some(read) = read else {
                return Ok(Attempt::Nothing);
            };
            if read.along.is_large() && !offered.is_large {
                offered.is_large = true;
                return Ok(Attempt::Large);
            }
            offered.papers = Some(read);
        }
        let Some(papers) = &offered.papers else {
            return Ok(Attempt::Nothing);
        };
        let goes_ahead = std::mem::replace(goes_ahead, false);
        let ahead = papers
            .along
            .stdin
            .filter(|(_, size)| goes_ahead && *size <= PIECE);
        let reply = self.send(offered, papers, ahead).await?;
        Ok(Attempt::Answered(reply))
    }

    /// Whether somebody has signed what was not passed on. Only so much is: a new one may stand where another stood.
    async fn is_signed_since(&self, offered: &mut Offered) -> bool {
        let passed_on = offered.papers.as_ref().map(Papers::passed_on);
        let passed_on = passed_on.unwrap_or_default();
        // Before it is stored nothing is signed about it; and who waits for room has none.
        if !stored(&mut offered.admission).await {
            return false;
        }
        offered.let_go();
        match self.papers(&offered.live.key).await {
            Ok(Some(read)) => {
                let is_new = !read.passed_on().is_subset(&passed_on);
                offered.papers = Some(read);
                is_new
            }
            Ok(None) => false,
            Err(e) => {
                tracing::error!(error = %e, "approvals and releases were not read");
                false
            }
        }
    }

    /// One of the node's slots, and a place among what of the org is at work; waited for, and said, when there is none.
    /// Neither is kept while the other is waited for: a node that answers slowly takes no places from others, and an org
    /// without places leaves the node's slots to what needs none. `None` when it is not to be offered any more.
    async fn turn(&self, offered: &mut Offered, said: &mut Said) -> Result<Option<Allowed<'_>>, PeerError> {
        let slots = if offered.is_large {
            &self.large_offers
        } else {
            &self.offers
        };
        loop {
            let slot = match slots.try_acquire() {
                Ok(slot) => slot,
                Err(_) => {
                    let slot = offered.wait(slots.acquire()).await;
                    slot.map_err(|_| PeerError::Gone)?
                }
            };
            // It stands until it ends; what is at work is what it fires.
            if offered.origin == Origin::Schedule {
                return Ok(Some((slot, None)));
            }
            let why = match self.app.running.try_begin(&offered.live.key) {
                Ok(turn) => return Ok(Some((slot, Some(turn)))),
                Err(why) => why,
            };
            drop(slot);
            let Some(turn) = self.wait_for_a_place(offered, said, &why).await else {
                return Ok(None);
            };
            if let Ok(slot) = slots.try_acquire() {
                return Ok(Some((slot, Some(turn))));
            }
        }
    }

    async fn wait_for_a_place(&self, offered: &mut Offered, said: &mut Said, why: &Refusal) -> Option<Turn> {
        let admitted = offered.admission.wait_for(|a| *a != Admission::Open).await;
        if admitted.map_or(true, |a| *a == Admission::Refused) {
            return None;
        }
        if said.is_news(why) {
            self.handed_back(offered, why).await;
        }
        let valid = offered.expires_at.since(Timestamp::now());
        let live = offered.live.clone();
        let turn = tokio::time::timeout(valid, self.app.running.begin(&live.key));
        let turn = offered.wait(turn).await.ok().flatten()?;
        if self.is_held(offered).await || self.is_over(offered).await {
            return None;
        }
        Some(turn)
    }

    /// Whether it has ended meanwhile: it was cancelled while it waited, or its receipt came before an answer.
    async fn is_over(&self, offered: &Offered) -> bool {
        match self.app.store.followed(&offered.live.key).await {
            Ok(row) => row.is_some_and(|f| f.execution.state.is_final()),
            Err(e) => {
                tracing::error!(error = %Error::from(e).chain(), "whether a job is over was not read");
                false
            }
        }
    }

    /// Whether its rollout has stopped meanwhile and taken it back; it is offered anew when that goes on.
    async fn is_held(&self, offered: &Offered) -> bool {
        let held = self.app.store.is_held(&offered.live.key).await;
        held.unwrap_or_else(|e| {
            tracing::error!(error = %Error::from(e).chain(), "whether a job is held was not read");
            false
        })
    }

    /// Offers it, and once more at once when the node lacks something that the hub has: law, or standard input.
    async fn send(
        &self,
        offered: &Offered,
        papers: &Papers,
        ahead: Option<(Digest, u64)>,
    ) -> Result<OfferReply, PeerError> {
        let stdin = papers.along.stdin;
        if let Some((sha256, size)) = ahead {
            self.send_stdin(offered, (&sha256, size), 0).await?;
        }
        let offer = Offer {
            job: papers.job.envelope.clone(),
            approvals: papers.signed.approvals.to_vec(),
            releases: papers.signed.releases.clone(),
            secrets: self.secrets(papers).await,
        };
        let held = self.held().clone();
        let mut reply = self.ask_offer(offer.clone()).await?;
        if let OfferReply::Later(why) | OfferReply::Refused(why) = &reply
            && is_about_law(why.code)
        {
            self.push_law().await?;
            // Or it was brought while the node answered.
            if *self.held() != held {
                reply = self.ask_offer(offer.clone()).await?;
            }
        }
        if let (OfferReply::Later(why), Some((sha256, size))) = (&reply, stdin)
            && why.code == Code::StdinMissing
        {
            self.send_stdin(offered, (&sha256, size), 0).await?;
            reply = self.ask_offer(offer.clone()).await?;
        }
        // The link broke while it was on its way. What does not fit the job is asked for by no honest node.
        if let (OfferReply::Wanted { sha256, at }, Some((own, size))) = (&reply, stdin)
            && *sha256 == own
            && *at < size
        {
            self.send_stdin(offered, (&own, size), *at).await?;
            reply = self.ask_offer(offer).await?;
        }
        Ok(reply)
    }

    async fn ask_offer(&self, offer: Offer) -> Result<OfferReply, PeerError> {
        match self.peer.ask(Request::Offer(offer)).await? {
            Reply::Offer(reply) => Ok(reply),
            Reply::Refused(why) => Ok(OfferReply::Refused(why)),
            other => Err(PeerError::Protocol(format!(
                "an offer was answered with {other:?}"
            ))),
        }
    }

    async fn settle(&self, offered: &Offered, reply: OfferReply, turn: Option<Turn>) {
        let until = Timestamp::now().plus(self.app.times.lease);
        // What the node knew before may have ended before, and then nobody else gives its place back.
        let was_known = matches!(reply, OfferReply::Known);
        match reply {
            // Denied: a signed receipt follows, and that is what counts.
            OfferReply::Accepted | OfferReply::Known | OfferReply::Denied(_) => {
                if let Some(turn) = turn {
                    turn.keep();
                }
                self.advance(offered, Step::Leased { until }, ExecutionState::Leased, None)
                    .await;
                if was_known && self.is_over(offered).await {
                    self.app.running.end(&offered.live.key);
                }
            }
            OfferReply::Refused(why) => {
                let step = Step::Refused(why.clone());
                self.advance(offered, step, ExecutionState::Denied, Some(why))
                    .await;
            }
            OfferReply::Ask(_) | OfferReply::Later(_) | OfferReply::Wanted { .. } => {} // does not settle it
        }
    }

    async fn asked(&self, offered: &Offered, ask: Wire) {
        let Some(org) = self.app.orgs.get(&self.node.org) else {
            return;
        };
        let verified = org.with(|t| {
            let v = t.verify_ask(&self.node.keys, &ask)?;
            v.check_for(&offered.digest)?;
            Ok::<_, Refusal>((v.digest(), v.gates.iter().all(|g| g.release)))
        });
        match verified {
            Ok((digest, release)) => {
                offered.live.event(StreamEvent::Ask { ask: ask.clone() }).await;
                let (state, code) = match release {
                    true => (ExecutionState::AwaitingRelease, Code::ReleaseNeeded),
                    false => (ExecutionState::AwaitingApproval, Code::ApprovalNeeded),
                };
                let step = Step::Asked { release, digest, ask };
                self.advance(offered, step, state, Some(Refusal::plain(code)))
                    .await;
            }
            Err(why) => {
                let event = Event::new(EventType::ResultRejected).with_id("job_id", &offered.live.key.job_id);
                self.app.note(Some(&self.node.org), event.refused(&why)).await;
            }
        }
    }

    async fn handed_back(&self, offered: &Offered, why: &Refusal) {
        let step = Step::HandedBack(why.clone());
        self.advance(offered, step, ExecutionState::Queued, Some(why.clone()))
            .await;
    }

    async fn advance(&self, offered: &Offered, step: Step, state: ExecutionState, why: Option<Refusal>) {
        match self.app.store.advance(&offered.live.key, step).await {
            Ok(true) => {
                offered.live.event(state_of(self, state, why)).await;
                if state.is_final() {
                    self.app.rollouts.poke(&self.node.org, &offered.live.key.job_id);
                }
            }
            Ok(false) => {}
            Err(e) => tracing::error!(error = %Error::from(e).chain(), "a step was not stored"),
        }
    }
}

pub(super) fn state_of(link: &NodeLink, state: ExecutionState, why: Option<Refusal>) -> StreamEvent {
    let (code, message) = why.map_or((None, String::new()), |w| (Some(w.code), w.message));
    StreamEvent::State {
        node_id: link.node.node_id.clone(),
        state,
        code,
        message,
        at: Timestamp::now(),
    }
}

fn is_about_law(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::StaleBundle
            | C::Stale
            | C::NoLaw
            | C::FreshnessMismatch
            | C::BundleExpired
            | C::MinRoot
            | C::SignerUnknown
    )
}
