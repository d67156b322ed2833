//! Lies about which machine is which, told to people's programs.

use std::time::Duration;

use anyhow::{Result, ensure};
use lictor_proto::doc::{Grant, NodeRecord};
use lictor_proto::{Code, Envelope, NodeId, Timestamp, limits};
use lictor_trust::NodeSecrets;
use lictor_trust::enrol::RecordOf;
use lictor_trust::keys::PublicLine;
use lictor_trust::sign::to_wire;

use super::attacks;
use super::client::set;
use crate::hostile::client::Client;
use crate::hostile::org::{NODE, digest, key, name, signed};
use crate::hostile::{Scene, Seen};

attacks! {
    hub_lists_a_node_with_keys_of_its_own => Some(Code::NodeUnknown),
    hub_lists_a_node_under_a_record_of_its_own => Some(Code::NodeUnknown),
    hub_lists_a_second_record_for_a_name => Some(Code::AmbiguousName),
    hub_lists_a_second_machine_on_one_grant => Some(Code::GrantUsed),
    hub_lists_a_node_that_an_expired_key_granted => Some(Code::NodeUnknown),
    hub_forges_the_labels_in_a_listing => Some(Code::NodeUnknown),
}

/// A grant and a record, as a hub lists them.
type Papers = (String, String);

/// What a hub shows instead of the node; the home has not seen the node before.
async fn listing(papers: impl FnOnce(&Scene) -> Result<Papers>) -> Result<Seen> {
    let (scene, before) = set().await?;
    let client = Client::of(&scene)?;
    scene.hub.people().hide_nodes();
    let papers = papers(&scene)?;
    scene.hub.people().show_node(&scene.id, &name(NODE), papers);
    let done = client
        .types(&["run", "--profile", "host", NODE, "--", "true"])
        .await?;
    ensure!(
        done.stderr.contains("does not hold"),
        "said nothing of the record:\n{}",
        done.stderr
    );
    let seen = client.refuses(Code::NodeUnknown).await?;
    // A home that knows the node is not impressed.
    before.runs().await?;
    Ok(seen)
}

/// A machine with keys of its own that signs itself into a grant by this join key, at this time.
fn machine(
    scene: &Scene,
    grant: String,
    called: &str,
    join: &str,
    at: Timestamp,
) -> Result<(NodeId, Papers)> {
    let (secrets, papers) = machine_with_keys(scene, grant, called, join, at)?;
    Ok((secrets.node_id(&scene.org.id), papers))
}

fn machine_with_keys(
    scene: &Scene,
    grant: String,
    called: &str,
    join: &str,
    at: Timestamp,
) -> Result<(NodeSecrets, Papers)> {
    let stand = RecordOf {
        org: &scene.org.id,
        grant: digest(&grant)?,
        name: &name(called),
        epoch: 1,
        issued_at: at,
    };
    let secrets = NodeSecrets::generate()?;
    let record = to_wire(&secrets.record(&stand, &key(join)));
    Ok((secrets, (grant, record)))
}

/// As [`second_machine`], with its keys.
pub(super) fn second_machine_with_keys(scene: &Scene, called: &str) -> Result<(NodeSecrets, Papers)> {
    let grant = signed(&scene.org.grant(called, "another join", &[]), &["alice"]);
    machine_with_keys(scene, grant, called, "another join", scene.org.now())
}

/// Another machine, truly enrolled under this name: its id, grant and record.
pub(super) fn second_machine(scene: &Scene, called: &str) -> Result<(NodeId, Papers)> {
    let grant = signed(&scene.org.grant(called, "another join", &[]), &["alice"]);
    machine(scene, grant, called, "another join", scene.org.now())
}

/// The true record, with the hub's own keys in it.
async fn hub_lists_a_node_with_keys_of_its_own() -> Result<Seen> {
    listing(|scene| {
        let (grant, record) = scene.papers.clone();
        let mut envelope = Envelope::parse(record.as_bytes(), limits::ENVELOPE)?;
        let mut doc: NodeRecord = lictor_proto::json::from_slice(&envelope.payload)?;
        doc.e2e_key = key("the hub").public();
        envelope.payload = lictor_proto::json::to_vec(&doc)?;
        Ok((grant, String::from_utf8(envelope.to_bytes())?))
    })
    .await
}

/// A record of a machine of the hub's, on the true grant, without the join key.
async fn hub_lists_a_node_under_a_record_of_its_own() -> Result<Seen> {
    listing(|scene| {
        let grant = scene.papers.0.clone();
        let (_, papers) = machine(scene, grant, NODE, "the hub", scene.org.now())?;
        Ok(papers)
    })
    .await
}

async fn hub_forges_the_labels_in_a_listing() -> Result<Seen> {
    listing(|scene| {
        let (grant, record) = scene.papers.clone();
        let mut envelope = Envelope::parse(grant.as_bytes(), limits::ENVELOPE)?;
        let payload = String::from_utf8(envelope.payload)?;
        envelope.payload = payload.replace("\"web\"", "\"vault\"").into_bytes();
        Ok((String::from_utf8(envelope.to_bytes())?, record))
    })
    .await
}

/// Whoever stole the token enrolled a machine of theirs: which of the two is it? The home knew only one so far.
async fn hub_lists_a_second_machine_on_one_grant() -> Result<Seen> {
    let (scene, client) = set().await?;
    let grant = scene.papers.0.clone();
    let (id, papers) = machine(&scene, grant, NODE, "join", scene.org.now())?;
    scene.hub.people().show_node(&id, &name(NODE), papers);
    client.asks_again()?;
    client.refuses(Code::GrantUsed).await?;
    // By its id as well, which the home had accepted.
    let by_id = ["run", "--profile", "host", scene.id.as_str(), "--", "true"];
    client.refuses_to(&by_id, Code::GrantUsed).await
}

/// Two machines enrolled under one name, both truly; which one it is, only a person can say.
async fn hub_lists_a_second_record_for_a_name() -> Result<Seen> {
    let (scene, _) = set().await?;
    let client = Client::of(&scene)?;
    let (id, papers) = second_machine(&scene, NODE)?;
    scene.hub.people().show_node(&id, &name(NODE), papers);
    client.refuses(Code::AmbiguousName).await
}

/// A key that somebody kept after its end signs a grant dated back. A home that asked the hub since then knows that
/// there was no such grant.
async fn hub_lists_a_node_that_an_expired_key_granted() -> Result<Seen> {
    const MINUTE: Duration = Duration::from_secs(60);
    let mut scene = Scene::set().await?;
    let ago = |minutes: u32| {
        let by = u64::from(minutes) * 60_000;
        Timestamp::from_millis(scene.org.now().as_millis() - by)
    };
    let (granted, ended) = (ago(30), ago(20));
    let line = PublicLine {
        key: key("zoe").public(),
        comment: None,
    };
    let zoe = format!(
        "\n[operators.zoe]\nkind = \"person\"\ngroups = [\"admins\"]\n\
         [[operators.zoe.keys]]\npublic = \"{line}\"\nexpires_at = \"{ended}\"\n"
    );
    scene.org.next_bundle(|b| {
        *b.files.entry("roster.toml".into()).or_default() += &zoe;
    });
    scene.push(scene.org.docs()).await?;
    let client = Client::of(&scene)?;
    client.runs().await?;

    let grant = Grant {
        operator: name("zoe"),
        issued_at: granted,
        expires_at: granted.plus(60 * MINUTE),
        ..scene.org.grant("web-9", "zoe's join", &[])
    };
    let grant = signed(&grant, &["zoe"]);
    let (id, papers) = machine(&scene, grant, "web-9", "zoe's join", granted)?;
    scene.hub.people().show_node(&id, &name("web-9"), papers);
    client.asks_again()?;
    let words = ["run", "--profile", "host", "web-9", "--", "true"];
    let said = client.types(&words).await?;
    ensure!(said.stderr.contains("key_expired"), "{}", said.stderr);
    client.refuses_to(&words, Code::NodeUnknown).await
}
