//! Everything that only Linux has. Nothing outside this module knows a system call.
//!
//! | module | what |
//! |---|---|
//! | `table`, `child`, `zygote` | the one spawn function: a prepared table, and the process that carries it out |
//! | `process`, `tree`, `cgroup` | finding and ending every process of a job |
//! | `supervisor`, `suspend` | time limit, end, usage; holding a job |
//! | `streams`, `pipe`, `input`, `terminal` | output, input, or a terminal for both |
//! | `users`, `resolve`, `view`, `reach`, `copy` | who a job runs as, which file is its program, and who could change it |
//! | `secret` | the values of secrets, in memory alone |
//! | `way_out`, `proxy`, `confine` | the only way out of a sandbox, the process behind it, and what keeps that to its work |
//! | `kept`, `snapshot` | sandboxes that are there for the next job, and copies of what they hold |
//! | `quota`, `overlay`, `idmap` | how much a job may write, and a root of its own to write to |
//! | `files` | what carries files into and out of sandboxes: this program again, as a job's process |
//! | `helper`, `errand` | tools that the agent has run for itself; its own program, sent to ask somebody outside |
//! | `recover`, `remove`, `mounts` | what an earlier agent left; removing a job's directory and nothing else |
//! | `shown`, `paths`, `covers`, `own` | what sandboxes show of the host, what of that is hidden or kept as it is, and what is the agent's own |
//! | `kernel`, `host`, `landlock`, `bubblewrap`, `container`, `gvisor`, `oci`, `seccomp` | the backends and what they share |
//! | `probing`, `trial` | what the probes of the backends share, and the job that looks at itself |
//! | `checks` | what of the host all that rests on, for people |

mod boxed;
mod bubblewrap;
mod cgroup;
mod checks;
mod child;
mod confine;
mod container;
mod copy;
mod covers;
mod entry;
mod errand;
mod facts;
mod files;
mod gvisor;
mod helper;
mod host;
mod idmap;
mod input;
mod job;
mod keeper;
mod kept;
mod kernel;
mod landlock;
mod mounts;
mod oci;
mod overlay;
mod own;
mod paths;
mod pipe;
mod probing;
mod process;
mod proxy;
mod quota;
mod reach;
mod ready;
mod recover;
mod remove;
mod resolve;
mod script;
mod seccomp;
mod secret;
mod shown;
mod snapshot;
mod spawn;
mod streams;
mod supervisor;
mod suspend;
mod table;
mod terminal;
mod tree;
mod trial;
mod users;
mod view;
mod way_out;
mod whom;
mod zygote;

use std::sync::Arc;

pub(crate) use bubblewrap::keep_warm;
pub(crate) use checks::all as checks;
pub(crate) use confine::{holds_tools, to_dir as confine_to_dir, to_network as confine_to_network};
pub(crate) use covers::remove_left as remove_placeholders;
pub(crate) use errand::{OnErrand, send as send_errand};
pub(crate) use facts::{fingerprint, hide_memory, host_facts, runtime_dir, sync_file_system};
pub(crate) use files::carry as carry_files;
pub(crate) use helper::{place as helper_place, run as run_helper};
pub(crate) use kept::{
    Claim, KeptLock, Sweep as KeptSweep, hold as hold_kept, list as list_kept, remove as remove_kept,
    restore as restore_kept, snapshot as snapshot_kept,
};
pub(crate) use kernel::Kernel;
pub(crate) use own::{always_leads_to_agent, leads_to_agent};
pub(crate) use pipe::PipeReader;
pub(crate) use process::{cgroup_of, identify};
pub(crate) use proxy::OWN_PROGRAM;
pub(crate) use recover::Recovered;
pub(crate) use remove::remove_dir;
pub(crate) use secret::{Locked, give, may_mount, secret_file};
pub(crate) use supervisor::Supervisor;
pub(crate) use terminal::TerminalKeys;
pub(crate) use trial::PROGRAM as TRIAL;
pub(crate) use way_out::WayOut;

use crate::backend::Backend;

/// The backends of this system.
pub(crate) fn backends(kernel: &Arc<Kernel>) -> Vec<Arc<dyn Backend>> {
    vec![
        Arc::new(host::HostBackend(kernel.clone())),
        Arc::new(landlock::Landlock(kernel.clone())),
        Arc::new(bubblewrap::Bubblewrap(kernel.clone())),
        Arc::new(container::Container(kernel.clone())),
        Arc::new(gvisor::Gvisor(kernel.clone())),
    ]
}
