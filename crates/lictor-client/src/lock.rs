//! One writer at a time below `trust/`, whichever process it is in.

use std::fs::{self, File};
use std::path::Path;

use crate::home::{HomeError, make_dir};

/// `trust/lock`, held until this is dropped. Nobody holds it over a call to a hub or a question to a person.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock of this `trust` directory, which is made when it is not there.
    ///
    /// # Errors
    /// When the file cannot be made or locked.
    pub(crate) fn take(trust_dir: &Path) -> Result<Self, HomeError> {
        make_dir(trust_dir)?;
        let path = trust_dir.join("lock");
        let locked = || {
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(false);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let file = options.open(&path)?;
            file.lock()?;
            Ok(Self { _file: file })
        };
        locked().map_err(HomeError::io(&path))
    }
}
