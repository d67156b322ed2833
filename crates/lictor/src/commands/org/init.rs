//! `lictor org init`: keys, root version 1, a home that acts for the org, and a directory to start from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lictor_client::home::make_dir;
use lictor_client::{Config, Home, SignedDoc, TrustStore};
use lictor_policy::starter::{self, Founder};
use lictor_proto::doc::{Role, Root, RootRoles};
use lictor_proto::{Name, OrgId, Timestamp};
use lictor_trust::{SecretKey, sign};
use serde_json::json;

use crate::args::OrgInit;
use crate::commands::keys;
use crate::commands::org::directory;
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::Out;
use crate::session::failed;

/// How long root version 1 is good.
const ROOT_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What an org begins with.
pub(crate) struct Founding<'a> {
    pub(crate) name: &'a Name,
    pub(crate) operator: &'a Name,
    pub(crate) freshness: bool,
    pub(crate) dir: PathBuf,
    /// Which of the shipped directories to start from.
    pub(crate) start: fn(&Founder<'_>) -> BTreeMap<String, String>,
}

pub(super) fn run(home: &Home, dir: Option<&Path>, args: &OrgInit, out: Out) -> Result {
    if home.config_path().exists() {
        return Err(
            Failure::new(format!("{} acts for an org already", home.dir().display()))
                .hint("Give this one a home of its own: LICTOR_HOME, or --home."),
        );
    }
    let dir = dir.map_or_else(|| home.org_dir(), Path::to_owned);
    let founding = Founding {
        name: &args.name,
        operator: &args.operator,
        freshness: args.freshness,
        dir: dir.clone(),
        start: starter::full,
    };
    let org = found(home, &founding)?;
    home.write_config(&Config {
        org: org.clone(),
        operator: args.operator.clone(),
        key: args.operator.clone(),
        hub: None,
    })
    .doing("write the configuration")?;
    let root = directory::signed(&dir, "root.1.json");
    let value = json!({ "org": org, "dir": dir, "root": root });
    out.either(&value, || {
        format!(
            "org {} is {}\n\
             law to edit and keep in git: {}\n\
             next: lictor org check; lictor org sign\n\
             then on the hub: lictor hub org create --config hub.toml --root {}\n\
             then: lictor connect URL --org {} --operator {} --key {} --token-file FILE; lictor org push",
            args.name,
            org,
            dir.display(),
            root.display(),
            org,
            args.operator,
            args.operator
        )
    })?;
    Ok(Status::OK)
}

/// Makes keys, root version 1 and the directory, and pins the org in the home. Keys that are there already are
/// used: an operator brings an encrypted one, and a start that was cut off begins again.
pub(crate) fn found(home: &Home, founding: &Founding<'_>) -> Result<OrgId> {
    make_dir(home.dir()).doing("make the home")?;
    let key = |name: &str| -> Result<SecretKey> {
        let name: Name = name.parse().doing("name a key")?;
        keys::load_or_create(home, &name)
    };
    let (root_key, bundle_key) = (key("root")?, key("bundle")?);
    let freshness_key = if founding.freshness {
        Some(key("freshness")?)
    } else {
        None
    };
    let operator_key = keys::load_or_create(home, founding.operator)?;
    let now = Timestamp::now();
    let root = Root {
        tag: Default::default(),
        org: None,
        version: 1,
        name: founding.name.clone(),
        roles: RootRoles {
            root: role([&root_key]),
            bundle: role([&bundle_key]),
            freshness: role(freshness_key.as_ref()),
            release: role([]),
        },
        issued_at: now,
        expires_at: now.plus(ROOT_VALID),
    };
    let root = SignedDoc::of(&sign(&root, &[&root_key]));
    let org = OrgId::from_root(&root.digest);
    TrustStore::pin(home, &org, &root.wire).map_err(|e| failed("pin the org", &e))?;
    directory::write(&directory::signed(&founding.dir, "root.1.json"), &root.wire)?;
    let node: Name = "local".parse().doing("name the node")?;
    let founder = Founder {
        operator: founding.operator,
        public: &keys::public_line(&operator_key, founding.operator).to_string(),
        node: &node,
    };
    for (path, text) in (founding.start)(&founder) {
        directory::begin(&founding.dir, &path, &text)?;
    }
    Ok(org)
}

fn role<'a>(keys: impl IntoIterator<Item = &'a SecretKey>) -> Role {
    let keys: Vec<_> = keys.into_iter().map(SecretKey::public).collect();
    Role {
        threshold: u32::from(!keys.is_empty()),
        keys,
    }
}
