//! Everything that is printed goes through here: text for people, JSON for programs, colour only on a terminal.
//!
//! # Invariants
//! - With `--json`, standard output carries JSON lines and nothing else; what we say on standard error is JSON lines too.
//! - Text that comes from elsewhere is escaped by whoever formats it ([`crate::escape`]); the bytes of a job's
//!   own output pass unchanged.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::failure::{Doing as _, Failure, Result};

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    json: bool,
    notes: bool,
    colour: bool,
}

impl Out {
    /// Looks at what standard error is.
    pub(crate) fn new(json: bool) -> Self {
        let notes = io::stderr().is_terminal();
        let colour = std::env::var_os("NO_COLOR").is_none() && notes;
        Self { json, notes, colour }
    }

    /// Whether programs read this.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Whether standard error may have colour.
    #[cfg(any(feature = "hub", feature = "agent"))]
    pub(crate) fn is_coloured(self) -> bool {
        self.colour
    }

    /// One line for people.
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<()> {
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{}", text.as_ref()).doing("write to standard output")
    }

    /// One JSON object on a line of its own.
    pub(crate) fn object<T: Serialize>(self, value: &T) -> Result<()> {
        let mut line = serde_json::to_vec(value).doing("write JSON")?;
        line.push(b'\n');
        let mut stdout = io::stdout().lock();
        stdout
            .write_all(&line)
            .and_then(|()| stdout.flush())
            .doing("write to standard output")
    }

    /// The object with `--json`, the text otherwise.
    pub(crate) fn either<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            self.object(value)
        } else {
            self.line(text())
        }
    }

    /// Something that should be known, on standard error, whatever the mode.
    pub(crate) fn note(self, text: impl AsRef<str>) {
        let text = text.as_ref();
        let mut stderr = io::stderr().lock();
        let _ = if self.json {
            writeln!(stderr, "{}", serde_json::json!({ "note": text }))
        } else {
            writeln!(stderr, "{} {text}", self.paint("2", "lictor:"))
        };
    }

    /// Lines for people, on standard error as they are; nothing for programs.
    pub(crate) fn remark(self, text: impl AsRef<str>) {
        if !self.json {
            let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
        }
    }

    /// Whether a person reads this and can be asked.
    pub(crate) fn can_ask(self) -> bool {
        self.notes && !self.json && io::stdin().is_terminal()
    }

    /// Whether what is written to standard output may have colour.
    pub(crate) fn colours_output(self) -> bool {
        std::env::var_os("NO_COLOR").is_none() && io::stdout().is_terminal()
    }

    /// How things go on: only when a person watches.
    pub(crate) fn progress(self, text: impl AsRef<str>) {
        if self.notes && !self.json {
            self.note(text);
        }
    }

    /// The last word of a command that failed.
    pub(crate) fn failure(self, failure: &Failure) {
        let mut stderr = io::stderr().lock();
        let _ = if self.json {
            writeln!(stderr, "{}", failure.to_json())
        } else {
            writeln!(stderr, "{} {failure}", self.paint("1;31", "lictor:"))
        };
    }

    /// One line of JSON that another program of ours waits for on standard error.
    #[cfg(all(feature = "agent", unix))]
    pub(crate) fn last_words(self, line: &[u8]) {
        let mut stderr = io::stderr().lock();
        let _ = stderr.write_all(line).and_then(|()| stderr.write_all(b"\n"));
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{style}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Columns, each as wide as its widest cell; the last one is not padded.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (w, cell) in widths.iter_mut().zip(row) {
            *w = (*w).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (i, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if i + 1 < cells.len() {
                let pad = widths[i].saturating_sub(cell.chars().count()) + 2;
                text.extend(std::iter::repeat_n(' ', pad));
            }
        }
        text
    };
    let head: Vec<String> = head.iter().map(|h| h.to_uppercase()).collect();
    let mut lines = vec![line(&head)];
    lines.extend(rows.iter().map(|r| line(r)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_does_not_pad_its_last_column() {
        let rows = vec![
            vec!["a".into(), "long cell".into(), "z".into()],
            vec!["bbb".into(), "x".into(), String::new()],
        ];
        assert_eq!(
            table(&["id", "name", "end"], &rows),
            "ID   NAME       END\na    long cell  z\nbbb  x          "
        );
    }
}
