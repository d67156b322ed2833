//! `lictor egress`: a job's attempts to get out, live or as they are kept in its log.

use lictor_client::Expected;

use crate::args::{Egress, EgressCommand, EgressWatch};
use crate::commands::dossier::Dossier;
use crate::commands::watch::{Shows, Until, Watch};
use crate::failure::Result;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, egress: &Egress) -> Result {
    match &egress.command {
        EgressCommand::Watch(job) => watch(session, job).await,
    }
}

async fn watch(session: &Session, args: &EgressWatch) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    dossier.all_hold()?;
    let node = dossier.node(args.node.as_deref())?;
    let stream = hub.follow(&args.id, node.id(), 0).await;
    let stream = stream.map_err(|e| failed(&format!("read the attempts of job {}", args.id), &e))?;
    let watch = Watch {
        session,
        hub: &hub,
        expected: Expected {
            trust: store.trust(),
            node,
            job: dossier.job.digest(),
        },
        canceler: None,
        until: Until::End,
        shows: Shows::WayOut,
        into: None,
    };
    watch.run(stream).await
}
