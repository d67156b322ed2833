//! `lictor doctor`: looks at everything that a job needs and says what is missing, with the fix.

#[cfg(feature = "agent")]
mod node;
#[cfg(feature = "agent")]
mod sandboxes;

use lictor_client::{Hub, TrustStore};
use lictor_proto::Timestamp;
use lictor_trust::keyfile;
use serde::Serialize;

use crate::args::{Doctor, Global};
use crate::escape::escape;
use crate::exit::{self, Status};
use crate::failure::Result;
use crate::out::Out;
use crate::session::Session;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    level: Level,
    /// Whether it is no fault.
    ok: bool,
    says: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

/// How something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Not there, which is a fault only for who needs it.
    #[cfg_attr(not(feature = "agent"), expect(dead_code))]
    Lacks,
    /// A fault.
    Wrong,
}

impl Level {
    fn mark(self) -> &'static str {
        match self {
            Self::Ok => "ok  ",
            Self::Lacks => "lack",
            Self::Wrong => "FAIL",
        }
    }
}

impl Finding {
    fn new(what: impl Into<String>, level: Level, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            level,
            ok: level != Level::Wrong,
            says: says.into(),
            fix: fix.into(),
        }
    }

    fn good(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self::new(what, Level::Ok, says, "")
    }

    fn bad(what: impl Into<String>, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(what, Level::Wrong, says, fix)
    }
}

#[cfg_attr(not(feature = "agent"), expect(unused_variables))]
pub(crate) async fn run(global: &Global, args: &Doctor, out: Out) -> Result {
    let mut findings = vec![Finding::good("lictor", env!("CARGO_PKG_VERSION"))];
    let session = Session::open(global, out);
    match &session {
        Ok(session) => of_home(session, &mut findings).await,
        Err(f) => findings.push(Finding::bad("home", f.to_string().replace('\n', ";"), "")),
    }
    #[cfg(feature = "agent")]
    findings.extend(of_host(session.ok().as_ref(), args).await);
    let healthy = findings.iter().all(|f| f.ok);
    let status = if healthy {
        Status::OK
    } else {
        Status(exit::OWN_ERROR)
    };
    let value = serde_json::json!({ "healthy": healthy, "findings": findings });
    out.either(&value, || {
        let lines = findings.iter().map(|f| {
            let fix = if f.fix.is_empty() {
                String::new()
            } else {
                format!("\n      fix: {}", escape(&f.fix))
            };
            format!("{}  {}: {}{fix}", f.level.mark(), f.what, escape(&f.says))
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(status)
}

/// What this machine could do as a node, or does.
#[cfg(feature = "agent")]
async fn of_host(session: Option<&Session>, args: &Doctor) -> Vec<Finding> {
    let store = session.and_then(|s| s.trust().ok());
    let law = store.as_ref().and_then(|store| store.trust().held().ok());
    let law = law.map(|files| &files.profiles);
    match node::Node::find(args, session) {
        Ok(node) => sandboxes::look(&node, law).await,
        Err(finding) => vec![finding],
    }
}

async fn of_home(session: &Session, findings: &mut Vec<Finding>) {
    let dir = session.home.dir().display().to_string();
    findings.push(Finding::good("home", dir));
    let key = session.home.key_path(&session.config.key);
    findings.push(match keyfile::is_encrypted(&key) {
        Ok(encrypted) => {
            let at_rest = if encrypted { "encrypted" } else { "not encrypted" };
            Finding::good("key", format!("{} ({at_rest})", session.config.key))
        }
        Err(e) => Finding::bad(
            "key",
            e.to_string(),
            "`lictor keys new` makes one; the roster must list it.",
        ),
    });
    let store = match session.trust() {
        Ok(store) => store,
        Err(f) => {
            findings.push(Finding::bad(
                "law",
                f.to_string().replace('\n', ";"),
                "`lictor connect` pins an org.",
            ));
            return;
        }
    };
    law(&store, findings);
    match session.hub() {
        Ok(hub) => of_hub(&hub, store, findings).await,
        Err(f) => findings.push(Finding::bad("hub", f.to_string().replace('\n', ";"), "")),
    }
}

fn law(store: &TrustStore, findings: &mut Vec<Finding>) {
    let now = Timestamp::now();
    findings.push(match store.trust().law(now) {
        Ok(law) => {
            let left = law.meta.expires_at.since(now).as_secs() / 86_400;
            let says = format!("version {}, {left} days left", law.meta.version);
            if left < 7 {
                Finding::bad(
                    "law",
                    says,
                    "Sign and push anew: `lictor org sign`, `lictor org push`.",
                )
            } else {
                Finding::good("law", says)
            }
        }
        Err(r) => Finding::bad("law", r.to_string(), r.code.hint()),
    });
}

async fn of_hub(hub: &Hub, mut store: TrustStore, findings: &mut Vec<Finding>) {
    match hub.health().await {
        Ok(health) if health.version == env!("CARGO_PKG_VERSION") => {
            findings.push(Finding::good("hub", format!("{} answers", hub.url())));
        }
        Ok(health) => findings.push(Finding::bad(
            "hub",
            format!(
                "{} is version {}, this is {}",
                hub.url(),
                health.version,
                env!("CARGO_PKG_VERSION")
            ),
            "Update the older one.",
        )),
        Err(e) => {
            findings.push(Finding::bad("hub", chain(&e), e.code().hint()));
            return;
        }
    }
    match store.refresh(hub).await {
        Ok(news) => {
            for (kind, refusal) in &news.law.refused {
                findings.push(Finding::bad(
                    "hub's law",
                    format!("{}: {refusal}", kind.as_str()),
                    refusal.code.hint(),
                ));
            }
        }
        Err(e) => {
            findings.push(Finding::bad("API token", chain(&e), e.code().hint()));
            return;
        }
    }
    if let Ok(nodes) = hub.nodes().await {
        for node in nodes {
            let name = format!("node {}", node.name);
            let beat = node.heartbeat.as_ref();
            let deny = beat.and_then(|b| b.law.deny_all.as_ref());
            findings.push(match (node.connected, beat, deny) {
                (_, _, Some(r)) => Finding::bad(name, r.to_string(), r.code.hint()),
                (false, ..) => Finding::bad(
                    name,
                    "is not connected",
                    "Is the machine up, and `lictor agent run` on it?",
                ),
                (true, Some(b), None) => {
                    // Its own word and the hub's, good enough to notice a clock that is off.
                    let now = Timestamp::now();
                    let off = now.since(b.at).max(b.at.since(now)).as_secs();
                    if off > 120 {
                        Finding::bad(
                            name,
                            format!("its clock and this one differ by {off} s"),
                            "Set the clocks.",
                        )
                    } else {
                        Finding::good(name, format!("connected, agent {}", b.agent_version))
                    }
                }
                (true, None, None) => Finding::good(name, "connected"),
            });
        }
    }
}

fn chain(e: &lictor_client::Error) -> String {
    let mut text = e.to_string();
    let mut cause = std::error::Error::source(e);
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
