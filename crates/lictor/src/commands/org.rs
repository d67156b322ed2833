//! `lictor org`: the law as a directory in git, and the documents that are signed from it on this machine.
//!
//! ```text
//! org/roster.toml fleet.toml profiles.toml policies/*.cedar scripts/*    what a bundle is made of
//! org/tests/*.toml                                                       the org's own policy cases
//! org/root.N.json                                                        the next root, while it is being signed
//! org/signed/root.N.json bundle.json freshness.json revocation.*.json    what was signed, exactly
//! ```

mod cosign;
mod diff;
pub(crate) mod directory;
mod init;
mod law;
mod root;
mod statements;

use std::path::{Path, PathBuf};

use lictor_trust::{LawFiles, OrgTrust};

use crate::args::{Global, Org, OrgCommand};
use crate::failure::Result;
use crate::out::Out;
use crate::session::{Session, block_on, home};

#[cfg(all(feature = "hub", feature = "agent"))]
pub(crate) use init::{Founding, found};
#[cfg(all(feature = "hub", feature = "agent"))]
pub(crate) use law::{Terms, sign_bundle, sign_files};

/// An org directory and who works on it.
pub(crate) struct Desk<'a> {
    pub(crate) session: &'a Session,
    pub(crate) dir: PathBuf,
}

pub(crate) fn run(global: &Global, args: &Org, out: Out) -> Result {
    if let OrgCommand::Init(init) = &args.command {
        return init::run(&home(global)?, args.dir.as_deref(), init, out);
    }
    let session = Session::open(global, out)?;
    let desk = Desk {
        dir: args.dir.clone().unwrap_or_else(|| session.home.org_dir()),
        session: &session,
    };
    match &args.command {
        OrgCommand::Init(_) | OrgCommand::Check => law::check(&desk),
        OrgCommand::Test => law::test(&desk),
        OrgCommand::Sign(sign) => law::sign(&desk, sign),
        OrgCommand::Push => block_on(law::push(&desk)),
        OrgCommand::Show => law::show(&desk),
        OrgCommand::Diff => law::difference(&desk),
        OrgCommand::Freshness(args) => statements::freshness(&desk, args),
        OrgCommand::Revoke(args) => statements::revoke(&desk, args),
        OrgCommand::Cosign(args) => cosign::cosign(&desk, args),
        OrgCommand::Take { file } => cosign::take(&desk, file),
        OrgCommand::Root(args) => root::run(&desk, &args.command),
    }
}

/// The directory as law, as if it were signed now; for predictions.
pub(crate) fn load_dir(dir: &Path, trust: &OrgTrust) -> Result<LawFiles> {
    law::load(dir, trust)
}
