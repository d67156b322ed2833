//! The law of an org whose operators are alice, and robert, whose key expires after half an hour.

use lictor_proto::OrgId;
use lictor_proto::doc::{Bundle, MinVersions, Role, Root, RootRoles};
use lictor_trust::keys::PublicLine;

use super::{DAY, HOUR, began, key, name};

pub(crate) fn root() -> Root {
    let role = |seeds: &[u8]| Role {
        keys: seeds.iter().map(|s| key(*s).public()).collect(),
        threshold: u32::from(!seeds.is_empty()),
    };
    Root {
        tag: Default::default(),
        org: None,
        version: 1,
        name: name("example"),
        roles: RootRoles {
            root: role(&[1]),
            bundle: role(&[2]),
            freshness: role(&[]),
            release: role(&[]),
        },
        issued_at: began(),
        expires_at: began().plus(365 * DAY),
    }
}

pub(crate) fn bundle(org: &OrgId) -> Bundle {
    let line = |seed| PublicLine {
        key: key(seed).public(),
        comment: None,
    };
    let until = began().plus(HOUR / 2);
    let roster = format!(
        "groups = [\"admins\"]\n\
         [operators.alice]\nrights = [\"revoke\"]\nkind = \"person\"\ngroups = [\"admins\"]\nkeys = [{{ public = \"{}\" }}]\n\
         [operators.robert]\nkind = \"person\"\ngroups = [\"admins\"]\n\
         keys = [{{ public = \"{}\", expires_at = \"{until}\" }}]\n",
        line(10),
        line(11),
    );
    let files = [
        ("roster.toml", roster.as_str()),
        ("fleet.toml", "[enrollers.admins]\nlabels = \"any\"\n"),
        (
            "profiles.toml",
            "[profiles.host]\nbackend = \"host\"\nnetwork = \"host\"\n",
        ),
    ];
    Bundle {
        tag: Default::default(),
        org: org.clone(),
        version: 1,
        min_root: 1,
        schema_version: 1,
        min_versions: MinVersions::default(),
        issued_at: began(),
        expires_at: began().plus(30 * DAY),
        max_staleness: 7 * 24 * 3600,
        files: files.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        revocations: Vec::new(),
    }
}
