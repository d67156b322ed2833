//! A root filesystem from a tarball to a job: added on the node, named by the law, seen by the job, told by the facts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::Lab;

use crate::steps::{add_profile, receipt};

/// A tree with a shell, `cat`, `ls` and their libraries, made of this machine's own.
pub(crate) fn tree(dir: &Path) -> Result<()> {
    let script = "for p in sh cat ls; do f=$(readlink -f $(command -v $p)); install -D $f $0/tree/bin/$p; \
         ldd $f | grep -o '/[^ ]*' | while read l; do install -D $(readlink -f $l) $0/tree$l; done; done; \
         mkdir -p $0/tree/etc; echo inside > $0/tree/etc/where";
    let made = Command::new("sh").args(["-ec", script]).arg(dir).status()?;
    ensure!(made.success(), "the tree was not made");
    Ok(())
}

fn tarball(dir: &Path) -> Result<PathBuf> {
    tree(dir)?;
    let pack = "tar -C $0/tree -czf $0/root.tar.gz .";
    let made = Command::new("sh").args(["-ec", pack]).arg(dir).status()?;
    ensure!(made.success(), "the tarball was not made");
    Ok(dir.join("root.tar.gz"))
}

#[test]
fn a_job_runs_in_the_root_that_its_profile_names_by_digest() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let place = tempfile::tempdir()?;
    let file = tarball(place.path())?;
    let digest = Digest::of(&fs::read(&file)?);
    let profile = format!("\n[profiles.rooted]\nbackend = \"bubblewrap\"\nrootfs = \"{digest}\"\n");
    add_profile(cli, &profile)?;
    let run = || {
        cli.run(&[
            "run",
            "--json",
            "--profile",
            "rooted",
            "local",
            "--",
            "cat",
            "/etc/where",
        ])
    };
    let missing = run()?;
    ensure!(missing.code()? == 126, "{}", missing.text());
    ensure!(
        missing.text().contains("lictor agent rootfs add"),
        "{}",
        missing.text()
    );

    let agent = cli.home().join("agent");
    let store = |words: &[&str]| -> Result<_> {
        let mut all = vec![
            "--json",
            "agent",
            "rootfs",
            "--dir",
            agent.to_str().context("path")?,
        ];
        all.extend(words);
        cli.run(&all)
    };
    let path = file.to_str().context("path")?;
    let other = Digest::of(b"another").to_string();
    let wrong = store(&["add", path, "--expect", &other])?;
    ensure!(
        wrong.code()? == 125 && wrong.stderr.contains("rootfs_mismatch"),
        "{}",
        wrong.text()
    );
    let own = digest.to_string();
    let added = store(&["add", path, "--expect", &own])?;
    ensure!(
        added.code()? == 0 && added.text().contains(&own),
        "{}",
        added.text()
    );

    let done = run()?;
    ensure!(
        done.code()? == 0 && done.text().contains("inside"),
        "{}",
        done.text()
    );
    let id = done.result()?["job_id"].as_str().context("an id")?.to_owned();
    let receipt = receipt(cli, &id)?;
    ensure!(receipt.to_string().contains("own_root"), "{receipt}");

    let listed = store(&["ls"])?;
    ensure!(listed.text().contains(&own), "{}", listed.text());
    let gone = store(&["rm", &own])?;
    ensure!(gone.code()? == 0, "{}", gone.text());
    ensure!(run()?.code()? == 126, "a root that is gone is refused");
    Ok(())
}
