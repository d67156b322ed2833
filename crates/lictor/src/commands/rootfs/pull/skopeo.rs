//! skopeo, which speaks with registries: how it is run, and how little it gets.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::result::Result;
use std::time::{Duration, Instant};

use lictor_agent::config::Rootfs as Settings;
use lictor_proto::Digest;
use lictor_rootfs::Wanted;
use lictor_sandbox::{Confined, Helped, Helper, HelperError, Host};
use lictor_trust::profiles::{ImageName, size_in_words};

use super::super::{MARGIN, credentials};
use crate::escape::escape;

/// Where it puts an image, in its place.
pub(super) const IMAGE: &str = "image";
/// Where it finds the password for the registry.
const PASSWORD: &str = "auth.json";
/// What it takes for its user's settings of registries, which makes it look for no others.
const REGISTRIES: &str = ".config/containers/registries.conf";
/// So long nothing may come: whoever comes next waits for this one.
const SILENCE: Duration = Duration::from_secs(60);
/// How much memory it may have. What it does for images of today takes a tenth of that, most of it the stacks of its threads.
const MEMORY: u64 = 1 << 30;
/// How much of its output is kept where it has nothing to say.
const WORDS: usize = 4096;

/// It, with one registry to ask and one place to write to.
pub(super) struct Skopeo<'a> {
    host: &'a Host,
    settings: &'a Settings,
    image: &'a ImageName,
    place: &'a Path,
    has_password: bool,
}

impl<'a> Skopeo<'a> {
    pub(super) fn prepare(
        host: &'a Host,
        settings: &'a Settings,
        image: &'a ImageName,
        place: &'a Path,
    ) -> Result<Self, String> {
        let password = ready(settings, image)?;
        let prepared = put(place, REGISTRIES, b"").and_then(|()| match &password {
            Some(password) => put(place, PASSWORD, password.as_bytes()),
            None => Ok(()),
        });
        prepared.map_err(|e| format!("no place to fetch to could be prepared: {e}"))?;
        Ok(Self {
            host,
            settings,
            image,
            place,
            has_password: password.is_some(),
        })
    }

    /// What the registry has by this digest, an index or a manifest: bytes that nobody has checked, and one more than may be read
    /// where there are too many.
    pub(super) async fn document(&self, digest: &Digest) -> Result<Vec<u8>, String> {
        let helped = self.run(self.inspect(digest), Wanted::MOST_BYTES + 1).await?;
        Ok(helped.output)
    }

    /// Puts an image into the place, as it is in the registry.
    pub(super) async fn copy(&self, manifest: &Digest) -> Result<(), String> {
        self.run(self.fetch(manifest), WORDS).await.map(drop)
    }

    async fn run(&self, argv: Vec<String>, output: usize) -> Result<Helped, String> {
        let (settings, most) = (self.settings, self.settings.image_bytes());
        let helper = Helper {
            argv,
            env: environment(&self.seen()),
            confined: Some(Confined {
                place: self.place.into(),
                file_size: most,
                memory: MEMORY,
                ports: ports(settings, self.image),
            }),
            within: settings.pull_within(),
            output,
        };
        room(self.place, most)?;
        let mut progress = Progress::begin();
        let watch = || room(self.place, most).and_then(|bytes| progress.check(bytes));
        let helped = self.host.help(&helper, watch).await.map_err(|e| match e {
            HelperError::Io(e) => format!("skopeo cannot be run: {e}"),
            other => other.to_string(),
        })?;
        match helped.succeeded {
            true => Ok(helped),
            false if has_no_memory(&helped.errors) => Err(format!(
                "skopeo wants more memory than the {} that it may have",
                size_in_words(MEMORY)
            )),
            false => Err(match said(&helped.errors) {
                // The system's words for a file of the largest size that it may write.
                told if told.ends_with("file too large") => too_large(most),
                told => format!("skopeo: {told}"),
            }),
        }
    }

    /// The place as it finds it.
    fn seen(&self) -> PathBuf {
        self.host.helper_place(self.place)
    }

    fn inspect(&self, digest: &Digest) -> Vec<String> {
        let mut words = beginning(self.settings, &self.seen());
        words.extend(["inspect", "--raw"].map(str::to_owned));
        words.extend(self.access(""));
        words.push(format!("docker://{}@{digest}", self.image));
        words
    }

    fn fetch(&self, manifest: &Digest) -> Vec<String> {
        let place = self.seen();
        let mut words = beginning(self.settings, &place);
        words.extend(["copy", "--quiet", "--remove-signatures", "--preserve-digests"].map(str::to_owned));
        words.extend(self.access("src-"));
        words.push(format!("docker://{}@{manifest}", self.image));
        // As it is in the registry: another form would have another digest.
        words.push(format!("dir:{}/{IMAGE}", place.display()));
        words
    }

    /// How it gets in; what these words begin with differs from one of its commands to the next.
    fn access(&self, prefix: &str) -> [String; 2] {
        let verify = !self.settings.is_insecure(self.image.registry());
        let password = match self.has_password {
            true => format!("--{prefix}authfile={}/{PASSWORD}", self.seen().display()),
            false => format!("--{prefix}no-creds"),
        };
        [format!("--{prefix}tls-verify={verify}"), password]
    }
}

/// What all of its commands begin with.
fn beginning(settings: &Settings, place: &Path) -> Vec<String> {
    let place = place.display();
    vec![
        settings.skopeo.display().to_string(),
        // Signatures are the law's own: it names a digest. So none are looked for, here or elsewhere.
        "--insecure-policy".into(),
        format!("--registries.d={place}"),
        format!("--tmpdir={place}"),
    ]
}

/// Whether everything is there that fetching takes; if so, the password for the image.
pub(crate) fn ready(settings: &Settings, image: &ImageName) -> Result<Option<String>, String> {
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

    fn check(&mut self, bytes: u64) -> Result<(), String> {
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

/// How many bytes there are, when there may be more. The disk first: where both are over, that is what others feel.
fn room(place: &Path, most: u64) -> Result<u64, String> {
    if lictor_sandbox::host_facts(place).disk_free_bytes < MARGIN {
        return Err(format!(
            "less than {} of the node's disk are free",
            size_in_words(MARGIN)
        ));
    }
    match bytes_in(place) {
        bytes if bytes > most => Err(too_large(most)),
        bytes => Ok(bytes),
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

/// Whether it ended for want of memory: the words of its language's runtime, which says much after them.
fn has_no_memory(errors: &[u8]) -> bool {
    let text = String::from_utf8_lossy(errors);
    [
        "runtime: out of memory",
        "cannot allocate memory",
        "runtime/cgo: pthread_create failed",
    ]
    .iter()
    .any(|words| text.contains(words))
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

#[cfg(test)]
mod tests {
    use lictor_sandbox::Config;

    use super::*;

    fn image(text: &str) -> ImageName {
        text.parse().expect("an image")
    }

    fn skopeo<'a>(host: &'a Host, settings: &'a Settings, image: &'a ImageName) -> Skopeo<'a> {
        Skopeo {
            host,
            settings,
            image,
            place: Path::new("/tmp"),
            has_password: false,
        }
    }

    #[test]
    fn skopeo_gets_one_place_one_registry_and_no_setting_of_this_machine() {
        let host = Host::start(Config::default()).expect("the host starts");
        let (image, digest) = (
            image("registry.example.com:5000/team/name"),
            Digest::of(b"an image"),
        );
        let settings = Settings::default();
        let skopeo = skopeo(&host, &settings, &image);
        let begins = "/usr/bin/skopeo --insecure-policy --registries.d=/tmp --tmpdir=/tmp";
        let from = format!("docker://registry.example.com:5000/team/name@{digest}");
        assert_eq!(
            skopeo.fetch(&digest).join(" "),
            format!(
                "{begins} copy --quiet --remove-signatures --preserve-digests --src-tls-verify=true --src-no-creds {from} dir:/tmp/image"
            )
        );
        assert_eq!(
            skopeo.inspect(&digest).join(" "),
            format!("{begins} inspect --raw --tls-verify=true --no-creds {from}")
        );
        assert_eq!(ports(&settings, &image), [5000, 443]);
        let names: Vec<_> = environment(Path::new("/tmp"));
        assert!(names.iter().all(|(_, value)| value == "/tmp"), "{names:?}");
    }

    #[test]
    fn only_a_listed_registry_goes_without_tls() {
        let host = Host::start(Config::default()).expect("the host starts");
        let image = image("127.0.0.1/name");
        let mut settings = Settings::default();
        let verify = |settings: &Settings| {
            let with_password = Skopeo {
                has_password: true,
                ..skopeo(&host, settings, &image)
            };
            let all = with_password.fetch(&Digest::of(b"an image"));
            assert!(all.contains(&"--src-authfile=/tmp/auth.json".to_owned()));
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
        let full = b"runtime: out of memory: cannot allocate 4194304-byte block (1069481984 in use)\nfatal error: out of memory\n\nrax 0x0\n";
        assert!(has_no_memory(full) && !has_no_memory(log));
    }
}
