//! Running a tool to its end, below a keeper like everything else: what it leaves behind is ended with it.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::OpenTreeFlags;
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;

use super::keeper::Keeper;
use super::kernel::Kernel;
use super::process;
use super::spawn::{self, Launch, LaunchFile, Spawned};
use super::supervisor::{Timer, expiry};
use super::table::{FileIdentity, MAIN_ENDED};
use super::users::User;
use super::{confine, input};
use crate::handle::ProcessId;
use crate::helper::{Helped, Helper, HelperError};

/// Between two looks of whoever watches.
const LOOK: Duration = Duration::from_millis(200);
/// How much of its errors is kept.
pub(super) const ERRORS: usize = 4 * 1024;
/// What a confined tool of a root agent finds its place as: whatever lies above that may be closed to it.
const PLACE: &str = "/tmp";

/// What a confined tool finds a directory as.
pub(crate) fn place(dir: &Path) -> PathBuf {
    match rustix::process::geteuid().is_root() {
        true => PLACE.into(),
        false => dir.into(),
    }
}

/// Runs one to its end, while `watch` has nothing against it.
pub(crate) async fn run(
    kernel: &Kernel,
    helper: &Helper,
    mut watch: impl FnMut() -> Result<(), String> + Send,
) -> Result<Helped, HelperError> {
    let (mut running, mut said) = start(kernel, helper).await?;
    let late = Timer::after(helper.within);
    let status = loop {
        let look = Timer::after(LOOK);
        tokio::select! {
            record = running.keeper.next() => match record? {
                Some(record) if record.kind == MAIN_ENDED => break Ok(record.a),
                Some(_) => {}
                None => break Err(HelperError::Io(io::ErrorKind::BrokenPipe.into())),
            },
            () = said.listen() => {}
            () = expiry(&look) => if let Err(why) = watch() {
                break Err(HelperError::Stopped(why));
            },
            () = expiry(&late) => break Err(HelperError::Late(helper.within)),
        }
    };
    running.end(kernel).await?;
    let status = status?;
    said.rest().await?;
    Ok(Helped {
        succeeded: status == 0,
        output: said.output.kept,
        errors: said.errors.kept,
    })
}

/// One that runs; dropped, it is ended.
#[derive(Debug)]
pub(super) struct Helping {
    keeper: Keeper,
    main: Option<ProcessId>,
}

impl Helping {
    pub(super) fn of(spawned: Spawned) -> Self {
        Self {
            main: process::identify(spawned.main),
            keeper: spawned.keeper,
        }
    }

    pub(super) async fn end(mut self, kernel: &Kernel) -> io::Result<()> {
        self.keeper.end_all(kernel.zygote.kill_bound()).await?;
        self.main = None;
        Ok(())
    }
}

impl Drop for Helping {
    fn drop(&mut self) {
        if let Some(main) = self.main {
            let _ = process::signal(main, Signal::KILL);
        }
    }
}

/// What it says.
struct Said {
    output: Words,
    errors: Words,
}

#[derive(Debug)]
pub(super) struct Words {
    from: Option<Receiver>,
    kept: Vec<u8>,
    most: usize,
}

impl Words {
    pub(super) fn of(from: OwnedFd, most: usize) -> io::Result<Self> {
        Ok(Self {
            from: Some(Receiver::from_owned_fd(from)?),
            kept: Vec::new(),
            most,
        })
    }

    /// Takes the next piece, or learns that there are no more; waits for ever once that is known.
    async fn listen(&mut self) {
        if self.from.is_none() {
            return std::future::pending().await;
        }
        self.hear().await;
    }

    /// Takes the next piece; says whether there may be more. What is too much is read and forgotten.
    pub(super) async fn hear(&mut self) -> bool {
        let Some(from) = &mut self.from else {
            return false;
        };
        let mut piece = [0; 4096];
        match from.read(&mut piece).await {
            Ok(n) if n > 0 => {
                let room = self.most.saturating_sub(self.kept.len());
                self.kept.extend_from_slice(&piece[..n.min(room)]);
            }
            _ => self.from = None,
        }
        self.from.is_some()
    }

    pub(super) fn kept(self) -> Vec<u8> {
        self.kept
    }
}

impl Said {
    async fn listen(&mut self) {
        tokio::select! {
            () = self.output.listen() => {}
            () = self.errors.listen() => {}
        }
    }

    /// What is in the pipes of a tool that has ended, and nobody else has.
    async fn rest(&mut self) -> io::Result<()> {
        while self.output.from.is_some() || self.errors.from.is_some() {
            self.listen().await;
        }
        Ok(())
    }
}

async fn start(kernel: &Kernel, helper: &Helper) -> io::Result<(Helping, Said)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let null = input::null()?;
    let ((output, to_output), (errors, to_errors)) = (pipe()?, pipe()?);
    let user = kernel.unprivileged();
    let user = user.as_ref().filter(|_| helper.confined.is_some());
    let place = place_of(helper, user)?;
    let ruleset = helper
        .confined
        .as_ref()
        .map(|c| confine::tool(Path::new(program_of(helper)), &c.place, &c.ports));
    let ruleset = ruleset.transpose()?;
    let text = |s: &str| CString::new(s).map_err(io::Error::from);
    let variable = |(name, value): &(String, String)| text(&format!("{name}={value}"));
    let mut launch = Launch {
        files: vec![LaunchFile {
            path: text(program_of(helper))?,
            identity: FileIdentity::NONE,
            held_at: None,
            copy: None,
        }],
        argv: helper.argv.iter().map(|a| text(a)).collect::<Result<_, _>>()?,
        env: helper.env.iter().map(variable).collect::<Result<_, _>>()?,
        rlimits: vec![(libc::RLIMIT_CORE, 0, 0)],
        inherit: vec![null.as_fd(), to_output.as_fd(), to_errors.as_fd()],
        ..Launch::of_a_helper()
    };
    if let Some(confined) = &helper.confined {
        launch.user = user;
        launch.confine = true;
        launch.ruleset = ruleset.as_ref().map(|r| r.as_fd());
        launch.filter = Some(
            kernel
                .filter
                .as_deref()
                .map_err(|e| io::Error::other(e.clone()))?,
        );
        let at = text(PLACE)?;
        launch.mount = place.as_ref().map(|p| (p.as_fd(), at));
        let (size, memory) = (confined.file_size, confined.memory);
        launch.rlimits.push((libc::RLIMIT_FSIZE, size, size));
        // Not of addresses: there are programs that set many of those aside and use few.
        launch.rlimits.push((libc::RLIMIT_DATA, memory, memory));
    }
    let spawned = spawn::spawn(&kernel.zygote, &launch).await;
    let spawned = spawned.map_err(|e| io::Error::other(e.refusal().message))?;
    let helping = Helping::of(spawned);
    let said = Said {
        output: Words::of(output, helper.output)?,
        errors: Words::of(errors, ERRORS)?,
    };
    Ok((helping, said))
}

fn program_of(helper: &Helper) -> &str {
    helper.argv.first().map_or("", String::as_str)
}

/// The place of a tool that has another user, given to that user, as a mount that is nowhere yet.
fn place_of(helper: &Helper, user: Option<&User>) -> io::Result<Option<OwnedFd>> {
    let (Some(confined), Some(user)) = (&helper.confined, user) else {
        return Ok(None);
    };
    fs::symlink_metadata(&confined.place)?;
    chown(&confined.place, Some(user.uid), Some(user.gid))?;
    let copy = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    Ok(Some(rustix::mount::open_tree(CWD, &confined.place, copy)?))
}
