//! Walks parsed shell code: every command word and every redirection, or why it is opaque.

use std::collections::BTreeSet;

use brush_parser::ast::{
    AssignmentName, AssignmentValue, Command, CommandPrefixOrSuffixItem as Item, CompoundCommand,
    CompoundList, IoFileRedirectKind, IoFileRedirectTarget, IoRedirect, Pipeline, Program, RedirectList,
    SimpleCommand, Word,
};
use brush_parser::{Parser, ParserOptions};

use super::names::{self, Kind};
use super::{arguments, word};

/// What a walk has come across.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Every command word, as written.
    pub(super) commands: BTreeSet<String>,
    /// Every file that a redirection opens, but `/dev/null`.
    pub(super) redirects: BTreeSet<String>,
    /// Whether the code sets a variable.
    sets_variable: bool,
    /// Whether an opening bracket stands where an expansion could make a subscript of it.
    has_bracket: bool,
}

type Walk = Result<(), &'static str>;

/// Parses code as a POSIX shell does, with bash's additions where they cannot be told apart.
///
/// A panic of the parser is caught: it holds nothing that could stay half-changed, and a node that dies of a job's
/// text would neither run nor refuse it, over and over.
pub(super) fn parse(code: &str) -> Result<Program, &'static str> {
    let options = ParserOptions {
        enable_extended_globbing: false,
        ..ParserOptions::default()
    };
    match std::panic::catch_unwind(|| Parser::new(code.as_bytes(), &options).parse_program()) {
        Ok(parsed) => parsed.map_err(|_| "the code does not parse"),
        Err(_) => Err("the parser failed at the code"),
    }
}

/// Collects what a whole program runs and opens.
pub(super) fn program(program: &Program) -> Result<Found, &'static str> {
    let mut found = Found::default();
    program
        .complete_commands
        .iter()
        .try_for_each(|list| compound_list(list, &mut found))?;
    // `x="a[${dollar}(id)]"` is only text, until something in bash takes it for the name of a variable.
    if found.sets_variable && found.has_bracket {
        return Err("the code could put a subscript together, and subscripts are evaluated");
    }
    Ok(found)
}

fn compound_list(list: &CompoundList, found: &mut Found) -> Walk {
    for item in &list.0 {
        pipeline(&item.0.first, found)?;
        for next in &item.0.additional {
            match next {
                brush_parser::ast::AndOr::And(p) | brush_parser::ast::AndOr::Or(p) => pipeline(p, found)?,
            }
        }
    }
    Ok(())
}

fn pipeline(pipeline: &Pipeline, found: &mut Found) -> Walk {
    if pipeline.timed.is_some() {
        return Err("`time` is a word of some shells and a program for others");
    }
    pipeline.seq.iter().try_for_each(|c| command(c, found))
}

fn command(command: &Command, found: &mut Found) -> Walk {
    match command {
        Command::Simple(simple_command) => simple(simple_command, found),
        Command::Compound(body, redirects) => {
            compound(body, found)?;
            redirect_list(redirects.as_ref(), found)
        }
        Command::Function(_) => Err("a function gives a word another meaning"),
        Command::ExtendedTest(..) => Err("arithmetic and extended tests evaluate strings again"),
    }
}

fn compound(body: &CompoundCommand, found: &mut Found) -> Walk {
    match body {
        CompoundCommand::BraceGroup(group) => compound_list(&group.list, found),
        CompoundCommand::Subshell(sub) => compound_list(&sub.list, found),
        CompoundCommand::ForClause(each) => {
            assignable(&each.variable_name, found)?;
            each.values
                .iter()
                .flatten()
                .try_for_each(|w| brackets(w, found))?;
            compound_list(&each.body.list, found)
        }
        CompoundCommand::CaseClause(case) => case
            .cases
            .iter()
            .filter_map(|c| c.cmd.as_ref())
            .try_for_each(|list| compound_list(list, found)),
        CompoundCommand::IfClause(branch) => {
            compound_list(&branch.condition, found)?;
            compound_list(&branch.then, found)?;
            for other in branch.elses.iter().flatten() {
                other
                    .condition
                    .iter()
                    .try_for_each(|list| compound_list(list, found))?;
                compound_list(&other.body, found)?;
            }
            Ok(())
        }
        CompoundCommand::WhileClause(again) | CompoundCommand::UntilClause(again) => {
            compound_list(&again.0, found)?;
            compound_list(&again.1.list, found)
        }
        CompoundCommand::Arithmetic(_) | CompoundCommand::ArithmeticForClause(_) => {
            Err("arithmetic and extended tests evaluate strings again")
        }
        CompoundCommand::Coprocess(_) => Err("coprocesses are not read"),
    }
}

fn simple(simple: &SimpleCommand, found: &mut Found) -> Walk {
    let prefix = simple.prefix.iter().flat_map(|p| &p.0);
    for item in prefix {
        match item {
            Item::IoRedirect(r) => redirect(r, found)?,
            Item::AssignmentWord(assignment, _) if simple.word_or_name.is_none() => {
                let (AssignmentName::VariableName(name), AssignmentValue::Scalar(value)) =
                    (&assignment.name, &assignment.value)
                else {
                    return Err("arrays evaluate their subscripts");
                };
                if assignment.append {
                    return Err("`+=` appends in some shells and is a command's name in others");
                }
                assignable(name, found)?;
                brackets(value, found)?;
            }
            Item::AssignmentWord(..) => return Err("a variable is set for one command"),
            Item::Word(_) | Item::ProcessSubstitution(..) => {
                return Err("a word stands where none was expected");
            }
        }
    }
    let args = arguments(simple, found)?;
    match &simple.word_or_name {
        Some(name) => command_word(name, &args, found),
        None if args.is_empty() => Ok(()),
        None => Err("a word stands where none was expected"),
    }
}

fn arguments(simple: &SimpleCommand, found: &mut Found) -> Result<Vec<Option<String>>, &'static str> {
    let mut args = Vec::new();
    for item in simple.suffix.iter().flat_map(|s| &s.0) {
        match item {
            Item::IoRedirect(r) => redirect(r, found)?,
            Item::Word(w) | Item::AssignmentWord(_, w) => {
                brackets(w, found)?;
                args.push(word::literal(&w.value));
            }
            Item::ProcessSubstitution(..) => {
                return Err("a substitution runs commands that are not command words");
            }
        }
    }
    Ok(args)
}

fn command_word(raw: &Word, args: &[Option<String>], found: &mut Found) -> Walk {
    let Some(name) = word::command(&raw.value) else {
        return Err("a command word is not literal");
    };
    // `%1` goes on with a job, whatever that is.
    if names::is_shell_builtin(&name) || name.starts_with('%') {
        return Err("a shell builtin changes what other words mean, or evaluates a string");
    }
    match names::kind(&name) {
        Kind::Plain if !arguments::runs_other(&name, args) => {
            found.commands.insert(name);
            Ok(())
        }
        Kind::Plain => Err("an argument makes a program run another"),
        Kind::Interpreter => Err("the code runs an interpreter"),
        Kind::CoveredShell | Kind::OtherShell | Kind::Multicall => Err("the code runs another shell"),
        Kind::Wrapper => Err("the code runs a program that runs what its arguments name"),
    }
}

/// A variable that code may set: only of a form that no shell gives a meaning to, so that what is not known is
/// refused. Shells name theirs in capitals (`RANDOM` evaluates what it is set to), with two exceptions.
fn assignable(name: &str, found: &mut Found) -> Walk {
    found.sets_variable = true;
    let own = name.starts_with(|c: char| c.is_ascii_lowercase())
        || (name.len() == 1 && name.bytes().all(|b| b.is_ascii_alphabetic()));
    let known = matches!(name, "auto_resume" | "histchars") || crate::environment::changes_code(name);
    if own && !known {
        Ok(())
    } else {
        Err("the code sets a variable that has, or could have, a meaning to the shell or to programs")
    }
}

/// A `[` outside quotes is a subscript or a pattern; inside double quotes it is text that may become one.
fn brackets(raw: &Word, found: &mut Found) -> Walk {
    match word::bracket(&raw.value) {
        Some(word::Bracket::Bare) => Err("a bracket outside quotes may be a subscript"),
        Some(word::Bracket::Quoted) => {
            found.has_bracket = true;
            Ok(())
        }
        None => Ok(()),
    }
}

fn redirect_list(list: Option<&RedirectList>, found: &mut Found) -> Walk {
    list.iter()
        .flat_map(|l| &l.0)
        .try_for_each(|r| redirect(r, found))
}

fn redirect(redirect: &IoRedirect, found: &mut Found) -> Walk {
    match redirect {
        IoRedirect::File(_, _, IoFileRedirectTarget::Fd(_)) => Ok(()),
        IoRedirect::File(_, kind, IoFileRedirectTarget::Duplicate(target)) => duplicate(kind, target, found),
        IoRedirect::File(_, _, IoFileRedirectTarget::Filename(target))
        | IoRedirect::OutputAndError(target, _) => open(target, found),
        IoRedirect::File(_, _, IoFileRedirectTarget::ProcessSubstitution(..)) => {
            Err("a substitution runs commands that are not command words")
        }
        IoRedirect::HereDocument(..) | IoRedirect::HereString(..) => Err("here-documents are not read"),
    }
}

/// `>&1` and `<&-` move descriptors; `>&file` opens a file.
fn duplicate(kind: &IoFileRedirectKind, target: &Word, found: &mut Found) -> Walk {
    let moves = matches!(
        kind,
        IoFileRedirectKind::DuplicateInput | IoFileRedirectKind::DuplicateOutput
    ) && target.value.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if moves { Ok(()) } else { open(target, found) }
}

fn open(target: &Word, found: &mut Found) -> Walk {
    match word::literal(&target.value) {
        Some(path) if path == "/dev/null" => Ok(()),
        Some(path) => {
            found.redirects.insert(path);
            Ok(())
        }
        None => Err("a redirection's target is not literal"),
    }
}
