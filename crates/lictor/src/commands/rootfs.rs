//! `lictor agent rootfs`: the root filesystems that profiles may name on this node.

mod credentials;
mod pull;

pub(crate) use pull::{puller, ready};

use std::path::Path;

use lictor_proto::{Code, Digest, Timestamp};
use lictor_rootfs::{Bounds, Import, Kept, Limits, Meta, RootfsError, Store};
use serde_json::{Value, json};

use crate::args::{Rootfs, RootfsCommand};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::out::{Out, table};

pub(crate) fn run(args: &Rootfs, out: Out) -> Result {
    let store = Store::of_node(&args.dir);
    match &args.command {
        RootfsCommand::Add { source, expect } => {
            let import = Import {
                store: &store,
                limits: limits(&args.dir, Limits::default().bytes)?,
                sync: lictor_sandbox::sync_file_system,
            };
            let what = format!("could not add {}", escape(&source.display().to_string()));
            let meta = import
                .add(source, expect.as_ref())
                .map_err(|e| failure(what, &e))?;
            out.either(&describe(&meta), || added(&meta))?;
        }
        RootfsCommand::Pull { image, config } => pull::run(&args.dir, image, config.as_deref(), out)?,
        RootfsCommand::Ls => list(&store, out)?,
        RootfsCommand::Rm { digest } => {
            let gone = store.remove(digest);
            gone.map_err(|e| failure(format!("could not remove {digest}"), &e))?;
            removed(&[*digest], out)?;
        }
        RootfsCommand::Prune { max, unused } => {
            let bounds = Bounds {
                bytes: *max,
                unused: *unused,
            };
            let gone = store.prune(&bounds, Timestamp::now());
            removed(&gone.map_err(|e| failure("could not make room".into(), &e))?, out)?;
        }
    }
    Ok(Status::OK)
}

/// What stays free on the disk, whatever is added: the journal is there, too.
const MARGIN: u64 = 256 << 20;

/// How large one may be, with what is free.
fn limits(node: &Path, most: u64) -> Result<Limits> {
    let free = lictor_sandbox::host_facts(node).disk_free_bytes;
    match free.checked_sub(MARGIN) {
        Some(room) if room > 0 => Ok(Limits {
            bytes: most.min(room),
            ..Limits::default()
        }),
        _ => Err(Failure::new("there is no room for a root filesystem")
            .why(format!("less than {} of the node's disk are free", size(MARGIN)))
            .code(Code::RootfsUnusable)),
    }
}

fn failure(what: String, error: &RootfsError) -> Failure {
    Failure::new(what).because(error).code(error.code())
}

fn describe(meta: &Meta) -> Value {
    json!({
        "digest": meta.digest, "manifest": meta.manifest, "form": meta.form, "source": meta.source, "bytes": meta.bytes, "files": meta.entries,
        "devices_left_out": meta.devices_left_out, "set_ids_dropped": meta.set_ids_dropped, "added_at": meta.added_at,
    })
}

fn added(meta: &Meta) -> String {
    let mut text = format!("{}: {} files, {}", meta.digest, meta.entries, size(meta.bytes));
    if let Some(manifest) = meta.manifest {
        text += &format!("\nthat is an index; for this machine the image is {manifest}");
    }
    for (count, what) in [
        (meta.devices_left_out, "device nodes and pipes left out"),
        (meta.set_ids_dropped, "files that no longer run as somebody else"),
    ] {
        if count > 0 {
            text += &format!("\n{count} {what}");
        }
    }
    text + &format!("\nin a profile: rootfs = \"{}\"", meta.digest)
}

fn list(store: &Store, out: Out) -> Result<()> {
    let all = store
        .list()
        .map_err(|e| failure("could not list root filesystems".into(), &e))?;
    let value = |k: &Kept| {
        let mut value = describe(&k.meta);
        value["used_at"] = json!(k.used_at);
        value
    };
    let row = |k: &Kept| {
        let from = escape(&k.meta.source);
        vec![
            k.meta.digest.to_string(),
            size(k.meta.bytes),
            k.used_at.to_string(),
            from,
        ]
    };
    let values: Vec<Value> = all.iter().map(value).collect();
    let rows: Vec<_> = all.iter().map(row).collect();
    out.either(&values, || table(&["digest", "size", "last used", "from"], &rows))
}

fn removed(gone: &[Digest], out: Out) -> Result<()> {
    out.either(&json!({ "removed": gone }), || match gone {
        [] => "nothing to remove".to_owned(),
        gone => gone
            .iter()
            .map(|d| format!("removed {d}"))
            .collect::<Vec<_>>()
            .join("\n"),
    })
}

fn size(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}
