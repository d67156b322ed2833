//! `lictor agent archive`: results that the hub did not take in time, read on the node itself.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write};
use std::path::{Path, PathBuf};

use lictor_proto::doc::Receipt;
use lictor_proto::frame::{FrameDecoder, FrameKind};
use lictor_proto::{Envelope, JobId, limits};
use lictor_trust::profiles::size_in_words;
use lictor_warden::archive::{self, Archived};
use serde_json::json;

use crate::args::{Archive, ArchiveCommand};
use crate::commands::jobs;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::{Out, table};

/// What is read of an output at once.
const PIECE: usize = 64 * 1024;

pub(crate) fn run(args: &Archive, out: Out) -> Result {
    let all = archive::list(&args.dir).doing(format!("read the archive of {}", args.dir.display()))?;
    match &args.command {
        ArchiveCommand::Ls => list(&all, out)?,
        ArchiveCommand::Show { job, output } => {
            let (dir, one) = find(&all, job)?;
            if *output {
                write_output(dir, std::io::stdout().lock(), std::io::stderr().lock())
                    .doing(format!("read {}", dir.join("output.log").display()))?;
            } else {
                show(dir, one, out)?;
            }
        }
    }
    Ok(Status::OK)
}

fn find<'a>(all: &'a [(PathBuf, Archived)], job: &JobId) -> Result<(&'a Path, &'a Archived)> {
    let one = all.iter().find(|(_, a)| JobId::from_digest(&a.job) == *job);
    one.map(|(dir, a)| (dir.as_path(), a)).ok_or_else(|| {
        Failure::new(format!("there is no result of {job} in the archive"))
            .hint("`lictor agent archive ls` lists what is there; what the hub has taken is not kept here.")
    })
}

/// What the receipt says, which this node signed itself; `lictor receipt verify` checks it.
fn receipt(dir: &Path) -> Result<Receipt> {
    let path = dir.join("receipt.json");
    let wire = archive::wire(dir, "receipt.json").doing(format!("read {}", path.display()))?;
    let envelope = Envelope::parse(wire.as_bytes(), limits::ENVELOPE).doing("read the receipt")?;
    lictor_proto::json::from_slice(&envelope.payload).doing("read the receipt")
}

fn list(all: &[(PathBuf, Archived)], out: Out) -> Result<()> {
    let mut rows = Vec::with_capacity(all.len());
    let mut values = Vec::with_capacity(all.len());
    for (dir, one) in all {
        let id = JobId::from_digest(&one.job);
        let outcome = receipt(dir)?.outcome;
        let bytes = archive::size(dir).doing(format!("read {}", dir.display()))?;
        values.push(json!({
            "job_id": id, "outcome": outcome, "finished_at": one.finished_at, "archived_at": one.archived_at,
            "bytes": bytes, "dir": dir,
        }));
        rows.push(vec![
            id.to_string(),
            super::result::word(outcome).to_owned(),
            one.finished_at.to_string(),
            one.archived_at.to_string(),
            size_in_words(bytes),
        ]);
    }
    out.either(&values, || {
        table(&["job", "outcome", "finished", "archived", "holds"], &rows)
    })
}

fn show(dir: &Path, one: &Archived, out: Out) -> Result<()> {
    let receipt = receipt(dir)?;
    let id = JobId::from_digest(&one.job);
    let value = json!({
        "job_id": id, "dir": dir, "archived_at": one.archived_at, "receipt_digest": one.receipt, "receipt": receipt,
    });
    out.either(&value, || {
        format!(
            "job        {id}\n{}\narchived   {}, since the hub had not taken it; it gets it when it is back\nfiles      {}\n\
             output     lictor agent archive show {id} --output\nto check   lictor receipt verify {} --job {}",
            jobs::receipt(&receipt),
            one.archived_at,
            dir.display(),
            dir.join("receipt.json").display(),
            dir.join("job.json").display(),
        )
    })
}

fn write_output(dir: &Path, mut stdout: impl Write, mut stderr: impl Write) -> std::io::Result<()> {
    let mut file = match File::open(dir.join("output.log")) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let (mut frames, mut piece) = (FrameDecoder::default(), vec![0; PIECE]);
    loop {
        let n = file.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        frames.push(&piece[..n]);
        while let Some(frame) = frames.next_frame().map_err(std::io::Error::other)? {
            match frame.kind {
                FrameKind::Stdout => stdout.write_all(&frame.payload)?,
                FrameKind::Stderr => stderr.write_all(&frame.payload)?,
                _ => {}
            }
        }
    }
}
