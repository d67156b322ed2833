//! The org's own keys change hands: over two people's homes, the hub, the node and its next job.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Lab};

use crate::steps::{id_of, receipt, sh};

/// Somebody who holds a key of the next root, and law of the org, and may not sign anything else.
fn holder(lab: &Lab, name: &str) -> Result<Cli> {
    let cli = Cli::new(&lab.home().join(name))?;
    cli.ok(&["keys", "new", name])?;
    let token = lab.cli().json(&["tokens", "new", "--scope", "submit", name])?;
    let file = lab.home().join(format!("{name}.token"));
    fs::write(&file, token["secret"].as_str().context("token")?)?;
    let org = lab.cli().json(&["org", "show"])?;
    let org = org["org"].as_str().context("org")?;
    let file = file.to_str().context("path")?;
    cli.ok(&[
        "connect",
        "--org",
        org,
        "--operator",
        name,
        "--key",
        name,
        "--token-file",
        file,
        lab.url(),
    ])?;
    Ok(cli)
}

fn root(cli: &Cli, arguments: &[&str], file: &Path) -> Result<serde_json::Value> {
    let file = file.to_str().context("path")?;
    cli.json(&[&["org", "root"], arguments, &[file]].concat())
}

fn held(cli: &Cli) -> Result<(u64, u64)> {
    let law = cli.json(&["org", "show"])?;
    let number = |name: &str| law[name].as_u64().context("a version");
    Ok((number("root")?, number("bundle")?))
}

/// Lets a home ask the hub for news with its next command.
fn asks_again(cli: &Cli) -> Result<()> {
    fs::remove_file(cli.home().join("trust/refreshed"))?;
    cli.ok(&["approvals"]).map(drop)
}

#[test]
fn a_new_root_reaches_node_and_clients_and_jobs_run_under_law_by_its_keys() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let carol = holder(&lab, "carol")?;
    let before = held(cli)?;
    assert_eq!(before.0, 1);
    for key in ["bundle-2", "freshness"] {
        cli.ok(&["keys", "new", key])?;
    }
    let carols = format!("root={}", carol.ok(&["keys", "export-public", "carol"])?.trim());
    let file = lab.home().join("next-root.json");
    let path = file.to_str().context("path")?;
    cli.ok(&[
        "org",
        "root",
        "new",
        "--out",
        path,
        "--add",
        &carols,
        "--threshold",
        "root=2",
        "--remove",
        "bundle=bundle",
        "--add",
        "bundle=bundle-2",
        "--add",
        "freshness=freshness",
    ])?;
    assert_eq!(root(cli, &["sign", "--yes"], &file)?["complete"], false);
    assert_eq!(
        root(&carol, &["sign", "--yes", "--key", "carol"], &file)?["complete"],
        true
    );
    root(cli, &["take"], &file)?;
    asks_again(cli)?;
    asks_again(&carol)?;
    assert_eq!(
        held(&carol)?,
        before,
        "a root without its law is handed on by nobody"
    );
    cli.ok(&["org", "sign", "--key", "bundle-2"])?;
    cli.ok(&["org", "freshness"])?;
    cli.ok(&["org", "push"])?;

    let done = sh(cli, &[], "echo under the new root")?;
    assert_eq!(done.code()?, 0, "{}", done.stderr);
    let receipt = receipt(cli, &id_of(&done.result()?)?)?;
    assert_eq!(
        receipt["bundle_version"].as_u64(),
        Some(before.1 + 1),
        "the node judged by the law of the new keys: {receipt}"
    );
    asks_again(&carol)?;
    assert_eq!(held(&carol)?, (2, before.1 + 1), "and so does another client");

    // The key that lost its role signs no law any more, here or anywhere.
    let old = cli.run(&["org", "sign", "--key", "bundle"])?;
    ensure!(old.stderr.contains("[signer_unknown]"), "{}", old.stderr);
    Ok(())
}

#[test]
fn a_hub_takes_no_root_that_the_old_keys_did_not_sign() -> Result<()> {
    let lab = Lab::start()?;
    let cli = lab.cli();
    let file = lab.home().join("next-root.json");
    let path = file.to_str().context("path")?;
    cli.ok(&["keys", "new", "usurper"])?;
    let new = ["--add", "root=usurper", "--remove", "root=root", "--out", path];
    cli.ok(&[&["org", "root", "new"], &new[..]].concat())?;
    let signed = root(cli, &["sign", "--yes", "--key", "usurper"], &file)?;
    assert_eq!(
        (signed["new"]["missing"].clone(), signed["complete"].clone()),
        (serde_json::json!([]), false.into())
    );
    let taken = cli.run(&["org", "root", "take", path])?;
    ensure!(taken.stderr.contains("[threshold_not_met]"), "{}", taken.stderr);

    // Put into the home as if it had been taken, it is refused there, and nothing of it reaches the hub.
    let law = lab.home().join("trust/law.json");
    let honest = fs::read(&law)?;
    let mut docs: serde_json::Value = serde_json::from_slice(&honest)?;
    let roots = docs["roots"].as_array_mut().context("roots")?;
    roots.push(fs::read_to_string(&file)?.into());
    fs::write(&law, serde_json::to_vec(&docs)?)?;
    let pushed = cli.run(&["org", "push"])?;
    ensure!(pushed.stderr.contains("[signer_unknown]"), "{}", pushed.stderr);
    fs::write(&law, honest)?;
    assert_eq!(sh(cli, &[], "true")?.code()?, 0);
    assert_eq!(held(cli)?.0, 1);
    Ok(())
}
