//! One file per command; each opens what it needs, does the work, and prints through [`crate::out`].

#[cfg(feature = "agent")]
mod agent;
mod approvals;
#[cfg(all(feature = "agent", unix))]
mod archive;
mod attempts;
mod audit;
mod bring;
mod cancel;
mod choice;
mod confirm;
mod connect;
mod cp;
#[cfg(any(feature = "hub", feature = "agent"))]
mod daemon;
mod doctor;
mod dossier;
#[cfg(all(feature = "agent", unix))]
mod download;
mod egress;
mod explain;
mod fleet;
#[cfg(feature = "hub")]
mod hub;
mod input;
mod jobs;
pub(crate) mod keys;
mod limits;
mod logs;
pub(crate) mod nodes;
mod notify;
mod org;
mod profiles;
mod receipt;
mod reject;
mod release;
mod result;
mod retry;
mod review;
mod rollout;
#[cfg(all(feature = "agent", unix))]
mod rootfs;
mod run;
mod said;
#[cfg(all(feature = "agent", unix))]
mod sandbox;
mod schedule;
mod screen;
mod secrets;
mod tokens;
#[cfg(all(feature = "hub", feature = "agent"))]
mod up;
mod watch;
mod work;
mod workspace;

use clap::CommandFactory as _;
use lictor_proto::{Code, Name};
use lictor_trust::LawFiles;

use crate::args::{Cli, Command};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::{Session, block_on, home};

/// A profile that the law does not have.
fn unknown_profile(files: &LawFiles, name: &Name) -> Failure {
    let names: Vec<&str> = files.profiles.profiles.keys().map(Name::as_str).collect();
    Failure::new(format!("there is no profile {name}"))
        .code(Code::ProfileUnknown)
        .why(format!("the law has {}", names.join(", ")))
}

/// Does what the command line says.
pub(crate) fn dispatch(cli: Cli, out: Out) -> Result {
    let global = &cli.global;
    let session = || Session::open(global, out);
    match &cli.command {
        #[cfg(all(feature = "hub", feature = "agent"))]
        Command::Up(args) => up::run(args, out),
        Command::Run(args) => block_on(run::run(&session()?, args)),
        Command::Cp(args) => block_on(cp::run(&session()?, args)),
        Command::Workspace(args) => block_on(workspace::run(&session()?, args)),
        Command::Jobs(args) => block_on(jobs::list(&session()?, args)),
        Command::Job(args) => block_on(jobs::show(&session()?, args)),
        Command::Logs(args) => block_on(logs::run(&session()?, args)),
        Command::Egress(args) => block_on(egress::run(&session()?, args)),
        Command::Cancel(args) => block_on(cancel::run(&session()?, args)),
        Command::Retry(args) => block_on(retry::run(&session()?, args)),
        Command::Rollout(args) => block_on(rollout::run(&session()?, args)),
        Command::Schedule(args) => block_on(schedule::run(&session()?, args)),
        Command::Release(args) => block_on(release::run(&session()?, args)),
        Command::Approvals => block_on(approvals::list(&session()?)),
        Command::Reject(args) => block_on(reject::run(&session()?, args)),
        Command::Review(args) => block_on(review::run(&session()?, args)),
        Command::Approve(args) => block_on(approvals::approve(&session()?, args)),
        Command::Explain(args) => block_on(explain::run(&session()?, args)),
        Command::Profiles(args) => profiles::run(&session()?, args),
        Command::Nodes(args) => block_on(nodes::run(&session()?, args)),
        Command::Receipt(args) => block_on(receipt::run(&session()?, args)),
        Command::Audit(args) => audit::run(global, args, out),
        Command::Keys(args) => keys::run(&home(global)?, args, out),
        Command::Org(args) => org::run(global, args, out),
        Command::Tokens(args) => block_on(tokens::run(&session()?, args)),
        Command::Notify(args) => block_on(notify::run(&session()?, args)),
        Command::Secret(args) => block_on(secrets::run(&session()?, args)),
        Command::Connect(args) => block_on(connect::run(&home(global)?, args, out)),
        Command::Doctor(args) => block_on(doctor::run(global, args, out)),
        #[cfg(feature = "agent")]
        Command::Agent(args) => agent::run(args, out),
        #[cfg(all(feature = "agent", unix))]
        Command::EgressProxy => agent::egress_proxy(),
        #[cfg(all(feature = "agent", unix))]
        Command::CarryFiles { order } => agent::carry_files(order),
        #[cfg(all(feature = "agent", unix))]
        Command::DownloadFile { order } => download::run(order, out),
        #[cfg(feature = "hub")]
        Command::Hub(args) => hub::run(args, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "lictor", &mut script);
            std::io::Write::write_all(&mut std::io::stdout(), &script).doing("write to standard output")?;
            Ok(Status::OK)
        }
    }
}
