//! What an entry of a directory is. Some file systems do not tell that with its name: NFS, FUSE and XFS can be such.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType};

/// Its kind: what was told with the name, or what is there. No link is followed.
///
/// # Errors
/// When it is not told and not found either: what may be a directory must not count as something else.
pub(super) fn kind(dir: impl AsFd, name: &CStr, told: FileType) -> rustix::io::Result<FileType> {
    match told {
        FileType::Unknown => {
            let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(FileType::from_raw_mode(found.st_mode))
        }
        told => Ok(told),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_a_file_system_does_not_tell_is_looked_up() {
        let place = tempfile::tempdir().expect("a directory");
        fs::create_dir(place.path().join("dir")).expect("made");
        fs::write(place.path().join("file"), "").expect("written");
        symlink("dir", place.path().join("link")).expect("a link");
        let dir = File::open(place.path()).expect("open");
        for (name, is) in [
            (c"dir", FileType::Directory),
            (c"file", FileType::RegularFile),
            (c"link", FileType::Symlink),
        ] {
            assert_eq!(kind(&dir, name, FileType::Unknown), Ok(is), "{name:?}");
        }
        assert!(
            kind(&dir, c"gone", FileType::Unknown).is_err(),
            "it is no other kind"
        );
        let told = kind(&dir, c"dir", FileType::Fifo);
        assert_eq!(told, Ok(FileType::Fifo), "what is told is not asked again");
    }
}
