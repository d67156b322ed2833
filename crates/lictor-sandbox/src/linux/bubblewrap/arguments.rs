//! What a sandbox shows: bwrap's arguments.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use crate::backend::StartError;
use crate::linux::covers::Cover;
use crate::linux::overlay::Overlay;
use crate::linux::paths::{Layer, Paths};
use crate::linux::shown::{ETC, How, INSIDE, SHOWN, how};
use crate::linux::users::User;

/// Bytes of `/dev/shm` and of `/tmp`, which are memory.
const SHARED_MEMORY: &str = "268435456";
const TEMPORARY: &str = "1073741824";
/// The first descriptor of what is shown: the root, where there is one, and then what is mounted in it.
const FIRST: usize = 9;

/// What a set of namespaces is made of.
pub(super) struct Parts<'a> {
    pub(super) user: &'a User,
    pub(super) changes_user: bool,
    /// Devices of the host.
    pub(super) devices: &'a [String],
    pub(super) paths: Paths,
    /// Files in memory of the sandbox's own: where, and open to be read from the beginning.
    pub(super) secrets: Vec<(PathBuf, File)>,
    pub(super) are_beside_devices: bool,
    /// The root in place of the one in the store, and where that is.
    pub(super) overlay: Option<(&'a Overlay, &'a Path)>,
}

impl Parts<'_> {
    /// The root that is shown, where it is not the host's.
    pub(super) fn root(&self) -> Option<BorrowedFd<'_>> {
        match self.overlay {
            Some((overlay, _)) => Some(overlay.root()),
            None => self.paths.root.as_ref().map(AsFd::as_fd),
        }
    }

    /// What bwrap finds in the place of the store's tree, and only it does.
    pub(super) fn mount(
        &self,
        text: impl Fn(&str) -> Result<CString, StartError>,
    ) -> Result<Option<(BorrowedFd<'_>, CString)>, StartError> {
        let Some((overlay, tree)) = self.overlay else {
            return Ok(None);
        };
        Ok(Some((overlay.root(), text(&tree.to_string_lossy())?)))
    }
}

/// bwrap's arguments, each ended by a NUL. Descriptors: 3 these, 4 info, 5 block, 6 to 8 generated files, from 9 the root,
/// where there is one, the secrets, and what is shown.
pub(super) fn arguments(parts: &Parts<'_>) -> Vec<u8> {
    let paths = &parts.paths;
    let mut list: Vec<String> = Vec::new();
    let mut number = FIRST;
    namespaces(&mut list);
    if paths.root.is_some() {
        let option = match parts.overlay {
            Some(_) => "--bind-fd",
            None => "--ro-bind-fd",
        };
        add(&mut list, &[option, &number.to_string(), "/"]);
        number += 1;
    } else {
        host_root(&mut list);
    }
    let secrets = secrets(&parts.secrets, number);
    number += parts.secrets.len();
    let (beside_devices, elsewhere) = match parts.are_beside_devices {
        true => (secrets, Vec::new()),
        false => (Vec::new(), secrets),
    };
    usual(&mut list, parts.devices, beside_devices);
    if paths.root.is_none() {
        add(&mut list, &["--dir", "/run", "--symlink", "../tmp", "/var/tmp"]);
    }
    for layer in paths.layers() {
        let (option, at) = match layer {
            Layer::Mount(mount) => (mount.option, mount.at.as_str()),
            Layer::Cover(covered) => match (&covered.by, covered.at.as_str()) {
                (Cover::Empty, at) => {
                    add(&mut list, &["--size", "4096", "--tmpfs", at, "--remount-ro", at]);
                    continue;
                }
                (Cover::Nothing, at) => {
                    // A device, on a mount without devices: it cannot be opened.
                    add(&mut list, &["--ro-bind", "/dev/null", at]);
                    continue;
                }
                (Cover::ReadOnly(_), at) => ("--ro-bind-fd", at),
                (Cover::Itself(_), at) => ("--bind-fd", at),
            },
        };
        add(&mut list, &[option, &number.to_string(), at]);
        number += 1;
    }
    list.extend(elsewhere);
    if paths.mounts.is_empty() {
        add(&mut list, &["--dir", "/workspace"]);
    }
    // The last of the mounts: see `Namespaces::start`.
    add(&mut list, &["--ro-bind-data", "8", "/etc/hosts"]);
    if paths.root.is_none() {
        add(&mut list, &["--remount-ro", "/"]);
    }
    add(&mut list, &["--chdir", "/workspace"]);
    let mut bytes = Vec::new();
    for word in list {
        bytes.extend_from_slice(word.as_bytes());
        bytes.push(0);
    }
    bytes
}

fn add(list: &mut Vec<String>, words: &[&str]) {
    list.extend(words.iter().map(|w| (*w).to_owned()));
}

fn namespaces(list: &mut Vec<String>) {
    add(list, &["--unshare-all", "--unshare-user", "--disable-userns"]);
    // As first process bwrap itself would wait for orphans of the job before it ends, and asks to end with its parent only
    // then, when that may be gone already. What it is told to become in place of that does not exist, so it ends.
    add(list, &["--die-with-parent", "--as-pid-1", "--cap-drop", "ALL"]);
    add(list, &["--uid", INSIDE, "--gid", INSIDE, "--hostname", "sandbox"]);
    add(list, &["--info-fd", "4", "--block-fd", "5"]);
}

/// The programs of the host, and what of its `/etc` they need.
fn host_root(list: &mut Vec<String>) {
    for path in SHOWN.iter().chain(&ETC) {
        show(list, path);
    }
}

/// Files of the sandbox's user alone, in a directory that is that user's alone; the first has this number.
fn secrets(files: &[(PathBuf, File)], first: usize) -> Vec<String> {
    let mut list = Vec::new();
    let dir = files.first().and_then(|(at, _)| at.parent());
    if let Some(dir) = dir {
        add(&mut list, &["--perms", "0700", "--dir", &dir.to_string_lossy()]);
    }
    for ((at, _), number) in files.iter().zip(first..) {
        let (number, at) = (number.to_string(), at.to_string_lossy());
        add(&mut list, &["--perms", "0400", "--ro-bind-data", &number, &at]);
    }
    list
}

/// What every sandbox has of its own; and what else is in `/dev`, which nothing comes into later.
fn usual(list: &mut Vec<String>, devices: &[String], besides: Vec<String>) {
    add(list, &["--ro-bind-data", "6", "/etc/passwd"]);
    add(list, &["--ro-bind-data", "7", "/etc/group"]);
    add(list, &["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys"]);
    // Everybody may write there, and each write that succeeds is work for the kernel.
    add(list, &["--ro-bind-try", "/proc/pressure", "/proc/pressure"]);
    // The first process is bwrap, which waits with the host's /proc still open: from its descriptors `..` would lead
    // to the host's root.
    add(
        list,
        &["--size", "4096", "--tmpfs", "/proc/1", "--remount-ro", "/proc/1"],
    );
    // bwrap's /dev is a tmpfs of half the machine's memory that anybody inside may fill.
    add(
        list,
        &["--dev", "/dev", "--size", SHARED_MEMORY, "--tmpfs", "/dev/shm"],
    );
    for device in devices {
        add(list, &["--dev-bind", device, device]);
    }
    list.extend(besides);
    add(
        list,
        &["--remount-ro", "/dev", "--size", TEMPORARY, "--tmpfs", "/tmp"],
    );
}

/// As it is on the host.
fn show(list: &mut Vec<String>, path: &str) {
    match how(path) {
        Some(How::Link(target)) => add(list, &["--symlink", &target, path]),
        Some(How::Mount) => add(list, &["--ro-bind-try", path, path]),
        None => {}
    }
}
