//! Asks a person before something is signed that they have been shown.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::failure::{Doing as _, Failure, Result};

/// Goes on when somebody types yes; `otherwise` says what to do where nobody can be asked.
pub(crate) fn signing(otherwise: &str) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new("there is nobody to ask").hint(otherwise));
    }
    let mut err = std::io::stderr();
    write!(err, "Sign this? Type yes: ")
        .and_then(|()| err.flush())
        .doing("ask")?;
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .doing("read the answer")?;
    if line.trim() == "yes" {
        return Ok(());
    }
    Err(Failure::new("nothing was signed"))
}
