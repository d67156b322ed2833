//! A container, whoever has made it, held by its first process.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;

use rustix::process::Signal;

use super::first::{By, First};
use super::maker::Maker;
use super::podman;
use crate::backend::StartError;
use crate::handle::ProcessId;
use crate::linux::covers::Placeholder;
use crate::linux::kernel::Kernel;
use crate::linux::oci::{Bundle, Ids, View};
use crate::linux::process;
use crate::linux::spawn::{self, Launch, LaunchFile};
use crate::linux::users::User;
use crate::program::FileIdentity;

/// Root as it is in a container.
const ROOT: User = User {
    uid: 0,
    gid: 0,
    groups: Vec::new(),
};

/// A container that waits for a program.
pub(super) struct Made {
    kernel: Arc<Kernel>,
    first: First,
    bundle: Bundle,
    ended: bool,
    /// What was made of the host's to mount something on; removed with this.
    pub(super) placeholders: Vec<Placeholder>,
}

impl Made {
    /// Has it made, and looks at it before anything of the job is in it.
    pub(super) async fn make(
        kernel: &Arc<Kernel>,
        maker: &Maker,
        (ids, view): (Ids, &View),
    ) -> Result<Self, StartError> {
        let place = kernel
            .place()
            .map_err(StartError::failed("make the runtime's directory"))?;
        let draft = place.draft().map_err(StartError::failed("make a bundle"))?;
        let first = maker.start(kernel, draft.bundle(), (ids, view)).await?;
        let mut made = Self {
            kernel: kernel.clone(),
            first,
            bundle: draft.keep(),
            ended: false,
            placeholders: Vec::new(),
        };
        match made.look_over(maker, view).await {
            Ok(()) => Ok(made),
            Err(e) => {
                let _ = made.end().await;
                Err(e)
            }
        }
    }

    pub(super) fn init(&self) -> ProcessId {
        self.first.id
    }

    /// The users of a job, where they are not those of the container.
    pub(super) fn users(&self) -> Option<BorrowedFd<'_>> {
        self.first.by.users()
    }

    pub(super) fn init_fd(&self) -> &OwnedFd {
        &self.first.fd
    }

    /// Whether it shows what it is to show, as it is to show it.
    async fn look_over(&self, maker: &Maker, view: &View) -> Result<(), StartError> {
        let failed = StartError::failed;
        let covers = match maker.shows_what_is_mounted_below() {
            true => Vec::new(),
            false => view.covers_inside().map_err(failed("make the container"))?,
        };
        if matches!(self.first.by, By::Podman { .. }) || !covers.is_empty() {
            // Who covers takes rights away first, whoever has mounted it.
            let tightened = view.tightened().map_err(failed("make the container"))?;
            self.run(Launch {
                namespaces: Some(self.first.fd.as_fd()),
                tightened,
                covers,
                ..Launch::of_a_helper()
            })
            .await?;
        }
        view.is_shown_by(self.first.id)
            .and_then(|()| view.is_all_that_is_mounted(self.first.id, &self.bundle))
            .map_err(failed("make the container"))
    }

    /// Has a helper of the agent's do something, and waits for its end.
    async fn run(&self, launch: Launch<'_>) -> Result<(), StartError> {
        let mut spawned = spawn::spawn(&self.kernel.zygote, &launch).await?;
        spawned.keeper.until_free().await;
        self.kernel.zygote.give_back(spawned.keeper);
        Ok(())
    }

    /// Ends it and everything in it.
    pub(super) async fn end(&mut self) -> io::Result<()> {
        // What stands beside the first process goes before it: it would tidy up otherwise.
        let killed = match &self.first.by {
            By::Runtime | By::Docker(_) => process::signal(self.first.id, Signal::KILL),
            By::Podman { .. } => Ok(()),
        };
        if let Some(keeper) = &mut self.first.keeper {
            keeper.end_all(self.kernel.zygote.kill_bound()).await?;
        }
        if let Some(keeper) = self.first.keeper.take() {
            self.kernel.zygote.give_back(keeper);
        }
        killed?;
        if let By::Docker(made) = &self.first.by {
            made.end(&self.kernel, &self.first.fd).await?;
        }
        self.remove_others_files().await?;
        self.bundle.remove()?;
        self.ended = true;
        Ok(())
    }

    /// Some of what podman writes for an agent that is not root belongs to users of the container, and only they can
    /// remove it; the same goes for what earlier ones have left.
    async fn remove_others_files(&self) -> io::Result<()> {
        let By::Podman { users } = &self.first.by else {
            return Ok(());
        };
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let mut dirs = self.kernel.place()?.stuck();
        dirs.push(podman::own(&self.bundle));
        let mut argv = vec![c"/bin/rm".to_owned(), c"-rf".to_owned(), c"--".to_owned()];
        for dir in dirs {
            argv.push(CString::new(dir.as_os_str().as_bytes())?);
        }
        let launch = Launch {
            files: vec![LaunchFile {
                path: c"/bin/rm".to_owned(),
                identity: FileIdentity::NONE,
                held_at: None,
                copy: None,
            }],
            argv,
            users: Some(users.as_fd()),
            user: Some(&ROOT),
            ids_inside: true,
            ..Launch::of_a_helper()
        };
        let removed = self.run(launch).await;
        removed.map_err(|e| io::Error::other(e.refusal().message))
    }
}

impl Drop for Made {
    /// What was not taken down in order is ended all the same; its files go with the next start.
    fn drop(&mut self) {
        if !self.ended {
            let _ = process::signal(self.first.id, Signal::KILL);
            if let Ok(place) = self.kernel.place() {
                place.give_up(self.bundle.clone());
            }
        }
    }
}
