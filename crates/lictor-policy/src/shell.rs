//! What kind of run an argv is: `exec`, `shell` or `shell_opaque`; and what of a script can be read.
//!
//! - `exec`: literal arguments to a program that is not known to run other code.
//! - `shell`: `sh`, `bash` or `dash` with `-c CODE`, where the code is read in full and every command word in it is
//!   literal. Policy then sees the command words.
//! - `shell_opaque`: everything else. Another shell, an interpreter, a wrapper such as `sudo` or `xargs`, code that
//!   does not parse, code that builds commands at run time.
//!
//! # Invariants
//! - Any doubt ends as opaque; nothing that is opaque for a reason becomes less so by another.
//! - Work is bounded: code over 16 KiB or nested beyond a limit is opaque before a parser sees it.
//! - This is a classification of what was *asked*, not a boundary: a shell copied to another name is plain here, and
//!   is caught by path and digest rules, or by the sandbox it runs in.

mod arguments;
mod invocation;
mod names;
mod screen;
mod walk;
mod word;

use std::collections::BTreeSet;

use lictor_proto::doc::{Exec, Script};
use names::Kind;

/// The kind of a run, as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A program with literal arguments.
    Exec,
    /// A known shell with code that was read in full.
    Shell(ShellCode),
    /// A script.
    Script(ScriptRead),
    /// A file to the node.
    Fetch,
    /// Files from the node.
    Collect,
    /// Something done with a workspace.
    Workspace,
    /// Something whose effect cannot be read from its arguments.
    ShellOpaque {
        /// Why, for people.
        why: &'static str,
    },
}

/// What can be told about a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptRead {
    /// Bytes of its text.
    pub size: usize,
    /// Its code, if it is that of a shell and was read in full; else why not.
    pub code: Result<ShellCode, &'static str>,
}

/// Shell code that was read in full.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShellCode {
    /// The code.
    pub code: String,
    /// Every command word, as written.
    pub commands: BTreeSet<String>,
    /// Every file that a redirection opens, but `/dev/null`.
    pub redirects: BTreeSet<String>,
}

impl Action {
    /// The action's name in policies.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Shell(_) => "shell",
            Self::Script(_) => "script",
            Self::Fetch => "fetch",
            Self::Collect => "collect",
            Self::Workspace => "workspace",
            Self::ShellOpaque { .. } => "shell_opaque",
        }
    }

    const fn opaque(why: &'static str) -> Self {
        Self::ShellOpaque { why }
    }
}

/// Classifies a command. `program` is the canonical path of what would be executed, all links resolved, so that a
/// link to a shell is a shell under any name.
#[must_use]
pub fn classify(exec: &Exec, program: &str) -> Action {
    let Some((called, args)) = exec.argv.split_first() else {
        return Action::opaque("there is no program");
    };
    let kinds = [names::kind(program), names::kind(called)];
    let is = |kind| kinds.contains(&kind);
    if is(Kind::Multicall) {
        return multicall(called, args);
    }
    if is(Kind::OtherShell) {
        return Action::opaque("a shell that the parser does not cover");
    }
    if is(Kind::CoveredShell) {
        // A program that is called `sh` and leads to something else is whatever that is.
        return if kinds[0] == Kind::CoveredShell {
            shell(exec, args)
        } else {
            Action::opaque("called as a shell, but another program")
        };
    }
    plain(program, called, args)
}

/// Reads a script for a shell that the parser covers. `program` is the canonical path of its interpreter. What it is
/// called with is not code: a script has it in `$1`, `$2`, ..., and what it does with those is judged by how it uses them.
///
/// # Errors
/// Why not.
pub fn read_script(script: &Script, text: &str, program: &str) -> Result<ShellCode, &'static str> {
    if names::kind(program) != Kind::CoveredShell {
        return Err("the parser does not cover its interpreter");
    }
    if script
        .env
        .keys()
        .any(|name| crate::environment::changes_code(name))
    {
        return Err("the job sets a variable that changes what commands mean");
    }
    // Its first line says who reads it, and is settled by then.
    let body = match text.strip_prefix("#!") {
        Some(rest) => rest.split_once('\n').map_or("", |(_, body)| body),
        None => text,
    };
    read(body).map(|read| ShellCode {
        code: text.to_owned(),
        ..read
    })
}

/// The applet is the name it is called by, else the first argument.
fn multicall(called: &str, args: &[String]) -> Action {
    let (applet, rest) = match (names::kind(called), args.split_first()) {
        (Kind::Multicall, Some((first, rest))) => (first.as_str(), rest),
        (Kind::Multicall, None) => return Action::Exec,
        _ => (called, args),
    };
    match names::kind(applet) {
        Kind::CoveredShell | Kind::OtherShell | Kind::Multicall => {
            Action::opaque("a shell that the parser does not cover")
        }
        _ => plain(applet, applet, rest),
    }
}

fn plain(program: &str, called: &str, args: &[String]) -> Action {
    let kinds = [names::kind(program), names::kind(called)];
    if asks_only_for_version(args) {
        return Action::Exec;
    }
    if kinds.contains(&Kind::Interpreter) {
        return Action::opaque("an interpreter");
    }
    if kinds.contains(&Kind::Wrapper) {
        // `env` and the like without arguments run nothing.
        return if args.is_empty()
            && names::base(called) == names::base(program)
            && names::base(called) == "env"
        {
            Action::Exec
        } else {
            Action::opaque("a program that runs what its arguments name")
        };
    }
    let literal: Vec<_> = args.iter().cloned().map(Some).collect();
    if arguments::runs_other(program, &literal) || arguments::runs_other(called, &literal) {
        return Action::opaque("an argument makes this program run another");
    }
    Action::Exec
}

fn asks_only_for_version(args: &[String]) -> bool {
    matches!(args, [only] if only == "--version" || only == "--help")
}

fn shell(exec: &Exec, args: &[String]) -> Action {
    if exec.env.keys().any(|name| crate::environment::changes_code(name)) {
        return Action::opaque("the job sets a variable that changes what commands mean");
    }
    let Some(code) = invocation::inline_code(args) else {
        return Action::opaque("a shell without literal -c code, or with options that read other code");
    };
    match read(code) {
        Ok(read) => Action::Shell(read),
        Err(why) => Action::opaque(why),
    }
}

/// Reads shell code in full, or says why it cannot.
fn read(code: &str) -> Result<ShellCode, &'static str> {
    screen::check(code)?;
    let found = walk::program(&walk::parse(code)?)?;
    Ok(ShellCode {
        code: code.to_owned(),
        commands: found.commands,
        redirects: found.redirects,
    })
}

#[cfg(test)]
mod tests;
