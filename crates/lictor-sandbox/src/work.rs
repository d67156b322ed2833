//! What a job wants started, with all that it takes: a script of the bundle comes with its text.

use std::sync::Arc;

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Exec, Process, Spec};
use lictor_trust::LawFiles;

/// The work of a job that runs a process. Data without authority.
#[derive(Debug, Clone)]
pub struct Work {
    pub(crate) spec: Spec,
    /// The text of a script of the bundle.
    of_bundle: Option<Arc<str>>,
}

impl Work {
    /// A job's, under this law.
    ///
    /// # Errors
    /// When the bundle has no such script, or another one than was signed for.
    pub fn of(spec: &Spec, files: &LawFiles) -> Result<Self, Refusal> {
        let of_bundle = match spec {
            Spec::Script(script) if script.content.is_none() => Some(files.script(script)?.into()),
            _ => None,
        };
        let spec = spec.clone();
        Ok(Self { spec, of_bundle })
    }

    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn process(&self) -> Process<'_> {
        self.spec.process()
    }

    /// The text of a script.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn text(&self) -> Option<&str> {
        match (&self.spec, &self.of_bundle) {
            (Spec::Script(_), Some(text)) => Some(text),
            (Spec::Script(script), None) => script.content.as_deref(),
            (_, _) => None,
        }
    }
}

impl From<&Exec> for Work {
    fn from(exec: &Exec) -> Self {
        Self {
            spec: Spec::Exec(exec.clone()),
            of_bundle: None,
        }
    }
}
