//! Scripts that are not what somebody signed, by one way or another.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use anyhow::{Result, ensure};
use lictor_proto::doc::{Script, Spec};
use lictor_proto::{Code, Digest, Envelope, limits};

use super::attacks;
use crate::hostile::org::signed;
use crate::hostile::{Scene, Seen};

attacks! {
    hub_changes_a_script => Some(Code::SignatureInvalid),
    hub_keeps_the_digest_of_a_changed_script => Some(Code::DocumentInvalid),
    node_has_another_program_under_an_interpreters_name => Some(Code::InterpreterRefused),
    hub_serves_law_with_another_script_of_the_name => Some(Code::ScriptMismatch),
    hub_serves_law_without_the_script => Some(Code::ScriptUnknown),
}

const TEXT: &str = "echo the-true-script\n";

fn job(scene: &Scene, script: Script) -> String {
    let mut job = scene.job("alice", &["true"]);
    job.spec = Spec::Script(script);
    job.kind = job.spec.kind();
    signed(&job, &["alice"])
}

fn plain(scene: &Scene) -> Result<String> {
    Ok(job(
        scene,
        Script::new("sh".parse()?, TEXT.to_owned(), Vec::new()),
    ))
}

async fn hub_changes_a_script() -> Result<Seen> {
    let scene = Scene::set().await?;
    let honest = plain(&scene)?;
    let mut envelope = Envelope::parse(honest.as_bytes(), limits::JOB_ENVELOPE)?;
    let text = String::from_utf8(envelope.payload)?.replace("the-true-script", "the-hub-s-script");
    envelope.payload = text.into_bytes();
    let changed = String::from_utf8(envelope.to_bytes())?;
    let seen = scene.refuses(&changed, Code::SignatureInvalid).await?;
    scene.runs(&honest, &[]).await?;
    Ok(seen)
}

/// Signed by a client that was made to, with the digest that people have looked at and another text.
async fn hub_keeps_the_digest_of_a_changed_script() -> Result<Seen> {
    let scene = Scene::set().await?;
    scene.runs(&plain(&scene)?, &[]).await?;
    let script = Script {
        sha256: Digest::of(TEXT.as_bytes()),
        ..Script::new("sh".parse()?, "echo another".to_owned(), Vec::new())
    };
    scene.refuses(&job(&scene, script), Code::DocumentInvalid).await
}

/// The law looks for programs in a directory of the site's first; there `sh` leads to something that is none.
async fn node_has_another_program_under_an_interpreters_name() -> Result<Seen> {
    let mut scene = Scene::set().await?;
    scene.runs(&plain(&scene)?, &[]).await?;
    let site = tempfile::tempdir()?;
    fs::set_permissions(site.path(), fs::Permissions::from_mode(0o755))?;
    symlink("/usr/bin/env", site.path().join("sh"))?;
    let path = format!("path = [\"{}\", \"/usr/bin\"]\n", site.path().display());
    let wire = scene.org.next_bundle(|bundle| {
        if let Some(profiles) = bundle.files.get_mut("profiles.toml") {
            *profiles = profiles.replacen("[profiles.host]\n", &format!("[profiles.host]\n{path}"), 1);
        }
    });
    ensure!(!wire.is_empty(), "no law");
    scene.push(scene.org.docs()).await?;
    scene.refuses(&plain(&scene)?, Code::InterpreterRefused).await
}

/// Law with a script, and a job for it.
async fn with_named() -> Result<(Scene, impl Fn(&Scene) -> Result<String>)> {
    let mut scene = Scene::set().await?;
    let _ = scene.org.next_bundle(|bundle| {
        bundle.files.insert("scripts/tidy".into(), TEXT.into());
    });
    scene.push(scene.org.docs()).await?;
    let named = |scene: &Scene| {
        let bound = ("tidy".parse()?, Digest::of(TEXT.as_bytes()));
        Ok(job(scene, Script::of_bundle("sh".parse()?, bound, Vec::new())))
    };
    scene.runs(&named(&scene)?, &[]).await?;
    Ok((scene, named))
}

async fn hub_serves_law_with_another_script_of_the_name() -> Result<Seen> {
    let (mut scene, named) = with_named().await?;
    let _ = scene.org.next_bundle(|bundle| {
        bundle
            .files
            .insert("scripts/tidy".into(), "echo another\n".into());
    });
    scene.push(scene.org.docs()).await?;
    scene.refuses(&named(&scene)?, Code::ScriptMismatch).await
}

async fn hub_serves_law_without_the_script() -> Result<Seen> {
    let (mut scene, named) = with_named().await?;
    let _ = scene.org.next_bundle(|bundle| {
        bundle.files.remove("scripts/tidy");
    });
    scene.push(scene.org.docs()).await?;
    scene.refuses(&named(&scene)?, Code::ScriptUnknown).await
}
