//! `lictor up`: an org, a hub and a node on one machine, by one command.
//!
//! ```text
//! first start:  org demo, keys, law --> hub takes the org, gives a token --> grant, enrol --> agent --> ready
//! later starts: law renewed when it runs out soon --> hub --> agent, told the hub's address --> ready
//! ```
//! Every step looks whether it is done already, so a start that was cut off anywhere is simply started again. The
//! configuration is written once the org exists; `agent/node.json` once the node does.

mod control;
mod machine;

use std::collections::BTreeMap;
use std::time::Duration;

use lictor_agent::config::Sandbox;
use lictor_client::home::{make_dir, make_passage};
use lictor_client::{Config, Home, TrustStore};
use lictor_policy::starter::{self, Founder};
use lictor_proto::{Name, Timestamp};
use lictor_sandbox::Host;
use serde_json::json;

use crate::args::Up;
use crate::commands::{agent, daemon, org};
use crate::exit::Status;
use crate::failure::{Doing as _, Result};
use crate::out::Out;
use crate::session::{Session, failed};

use control::Control;
use machine::Machine;

/// Law with less than this left is renewed, at the start and while it runs.
const RENEW_BEFORE: Duration = Duration::from_secs(15 * DAY);
/// How often the law's age is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(DAY);
const DAY: u64 = 86_400;

pub(crate) fn run(args: &Up, out: Out) -> Result {
    // Before any thread: what starts jobs is a fork of the process as it is now.
    // All of the home is hidden from jobs: keys, token and the law's source lie around the agent's own directory in it.
    let host = agent::prepare_host(&Sandbox::default(), &args.dir, None)?;
    daemon::log(out);
    // The hub's thread; the agent has its own. More would only wake each other for a machine's own jobs.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .doing("start")?;
    runtime.block_on(up(args, host, out))
}

async fn up(args: &Up, host: Host, out: Out) -> Result {
    let mut stop = std::pin::pin!(daemon::terminated());
    let mut session = prepare(args, out)?;
    let mut store = session.trust()?;
    renew(&session, &mut store)?;
    let control = Control::start(&session, args.listen).await?;
    let mut machine = None;
    let started = tokio::select! {
        started = begin(&mut session, &mut store, &control, host, &mut machine) => started,
        // Asked to end before it was ready: what was started is ended in the same order.
        () = &mut stop => {
            wind_up(machine, control).await;
            return Ok(Status::OK);
        }
    };
    let died = match (started, &mut machine) {
        (Ok(()), Some(machine)) => {
            let ready = json!({ "ready": true, "url": control.url(), "node": machine::NAME });
            out.object(&ready)?;
            tokio::select! {
                () = &mut stop => Ok(()),
                ended = machine.ended() => ended,
                () = keep_law(&session) => Ok(()),
            }
        }
        (started, _) => started,
    };
    wind_up(machine, control).await;
    died.map(|()| Status::OK)
}

/// Everything between a hub that listens and a node that takes jobs.
async fn begin(
    session: &mut Session,
    store: &mut TrustStore,
    control: &Control,
    host: Host,
    machine: &mut Option<Machine>,
) -> Result<()> {
    let hub = control.introduce(session, store).await?;
    machine::enrol(session, store, &hub).await?;
    let started = machine.insert(Machine::start(session, host)?);
    started.ready(session, store, &hub).await
}

/// Renews the law before it runs out, for as long as it is polled. What fails is said, and tried again the next day.
async fn keep_law(session: &Session) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Err(failure) = renew_and_push(session).await {
            session
                .out
                .note(format!("the law could not be renewed: {failure}"));
        }
    }
}

async fn renew_and_push(session: &Session) -> Result<()> {
    // From disk: another command may have brought newer law since.
    let mut store = session.trust()?;
    renew(session, &mut store)?;
    let pushed = store.hand_over(&session.hub()?).await;
    control::taken(session, pushed.map_err(|e| failed("give the hub the law", &e))?)
}

/// The node first: what it still has to say, the hub still hears.
async fn wind_up(machine: Option<Machine>, control: Control) {
    if let Some(machine) = machine {
        machine.stop().await;
    }
    control.stop().await;
}

/// The home, with an org in it.
fn prepare(args: &Up, out: Out) -> Result<Session> {
    let home = Home::at(&args.dir);
    make_passage(home.dir()).doing("make the directory")?;
    make_dir(&home.dir().join("hub")).doing("make the hub's directory")?;
    if !home.config_path().exists() {
        let start: fn(&Founder<'_>) -> BTreeMap<String, String> = if args.starter_policy {
            starter::full
        } else {
            starter::demo
        };
        let name: Name = "demo".parse().doing("name the org")?;
        let operator: Name = "admin".parse().doing("name the operator")?;
        let founding = org::Founding {
            name: &name,
            operator: &operator,
            freshness: false,
            dir: home.org_dir(),
            start,
        };
        let config = Config {
            org: org::found(&home, &founding)?,
            key: operator.clone(),
            operator,
            hub: None,
        };
        home.write_config(&config).doing("write the configuration")?;
    }
    let config = home.config().doing("read the configuration")?;
    Ok(Session { home, config, out })
}

/// Signs the first law, and the same law again when it runs out soon.
fn renew(session: &Session, store: &mut TrustStore) -> Result<()> {
    let now = Timestamp::now();
    let left = store.trust().held().map(|law| law.meta.expires_at.since(now));
    if left.is_ok_and(|left| left > RENEW_BEFORE) {
        return Ok(());
    }
    let signers: [Name; 1] = ["bundle".parse().doing("name a key")?];
    let terms = org::Terms::default();
    let held = store.trust().bundle().map(|b| b.files.clone());
    let signed = match held {
        // What somebody is editing in the directory is theirs to sign.
        Some(files) => org::sign_files(&session.home, store, files, &signers, terms),
        None => org::sign_bundle(&session.home, store, &session.home.org_dir(), &signers, terms),
    };
    match signed {
        Ok(_) => Ok(()),
        // A key that is elsewhere by now is no reason not to start: the law held is still good.
        Err(failure) if store.trust().law(now).is_ok() => {
            session.out.note(format!(
                "the law runs out soon and could not be renewed: {failure}"
            ));
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}
