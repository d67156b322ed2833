//! `lictor logs`: the output of a job, live with `-f`, held against its receipts in the same way as that of `run`.

use lictor_client::Expected;
use lictor_proto::api::FollowNode;

use crate::args::Follow;
use crate::commands::dossier::Dossier;
use crate::commands::fleet::{FleetUntil, FleetWatch};
use crate::commands::watch::{Shows, Until, Watch};
use crate::exit::{self, Status};
use crate::failure::Result;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Follow) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    dossier.all_hold()?;
    let unread = |e| failed(&format!("read the output of job {}", args.id), &e);
    let all = args.node.is_none();
    if all {
        dossier.tell_unproven(session.out);
    }
    if all && dossier.job.nodes.len() > 1 && !dossier.nodes.is_empty() {
        let from_start = |n: &lictor_trust::directory::Node| FollowNode {
            node_id: n.id().clone(),
            from: 0,
        };
        let nodes = dossier.nodes.iter().map(from_start).collect();
        let stream = hub.follow_each(&args.id, nodes, args.follow).await;
        let watch = FleetWatch {
            session,
            hub: &hub,
            trust: store.trust(),
            nodes: &dossier.nodes,
            job: dossier.job.digest(),
            canceler: None,
            until: if args.follow {
                FleetUntil::All
            } else {
                FleetUntil::Now
            },
            into: None,
        };
        let status = watch.run(stream.map_err(unread)?).await?;
        // Of those that were left out nothing proves how it ended.
        let is_proven = dossier.unproven.is_empty() || !args.follow;
        return Ok(match status {
            Status::OK if !is_proven => Status(exit::OWN_ERROR),
            status => status,
        });
    }
    let node = dossier.node(args.node.as_deref())?;
    let stream = if args.follow {
        hub.follow(&args.id, node.id(), 0).await
    } else {
        hub.output(&args.id, node.id()).await
    };
    let watch = Watch {
        session,
        hub: &hub,
        expected: Expected {
            trust: store.trust(),
            node,
            job: dossier.job.digest(),
        },
        canceler: None,
        until: if args.follow {
            Until::End
        } else {
            let receipt_seen = dossier.receipts.iter().any(|r| r.node_id == *node.id());
            Until::Now { receipt_seen }
        },
        shows: Shows::Output,
        into: None,
    };
    watch.run(stream.map_err(unread)?).await
}
