//! `lictor connect`: points a home at an org on a hub, pinning the org by the id that somebody trusted gave.

use std::io::Read as _;

use lictor_client::{Config, Error, Home, HomeError, Hub, HubAddress, TrustStore};
use serde_json::json;

use crate::args::Connect;
use crate::commands::keys;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::{failed, warn};

pub(crate) async fn run(home: &Home, args: &Connect, out: Out) -> Result {
    // Fails here, before anything is written, when there is no such key.
    keys::load(home, &args.key)?;
    let token = token(args)?;
    let address = HubAddress {
        url: args.url.clone(),
        spki: args.spki,
        link_url: None,
        link_spki: args.link_spki,
    };
    let hub = Hub::new(&address, Some(&token)).map_err(|e| failed("use the hub's address", &e))?;
    let view = hub.trust().await.map_err(|e| failed("fetch the org's law", &e))?;
    let root = view
        .docs
        .roots
        .first()
        .ok_or_else(|| Failure::new("the hub has no root of this org"))?;
    let mut store = match TrustStore::open(home, &args.org) {
        Ok(store) => store,
        Err(Error::Home(HomeError::Missing(_))) => {
            TrustStore::pin(home, &args.org, root).map_err(|e| failed("pin the org", &e))?
        }
        // What is pinned is never given up for what a hub shows, whatever is wrong with it.
        Err(e) => {
            return Err(failed("read the pinned trust of this home", &e)
                .hint("A home acts for one org: LICTOR_HOME, or --home, names another."));
        }
    };
    let news = store
        .refresh(&hub)
        .await
        .map_err(|e| failed("fetch law and nodes", &e))?;
    warn(out, &news);
    home.write_token(&token).doing("write the API token")?;
    home.write_config(&Config {
        org: args.org.clone(),
        operator: args.operator.clone(),
        key: args.key.clone(),
        hub: Some(address),
    })
    .doing("write the configuration")?;
    let version = store.trust().bundle().map(|b| b.version);
    let refused: Vec<_> = news.law.refused.iter().map(|(_, r)| r).collect();
    let value = json!({ "org": args.org, "operator": args.operator, "bundle": version, "refused": refused });
    out.either(&value, || {
        let law = version.map_or_else(|| "no law yet".to_owned(), |v| format!("law {v}"));
        format!("this home acts as {} for org {} ({law})", args.operator, args.org)
    })?;
    Ok(Status::OK)
}

fn token(args: &Connect) -> Result<String> {
    let mut text = String::new();
    if args.token_file.as_os_str() == "-" {
        std::io::stdin()
            .take(4096)
            .read_to_string(&mut text)
            .doing("read the API token")?;
    } else {
        text =
            std::fs::read_to_string(&args.token_file).doing(format!("read {}", args.token_file.display()))?;
    }
    Ok(text.trim().to_owned())
}
