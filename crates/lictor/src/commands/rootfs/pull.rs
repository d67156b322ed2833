//! `lictor agent rootfs pull`: an image from a registry, by its digest.
//!
//! ```text
//!   this command ──▶ skopeo: no rights, one directory, the registry's port and 443 ──▶ what has that digest: an image, or an index
//!        │                                                     of several, of which one is for this machine
//!        ├─────────▶ skopeo again ──▶ that image, in DIR/rootfs/.new-.../
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
//! - What is read here of what has come is an index or a manifest whose bytes have the digest that the law names. When an archive is read,
//!   this process reaches no file but those of the store any more, and nobody else.

mod skopeo;

use std::fs;
use std::path::Path;
use std::time::Duration;

use lictor_agent::AgentConfig;
use lictor_agent::config::Rootfs as Settings;
use lictor_proto::{Code, Digest};
use lictor_rootfs::{Import, Store, Wanted};
use lictor_sandbox::Host;
use lictor_trust::profiles::ImageName;
use serde_json::json;

use self::skopeo::{IMAGE, Skopeo};
use super::{added, describe, failure, limits};
use crate::args::PulledImage;
use crate::commands::agent;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;

pub(crate) use self::skopeo::ready;

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
    let host = agent::prepare_host(&config.sandbox, &config.dir, config.rootfs.credentials.as_deref())?;
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
    let wanted = agent::runtime()?.block_on(fetched)?;
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
        .add_fetched(&fetched, &wanted, image.as_str())
        .map_err(|e| failure(what(), &e))?;
    out.either(&describe(&meta), || added(&meta))
}

/// Fetches the image that a digest comes to on this machine; says which it is.
async fn fetch(
    host: &Host,
    settings: &Settings,
    (image, digest): (&ImageName, &Digest),
    place: &Path,
) -> Result<Wanted> {
    let what = || format!("could not fetch {image}@{digest}");
    let failed = |why: String| Failure::new(what()).why(why).code(Code::RootfsPullFailed);
    let skopeo = Skopeo::prepare(host, settings, image, place).map_err(failed)?;
    let bytes = skopeo.document(digest).await.map_err(failed)?;
    let wanted = Wanted::read(digest, &bytes).map_err(|e| failure(what(), &e))?;
    skopeo.copy(wanted.image()).await.map_err(failed)?;
    Ok(wanted)
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
