//! A root filesystem from a tarball to a job: added on the node, named by the law, seen by the job, told by the facts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::Lab;

use crate::secret_ways::that_run;
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

fn tarball(dir: &Path) -> Result<(PathBuf, Digest)> {
    tree(dir)?;
    let pack = "tar -C $0/tree -czf $0/root.tar.gz .";
    let made = Command::new("sh").args(["-ec", pack]).arg(dir).status()?;
    ensure!(made.success(), "the tarball was not made");
    let file = dir.join("root.tar.gz");
    let digest = Digest::of(&fs::read(&file)?);
    Ok((file, digest))
}

#[test]
fn a_job_runs_in_the_root_that_its_profile_names_by_digest() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let place = tempfile::tempdir()?;
    let (file, digest) = tarball(place.path())?;
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

#[test]
fn a_secret_is_a_file_in_a_root_of_the_jobs_own_in_every_backend_that_shows_one() -> Result<()> {
    const VALUE: &str = "gr8-Secr3t/of+the~lab";
    const BOXES: [&str; 3] = ["bubblewrap", "container", "gvisor"];
    let lab = Lab::start()?;
    let cli = lab.cli();
    let place = tempfile::tempdir()?;
    let (file, digest) = tarball(place.path())?;
    let profile =
        |backend: &str| format!("\n[profiles.{backend}]\nbackend = \"{backend}\"\nrootfs = \"{digest}\"\n");
    add_profile(cli, &BOXES.map(profile).concat())?;
    let agent = cli.home().join("agent");
    let words = ["agent", "rootfs", "--dir", agent.to_str().context("path")?];
    cli.ok(&[&words[..], &["add", file.to_str().context("path")?]].concat())?;
    let set = cli.run_with_input(&["secret", "set", "db.key", "--nodes", "local"], VALUE.into())?;
    ensure!(set.code()? == 0, "{}", set.stderr);
    // Without its beginning it is said as it is; what is said whole is taken out.
    let line = "f=$LICTOR_SECRET_DB_KEY; cat /etc/where; echo $f; cat $f; echo; v=$(cat $f); echo \"${v#gr8-} ${#v}\"; echo x >> $f || echo kept";
    for backend in that_run(cli, &BOXES)? {
        let words = [
            "run",
            "--profile",
            backend,
            "--secret",
            "db.key=file",
            "local",
            "--",
            "sh",
            "-c",
            line,
        ];
        let done = cli.run(&words)?;
        let text = done.text();
        ensure!(done.code()? == 0, "{backend}: {text}{}", done.stderr);
        for said in [
            "inside\n",
            "/dev/secrets/db.key\n",
            "[redacted:db.key]",
            "Secr3t/of+the~lab 21\n",
            "kept",
        ] {
            ensure!(text.contains(said), "{backend}: {text}{}", done.stderr);
        }
        ensure!(!text.contains(VALUE), "{backend}: {text}");
    }
    Ok(())
}
