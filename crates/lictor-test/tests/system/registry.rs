//! A registry of one image on this machine, honest or not: `GET /v2/`, manifests and blobs.
//!
//! <https://github.com/opencontainers/distribution-spec>

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use lictor_proto::Digest;

/// This machine's architecture, as images call it.
pub(crate) const OURS: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Honest,
    /// Other bytes in the layer's place, as many of them.
    OtherBytes,
    /// Another manifest in the place of the one that was asked for.
    OtherManifest,
    /// Another index in the place of the one that was asked for.
    OtherIndex,
    /// A layer that begins, and then nothing comes.
    Stalls,
    /// A layer that goes on and on.
    Floods,
    /// Layers are at another port of this machine, it says.
    SendsTo(u16),
    /// To whoever has this user and password, in Base64, it is honest.
    Wants(&'static str),
    /// Always with this status.
    Answers(u16),
}

/// An image: its manifest, and its blobs; and the index that it is in, where it is in one.
#[derive(Clone)]
pub(crate) struct Image {
    /// What it is called: by its index, or by its manifest.
    pub(crate) digest: Digest,
    manifest: Vec<u8>,
    index: Option<Vec<u8>>,
    blobs: BTreeMap<String, Vec<u8>>,
    layer: Digest,
}

impl Image {
    pub(crate) fn of_layer(layer: Vec<u8>) -> Self {
        let size = layer.len();
        Self::with_size(layer, size)
    }

    /// One whose manifest says that its layer has as many bytes as this.
    pub(crate) fn with_size(layer: Vec<u8>, size: usize) -> Self {
        let content = Digest::of(&layer);
        let config = format!(
            "{{\"os\":\"linux\",\"architecture\":\"{OURS}\",\"rootfs\":{{\"type\":\"layers\",\"diff_ids\":[\"{content}\"]}}}}"
        );
        let described = |kind: &str, bytes: &[u8], size: usize| {
            let digest = Digest::of(bytes);
            format!(
                "{{\"mediaType\":\"application/vnd.oci.image.{kind}\",\"digest\":\"{digest}\",\"size\":{size}}}"
            )
        };
        let manifest = format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"config\":{},\"layers\":[{}]}}",
            described("config.v1+json", config.as_bytes(), config.len()),
            described("layer.v1.tar", &layer, size)
        );
        let blobs = [config.into_bytes(), layer].map(|b| (Digest::of(&b).to_string(), b));
        Self {
            digest: Digest::of(manifest.as_bytes()),
            manifest: manifest.into_bytes(),
            index: None,
            blobs: blobs.into(),
            layer: content,
        }
    }

    /// What its manifest is called.
    pub(crate) fn manifest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    /// What an index says of it, as if it were for that architecture.
    pub(crate) fn entry(&self, architecture: &str) -> String {
        entry(&self.manifest(), self.manifest.len(), architecture)
    }

    /// The same, called by an index of these entries.
    pub(crate) fn in_index(self, entries: &[String]) -> Self {
        let entries = entries.join(",");
        let index = format!("{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{entries}]}}");
        Self {
            digest: Digest::of(index.as_bytes()),
            index: Some(index.into_bytes()),
            ..self
        }
    }
}

/// What an index says of an image.
pub(crate) fn entry(manifest: &Digest, size: usize, architecture: &str) -> String {
    format!(
        "{{\"mediaType\":\"{MANIFEST}\",\"digest\":\"{manifest}\",\"size\":{size},\
         \"platform\":{{\"os\":\"linux\",\"architecture\":\"{architecture}\"}}}}"
    )
}

/// One that listens until the test ends.
pub(crate) struct Registry {
    address: SocketAddr,
    layer: String,
    mood: Arc<Mutex<Mood>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Registry {
    pub(crate) fn start(image: Image, mood: Mood) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let this = Self {
            address: listener.local_addr()?,
            layer: image.layer.to_string(),
            mood: Arc::new(Mutex::new(mood)),
            asked: Arc::default(),
        };
        let (image, mood, asked) = (Arc::new(image), this.mood.clone(), this.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (image, mood, asked) = (image.clone(), mood.clone(), asked.clone());
                std::thread::spawn(move || serve(stream, &image, &mood, &asked));
            }
        });
        Ok(this)
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Answers like this from the next request on.
    pub(crate) fn turn(&self, mood: Mood) {
        *locked(&self.mood) = mood;
    }

    /// Whether the layer has been asked for.
    pub(crate) fn was_asked_for_the_layer(&self) -> bool {
        self.asked().iter().any(|r| r.contains(&self.layer))
    }

    /// The requests that came.
    pub(crate) fn asked(&self) -> Vec<String> {
        locked(&self.asked).clone()
    }
}

fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, image: &Image, mood: &Mutex<Mood>, asked: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).ok().filter(|n| *n > 0)?;
        }
        let request = head.lines().next()?;
        locked(asked).push(request.to_owned());
        let mood = *locked(mood);
        // A client that has had enough goes away.
        answer(&mut writer, request.split(' ').nth(1)?, &head, image, mood).ok()?;
    }
}

fn answer(to: &mut TcpStream, path: &str, head: &str, image: &Image, mood: Mood) -> io::Result<()> {
    match mood {
        Mood::Answers(status) => return bare(to, &format!("{status} No"), ""),
        Mood::Wants(password) if !head.contains(&format!("Authorization: Basic {password}\r\n")) => {
            return bare(
                to,
                "401 Unauthorized",
                "WWW-Authenticate: Basic realm=\"registry\"\r\n",
            );
        }
        _ => {}
    }
    if path == "/v2/" {
        return whole(to, "application/json", b"{}");
    }
    if let Some(index) = image
        .index
        .as_ref()
        .filter(|_| path.ends_with(&image.digest.to_string()))
    {
        let mut index = index.clone();
        if mood == Mood::OtherIndex {
            index.push(b'\n');
        }
        return whole(to, INDEX, &index);
    }
    if path.contains("/manifests/") {
        let mut manifest = image.manifest.clone();
        if mood == Mood::OtherManifest {
            manifest.push(b'\n');
        }
        return whole(to, MANIFEST, &manifest);
    }
    let asked = path.rsplit('/').next().unwrap_or_default();
    let is_layer = asked == image.layer.to_string();
    let mood = if is_layer { mood } else { Mood::Honest };
    match (image.blobs.get(asked), mood) {
        (None, _) => bare(to, "404 Not Found", ""),
        (Some(_), Mood::Stalls) => stall(to),
        (Some(_), Mood::Floods) => flood(to),
        (Some(_), Mood::SendsTo(port)) => {
            let place = format!("Location: http://127.0.0.1:{port}{path}\r\n");
            bare(to, "307 Temporary Redirect", &place)
        }
        (Some(blob), Mood::OtherBytes) => {
            let mut other = blob.clone();
            other[0] ^= 1;
            whole(to, "application/octet-stream", &other)
        }
        (Some(blob), _) => whole(to, "application/octet-stream", blob),
    }
}

fn bare(to: &mut TcpStream, status: &str, more: &str) -> io::Result<()> {
    write!(to, "HTTP/1.1 {status}\r\n{more}Content-Length: 0\r\n\r\n")
}

fn whole(to: &mut TcpStream, kind: &str, body: &[u8]) -> io::Result<()> {
    let length = body.len();
    write!(
        to,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    )?;
    to.write_all(body)
}

/// Says that more comes, and nothing does any more until the client goes away.
fn stall(to: &mut TcpStream) -> io::Result<()> {
    write!(to, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
    to.write_all(&[0; 4096])?;
    to.read(&mut [0; 1]).map(|_| ())
}

/// Never says how much comes, and never stops.
fn flood(to: &mut TcpStream) -> io::Result<()> {
    write!(to, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?;
    loop {
        to.write_all(&[7; 65536])?;
    }
}
