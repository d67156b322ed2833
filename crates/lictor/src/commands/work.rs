//! The work of a job from the command line: a command, a script of this machine, or a script of the bundle.

use std::io::Read as _;
use std::time::Duration;

use lictor_client::TrustStore;
use lictor_proto::doc::{self, Exec, GitCommit, Script, Spec};
use lictor_proto::{Code, Digest, Name, Timestamp, limits};
use lictor_trust::LawFiles;

use crate::args::What;
use crate::failure::{Doing as _, Failure, Result};

/// What is asked for. `law` is where a script of the bundle is looked up.
pub(crate) fn of(what: &What, law: impl FnOnce() -> Result<LawFiles>) -> Result<Spec> {
    match (&what.script, &what.named_script) {
        (None, None) => Ok(Exec::new(what.command.clone()).into()),
        (Some(file), _) => {
            let text = read(file)?;
            let interpreter = interpreter(what, &text)?;
            Ok(Script::new(interpreter, text, what.command.clone()).into())
        }
        (None, Some(name)) => {
            let law = law()?;
            let text = law.scripts.get(name.as_str()).ok_or_else(|| {
                Failure::new(format!("the law has no scripts/{name}"))
                    .code(Code::ScriptUnknown)
                    .hint("Add it to the org directory under scripts/, then sign and push the bundle.")
            })?;
            let interpreter = interpreter(what, text)?;
            let bound = (name.clone(), Digest::of(text.as_bytes()));
            Ok(Script::of_bundle(interpreter, bound, what.command.clone()).into())
        }
    }
}

/// What the command line says about the process of a command or a script.
pub(crate) struct ProcessTerms<'a> {
    pub(crate) env: &'a [(String, String)],
    pub(crate) cwd: Option<&'a String>,
    pub(crate) sandbox: Option<&'a Name>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) terms: Option<doc::Terms>,
    pub(crate) git: Option<&'a GitCommit>,
}

/// The work under these terms. What carries files is of another command, which says these things by itself.
pub(crate) fn under(spec: Spec, said: &ProcessTerms<'_>) -> Spec {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let (env, timeout_ms) = (said.env.iter().cloned().collect(), said.timeout.map(millis));
    let (cwd, sandbox, terms) = (said.cwd.cloned(), said.sandbox.cloned(), said.terms.clone());
    let git = said.git.cloned();
    match spec {
        Spec::Exec(exec) => Spec::Exec(Exec {
            env,
            cwd,
            sandbox,
            timeout_ms,
            terms,
            git,
            ..exec
        }),
        Spec::Script(script) => Spec::Script(Script {
            env,
            cwd,
            sandbox,
            timeout_ms,
            terms,
            git,
            ..script
        }),
        other @ (Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_)) => other,
    }
}

/// The law that is pinned here, to find a script of it.
pub(crate) fn pinned(store: &TrustStore) -> Result<LawFiles> {
    let law = store.trust().law(Timestamp::now());
    let law = law.map_err(|r| Failure::refused("the pinned law is not in force", &r))?;
    Ok(LawFiles::clone(law))
}

fn read(file: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let most = limits::SCRIPT as u64 + 1;
    let doing = || format!("read the script {file}");
    if file == "-" {
        std::io::stdin()
            .lock()
            .take(most)
            .read_to_end(&mut bytes)
            .doing(doing())?;
    } else {
        let opened = std::fs::File::open(file).doing(doing())?;
        opened.take(most).read_to_end(&mut bytes).doing(doing())?;
    }
    if bytes.len() > limits::SCRIPT {
        return Err(Failure::new("the script is over 1 MiB").code(Code::LimitExceeded));
    }
    String::from_utf8(bytes).map_err(|_| Failure::new("the script is not UTF-8 text"))
}

/// The one that is named, else the one of the `#!` line.
fn interpreter(what: &What, text: &str) -> Result<Name> {
    match (&what.interpreter, shebang(text)) {
        (Some(name), _) => Ok(name.clone()),
        (None, Ok(Some(name))) => Ok(name),
        (None, Ok(None)) => Err(Failure::new("the script has no #! line")
            .hint("Say who reads it: --interpreter bash, sh, python3, node, perl, ...")),
        (None, Err(why)) => {
            Err(Failure::new(why)
                .hint("Name the interpreter with --interpreter; the #! line is a comment then."))
        }
    }
}

/// The interpreter that a `#!` line names. What it would be told besides is never left out quietly.
fn shebang(text: &str) -> std::result::Result<Option<Name>, String> {
    let Some(line) = text
        .strip_prefix("#!")
        .map(|rest| rest.lines().next().unwrap_or_default())
    else {
        return Ok(None);
    };
    let mut words = line.split_ascii_whitespace();
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let mut name = words.next().map(base).unwrap_or_default();
    if name == "env" {
        name = words.next().map(base).unwrap_or_default();
    }
    match (name.parse(), words.next()) {
        (Ok(name), None) => Ok(Some(name)),
        (_, Some(_)) => Err("the script's #! line has options, and a job's interpreter gets none".to_owned()),
        (Err(_), None) => Err("the script's #! line names no interpreter".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::shebang;

    #[test]
    fn the_first_line_names_the_interpreter() {
        let named = |text: &str| shebang(text).ok().flatten().map(|n| n.to_string());
        assert_eq!(named("#!/bin/sh\necho"), Some("sh".into()));
        assert_eq!(named("#! /usr/bin/env python3\n"), Some("python3".into()));
        assert_eq!(named("echo hi\n"), None);
        for refused in [
            "#!/bin/bash -e\n",
            "#!/usr/bin/env -S python3 -u\n",
            "#!\n",
            "#!/usr/bin/env\n",
        ] {
            assert!(shebang(refused).is_err(), "{refused}");
        }
    }
}
