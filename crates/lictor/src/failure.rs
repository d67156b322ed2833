//! An error as people meet it: what happened, why, and what to do.

use std::error::Error;
use std::fmt;

use lictor_proto::Code;
use lictor_proto::code::Refusal;

use crate::escape::escape;
use crate::exit;

/// Everything a command can fail with. Made where the failing step is known, printed in one place.
#[derive(Debug)]
pub(crate) struct Failure {
    what: String,
    why: Vec<String>,
    hint: Option<String>,
    code: Option<Code>,
    exit: u8,
}

/// What commands return.
pub(crate) type Result<T = exit::Status> = std::result::Result<T, Failure>;

impl Failure {
    /// A failure of Lictor's own, in its own words.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: Vec::new(),
            hint: None,
            code: None,
            exit: exit::OWN_ERROR,
        }
    }

    /// With what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a stable code.
    pub(crate) fn code(mut self, code: Code) -> Self {
        self.code = Some(code);
        self.hint.get_or_insert_with(|| code.hint().to_owned());
        self
    }

    /// Whether it is about this.
    pub(crate) fn is_about(&self, code: Code) -> bool {
        self.code == Some(code)
    }

    /// Its code, where it has one.
    pub(crate) fn code_of(&self) -> Option<Code> {
        self.code
    }

    /// What happened and why, in one line.
    pub(crate) fn in_a_line(&self) -> String {
        let why = self.why.iter().map(|why| format!(": {why}"));
        std::iter::once(self.what.clone()).chain(why).collect()
    }

    /// With an exit status other than 125.
    pub(crate) fn exit(mut self, status: u8) -> Self {
        self.exit = status;
        self
    }

    /// With an error and everything below it as the reason.
    pub(crate) fn because(mut self, error: &dyn Error) -> Self {
        let mut next = Some(error);
        while let Some(e) = next {
            let text = escape(&e.to_string());
            // Some errors repeat their source in their own text; saying it once is enough.
            if !self.why.last().is_some_and(|last| last.contains(&text)) {
                self.why.push(text);
            }
            next = e.source();
        }
        self
    }

    /// With one more reason.
    pub(crate) fn why(mut self, reason: impl AsRef<str>) -> Self {
        self.why.push(escape(reason.as_ref()));
        self
    }

    /// A refusal met while doing `what`.
    pub(crate) fn refused(what: impl Into<String>, refusal: &Refusal) -> Self {
        Self::new(what).why(&refusal.message).code(refusal.code)
    }

    /// The exit status.
    pub(crate) fn status(&self) -> exit::Status {
        exit::Status(self.exit)
    }

    /// The failure as one JSON object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "code": self.code,
            "message": self.what,
            "causes": self.why,
            "hint": self.hint,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        if let Some(code) = self.code {
            write!(f, " [{code}]")?;
        }
        for reason in &self.why {
            write!(f, "\n  because: {reason}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n  what to do: {hint}")?;
        }
        Ok(())
    }
}

/// Adds what was being done to an error on its way up.
pub(crate) trait Doing<T> {
    /// "could not WHAT", because of the error.
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Error> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Failure::new(format!("could not {}", what.into())).because(&e))
    }
}
