//! Lies to people who are to approve: what nodes ask and who has signed, withheld, exchanged and doubled.

use anyhow::{Result, bail, ensure};
use lictor_proto::agent::OfferReply;
use lictor_proto::doc::Job;
use lictor_proto::{Code, Digest, JobId, NodeId};
use serde_json::{Value, json};

use super::attacks;
use crate::hostile::client::Client;
use crate::hostile::org::{digest, signed};
use crate::hostile::{Place, Scene, Seen};

attacks! {
    hub_withholds_an_ask_from_an_approver => None,
    hub_shows_an_approver_the_ask_of_another_job => Some(Code::WrongJob),
    hub_tells_people_of_one_approval_twice => None,
    hub_has_another_job_canceled_than_the_one_that_is_named => Some(Code::WrongJob),
}

/// A hub with a job that waits, and somebody who looks at it.
struct Desk {
    scene: Scene,
    client: Client,
    job: String,
    id: String,
}

impl Desk {
    /// Carol's job, with the node's ask, all of it shown as it is.
    async fn set() -> Result<Self> {
        let scene = Scene::set().await?;
        let (job, ask) = waits(&scene, scene.job("carol", &["true"])).await?;
        let client = Client::of(&scene)?;
        let id = JobId::from_digest(&digest(&job)?);
        scene.hub.people().show_job(&id, job.clone());
        scene.hub.people().show_asks(vec![ask]);
        let desk = Self {
            scene,
            client,
            job,
            id: id.to_string(),
        };
        // Alice signs for it then; this hub takes no approvals, so that is as far as it comes.
        let honest = desk.approves().await?;
        ensure!(
            honest.contains("could not hand in the approval"),
            "an honest hub: {honest}"
        );
        Ok(desk)
    }

    /// What is said to somebody who approves; it must not be taken for done.
    async fn approves(&self) -> Result<String> {
        let done = self.client.types(&["approve", "--yes", &self.id]).await?;
        ensure!(
            done.code()? == 125,
            "IT GOT THROUGH: {}\n{}",
            done.text(),
            done.stderr
        );
        Ok(done.stderr)
    }
}

/// Carol's job and the node's ask, as they are signed.
async fn waits(scene: &Scene, job: Job) -> Result<(String, String)> {
    let job = signed(&job, &["carol"]);
    match scene.offer(&job, &[]).await? {
        OfferReply::Ask(ask) => Ok((job, ask)),
        other => bail!("the agent answered {other:?}"),
    }
}

async fn hub_withholds_an_ask_from_an_approver() -> Result<Seen> {
    let desk = Desk::set().await?;
    desk.scene.hub.people().show_asks(Vec::new());
    let said = desk.approves().await?;
    ensure!(
        said.contains("0 of 1 nodes have asked") && !said.contains("hand in"),
        "{said}"
    );
    // Of another node its papers as well, so that nothing here proves that there is one.
    let other = NodeId::derive(&desk.scene.org.id, &Digest::of(b"another").0);
    let mut wide = desk.scene.job("carol", &["true"]);
    wide.nodes.push(other.clone());
    wide.nodes.sort();
    let (job, ask) = waits(&desk.scene, wide).await?;
    let id = JobId::from_digest(&digest(&job)?);
    desk.scene.hub.people().show_job(&id, job);
    desk.scene.hub.people().show_asks(vec![ask]);
    let done = desk.client.types(&["approve", "--yes", id.as_str()]).await?;
    let said = &done.stderr;
    ensure!(done.code()? == 125, "IT GOT THROUGH: {}\n{said}", done.text());
    ensure!(
        said.contains("1 of 2 nodes have asked")
            && said.contains(other.as_str())
            && !said.contains("hand in"),
        "{said}"
    );
    Ok(Seen {
        code: None,
        at: Place::Client,
    })
}

async fn hub_shows_an_approver_the_ask_of_another_job() -> Result<Seen> {
    let desk = Desk::set().await?;
    let (_, other) = waits(&desk.scene, desk.scene.job("carol", &["echo", "something else"])).await?;
    desk.scene.hub.people().show_asks(vec![other]);
    desk.client
        .refuses_to(&["approve", "--yes", &desk.id], Code::WrongJob)
        .await
}

async fn hub_tells_people_of_one_approval_twice() -> Result<Seen> {
    let desk = Desk::set().await?;
    let listed = async |approvals: Vec<String>| -> Result<Value> {
        desk.scene.hub.people().show_approvals(approvals);
        let done = desk.client.types(&["--json", "approvals"]).await?;
        let all: Value = serde_json::from_slice(&done.stdout)?;
        Ok(json!([all[0]["approvals"], all[0]["waits_for"][0]["missing"]]))
    };
    let of = |who: &str| -> Result<String> {
        Ok(signed(&desk.scene.org.approval(digest(&desk.job)?, who), &[who]))
    };
    let (bobs, erins) = (of("bob")?, of("erin")?);
    assert_eq!(
        listed(vec![bobs.clone(), erins]).await?,
        json!([2, null]),
        "an honest hub"
    );
    // The same, another of the same person, one that the hub has made, and one of who asked for the job.
    let twice = vec![
        bobs.clone(),
        bobs,
        signed(&desk.scene.org.approval(digest(&desk.job)?, "bob"), &["bob-2"]),
        signed(&desk.scene.org.approval(digest(&desk.job)?, "erin"), &["the hub"]),
        of("carol")?,
    ];
    let told = listed(twice).await?;
    ensure!(told == json!([1, 1]), "IT GOT THROUGH: {told}");
    Ok(Seen {
        code: None,
        at: Place::Client,
    })
}

async fn hub_has_another_job_canceled_than_the_one_that_is_named() -> Result<Seen> {
    let desk = Desk::set().await?;
    // Of what nobody in the roster has signed, a cancel is signed for the very bytes that have this id.
    let unknown = signed(&desk.scene.job("carol", &["true"]), &["the hub"]);
    let id = JobId::from_digest(&digest(&unknown)?);
    desk.scene.hub.people().show_job(&id, unknown.clone());
    let honest = desk.client.types(&["cancel", id.as_str()]).await?;
    ensure!(
        honest.stderr.contains("could not cancel job"),
        "an honest hub, which takes none: {}",
        honest.stderr
    );
    let named: JobId = desk.id.parse()?;
    desk.scene.hub.people().show_job(&named, unknown);
    desk.client
        .refuses_to(&["cancel", &desk.id], Code::WrongJob)
        .await
}
