//! The work that a case is about, as a job would have it.

use lictor_proto::Digest;
use lictor_proto::doc::{Collect, Exec, Fetch, Script, Spec};
use lictor_trust::LawFiles;
use lictor_trust::profiles::parse_duration;

use super::{Case, JOB, millis, name};

impl Case {
    /// The work that it is about.
    pub(super) fn spec(&self, files: &LawFiles) -> Spec {
        let duration = |text: &String| parse_duration(text).unwrap_or_default();
        let timeout_ms = self.timeout.as_ref().map(duration).map(millis);
        let (env, sandbox, args) = (self.env.clone(), self.sandbox.clone(), self.argv.clone());
        if let Some(to) = &self.fetch {
            return Spec::Fetch(Fetch {
                to: to.clone(),
                url: self.url.clone(),
                sha256: self.sha256.unwrap_or(JOB),
                size: self.size,
                mode: self.mode.clone().unwrap_or_else(|| "0644".to_owned()),
                owner: self.owner.clone(),
                group: None,
                replace: self.replace,
                timeout_ms,
                sandbox,
            });
        }
        if let Some(from) = &self.collect {
            return Spec::Collect(Collect {
                timeout_ms,
                sandbox,
                ..Collect::new(from.clone(), self.size)
            });
        }
        if let Some(workspace) = &self.workspace {
            return Spec::Workspace(workspace.clone());
        }
        let interpreter = || self.interpreter.clone().unwrap_or_else(|| name("sh"));
        let script = match (&self.script, &self.named_script) {
            (Some(text), _) => Script::new(interpreter(), text.clone(), args),
            (None, Some(name)) => {
                let text = files.scripts.get(name.as_str()).map_or("", String::as_str);
                let bound = (name.clone(), Digest::of(text.as_bytes()));
                Script::of_bundle(interpreter(), bound, args)
            }
            (None, None) => {
                return Spec::Exec(Exec {
                    env,
                    sandbox,
                    timeout_ms,
                    git: self.git.clone(),
                    ..Exec::new(args)
                });
            }
        };
        Spec::Script(Script {
            env,
            sandbox,
            timeout_ms,
            git: self.git.clone(),
            ..script
        })
    }
}
