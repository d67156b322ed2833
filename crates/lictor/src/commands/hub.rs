//! `lictor hub`: the control plane as a program of its own.

use lictor_hub::{Hub, HubConfig};
use serde_json::json;

use crate::args::{Hub as Args, HubCommand, HubOrgCommand, HubOrgCreate, Serve};
use crate::commands::daemon;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;

pub(crate) fn run(args: &Args, out: Out) -> Result {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .doing("start")
    };
    match &args.command {
        HubCommand::Serve(args) => {
            let config = config(&args.config)?;
            if args.check_config {
                let value = json!({ "dir": config.dir, "listen": config.listen });
                out.either(&value, || format!("{} is good", args.config.display()))?;
                return Ok(Status::OK);
            }
            daemon::log(out);
            runtime()?.block_on(serve(args, config, out))
        }
        HubCommand::Org(org) => {
            let HubOrgCommand::Create(args) = &org.command;
            runtime()?.block_on(create(args, out))
        }
    }
}

fn config(path: &std::path::Path) -> Result<HubConfig> {
    HubConfig::load(path).doing(format!("use the configuration {}", path.display()))
}

async fn serve(_: &Serve, config: HubConfig, out: Out) -> Result {
    let hub = start(config).await?;
    let value =
        json!({ "ready": true, "addr": hub.addr, "link_spki": hub.link_spki, "web_spki": hub.web_spki });
    out.object(&value)?;
    daemon::terminated().await;
    hub.shutdown().await;
    Ok(Status::OK)
}

/// Starts a hub.
pub(crate) async fn start(config: HubConfig) -> Result<Hub> {
    Hub::start(config)
        .await
        .map_err(|e| Failure::new("the hub cannot start").because(&e))
}

async fn create(args: &HubOrgCreate, out: Out) -> Result {
    let root = std::fs::read_to_string(&args.root).doing(format!("read {}", args.root.display()))?;
    let mut config = config(&args.config)?;
    // The hub itself may be running on its own address; this one only opens the same database.
    config.listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let hub = start(config).await?;
    let created = hub.create_org(root.trim(), "first").await;
    let (web, link) = (hub.web_spki, hub.link_spki);
    hub.shutdown().await;
    let (org, token) = created.map_err(|e| Failure::new("the hub did not take the org").because(&e))?;
    let value = json!({ "org": org, "token": token, "web_spki": web, "link_spki": link });
    out.either(&value, || {
        out.note("a hub that is running takes notice when it is started again; this token is shown once:");
        format!("org        {org}\ntoken      {token}\nweb spki   {web}\nlink spki  {link}")
    })?;
    Ok(Status::OK)
}
