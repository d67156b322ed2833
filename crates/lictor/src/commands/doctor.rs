//! `lictor doctor`: looks at everything that a job needs and says what is missing, with the fix.

use lictor_client::{Hub, TrustStore};
use lictor_proto::Timestamp;
use lictor_trust::keyfile;
use serde::Serialize;

use crate::args::Global;
use crate::escape::escape;
use crate::exit::{self, Status};
use crate::failure::Result;
use crate::out::Out;
use crate::session::Session;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    ok: bool,
    says: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

impl Finding {
    fn good(what: impl Into<String>, says: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok: true,
            says: says.into(),
            fix: String::new(),
        }
    }

    fn bad(what: impl Into<String>, says: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            ok: false,
            says: says.into(),
            fix: fix.into(),
        }
    }
}

pub(crate) async fn run(global: &Global, out: Out) -> Result {
    let mut findings = vec![Finding::good("lictor", env!("CARGO_PKG_VERSION"))];
    match Session::open(global, out) {
        Ok(session) => of_home(&session, &mut findings).await,
        Err(f) => findings.push(Finding::bad("home", f.to_string().replace('\n', ";"), "")),
    }
    #[cfg(feature = "agent")]
    sandboxes(&mut findings).await;
    let healthy = findings.iter().all(|f| f.ok);
    let status = if healthy {
        Status::OK
    } else {
        Status(exit::OWN_ERROR)
    };
    let value = serde_json::json!({ "healthy": healthy, "findings": findings });
    out.either(&value, || {
        let lines = findings.iter().map(|f| {
            let mark = if f.ok { "ok  " } else { "FAIL" };
            let fix = if f.fix.is_empty() {
                String::new()
            } else {
                format!("\n      fix: {}", f.fix)
            };
            format!("{mark}  {}: {}{fix}", f.what, escape(&f.says))
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    Ok(status)
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

#[cfg(feature = "agent")]
async fn sandboxes(findings: &mut Vec<Finding>) {
    let host = match lictor_sandbox::Host::start(super::agent::host_config()) {
        Ok(host) => host,
        Err(e) => {
            findings.push(Finding::bad(
                "sandboxes",
                e.to_string(),
                "Run it where processes may be started.",
            ));
            return;
        }
    };
    for report in host.reports().await {
        let name = format!("sandbox {}", report.name);
        findings.push(if report.usable {
            Finding::good(name, report.capabilities.join(", "))
        } else {
            Finding::bad(name, "cannot be used here", report.problem)
        });
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
