//! What a container shows of the host.

use std::fs;
use std::io;

use crate::linux::shown::{ETC, How, SHOWN, how};
use crate::plan::LaunchSpec;

/// A part of the host at its place in the container.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(super) source: String,
    pub(super) at: String,
    pub(super) is_dir: bool,
    pub(super) access: Access,
}

/// What of the host may be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
    /// Using it as a device.
    Device,
}

/// Links and mounts.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// Path, target.
    pub(super) links: Vec<(String, String)>,
    pub(super) mounts: Vec<Mount>,
}

impl View {
    /// The host's programs and the little of `/etc` that they need.
    pub(crate) fn of_host() -> Self {
        let mut view = Self::default();
        for path in SHOWN.iter().chain(&ETC) {
            match how(path) {
                Some(How::Link(target)) => view.links.push(((*path).to_owned(), target)),
                // A link that leads nowhere shows nothing.
                Some(How::Mount) => drop(view.mount(path, path, Access::Read)),
                None => {}
            }
        }
        view
    }

    /// That, what the profile names, and the job's own directory.
    pub(crate) fn of_job(spec: &LaunchSpec) -> io::Result<Self> {
        let mut view = Self::of_host();
        let named = [
            (&spec.devices, Access::Device),
            (&spec.read_only, Access::Read),
            (&spec.read_write, Access::Write),
        ];
        for (paths, access) in named {
            for path in paths {
                view.mount(path, path, access)?;
            }
        }
        let dir = spec.workspace();
        let dir = dir.to_str().ok_or(io::ErrorKind::InvalidInput)?;
        view.mount(dir, "/workspace", Access::Write)?;
        Ok(view)
    }

    fn mount(&mut self, source: &str, at: &str, access: Access) -> io::Result<()> {
        let is_dir = fs::metadata(source)?.is_dir();
        self.mounts.push(Mount {
            source: source.to_owned(),
            at: at.to_owned(),
            is_dir,
            access,
        });
        Ok(())
    }
}
