//! `lictor logs`: the output of a job, live with `-f`, held against its receipt in the same way as that of `run`.

use lictor_client::Expected;

use crate::args::Follow;
use crate::commands::dossier::Dossier;
use crate::commands::watch::{Shows, Until, Watch};
use crate::failure::Result;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Follow) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    dossier.all_hold()?;
    let stream = if args.follow {
        hub.follow(&args.id, 0).await
    } else {
        hub.output(&args.id, dossier.only_node()?.id()).await
    };
    let stream = stream.map_err(|e| failed(&format!("read the output of job {}", args.id), &e))?;
    let watch = Watch {
        session,
        hub: &hub,
        expected: Expected {
            trust: store.trust(),
            node: dossier.only_node()?,
            job: dossier.job.digest(),
        },
        canceler: None,
        until: if args.follow {
            Until::End
        } else {
            let receipt_seen = !dossier.receipts.is_empty();
            Until::Now { receipt_seen }
        },
        shows: Shows::Output,
    };
    watch.run(stream).await
}
