//! Whatever an archive or an image says, taking it in answers; what is refused leaves nothing, what is taken holds nothing
//! but files, directories and links without rights of their own, and nothing outside of the store is touched.
//!
//! The first byte chooses what the rest is: an archive as it is, members to make one of (so that their sums are right), the
//! same as a layer of an image, or an image's manifest and configuration.
#![no_main]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use libfuzzer_sys::fuzz_target;
use lictor_proto::Digest;
use lictor_rootfs::{Import, Limits, Store};

const LIMITS: Limits = Limits {
    bytes: 1 << 20,
    entries: 200,
    name: 300,
    depth: 12,
    ratio: 100,
};

fuzz_target!(|bytes: &[u8]| {
    let Some((how, rest)) = bytes.split_first() else {
        return;
    };
    let place = Place::make();
    let source = match how % 4 {
        0 => place.file("given", rest),
        1 => place.file("given", &archive(rest)),
        2 => image(&place, &archive(rest), None),
        _ => image(&place, b"", Some(rest)),
    };
    let store = Store::of_node(&place.0.join("node"));
    let import = Import {
        store: &store,
        limits: LIMITS,
        sync: |_| Ok(()),
    };
    match import.add(&source, None) {
        Ok(meta) => {
            let held = store.hold(&meta.digest).expect("what was added is there");
            look(held.tree());
        }
        Err(_) => {
            let left = fs::read_dir(store.dir()).into_iter().flatten().count();
            assert_eq!(left, 0, "what was refused left something");
        }
    }
    assert_eq!(fs::read(place.0.join("outside/file")).expect("still there"), b"outside");
    assert_eq!(fs::read_dir(place.0.join("outside")).expect("still there").count(), 1);
});

/// A directory of this process's own, with something beside the store that must stay as it is.
struct Place(PathBuf);

impl Place {
    fn make() -> Self {
        let dir = PathBuf::from("/dev/shm").join(format!("lictor-fuzz-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("node")).expect("made");
        fs::create_dir(dir.join("outside")).expect("made");
        fs::write(dir.join("outside/file"), "outside").expect("written");
        Self(dir)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("written");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Members, each `kind, mode, lengths of name, link and content`, and these.
fn archive(bytes: &[u8]) -> Vec<u8> {
    let mut rest = bytes;
    let mut made = Vec::new();
    while let Some((&[kind, mode, name, link, content], after)) = rest.split_first_chunk() {
        rest = after;
        let mut take = |n: u8| {
            let (taken, left) = rest.split_at(usize::from(n).min(rest.len()));
            rest = left;
            taken
        };
        let (name, link, content) = (take(name % 101), take(link % 101), take(content));
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(format!("{:07o}\0", u32::from(mode) * 16).as_bytes());
        header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
        header[136..148].copy_from_slice(b"14000000000\0");
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link);
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        made.extend(header);
        made.extend(content);
        made.resize(made.len().next_multiple_of(512), 0);
    }
    made.resize(made.len() + 1024, 0);
    made
}

/// An image as it is fetched, of one layer; or with this text for a manifest, which then names nothing that is there.
fn image(place: &Place, layer: &[u8], manifest: Option<&[u8]>) -> PathBuf {
    let dir = place.0.join("image");
    fs::create_dir(&dir).expect("made");
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let name = digest.to_string().replace("sha256:", "");
        fs::write(dir.join(name), bytes).expect("written");
        (digest, bytes.len())
    };
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let (layer, length) = put(layer);
    let config = format!(
        "{{\"os\":\"linux\",\"architecture\":\"{architecture}\",\"rootfs\":{{\"diff_ids\":[\"{layer}\",\"{layer}\"]}}}}"
    );
    let (config, size) = put(config.as_bytes());
    let one = format!(
        "{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{layer}\",\"size\":{length}}}"
    );
    let good = format!(
        "{{\"config\":{{\"mediaType\":\"c\",\"digest\":\"{config}\",\"size\":{size}}},\"layers\":[{one},{one}]}}"
    );
    fs::write(dir.join("version"), "1").expect("written");
    fs::write(dir.join("manifest.json"), manifest.unwrap_or(good.as_bytes())).expect("written");
    dir
}

fn look(dir: &Path) {
    for entry in fs::read_dir(dir).expect("its owner can read it") {
        let path = entry.expect("an entry").path();
        let meta = fs::symlink_metadata(&path).expect("there");
        let kind = meta.file_type();
        assert!(kind.is_file() || kind.is_dir() || kind.is_symlink(), "{}", path.display());
        if !kind.is_symlink() {
            assert_eq!(meta.permissions().mode() & 0o7022, 0, "{}", path.display());
        }
        assert!(meta.nlink() < 1000);
        if kind.is_dir() {
            look(&path);
        }
    }
}
