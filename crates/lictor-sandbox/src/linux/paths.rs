//! What a sandbox shows of the host besides the usual, held by descriptors.
//!
//! The kernel follows no link on the way to any of it: what somebody has put in the place of a path since the law was
//! written is not what the law means. bwrap is given the descriptor and compares what it has mounted with it; for OCI
//! runtimes it is mounted by the descriptor itself (`oci::stage`).

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::covers::{self, Covered, Covers};
use super::quota;
use super::shown::{GROUP, INSIDE, PASSWD};
use crate::plan::LaunchSpec;

/// Longest of the files about users that is read.
const MOST: u64 = 1 << 20;

/// Something of the host that is mounted inside.
#[derive(Debug)]
pub(super) struct Mount {
    /// bwrap's word.
    pub(super) option: &'static str,
    pub(super) from: OwnedFd,
    pub(super) at: String,
}

impl Mount {
    pub(super) fn is_writable(&self) -> bool {
        self.option == "--bind-fd"
    }
}

/// Something that is mounted, in the order of mounting.
pub(super) enum Layer<'a> {
    Mount(&'a Mount),
    Cover(&'a Covered),
}

/// Everything of the host that one sandbox shows.
#[derive(Debug)]
pub(super) struct Paths {
    pub(super) root: Option<OwnedFd>,
    /// What is shown as `/etc/passwd` and `/etc/group`.
    pub(super) users: [Vec<u8>; 2],
    pub(super) mounts: Vec<Mount>,
    /// What takes the place of parts of these.
    pub(super) covers: Covers,
}

impl Paths {
    /// Opens them. It may take as long as a file system takes to answer.
    pub(super) fn open(spec: &LaunchSpec, own: &[PathBuf]) -> io::Result<Self> {
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open_dir = |path: &Path| rustix::fs::open(path, directory, Mode::empty());
        let root = spec.rootfs.as_deref().map(open_dir).transpose()?;
        let users = match &root {
            Some(root) => [users(root, "etc/passwd", PASSWD), users(root, "etc/group", GROUP)],
            None => [PASSWD.into(), GROUP.into()],
        };
        let read_only = spec.read_only.iter().map(|p| ("--ro-bind-fd", p));
        let read_write = spec.read_write.iter().map(|p| ("--bind-fd", p));
        let own_place = |name: &str, at: &str| {
            let from = open_dir(&spec.dir.join(name))?;
            let (option, at) = ("--bind-fd", at.to_owned());
            Ok::<_, io::Error>(Mount { option, from, at })
        };
        let (mut mounts, mut named_mounts, mut covers) = (Vec::new(), Vec::new(), Covers::of_job(&spec.dir));
        if quota::is_set(&spec.limits) {
            // In the place of the usual ones; before what the profile shows, which may lie below.
            let [_, others @ ..] = &quota::PLACES;
            for (name, at, _) in others {
                mounts.push(own_place(name, at)?);
            }
        }
        let mut shown: Vec<_> = read_only.chain(read_write).collect();
        // What lies in another is mounted on it, whichever list it is in.
        shown.sort_by_key(|(_, path)| Path::new(path).components().count());
        for (option, path) in shown {
            let from = open(path).map_err(|e| named(path, e))?;
            if let Some(root) = &root {
                has_place(root, path, &from).map_err(|e| named(path, e))?;
            }
            let writable = option == "--bind-fd";
            for own in own {
                covers.hide_own(path, writable, own)?;
            }
            for protected in spec.protect.iter().filter(|_| writable) {
                covers.protect(path, &from, protected)?;
            }
            covers.hide(path, &from, &spec.deny)?;
            let at = path.clone();
            named_mounts.push(Mount { option, from, at });
        }
        let all: Vec<_> = named_mounts
            .iter()
            .map(|m| (m.at.clone(), m.is_writable()))
            .collect();
        let hidden = covers.settle(&all);
        let left = named_mounts
            .into_iter()
            .enumerate()
            .filter(|(n, _)| !hidden.contains(n));
        mounts.extend(left.map(|(_, mount)| mount));
        let workspace = quota::workspace(spec);
        mounts.push(Mount {
            option: "--bind-fd",
            from: open_dir(&workspace)?,
            at: "/workspace".into(),
        });
        Ok(Self {
            root,
            users,
            mounts,
            covers,
        })
    }
}

impl Paths {
    /// What is mounted, in order: a path before what lies in it, whatever is hidden or kept in its place included.
    pub(super) fn layers(&self) -> Vec<Layer<'_>> {
        let mut covers = self.covers.all.iter().peekable();
        let mut layers = Vec::new();
        for mount in &self.mounts {
            // Own places are no part of what is shown: nothing of that is covered by them.
            while let Some(cover) = covers.next_if(|c| covers::depth(&c.at) < covers::depth(&mount.at)) {
                layers.push(Layer::Cover(cover));
            }
            layers.push(Layer::Mount(mount));
        }
        layers.extend(covers.map(Layer::Cover));
        layers
    }
}

pub(super) fn named(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// Opens what a profile names. No link is followed: whoever can put one there would say what else a job may reach. A
/// socket is refused: read-only or not, whoever can connect to one has its service work for him.
pub(super) fn open(path: &str) -> io::Result<OwnedFd> {
    let no_links = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let found = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), no_links) {
        Err(Errno::LOOP) => {
            return Err(io::Error::other(
                "a link leads there, and links are not followed; name the real path in the profile",
            ));
        }
        other => other?,
    };
    let stat = rustix::fs::fstat(&found)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Socket {
        return Err(io::Error::other(
            "this is a socket of the host, and no job is shown one; name what the job needs of that service in another way",
        ));
    }
    Ok(found)
}

/// A root file system is never written to, so what is mounted in it takes a place that it has.
fn has_place(root: &OwnedFd, path: &str, from: &OwnedFd) -> io::Result<()> {
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let place = rustix::fs::openat2(root, path, flags, Mode::empty(), inside);
    let is_directory = |fd: &OwnedFd| {
        let stat = rustix::fs::fstat(fd)?;
        Ok::<_, Errno>(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    };
    match place {
        Ok(place) if is_directory(&place)? == is_directory(from)? => Ok(()),
        _ => Err(io::Error::other(
            "the root file system has no such place to show it at; make an empty directory or file there",
        )),
    }
}

/// The users or groups of a root file system, with the one that jobs run as.
fn users(root: &OwnedFd, path: &str, ours: &[u8]) -> Vec<u8> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut text = Vec::new();
    if let Ok(file) = rustix::fs::openat2(root, path, flags, Mode::empty(), inside) {
        let _ = File::from(file).take(MOST).read_to_end(&mut text);
    }
    complete(text, ours)
}

fn complete(mut text: Vec<u8>, ours: &[u8]) -> Vec<u8> {
    let id = |line: &[u8]| line.split(|b| *b == b':').nth(2).map(<[u8]>::to_vec);
    if text.iter().all(u8::is_ascii_whitespace) {
        return ours.into();
    }
    if text
        .split(|b| *b == b'\n')
        .any(|line| id(line).as_deref() == Some(INSIDE.as_bytes()))
    {
        return text;
    }
    if text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
    let own = ours
        .split(|b| *b == b'\n')
        .find(|line| id(line).as_deref() == Some(INSIDE.as_bytes()));
    text.extend_from_slice(own.unwrap_or_default());
    text.push(b'\n');
    text
}

#[cfg(test)]
mod tests {
    use super::{PASSWD, complete};

    #[test]
    fn a_root_keeps_its_users_and_gets_the_one_that_jobs_run_as() {
        assert_eq!(complete(Vec::new(), PASSWD), PASSWD);
        let theirs = b"root:x:0:0::/root:/bin/ash\napp:x:1000:1000::/app:/bin/ash\n".to_vec();
        assert_eq!(complete(theirs.clone(), PASSWD), theirs);
        let none = complete(b"root:x:0:0::/root:/bin/ash".to_vec(), PASSWD);
        let text = String::from_utf8(none).expect("UTF-8");
        assert_eq!(text.lines().count(), 2);
        assert!(
            text.ends_with("\nlictor:x:1000:1000::/workspace:/bin/sh\n"),
            "{text}"
        );
    }
}
