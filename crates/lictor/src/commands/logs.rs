//! `lictor logs`: the output of a job, live with `-f`, and held against its receipt where there is one.

use lictor_client::follow::Item;
use lictor_client::{Compared, Error, Expected, Follower};

use crate::args::Follow;
use crate::commands::dossier::{Dossier, untrusted};
use crate::commands::screen::{Screen, Unwritten};
use crate::commands::watch::Watch;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Follow) -> Result {
    let hub = session.hub()?;
    let mut store = session.fresh_trust(&hub).await?;
    let dossier = Dossier::fetch(session, &hub, &mut store, &args.id).await?;
    let expected = Expected {
        trust: store.trust(),
        node: dossier.only_node()?,
        job: dossier.job.digest(),
    };
    let what = format!("read the output of job {}", args.id);
    if args.follow {
        let stream = hub.follow(&args.id, 0).await.map_err(|e| failed(&what, &e))?;
        let watch = Watch {
            session,
            hub: &hub,
            expected,
            canceler: None,
        };
        return watch.run(stream).await;
    }
    let mut stream = hub.output(&args.id, 0).await.map_err(|e| failed(&what, &e))?;
    let mut follower = Follower::new();
    let mut screen = Screen::new(session.out.is_json());
    let gone = loop {
        let shown = match follower.next(&mut stream).await {
            Ok(Some(Item::Output {
                stream,
                time,
                at,
                bytes,
            })) => screen.output(stream, time, at, bytes).await,
            Ok(Some(Item::Missing { stdout, stderr })) => screen.missing(stdout, stderr).await,
            Ok(Some(Item::Event(_))) => Ok(()),
            Ok(None) => break screen.finish().await,
            Err(Error::Untrusted(r)) => return Err(untrusted(&what, r)),
            Err(e) => return Err(failed(&what, &e)),
        };
        if shown.is_err() {
            break shown;
        }
    };
    match gone {
        Ok(()) => {}
        Err(Unwritten::ReaderGone) => return Ok(Status(141)),
        Err(Unwritten::Failed(e)) => return Err(Failure::new("could not write the output").because(&e)),
    }
    let Some(receipt) = dossier.receipts.first() else {
        session
            .out
            .progress("there is no receipt yet: this output is provisional");
        return Ok(Status::OK);
    };
    match follower.compare(receipt) {
        Ok(Compared::Whole) => Ok(Status::OK),
        Ok(_) => {
            session
                .out
                .note("not all output was kept; what was kept is what the node signed");
            Ok(Status::OK)
        }
        Err(refusal) => Err(Failure::refused(
            "the output above is not what the node signed",
            &refusal,
        )),
    }
}
