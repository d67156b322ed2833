//! `lictor agent rootfs pull`: an image from a registry, by its digest.
//!
//! ```text
//!   this command ──▶ skopeo: no rights, one directory, the registry's port and 443 ──▶ DIR/rootfs/.new-.../
//!        └── then kept to the store ──▶ every part against its digest ──▶ DIR/rootfs/sha256-...
//! ```
//!
//! What speaks with the registry is skopeo, as a user without rights and behind Landlock, with one directory to write to; see
//! `lictor_sandbox::Helper`. What it leaves there is then added like any image: every part is held against its digest, so
//! neither the registry nor skopeo is believed anything. Agents run this command themselves for profiles with
//! `pull = "missing"`.
//!
//! # Invariants
//! - Only the registry that is named is asked, and whom it sends to: no mirror, no default registry, no settings of this machine or of
//!   whoever runs this but certificates.
//! - When an archive is read, this process reaches no file but those of the store any more, and nobody else.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lictor_agent::AgentConfig;
use lictor_agent::config::Rootfs as Settings;
use lictor_proto::{Code, Digest};
use lictor_rootfs::{Import, Store};
use lictor_sandbox::{Confined, Helper, HelperError, Host};
use lictor_trust::profiles::{ImageName, size_in_words};
use serde_json::json;

use super::credentials;
use super::{MARGIN, added, describe, failure, limits};
use crate::args::PulledImage;
use crate::commands::agent;
use crate::escape::escape;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;

/// Where skopeo puts the image, in its place.
const IMAGE: &str = "image";
/// Where it finds the password for the registry.
const PASSWORD: &str = "auth.json";
/// What it takes for its user's settings of registries, which makes it look for no others.
const REGISTRIES: &str = ".config/containers/registries.conf";
/// So long nothing may come: whoever comes next waits for this one.
const SILENCE: Duration = Duration::from_secs(60);
/// Unpacking takes so long at most, besides fetching.
const UNPACK: Duration = Duration::from_secs(1800);

pub(super) fn run(dir: &Path, pulled: &PulledImage, config: Option<&Path>, out: Out) -> Result<()> {
    let config = match config {
        Some(file) => AgentConfig::load(file).doing("read the agent's configuration")?,
        None => AgentConfig::new(dir),
    };
    let store = Store::of_node(&config.dir);
    let PulledImage { image, digest } = pulled;
    if store.has(digest) {
        let there = json!({ "digest": digest, "already": true });
        return out.either(&there, || format!("{digest} is there already"));
    }
    // Before any thread: what starts skopeo is a fork of this process as it is now.
    let host = agent::prepare_host(&config.sandbox, &config.dir)?;
    let settings = &config.rootfs;
    let import = Import {
        store: &store,
        limits: limits(&config.dir, settings.image_bytes())?,
        sync: lictor_sandbox::sync_file_system,
    };
    let what = || format!("could not add {image}@{digest}");
    let place = import.place().map_err(|e| failure(what(), &e))?;
    let dir = place.dir();
    let fetched = fetch(&host, settings, (image, digest), &dir);
    agent::runtime()?.block_on(fetched)?;
    drop(host);
    // What has been fetched has taken of the room.
    let import = Import {
        limits: limits(&config.dir, settings.image_bytes())?,
        ..import
    };
    let fetched = dir.join(IMAGE);
    // Nothing that is waited for, and no way elsewhere.
    if !fs::symlink_metadata(&fetched).is_ok_and(|m| m.is_dir()) {
        return Err(Failure::new(what())
            .why("skopeo left no image")
            .code(Code::RootfsPullFailed));
    }
    lictor_sandbox::confine_to_dir(store.dir()).doing("give up what unpacking does not need")?;
    let meta = import
        .add_called(&fetched, Some(digest), Some(image.as_str()))
        .map_err(|e| failure(what(), &e))?;
    out.either(&describe(&meta), || added(&meta))
}

async fn fetch(
    host: &Host,
    settings: &Settings,
    (image, digest): (&ImageName, &Digest),
    place: &Path,
) -> Result<()> {
    let failed = |why: String| {
        Failure::new(format!("could not fetch {image}@{digest}"))
            .why(why)
            .code(Code::RootfsPullFailed)
    };
    let password = ready(settings, image).map_err(failed)?;
    put(place, REGISTRIES, b"").doing("prepare a place to fetch to")?;
    if let Some(password) = &password {
        put(place, PASSWORD, password.as_bytes()).doing("prepare a place to fetch to")?;
    }
    let most = settings.image_bytes();
    let seen = host.helper_place(place);
    let helper = Helper {
        argv: words(settings, (image, digest), &seen, password.is_some()),
        env: environment(&seen),
        confined: Some(Confined {
            place: place.into(),
            file_size: most,
            ports: ports(settings, image),
        }),
        within: settings.pull_within(),
    };
    room(place, most).map_err(failed)?;
    let mut progress = Progress::begin();
    let watch = || room(place, most).and_then(|bytes| progress.check(bytes));
    let helped = host.help(&helper, watch).await.map_err(|e| match e {
        HelperError::Io(e) => failed(format!("skopeo cannot be run: {e}")),
        other => failed(other.to_string()),
    })?;
    match helped.succeeded {
        true => Ok(()),
        false => Err(failed(match said(&helped.errors) {
            // The system's words for a file of the largest size that it may write.
            told if told.ends_with("file too large") => too_large(most),
            told => format!("skopeo: {told}"),
        })),
    }
}

/// Whether everything is there that fetching takes; if so, the password for the image.
pub(crate) fn ready(settings: &Settings, image: &ImageName) -> std::result::Result<Option<String>, String> {
    if !settings.skopeo.is_file() {
        let fix =
            "install it: apt install skopeo, or set `skopeo` below `[rootfs]` in the agent's configuration";
        return Err(format!("{} is not there; {fix}", settings.skopeo.display()));
    }
    lictor_sandbox::holds_tools().map_err(|e| format!("skopeo: {e}"))?;
    credentials::of(settings.credentials.as_deref(), image)
}

/// How much has come, and since when it is so much.
struct Progress {
    bytes: u64,
    since: Instant,
}

impl Progress {
    fn begin() -> Self {
        let since = Instant::now();
        Self { bytes: 0, since }
    }

    fn check(&mut self, bytes: u64) -> std::result::Result<(), String> {
        if bytes != self.bytes {
            *self = Self {
                bytes,
                ..Self::begin()
            };
        }
        match self.since.elapsed() > SILENCE {
            true => Err(format!("nothing has come for {} s", SILENCE.as_secs())),
            false => Ok(()),
        }
    }
}

/// How many bytes there are, when there may be more.
fn room(place: &Path, most: u64) -> std::result::Result<u64, String> {
    let bytes = bytes_in(place);
    if bytes > most {
        return Err(too_large(most));
    }
    match lictor_sandbox::host_facts(place).disk_free_bytes {
        free if free < MARGIN => Err(format!(
            "less than {} of the node's disk are free",
            size_in_words(MARGIN)
        )),
        _ => Ok(bytes),
    }
}

fn too_large(most: u64) -> String {
    format!("it is larger than {}", size_in_words(most))
}

/// Writes a file that skopeo's user can read, whatever this process's umask is; nobody else finds the way to it.
fn put(place: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let path = place.join(name);
    let parent = path.parent().unwrap_or(place);
    DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    for dir in parent.ancestors().take_while(|dir| *dir != place) {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    }
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
}

fn words(settings: &Settings, what: (&ImageName, &Digest), place: &Path, password: bool) -> Vec<String> {
    let ((image, digest), place) = (what, place.display());
    let verify = !settings.is_insecure(image.registry());
    let mut words = vec![
        settings.skopeo.display().to_string(),
        // Signatures are the law's own: it names a digest. So none are looked for, here or elsewhere.
        "--insecure-policy".into(),
        format!("--registries.d={place}"),
        format!("--tmpdir={place}"),
        "copy".into(),
        "--quiet".into(),
        "--remove-signatures".into(),
        "--preserve-digests".into(),
        format!("--src-tls-verify={verify}"),
    ];
    words.push(match password {
        true => format!("--src-authfile={place}/{PASSWORD}"),
        false => "--src-no-creds".into(),
    });
    words.push(format!("docker://{image}@{digest}"));
    // As it is in the registry: another form would have another digest.
    words.push(format!("dir:{place}/{IMAGE}"));
    words
}

/// The registry's own port, and that of HTTPS for whom it sends to: public ones have others that give out passes and layers.
fn ports(settings: &Settings, image: &ImageName) -> Vec<u16> {
    let own = image
        .registry()
        .split_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let plain = settings.is_insecure(image.registry()).then_some(80);
    own.into_iter().chain(plain).chain([443]).collect()
}

/// Nothing of whoever runs this; a home, so that it looks for no other.
fn environment(place: &Path) -> Vec<(String, String)> {
    let place = place.display().to_string();
    let own = |name: &str| (name.to_owned(), place.clone());
    vec![own("HOME"), own("TMPDIR"), own("XDG_RUNTIME_DIR")]
}

/// Bytes on the disk of all files below a directory; what comes and goes meanwhile does not matter.
fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let mut ahead: Vec<PathBuf> = vec![dir.into()];
    let mut bytes: u64 = 0;
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => ahead.push(entry.path()),
                Ok(meta) => bytes = bytes.saturating_add(meta.blocks().saturating_mul(512)),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// What skopeo says last, without what its log puts around it.
fn said(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let line = text.lines().rfind(|l| !l.trim().is_empty());
    let line = line.unwrap_or("it ended without a word");
    let told = line.split_once(" msg=").map_or(line, |(_, told)| told);
    let told = serde_json::from_str::<String>(told).unwrap_or_else(|_| told.to_owned());
    escape(&told.chars().take(600).collect::<String>())
}

/// How an agent with this configuration runs this command, without the image.
pub(crate) fn puller(dir: &Path, config: Option<&Path>, settings: &Settings) -> lictor_warden::Puller {
    let mut argv: Vec<String> = [
        lictor_sandbox::own_program(),
        "--json",
        "agent",
        "rootfs",
        "--dir",
    ]
    .map(str::to_owned)
    .to_vec();
    let absolute = |p: &Path| {
        std::path::absolute(p)
            .unwrap_or_else(|_| p.into())
            .display()
            .to_string()
    };
    argv.extend([absolute(dir), "pull".to_owned()]);
    if let Some(file) = config {
        argv.extend(["--config".to_owned(), absolute(file)]);
    }
    lictor_warden::Puller {
        argv,
        within: settings.pull_within() + UNPACK,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> PulledImage {
        format!("{text}@{}", Digest::of(b"an image"))
            .parse()
            .expect("an image")
    }

    #[test]
    fn skopeo_gets_one_place_one_registry_and_no_setting_of_this_machine() {
        let PulledImage { image, digest } = image("registry.example.com:5000/team/name");
        let settings = Settings::default();
        let all = words(&settings, (&image, &digest), Path::new("/place"), false).join(" ");
        assert_eq!(
            all,
            format!(
                "/usr/bin/skopeo --insecure-policy --registries.d=/place --tmpdir=/place copy --quiet --remove-signatures \
                 --preserve-digests --src-tls-verify=true --src-no-creds docker://registry.example.com:5000/team/name@{digest} dir:/place/image"
            )
        );
        assert_eq!(ports(&settings, &image), [5000, 443]);
        let names: Vec<_> = environment(Path::new("/place"));
        assert!(names.iter().all(|(_, value)| value == "/place"), "{names:?}");
    }

    #[test]
    fn only_a_listed_registry_goes_without_tls() {
        let PulledImage { image, digest } = image("127.0.0.1/name");
        let mut settings = Settings::default();
        let verify = |settings: &Settings| {
            let all = words(settings, (&image, &digest), Path::new("/place"), true);
            assert!(all.contains(&"--src-authfile=/place/auth.json".to_owned()));
            all.contains(&"--src-tls-verify=true".to_owned())
        };
        assert!(verify(&settings));
        assert_eq!(ports(&settings, &image), [443]);
        settings.insecure_registries = vec!["127.0.0.1".into()];
        assert!(!verify(&settings));
        assert_eq!(ports(&settings, &image), [80, 443]);
    }

    #[test]
    fn what_skopeo_says_last_is_told_without_its_log() {
        let log =
            b"time=\"x\" level=warning msg=\"first\"\ntime=\"x\" level=fatal msg=\"a \\\"b\\\": \\x1b\"\n";
        assert!(said(log).starts_with("\"a"), "what is no JSON is told as it is");
        assert_eq!(
            said(b"time=\"x\" level=fatal msg=\"reading \\\"manifest\\\": unknown\"\n"),
            "reading \"manifest\": unknown"
        );
        assert_eq!(said(b"\n"), "it ended without a word");
    }
}
