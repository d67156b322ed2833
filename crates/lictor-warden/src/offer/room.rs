//! Whether the agent's disk has room for what a job that brings files may keep there until the hub has it.
//!
//! A profile's limit of kept output does not hold for such a job, so this does, and before it starts: the journal, which
//! has to hold its end, is on the same disk. What has ended and waits for the hub is on the disk already; what still
//! runs may take the rest of what it may keep.

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Job, Spec};
use lictor_proto::limits;

use crate::core::Core;
use crate::spool::stdin::SPARE;

/// What the disk has left that the agent's own directory is on.
pub(crate) fn free(core: &Core) -> u64 {
    core.sandboxes.host_facts(&core.config.dir).disk_free_bytes
}

/// That there is room for all that this job may keep.
pub(super) fn for_output(core: &Core, job: &Job) -> Result<(), Refusal> {
    let Some(most) = most_kept(job) else {
        return Ok(());
    };
    let running = core.live.all().into_iter().filter_map(|(_, live)| {
        let spool = live.spool.get().filter(|_| !live.has_ended())?;
        Some(most_kept(live.job.get()?)?.saturating_sub(spool.end()))
    });
    fits(most, running.sum(), free(core))
}

fn fits(most: u64, promised: u64, free: u64) -> Result<(), Refusal> {
    if free >= most.saturating_add(promised).saturating_add(SPARE) {
        return Ok(());
    }
    let why = format!(
        "up to {most} bytes are to be brought, {free} are free, and {promised} of them are for jobs that run"
    );
    Err(Refusal::new(Code::DiskFull, why))
}

/// The most that is kept of the output of a job that brings files.
fn most_kept(job: &Job) -> Option<u64> {
    match &job.spec {
        Spec::Collect(collect) => Some(collect.max_bytes.saturating_add(limits::MANIFEST)),
        Spec::Workspace(workspace) => {
            let diff = workspace.diff.as_ref()?;
            Some(diff.max_bytes.saturating_add(limits::MANIFEST))
        }
        Spec::Exec(_) | Spec::Script(_) | Spec::Fetch(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use lictor_proto::Code;

    use super::{SPARE, fits};

    #[test]
    fn a_job_that_brings_files_needs_room_for_all_of_it_besides_what_runs() {
        assert_eq!(fits(1000, 0, 1000 + SPARE), Ok(()));
        assert_eq!(fits(1000, 500, 1500 + SPARE), Ok(()));
        for (most, promised, free) in [
            (1000, 0, 999 + SPARE),
            (1000, 500, 1499 + SPARE),
            (u64::MAX, 1, 0),
        ] {
            let refused = fits(most, promised, free).expect_err("no room");
            assert_eq!(refused.code, Code::DiskFull);
        }
    }
}
