//! The hub of `lictor up`, and the home's acquaintance with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lictor_client::{Hub as Client, HubAddress, TrustStore};
use lictor_hub::{Hub, HubConfig};
use lictor_link::dial::HubUrl;
use lictor_proto::Code;
use lictor_proto::api::TrustPushed;

use crate::commands::hub;
use crate::failure::{Doing as _, Failure, Result};
use crate::session::{Session, failed};

/// Where the hub listens at first, when nobody says otherwise: this machine only.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8420);

/// The running hub.
pub(super) struct Control {
    hub: Hub,
}

impl Control {
    /// Starts the hub of this home.
    pub(super) async fn start(session: &Session, listen: Option<SocketAddr>) -> Result<Self> {
        let mut config = HubConfig::new(session.home.dir().join("hub"));
        config.listen = listen.or_else(|| last_address(session)).unwrap_or(DEFAULT_LISTEN);
        let hub = hub::start(config).await.map_err(|f| match listen {
            Some(_) => f,
            None => f.hint("Choose another address with --listen 127.0.0.1:PORT; port 0 takes any free one."),
        })?;
        Ok(Self { hub })
    }

    /// The address for people on this machine.
    pub(super) fn url(&self) -> String {
        let scheme = if self.hub.addr.ip().is_loopback() {
            "http"
        } else {
            "https"
        };
        format!("{scheme}://{}", self.reachable())
    }

    /// The address that listens, as this machine reaches it.
    fn reachable(&self) -> SocketAddr {
        let mut addr = self.hub.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        addr
    }

    /// Writes the hub's address and a token into the home, and hands the hub the law.
    pub(super) async fn introduce(&self, session: &mut Session, store: &TrustStore) -> Result<Client> {
        let address = HubAddress {
            url: self.url(),
            spki: (!self.hub.addr.ip().is_loopback()).then_some(self.hub.web_spki),
            link_url: Some(format!("https://{}", self.reachable())),
            link_spki: Some(self.hub.link_spki),
        };
        if session.config.hub.as_ref() != Some(&address) {
            session.config.hub = Some(address);
            session
                .home
                .write_config(&session.config)
                .doing("write the configuration")?;
        }
        for _ in 0..2 {
            if session.home.token().doing("read the API token")?.is_some() {
                let client = session.hub()?;
                match store.hand_over(&client).await {
                    Ok(pushed) => return taken(session, pushed).map(|()| client),
                    // The hub's directory was thrown away, or this token revoked: it is asked anew.
                    Err(e) if matches!(e.code(), Code::Unauthenticated | Code::NotFound) => {}
                    Err(e) => return Err(failed("give the hub the law", &e)),
                }
            }
            let docs = store.trust().docs();
            let root = docs.roots.first().map_or("", String::as_str);
            let (_, token) = self
                .hub
                .create_org(root, "lictor up")
                .await
                .map_err(|e| Failure::new("the hub did not take the org").because(&e))?;
            session.home.write_token(&token).doing("write the API token")?;
        }
        Err(Failure::new("the hub does not accept its own token").code(Code::Unauthenticated))
    }

    /// Ends the hub in order.
    pub(super) async fn stop(self) {
        self.hub.shutdown().await;
    }
}

/// What the hub said of the law that it was handed; nothing, when that is for a person to hand over.
pub(super) fn taken(session: &Session, pushed: Option<TrustPushed>) -> Result<()> {
    let Some(pushed) = pushed else {
        session.out.note(
            "warning: the hub is not given the new root, since no law is in force under it: sign that first, or `lictor org push`",
        );
        return Ok(());
    };
    match pushed.refused.first() {
        Some(refusal) => Err(Failure::refused("the hub refused the law", refusal)),
        None => Ok(()),
    }
}

/// Where the hub listened last time, so that what people bookmarked goes on working.
fn last_address(session: &Session) -> Option<SocketAddr> {
    let url: HubUrl = session.config.hub.as_ref()?.url.parse().ok()?;
    Some(SocketAddr::new(url.host.parse().ok()?, url.port))
}
