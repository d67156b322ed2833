//! Workspaces that somebody would like to be rid of, or to have as they were.

use anyhow::{Result, ensure};
use lictor_proto::agent::OfferReply;
use lictor_proto::doc::{Exec, GitCommit, Operation, Spec, Workspace};
use lictor_proto::{Code, Envelope, limits};

use super::attacks;
use crate::hostile::org::{name, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_turns_a_look_at_a_workspace_into_its_removal => Some(Code::SignatureInvalid),
    hub_has_another_workspace_removed => Some(Code::SignatureInvalid),
    hub_has_a_workspace_removed_again => Some(Code::Replayed),
    hub_has_another_commit_cloned => Some(Code::SignatureInvalid),
    hub_has_another_commit_brought_before_a_job => Some(Code::SignatureInvalid),
}

fn job(scene: &Scene, spec: Spec) -> String {
    let mut job = scene.job("alice", &["true"]);
    job.profile = name("keeps");
    job.spec = spec;
    job.kind = job.spec.kind();
    signed(&job, &["alice"])
}

fn on(scene: &Scene, operation: Operation, workspace: &str) -> String {
    let work = Workspace::new(operation, Some(name(workspace)));
    job(scene, Spec::Workspace(work))
}

/// Somebody works in it.
async fn work_in(scene: &Scene, workspace: &str) -> Result<()> {
    let exec = Exec {
        sandbox: Some(name(workspace)),
        ..Exec::new(vec!["true".to_owned()])
    };
    scene.runs(&job(scene, Spec::Exec(exec)), &[]).await?;
    is_there(scene, workspace).await
}

/// A node says so of those that it has, and else fails.
async fn is_there(scene: &Scene, workspace: &str) -> Result<()> {
    scene.runs(&on(scene, Operation::Show, workspace), &[]).await?;
    Ok(())
}

async fn altered(scene: &Scene, honest: &str, change: (&str, &str)) -> Result<Seen> {
    let mut envelope = Envelope::parse(honest.as_bytes(), limits::JOB_ENVELOPE)?;
    let text = String::from_utf8(envelope.payload)?;
    ensure!(text.contains(change.0), "nothing to change: {text}");
    envelope.payload = text.replace(change.0, change.1).into_bytes();
    let changed = String::from_utf8(envelope.to_bytes())?;
    scene.refuses(&changed, Code::SignatureInvalid).await
}

async fn hub_turns_a_look_at_a_workspace_into_its_removal() -> Result<Seen> {
    let scene = Scene::set().await?;
    work_in(&scene, "shop").await?;
    let look = on(&scene, Operation::Show, "shop");
    let seen = altered(&scene, &look, ("\"show\"", "\"remove\"")).await?;
    is_there(&scene, "shop").await?;
    Ok(seen)
}

async fn hub_has_another_workspace_removed() -> Result<Seen> {
    let scene = Scene::set().await?;
    work_in(&scene, "shop").await?;
    work_in(&scene, "shed").await?;
    let removal = on(&scene, Operation::Remove, "shed");
    let seen = altered(&scene, &removal, ("\"shed\"", "\"shop\"")).await?;
    is_there(&scene, "shop").await?;
    // The honest one does what it says.
    scene.runs(&removal, &[]).await?;
    is_there(&scene, "shop").await?;
    Ok(seen)
}

async fn hub_has_a_workspace_removed_again() -> Result<Seen> {
    let scene = Scene::set().await?;
    work_in(&scene, "shop").await?;
    let removal = on(&scene, Operation::Remove, "shop");
    scene.runs(&removal, &[]).await?;
    work_in(&scene, "shop").await?;
    ensure!(
        scene.offer(&removal, &[]).await? == OfferReply::Known,
        "offered again"
    );
    let seen = scene.noted(Code::Replayed).await?;
    is_there(&scene, "shop").await?;
    Ok(seen)
}

/// Another commit, and another place for it to come from. The honest one is obeyed: it tries, and finds nobody there.
async fn hub_has_another_commit_cloned() -> Result<Seen> {
    const URL: &str = "http://127.0.0.1:1/shop.git";
    let scene = Scene::set().await?;
    let commit = "0123456789abcdef".repeat(3)[..40].to_owned();
    let work = Workspace {
        git: Some(GitCommit {
            url: URL.to_owned(),
            commit: commit.clone(),
        }),
        ..Workspace::new(Operation::Clone, Some(name("shop")))
    };
    let honest = job(&scene, Spec::Workspace(work));
    altered(&scene, &honest, (URL, "http://127.0.0.1:1/evil.git")).await?;
    let seen = altered(&scene, &honest, (commit.as_str(), &"f".repeat(40))).await?;
    ensure!(
        scene.offer(&honest, &[]).await? == OfferReply::Accepted,
        "the honest one is not taken"
    );
    Ok(seen)
}

/// The same of a commit that a job gets before it begins. The honest one is obeyed: nobody is there to bring it, so its program
/// never begins.
async fn hub_has_another_commit_brought_before_a_job() -> Result<Seen> {
    const URL: &str = "http://127.0.0.1:1/shop.git";
    let scene = Scene::set().await?;
    let commit = "0123456789abcdef".repeat(3)[..40].to_owned();
    let exec = Exec {
        git: Some(GitCommit {
            url: URL.to_owned(),
            commit: commit.clone(),
        }),
        ..Exec::new(vec!["true".to_owned()])
    };
    let honest = job(&scene, Spec::Exec(exec));
    altered(&scene, &honest, (URL, "http://127.0.0.1:1/evil.git")).await?;
    let seen = altered(&scene, &honest, (commit.as_str(), &"f".repeat(40))).await?;
    ensure!(
        scene.offer(&honest, &[]).await? == OfferReply::Accepted,
        "the honest one is not taken"
    );
    Ok(seen)
}
