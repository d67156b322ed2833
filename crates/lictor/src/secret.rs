//! Asks for passphrases: from a file for programs, from the terminal for people, never from arguments.

use std::path::Path;

use crate::failure::{Doing as _, Failure, Result};

/// Names a file whose first line is the passphrase of an encrypted key.
pub(crate) const PASSPHRASE_FILE: &str = "LICTOR_PASSPHRASE_FILE";

/// The first line of a file.
pub(crate) fn from_file(path: &Path) -> Result<String> {
    let text = std::fs::read_to_string(path).doing(format!("read {}", path.display()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Failure::new(format!(
            "{} has no passphrase in its first line",
            path.display()
        )));
    }
    Ok(line.to_owned())
}

/// The passphrase of an existing key.
pub(crate) fn passphrase(key: &str) -> Result<String> {
    match std::env::var_os(PASSPHRASE_FILE) {
        Some(path) => from_file(Path::new(&path)),
        None => ask(&format!("Passphrase of key {key}: ")),
    }
}

/// A new value of a secret, typed twice.
pub(crate) fn new_value(name: &str) -> Result<String> {
    let first = ask(&format!("Value of {name}: "))?;
    if ask("Once more: ")? != first {
        return Err(Failure::new("the two values differ"));
    }
    Ok(first)
}

/// A new passphrase, typed twice.
pub(crate) fn new_passphrase() -> Result<String> {
    let first = ask("New passphrase: ")?;
    if first.is_empty() {
        return Err(Failure::new("an empty passphrase encrypts nothing").hint("Leave --encrypt out instead."));
    }
    if ask("Once more: ")? != first {
        return Err(Failure::new("the two passphrases differ"));
    }
    Ok(first)
}

/// Reads one line from the terminal without showing it.
#[cfg(unix)]
fn ask(prompt: &str) -> Result<String> {
    use std::io::{BufRead as _, BufReader, Write as _};

    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

    let terminal = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/tty")
        .map_err(|e| {
            Failure::new("a passphrase is needed and there is no terminal to ask on")
                .because(&e)
                .hint(format!("Name a file with it in {PASSPHRASE_FILE}."))
        })?;
    let shown = tcgetattr(&terminal).doing("read the terminal's settings")?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    (&terminal)
        .write_all(prompt.as_bytes())
        .doing("write to the terminal")?;
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).doing("hide what is typed")?;
    let mut line = String::new();
    let read = BufReader::new(&terminal).read_line(&mut line);
    // Before anything can fail: a terminal left without echo is a nuisance.
    let restored = tcsetattr(&terminal, OptionalActions::Flush, &shown);
    let _ = (&terminal).write_all(b"\n");
    read.doing("read from the terminal")?;
    restored.doing("restore the terminal")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

#[cfg(not(unix))]
fn ask(_: &str) -> Result<String> {
    Err(Failure::new("passphrases cannot be asked for on this system yet")
        .hint(format!("Name a file with it in {PASSPHRASE_FILE}.")))
}
