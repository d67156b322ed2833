//! What a watch of several nodes says to the hub besides listening: to go on after a lost connection, and to cancel.

use std::time::{Duration, Instant};

use lictor_client::{Error, FrameStream, Signer};
use lictor_proto::Code;
use lictor_proto::api::FollowNode;
use lictor_trust::directory::Node;

use super::{FleetWatch, Halt, Scene, Stopped};
use crate::commands::watch::LOST_FOR;
use crate::failure::Result;
use crate::session::failed;

/// A log position that no log comes to: what follows from there is what happens, and no output.
const FAR: u64 = (1 << 53) - 1;

impl<'a> FleetWatch<'a> {
    /// Follows a job that the hub has, from its beginning, to its end.
    pub(crate) async fn follow_job(&self) -> Result {
        let from_start = |node: &Node| FollowNode {
            node_id: node.id().clone(),
            from: 0,
        };
        let nodes = self.positions(self.nodes.iter().map(from_start).collect());
        let stream = self.hub.follow_each(&self.id(), nodes, true).await;
        let stream = stream.map_err(|e| failed("follow the job", &e))?;
        self.run(stream).await
    }

    /// Output that is harvested comes once a node has ended, and not in this stream.
    fn positions(&self, mut nodes: Vec<FollowNode>) -> Vec<FollowNode> {
        if self.into.is_some() {
            nodes.iter_mut().for_each(|node| node.from = FAR);
        }
        nodes
    }

    /// A new connection, as soon as there is one, for those that go on.
    pub(super) async fn again(&self, scene: &mut Scene<'a>, why: Option<Error>) -> Stopped<FrameStream> {
        let since = *scene.lost_at.get_or_insert_with(Instant::now);
        let empty = || Error::Malformed("the hub ends the job's stream again and again without news".into());
        let mut pause = Duration::from_millis(100);
        loop {
            if since.elapsed() > LOST_FOR {
                return Err(Halt::Error(why.unwrap_or_else(empty)));
            }
            let out = self.session.out;
            out.progress("the connection to the hub was lost; trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
            let positions = self.positions(scene.fleet.positions());
            match self.hub.follow_each(&self.id(), positions, true).await {
                Ok(stream) => {
                    scene.fleet.reconnected();
                    return Ok(stream);
                }
                Err(Error::Link(_)) => {}
                // A hub that was killed may have forgotten a job that it had only just handed on.
                Err(Error::Refused(r)) if r.code == Code::NotFound => {}
                Err(e) => return Err(Halt::Error(e)),
            }
        }
    }

    pub(super) async fn cancel(&self) {
        let Some((operator, key)) = self.canceler else {
            return;
        };
        let out = self.session.out;
        let signer = Signer::new(self.trust, operator, key);
        let sent = match signer.cancel(self.job, "interrupted by the person who ran it", Vec::new()) {
            Ok(cancel) => self.hub.cancel(&self.id(), &cancel.wire).await.map(drop),
            Err(refusal) => Err(Error::Untrusted(refusal)),
        };
        match sent {
            Ok(()) => out.note("canceling on all nodes; Ctrl-C again leaves the job alone"),
            Err(e) => out.failure(&failed("cancel", &e)),
        }
    }
}
