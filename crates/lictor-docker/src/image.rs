//! The image of nothing: two places to mount something at. It is made here, handed to the daemon once, and known by what
//! it holds.

use std::collections::HashMap;
use std::io;

use bollard::Docker;
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{Either, Full};
use lictor_proto::Digest;
use tar::{Builder, EntryType, Header};

use super::said;

/// What images are looked for by that were handed over before.
const LABEL: &str = "lictor.image";
/// What it has: of the agent's, and for the kernel's files.
const DIRECTORIES: [&str; 2] = [".lictor", "proc"];

/// Its id, handed over to the daemon when that does not have it.
///
/// # Errors
/// The daemon's; or it has made something else of it.
pub(super) async fn of(docker: &Docker) -> io::Result<String> {
    let archive = archive()?;
    let layer = Digest::of(&archive).to_string();
    let label = format!("{LABEL}={layer}");
    let options = ListImagesOptions {
        all: true,
        filters: Some(HashMap::from([("label".to_owned(), vec![label.clone()])])),
        ..ListImagesOptions::default()
    };
    for known in docker.list_images(Some(options)).await.map_err(said)? {
        if is_it(docker, &known.id, &layer).await? {
            return Ok(known.id);
        }
    }
    let id = hand_over(docker, archive, &label).await?;
    match is_it(docker, &id, &layer).await? {
        true => Ok(id),
        false => Err(io::Error::other(
            "the daemon has made another image of what it was given",
        )),
    }
}

/// Whether an image is of that one layer, whatever it is called or labelled.
async fn is_it(docker: &Docker, id: &str, layer: &str) -> io::Result<bool> {
    let seen = docker.inspect_image(id).await.map_err(said)?;
    let layers = seen.root_fs.and_then(|root| root.layers).unwrap_or_default();
    Ok(layers == [layer])
}

async fn hand_over(docker: &Docker, archive: Vec<u8>, label: &str) -> io::Result<String> {
    let options = CreateImageOptions {
        from_src: Some("-".to_owned()),
        changes: vec![format!("LABEL {label}")],
        ..CreateImageOptions::default()
    };
    let body = Either::Left(Full::new(Bytes::from(archive)));
    let mut answers = Box::pin(docker.create_image(Some(options), Some(body), None));
    let mut id = None;
    while let Some(answer) = answers.next().await {
        let status = answer.map_err(said)?.status;
        id = status.filter(|word| word.starts_with("sha256:")).or(id);
    }
    id.ok_or_else(|| io::Error::other("the daemon has not named the image"))
}

/// Always the same bytes.
fn archive() -> io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for name in DIRECTORIES {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_mtime(0);
        archive.append_data(&mut header, name, io::empty())?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use lictor_proto::Digest;

    #[test]
    fn the_image_of_nothing_is_always_the_same() {
        let first = super::archive().expect("an archive");
        assert_eq!(
            Digest::of(&first),
            Digest::of(&super::archive().expect("another"))
        );
        assert!(first.len() < 8192);
    }
}
