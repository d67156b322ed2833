//! What a person does with kept sandboxes, beside the agent: under the same lock as jobs.

use std::fs;
use std::io;
use std::path::Path;

use lictor_proto::Name;

use super::about::{self, About, Lock, is_held, lock, put_aside};
use crate::kept::{KeptError, KeptSandbox, PLACE};
use crate::linux::remove::remove_dir;
use crate::linux::snapshot as copies;

/// All of them that something is known about.
pub(crate) fn list(work: &Path) -> io::Result<Vec<KeptSandbox>> {
    let all = about::all(&work.join(PLACE))?;
    let described = all.into_iter().filter_map(|(dir, about)| {
        let about = about.filter(|about| !about.goes())?;
        let key = dir.file_name()?.to_str()?.to_owned();
        Some(describe(&dir, key, about))
    });
    described.collect()
}

fn describe(dir: &Path, key: String, about: About) -> io::Result<KeptSandbox> {
    let (until, bytes, counted) = (about.until(), about.counts_as(), about.is_counted());
    let held_by = match is_held(dir)? {
        true => Some(about.holder.unwrap_or_else(|| "somebody".to_owned())),
        false => None,
    };
    Ok(KeptSandbox {
        key,
        name: about.which.name,
        profile: about.which.profile,
        backend: about.which.backend,
        uid: about.which.uid,
        made_at: about.made_at,
        used_at: about.used_at,
        until,
        bytes,
        counted,
        snapshots: copies::names(dir),
        held_by,
        git: about.git,
    })
}

pub(crate) fn remove(dir: &Path, one: &KeptSandbox) -> Result<(), KeptError> {
    under_lock(dir, one, |dir| Ok(remove_dir(&put_aside(dir)?)?))
}

pub(crate) fn snapshot(dir: &Path, one: &KeptSandbox, name: &Name) -> Result<(), KeptError> {
    under_lock(dir, one, |dir| {
        copies::save(dir, name)?;
        Ok(count_again(dir)?)
    })
}

pub(crate) fn restore(dir: &Path, one: &KeptSandbox, name: &Name) -> Result<(), KeptError> {
    under_lock(dir, one, |dir| {
        copies::load(dir, name).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => KeptError::NoSnapshot {
                sandbox: one.name.to_string(),
                snapshot: name.clone(),
            },
            _ => e.into(),
        })?;
        Ok(count_again(dir)?)
    })
}

fn count_again(dir: &Path) -> io::Result<()> {
    match About::read(dir)? {
        Some(mut about) => {
            about.count(dir);
            about.write(dir)
        }
        None => Ok(()),
    }
}

fn under_lock(
    dir: &Path,
    one: &KeptSandbox,
    work: impl FnOnce(&Path) -> Result<(), KeptError>,
) -> Result<(), KeptError> {
    match lock(dir)? {
        Lock::Held(_lock) => work(dir),
        Lock::Busy => Err(KeptError::Busy {
            name: one.name.to_string(),
            job: About::read(dir)?.and_then(|about| about.holder),
        }),
        Lock::Gone => match fs::symlink_metadata(dir) {
            Ok(_) => Err(io::Error::from(io::ErrorKind::Interrupted).into()),
            Err(_) => Err(KeptError::Unknown(one.name.to_string())),
        },
    }
}
