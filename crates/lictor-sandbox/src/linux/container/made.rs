//! A container, whoever has made it, held by its first process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::Signal;

use super::first::{self, First};
use super::maker::Maker;
use crate::backend::StartError;
use crate::handle::ProcessId;
use crate::linux::covers::Placeholder;
use crate::linux::keeper::Keeper;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Ids, View};
use crate::linux::process;
use crate::linux::zygote::Zygote;

/// A container that waits for a program.
pub(super) struct Made {
    zygote: Arc<Zygote>,
    keeper: Option<Keeper>,
    pub(super) init: ProcessId,
    pub(super) init_fd: OwnedFd,
    bundle: Bundle,
    /// What was made of the host's to mount something on; removed with this.
    pub(super) placeholders: Vec<Placeholder>,
    /// What the first process waits at.
    _hold: OwnedFd,
}

impl Made {
    /// Has it made, and looks at it before anything of the job is in it.
    pub(super) async fn make(
        kernel: &Kernel,
        maker: &Maker,
        (ids, view): (Ids, &View),
    ) -> Result<Self, StartError> {
        let place = kernel
            .place()
            .map_err(StartError::failed("make the runtime's directory"))?;
        let draft = place.draft().map_err(StartError::failed("make a bundle"))?;
        let First { id, fd, hold, keeper } = maker.start(kernel, draft.bundle(), (ids, view)).await?;
        if let Err(e) = view.is_shown_by(id) {
            drop(hold);
            if let Some(keeper) = keeper {
                first::give_up(kernel, keeper).await;
            }
            return Err(StartError::failed("make the container")(e));
        }
        Ok(Self {
            zygote: kernel.zygote.clone(),
            keeper,
            init: id,
            init_fd: fd,
            bundle: draft.keep(),
            placeholders: Vec::new(),
            _hold: hold,
        })
    }

    /// Ends it and everything in it.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        let killed = process::signal(self.init, Signal::KILL);
        if let Some(keeper) = &mut self.keeper {
            keeper.end_all(self.zygote.kill_bound()).await?;
        }
        if let Some(keeper) = self.keeper.take() {
            self.zygote.give_back(keeper);
        }
        killed.and(self.bundle.remove())
    }
}

impl Drop for Made {
    /// What was not taken down in order is ended all the same; its files are taken away by the next agent.
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let _ = process::signal(self.init, Signal::KILL);
        }
    }
}
