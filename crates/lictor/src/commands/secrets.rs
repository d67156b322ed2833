//! `lictor secret`: seals values to nodes on this machine. The hub gets ciphertext; no value is ever an argument.

use std::io::{IsTerminal as _, Read as _};

use lictor_client::secrets::{SecretMemory, SeenSecret, next_version, seal_for, verified};
use lictor_client::{Error, Hub, Signer, TrustStore};
use lictor_proto::doc::SecretUse;
use lictor_proto::{Code, Name, Timestamp, limits};
use lictor_trust::directory::Node;
use lictor_trust::seal::Bound;
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{Narrow, SecretSet, Secrets, SecretsCommand, Targets, UsedSecret};
use crate::commands::choice;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::table;
use crate::secret;
use crate::session::{Session, failed};

pub(crate) async fn run(session: &Session, args: &Secrets) -> Result {
    let hub = session.hub()?;
    match &args.command {
        SecretsCommand::Set(args) => set(session, &hub, args).await,
        SecretsCommand::Ls { name: None } => list(session, &hub).await,
        SecretsCommand::Ls { name: Some(name) } => show(session, &hub, name).await,
        SecretsCommand::Rm { name } => remove(session, &hub, name).await,
    }
}

async fn set(session: &Session, hub: &Hub, args: &SecretSet) -> Result {
    let mut store = session.fresh_trust(hub).await?;
    let targets = Targets {
        targets: args.nodes.clone(),
        all: args.all,
        narrow: Narrow::default(),
    };
    let nodes = choice::nodes(session, &mut store, hub, &targets).await?.nodes;
    let key = session.key(args.key.as_ref())?;
    let value = read_value(&args.name)?;
    let memory = SecretMemory::below(&session.home.trust_dir());
    let seen = memory
        .newest(&args.name)
        .map_err(|e| failed("read what this home has seen", &e))?;
    let at_hub = match hub.secret(&args.name).await {
        Ok(document) => Some(document),
        Err(Error::Refused(r)) if r.code == Code::NotFound => None,
        Err(e) => return Err(failed("ask for its newest version", &e)),
    };
    let version = next_version(
        store.trust(),
        &args.name,
        (at_hub.as_ref(), seen),
        Timestamp::now(),
    )
    .map_err(|e| failed("choose its version", &e))?;
    let bound = Bound {
        org: store.trust().org(),
        name: &args.name,
        version,
        operator: &session.config.operator,
    };
    let sealed =
        seal_for(&value, bound, &nodes).map_err(|r| Failure::refused("could not seal the value", &r))?;
    let signed = Signer::new(store.trust(), &session.config.operator, &key)
        .secret(&args.name, version, sealed)
        .map_err(|r| Failure::refused("could not sign the secret", &r))?;
    hub.put_secret(&signed.wire)
        .await
        .map_err(|e| failed("hand in the secret", &e))?;
    let seen = SeenSecret {
        version,
        digest: signed.digest,
    };
    memory
        .note(&args.name, seen)
        .map_err(|e| failed("remember its version", &e))?;
    let names: Vec<_> = nodes.iter().map(|n| n.name().as_str()).collect();
    let value = json!({
        "secret": args.name, "version": version, "digest": signed.digest, "nodes": names,
    });
    session.out.either(&value, || {
        format!("{} version {version}, sealed to {}", args.name, names.join(", "))
    })?;
    Ok(Status::OK)
}

/// From standard input to its end, exactly; at a terminal one line, typed twice and not shown.
fn read_value(name: &Name) -> Result<Zeroizing<Vec<u8>>> {
    if std::io::stdin().is_terminal() {
        return Ok(Zeroizing::new(secret::new_value(name.as_str())?.into_bytes()));
    }
    // All at once: a list that grows leaves copies behind.
    let mut value = Zeroizing::new(Vec::with_capacity(limits::SECRET + 1));
    let mut limited = std::io::stdin().lock().take(limits::SECRET as u64 + 1);
    limited
        .read_to_end(&mut value)
        .doing("read the value from standard input")?;
    Ok(value)
}

async fn list(session: &Session, hub: &Hub) -> Result {
    let secrets = hub.secrets().await.map_err(|e| failed("list the secrets", &e))?;
    session.out.either(&secrets, || {
        let rows: Vec<_> = secrets
            .iter()
            .map(|s| {
                vec![
                    s.name.to_string(),
                    s.version.to_string(),
                    s.operator.to_string(),
                    s.nodes.to_string(),
                    s.issued_at.to_string()[..19].to_owned(),
                ]
            })
            .collect();
        table(&["name", "version", "set by", "nodes", "set at"], &rows)
    })?;
    Ok(Status::OK)
}

async fn show(session: &Session, hub: &Hub, name: &Name) -> Result {
    let store = session.fresh_trust(hub).await?;
    let document = hub
        .secret(name)
        .await
        .map_err(|e| failed("ask for the secret", &e))?;
    let held = verified(store.trust(), name, &document, Timestamp::now())
        .map_err(|e| failed("verify the secret", &e))?;
    let directory = store.directory().map_err(|e| failed("read the nodes", &e))?;
    let nodes: Vec<_> = held
        .sealed
        .keys
        .iter()
        .map(|s| {
            let known = directory.iter().find(|n| *n.id() == s.node_id);
            known.map_or_else(|| s.node_id.to_string(), |n| n.name().to_string())
        })
        .collect();
    let value = json!({
        "name": name, "version": held.version, "digest": held.digest(), "operator": held.operator,
        "issued_at": held.issued_at, "nodes": nodes,
    });
    session.out.either(&value, || {
        format!(
            "{name} version {}, set by {} at {}\nsealed to {}",
            held.version,
            held.operator,
            &held.issued_at.to_string()[..19],
            nodes.join(", ")
        )
    })?;
    Ok(Status::OK)
}

async fn remove(session: &Session, hub: &Hub, name: &Name) -> Result {
    hub.remove_secret(name)
        .await
        .map_err(|e| failed(&format!("remove the secret {}", escape(name.as_str())), &e))?;
    session.out.either(&json!({ "removed": name }), || {
        format!(
            "the hub was told to delete {name}; whoever has copied a version keeps it, so change the value where it is used"
        )
    })?;
    Ok(Status::OK)
}

/// The secrets of a job, bound to exactly the documents that the hub has now, which hold and are sealed to all of its nodes.
pub(crate) async fn uses(
    session: &Session,
    (hub, store): (&Hub, &TrustStore),
    wanted: &[UsedSecret],
    nodes: &[Node],
) -> Result<Vec<SecretUse>> {
    let memory = SecretMemory::below(&session.home.trust_dir());
    let mut uses = Vec::with_capacity(wanted.len());
    for UsedSecret { name, delivery } in wanted {
        let what = format!("use the secret {name}");
        let document = hub.secret(name).await.map_err(|e| match e {
            Error::Refused(r) if r.code == Code::NotFound => {
                Failure::new(format!("the hub has no secret {name}")).code(Code::SecretMissing)
            }
            e => failed(&what, &e),
        })?;
        let held =
            verified(store.trust(), name, &document, Timestamp::now()).map_err(|e| failed(&what, &e))?;
        let seen = SeenSecret {
            version: held.version,
            digest: held.digest(),
        };
        memory.note(name, seen).map_err(|e| failed(&what, &e))?;
        let without: Vec<_> = nodes
            .iter()
            .filter(|n| held.sealed_for(n.id()).is_none())
            .map(|n| n.name().as_str())
            .collect();
        if !without.is_empty() {
            return Err(
                Failure::new(format!("the secret {name} is not sealed to all of the nodes"))
                    .code(Code::SecretNotForNode)
                    .why(format!("not to {}", without.join(", "))),
            );
        }
        uses.push(SecretUse {
            name: name.clone(),
            version: seen.version,
            digest: seen.digest,
            delivery: *delivery,
        });
    }
    uses.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(uses)
}
