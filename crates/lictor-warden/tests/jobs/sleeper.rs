//! A job that goes on until it is ended, for tests of what ends it.

use std::path::PathBuf;

use lictor_proto::Digest;
use lictor_proto::agent::{Offer, OfferReply};
use lictor_warden::Warden;

use crate::support::*;

/// A job that says as which process it runs, and then sleeps.
pub struct Sleeper {
    pub job: Digest,
    pub offer: Offer,
    pid_file: PathBuf,
}

impl Sleeper {
    /// `script` is told the file that the process's number goes into.
    pub fn new(world: &World, script: impl FnOnce(&str) -> String) -> Self {
        let pid_file = world.dir.path().join(format!("pid-{}", next()));
        let (job, offer) = world.signed(&["sh", "-c", &script(&pid_file.display().to_string())]);
        Self { job, offer, pid_file }
    }

    /// Has it started, and waits until it has said its number.
    pub async fn start(&self, warden: &Warden) {
        assert_eq!(offer(warden, self.offer.clone()).await, OfferReply::Accepted);
        until("the job", || {
            std::fs::read_to_string(&self.pid_file).is_ok_and(|t| t.ends_with('\n'))
        })
        .await;
    }

    /// Whether its process is there.
    pub fn is_there(&self) -> bool {
        let pid = std::fs::read_to_string(&self.pid_file).unwrap();
        PathBuf::from(format!("/proc/{}", pid.trim())).exists()
    }

    /// An agent that starts it, does `meanwhile` once its start is in the journal, and goes down where it stands: as
    /// near to a crash as one process comes.
    pub fn crash(&self, world: &World, meanwhile: impl AsyncFnOnce(&Warden)) {
        let rt = runtime();
        rt.block_on(async {
            let warden = world.warden().await;
            self.start(&warden).await;
            until("its start in the journal", || {
                world.audit().iter().any(|k| k == "job_started")
            })
            .await;
            meanwhile(&warden).await;
        });
        rt.shutdown_background();
    }
}
