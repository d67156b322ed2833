//! A file system with little room, for what happens when there is none.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::missing::{Missing, needs_root};

/// It is there until it is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Whether this process may make one.
    ///
    /// # Errors
    /// When it may not: only root mounts.
    pub fn possible() -> Result<(), Missing> {
        needs_root("small file systems")
    }

    /// One of this size (`3m`), over a directory that is there.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn over(dir: &Path, size: &str) -> Result<Self> {
        let disk = Self(dir.to_owned());
        disk.mount(&format!("size={size},mode=0755"))?;
        Ok(disk)
    }

    /// From now on it has this size.
    ///
    /// # Errors
    /// When more than that is in it.
    pub fn resize(&self, size: &str) -> Result<()> {
        self.mount(&format!("remount,size={size}"))
    }

    fn mount(&self, options: &str) -> Result<()> {
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&self.0)
            .status()
            .context("mount")?;
        ensure!(mount.success(), "{} cannot be mounted", self.0.display());
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
