//! `lictor nodes`: the machines, as far as their documents hold, and signed leave for new ones to join.

use std::net::IpAddr;

use lictor_client::{GrantOptions, Hub, Signer, TrustStore};
use lictor_link::dial::HubUrl;
use lictor_proto::Code;
use lictor_proto::doc::Token;
use lictor_trust::SecretKey;
use serde_json::json;

use crate::args::{Grant, Nodes, NodesCommand};
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::table;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Nodes) -> Result {
    let hub = session.hub()?;
    match &args.command {
        None | Some(NodesCommand::Ls) => list(session, &hub).await,
        Some(NodesCommand::Grant(grant)) => make_grant(session, &hub, grant).await,
    }
}

async fn list(session: &Session, hub: &Hub) -> Result {
    let mut store = session.trust()?;
    session.refresh(&mut store, hub).await?;
    let views = hub.nodes().await.map_err(|e| failed("list the nodes", &e))?;
    let directory = store.directory().map_err(|e| failed("read the nodes", &e))?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for node in directory.iter().filter(|n| !n.replaced) {
        // Name, kind and labels are proven; whether it is there is only what the hub says.
        let view = views.iter().find(|v| v.node_id == *node.id());
        let ambiguous = directory.resolve(node.name()).is_err();
        let connected = view.is_some_and(|v| v.connected);
        let beat = view.and_then(|v| v.heartbeat.as_ref());
        let groups: Vec<_> = node.groups.iter().map(ToString::to_string).collect();
        let state = match (ambiguous, connected) {
            (true, _) => "ambiguous",
            (false, true) => "connected",
            (false, false) => "away",
        };
        rows.push(vec![
            node.name().to_string(),
            state.to_owned(),
            format!("{:?}", node.kind).to_lowercase(),
            groups.join(","),
            beat.map_or_else(String::new, |b| escape(&b.agent_version)),
            node.id().to_string(),
        ]);
        values.push(json!({
            "name": node.name(), "node_id": node.id(), "kind": node.kind, "labels": node.labels, "groups": groups,
            "connected": connected, "ambiguous": ambiguous, "last_seen_at": view.and_then(|v| v.last_seen_at),
            "heartbeat": beat,
        }));
    }
    session.out.either(&values, || {
        table(&["name", "state", "kind", "groups", "agent", "id"], &rows)
    })?;
    Ok(Status::OK)
}

async fn make_grant(session: &Session, hub: &Hub, args: &Grant) -> Result {
    let store = session.fresh_trust(hub).await?;
    let token = token(session, hub, &store, args).await?;
    let value = json!({ "token": token.encode(), "grant": token.grant_digest, "name": args.name });
    if is_only_here(&token.hub_url) {
        session.out.note(format!(
            "the token says {}, which only this machine reaches. For another one the hub must listen where that one \
             reaches it (`lictor up --listen 0.0.0.0:8420`) and the grant must say so \
             (`lictor nodes grant {} --hub-url https://ADDRESS:8420`)",
            token.hub_url, args.name
        ));
    }
    session.out.either(&value, || {
        session
            .out
            .note("on the new machine, as root (the token is a secret until it is used):");
        format!(
            "lictor agent enroll --token {} && lictor agent run",
            token.encode()
        )
    })?;
    Ok(Status::OK)
}

/// Whether an address means the machine itself, wherever it is read.
fn is_only_here(url: &str) -> bool {
    let host = url.parse::<HubUrl>().map_or_else(|_| String::new(), |u| u.host);
    host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: IpAddr| ip.is_loopback() || ip.is_unspecified())
}

/// Signs a grant, gives it to the hub, and makes the token, which the hub never sees.
pub(crate) async fn token(session: &Session, hub: &Hub, store: &TrustStore, args: &Grant) -> Result<Token> {
    let trust = store.trust();
    let address = session.config.hub.as_ref();
    let spki = address.and_then(|a| a.link_spki).ok_or_else(|| {
        Failure::new("this home does not know the hub's link key, which a new machine must pin")
            .hint("`lictor connect --link-spki sha256:...`; the hub prints it when it starts.")
    })?;
    let known = address.map_or("", |a| a.link_url.as_ref().unwrap_or(&a.url));
    let hub_url = args
        .hub_url
        .as_deref()
        .unwrap_or(known)
        .replacen("http://", "https://", 1);
    hub_url.parse::<HubUrl>().map_err(|e| {
        Failure::new(format!("--hub-url: {e}"))
            .hint("It is the hub as the new machine reaches it: https://HOST:PORT.")
    })?;
    let key = session.key(None)?;
    let join = SecretKey::generate().doing("make the join key")?;
    let options = GrantOptions {
        join_key: join.public(),
        name: args.name.clone(),
        kind: args.kind.into(),
        labels: args.labels.iter().cloned().collect(),
        uses: args.uses,
        ttl: args.ttl,
        replaces: args.replaces.clone(),
    };
    let grant = Signer::new(trust, &session.config.operator, &key)
        .grant(options)
        .map_err(|r| Failure::refused("could not sign the grant", &r))?;
    // A grant that the law does not allow is found here, not on the new machine.
    trust.verify_grant(&grant.wire).map_err(|r| {
        let failure = Failure::refused("the law does not allow this grant", &r);
        if r.code == Code::GrantNotAllowed {
            failure.exit(crate::exit::DENIED)
        } else {
            failure
        }
    })?;
    hub.push_grant(&grant.wire)
        .await
        .map_err(|e| failed("push the grant", &e))?;
    Ok(Token {
        hub_url,
        hub_spki: spki,
        org_id: session.config.org.clone(),
        min_root: trust.root().version,
        min_bundle: trust.bundle().map_or(0, |b| b.version),
        grant_digest: grant.digest,
        join_seed: *join.seed(),
    })
}
