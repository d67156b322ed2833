//! `lictor keys`: Ed25519 keys in the home, one PEM file each, and beside it the public half as text.

use std::fs;

use lictor_client::Home;
use lictor_client::home::make_dir;
use lictor_proto::Name;
use lictor_proto::ids::PublicKey;
use lictor_trust::keys::PublicLine;
use lictor_trust::{SecretKey, keyfile};
use serde::Serialize;

use crate::args::{Keys, KeysCommand, KeysNew};
use crate::exit::Status;
use crate::failure::{Doing as _, Failure, Result};
use crate::out::{Out, table};
use crate::secret;

/// What is shown of a key.
#[derive(Serialize)]
struct KeyView {
    name: String,
    key_id: String,
    public: String,
    encrypted: bool,
}

pub(crate) fn run(home: &Home, keys: &Keys, out: Out) -> Result {
    match &keys.command {
        KeysCommand::New(new) => make(home, new, out)?,
        KeysCommand::Ls => list(home, out)?,
        KeysCommand::Show { name } => {
            let view = look(home, name)?;
            out.either(&view, || {
                let state = if view.encrypted {
                    "encrypted"
                } else {
                    "not encrypted"
                };
                format!(
                    "name       {}\nkey id     {}\npublic     {}\nat rest    {state}",
                    view.name, view.key_id, view.public
                )
            })?;
        }
        KeysCommand::ExportPublic { name } => {
            let view = look(home, name)?;
            out.either(&view, || view.public.clone())?;
        }
    }
    Ok(Status::OK)
}

fn make(home: &Home, new: &KeysNew, out: Out) -> Result<()> {
    let passphrase = match (&new.passphrase_file, new.encrypt) {
        (Some(file), _) => Some(secret::from_file(file)?),
        (None, true) => Some(secret::new_passphrase()?),
        (None, false) => None,
    };
    create(home, &new.name, passphrase.as_deref())?;
    let view = look(home, &new.name)?;
    out.either(&view, || {
        format!("made key {} ({})\n{}", view.name, view.key_id, view.public)
    })
}

/// Makes a key and writes both halves.
pub(crate) fn create(home: &Home, name: &Name, passphrase: Option<&str>) -> Result<SecretKey> {
    make_dir(&home.keys_dir()).doing("make the key directory")?;
    let key = SecretKey::generate().doing("make a key")?;
    keyfile::store(&home.key_path(name), &key, passphrase).doing(format!("write key {name}"))?;
    let line = public_line(&key, name);
    let path = home.key_path(name).with_extension("pub");
    fs::write(&path, format!("{line}\n")).doing(format!("write {}", path.display()))?;
    Ok(key)
}

/// Reads a key, or makes it when there is none.
pub(crate) fn load_or_create(home: &Home, name: &Name) -> Result<SecretKey> {
    if home.key_path(name).exists() {
        load(home, name)
    } else {
        create(home, name, None)
    }
}

/// The public half as the roster takes it.
pub(crate) fn public_line(key: &SecretKey, name: &Name) -> PublicLine {
    PublicLine {
        key: key.public(),
        comment: Some(name.to_string()),
    }
}

/// Reads a key, asking for its passphrase when it has one.
pub(crate) fn load(home: &Home, name: &Name) -> Result<SecretKey> {
    let path = home.key_path(name);
    let failed = |e: &keyfile::KeyFileError| {
        Failure::new(format!("could not read key {name}"))
            .because(e)
            .hint("`lictor keys ls` shows the keys of this home; `lictor keys new` makes one.")
    };
    match keyfile::load(&path, None) {
        Err(keyfile::KeyFileError::PassphraseNeeded(_)) => {
            let passphrase = secret::passphrase(name.as_str())?;
            keyfile::load(&path, Some(&passphrase)).map_err(|e| failed(&e))
        }
        other => other.map_err(|e| failed(&e)),
    }
}

fn look(home: &Home, name: &Name) -> Result<KeyView> {
    let path = home.key_path(name);
    let encrypted = keyfile::is_encrypted(&path).map_err(|e| {
        Failure::new(format!("there is no key {name}"))
            .because(&e)
            .hint("`lictor keys ls` shows the keys of this home.")
    })?;
    let line = line(home, name, encrypted)?;
    Ok(KeyView {
        name: name.to_string(),
        key_id: line.key.id().to_string(),
        public: line.to_string(),
        encrypted,
    })
}

/// The public half of a key of this home.
pub(crate) fn public(home: &Home, name: &Name) -> Result<PublicKey> {
    let view = look(home, name)?;
    let line: PublicLine = view.public.parse().doing(format!("read key {name}"))?;
    Ok(line.key)
}

fn line(home: &Home, name: &Name, encrypted: bool) -> Result<PublicLine> {
    // The file beside it is a convenience that anybody may have changed: an unencrypted key speaks for itself.
    if !encrypted {
        return Ok(public_line(&load(home, name)?, name));
    }
    let beside = home.key_path(name).with_extension("pub");
    let text = fs::read_to_string(&beside).doing(format!("read {}", beside.display()))?;
    text.parse().doing(format!("read {}", beside.display()))
}

fn list(home: &Home, out: Out) -> Result<()> {
    let mut names = Vec::new();
    if let Ok(entries) = fs::read_dir(home.keys_dir()) {
        for entry in entries {
            let path = entry.doing("read the key directory")?.path();
            let stem = path
                .file_stem()
                .and_then(|s| s.to_str())
                .and_then(|s| s.parse::<Name>().ok());
            if let (Some(name), Some("pem")) = (stem, path.extension().and_then(|e| e.to_str())) {
                names.push(name);
            }
        }
    }
    names.sort();
    let views = names.iter().map(|n| look(home, n)).collect::<Result<Vec<_>>>()?;
    out.either(&views, || {
        let rows: Vec<_> = views
            .iter()
            .map(|v| {
                let state = if v.encrypted { "yes" } else { "no" };
                vec![v.name.clone(), v.key_id[..16].to_owned(), state.to_owned()]
            })
            .collect();
        table(&["name", "key id", "encrypted"], &rows)
    })
}
