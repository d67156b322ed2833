//! Builds Cedar's context: everything signed in the job, and the facts. Approvals are never in it.

mod transfer;
mod workspace;

use cedar_policy::{Context, RestrictedExpression as Value};
use lictor_proto::Name;
use lictor_proto::doc::{Job, LimitName, Script, Spec, Stdin, StdinWord};
use lictor_trust::profiles::{Profile, RunAs};

use crate::facts::{Facts, ProgramFacts, SecretFacts};
use crate::shell::{Action, ShellCode};

pub(crate) use transfer::{collect, fetch};
pub(crate) use workspace::workspace;

/// The context could not be built; the answer is then a denial.
#[derive(Debug, Clone, thiserror::Error)]
#[error("context: {0}")]
pub(crate) struct ContextError(String);

fn error(e: impl std::fmt::Display) -> ContextError {
    ContextError(e.to_string())
}

type Pairs = Vec<(String, Value)>;

/// The context of running a program or a script.
pub(crate) fn run(
    job: &Job,
    profile: &Profile,
    facts: &Facts,
    action: &Action,
) -> Result<Context, ContextError> {
    let mut pairs: Pairs = Vec::with_capacity(50);
    match &job.spec {
        Spec::Exec(exec) => command(&exec.argv, &mut pairs),
        Spec::Script(script) => {
            command(&argv_of(script), &mut pairs);
        }
        Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => {
            return Err(error("it runs nothing of its own"));
        }
    }
    environment(job, facts, &mut pairs);
    found(facts, &mut pairs)?;
    terms(job, profile, &mut pairs);
    chosen(job, profile, &mut pairs)?;
    workspace::git(job.spec.git(), &mut pairs);
    match action {
        Action::Exec | Action::ShellOpaque { .. } | Action::Fetch | Action::Collect | Action::Workspace => {}
        Action::Shell(code) => {
            put(&mut pairs, "code", text(&code.code));
            read_in_full(code, &mut pairs);
        }
        Action::Script(read) => {
            put(&mut pairs, "readable", Value::new_bool(read.code.is_ok()));
            if let Ok(code) = &read.code {
                read_in_full(code, &mut pairs);
            }
            if let Spec::Script(script) = &job.spec {
                self::script((script, read.size), facts, &mut pairs)?;
            }
        }
    }
    Context::from_pairs(pairs).map_err(error)
}

/// Of shell code. Left out where code could not be read: a rule must not take "nothing known" for "nothing bad".
fn read_in_full(code: &ShellCode, pairs: &mut Pairs) {
    put(pairs, "commands", set(code.commands.iter().map(String::as_str)));
    put(pairs, "redirects", set(code.redirects.iter().map(String::as_str)));
}

fn script((script, size): (&Script, usize), facts: &Facts, pairs: &mut Pairs) -> Result<(), ContextError> {
    let name = script.name.as_ref().map_or("", Name::as_str);
    let of_bundle = [
        ("name".to_owned(), text(name)),
        ("sha256".to_owned(), Value::new_string(script.sha256.to_string())),
        ("size".to_owned(), long(size)),
    ];
    put(pairs, "script", Value::new_record(of_bundle).map_err(error)?);
    let interpreter = [
        ("name".to_owned(), text(script.interpreter.as_str())),
        ("path".to_owned(), text(&facts.program.path)),
        (
            "sha256".to_owned(),
            Value::new_string(facts.program.sha256.to_string()),
        ),
    ];
    put(
        pairs,
        "interpreter",
        Value::new_record(interpreter).map_err(error)?,
    );
    put(pairs, "args", set(script.args.iter().map(String::as_str)));
    Ok(())
}

/// The context of having a job, which is judged as `action`, use a secret.
pub(crate) fn secret(
    job: &Job,
    facts: &Facts,
    used: &SecretFacts,
    action: &str,
) -> Result<Context, ContextError> {
    let (argv, script) = match &job.spec {
        Spec::Exec(exec) => (exec.argv.clone(), ""),
        Spec::Script(script) => (argv_of(script), script.name.as_ref().map_or("", Name::as_str)),
        // They take no secrets: a job that names some is not valid.
        Spec::Fetch(_) | Spec::Collect(_) | Spec::Workspace(_) => (Vec::new(), ""),
    };
    let first = argv.first().map_or("", String::as_str);
    let mut pairs: Pairs = Vec::with_capacity(20);
    put(&mut pairs, "name", text(used.name.as_str()));
    put(&mut pairs, "version", long(used.version));
    put(&mut pairs, "set_by", text(used.set_by.as_str()));
    put(&mut pairs, "delivery", text(used.delivery.as_str()));
    put(&mut pairs, "action", text(action));
    put(&mut pairs, "script", text(script));
    put(&mut pairs, "argv0", text(first));
    put(&mut pairs, "called", text(last_part(first)));
    put(&mut pairs, "line", Value::new_string(line(&argv)));
    put(&mut pairs, "program", program(&facts.program)?);
    put(&mut pairs, "any_writable", Value::new_bool(any_writable(facts)));
    put(&mut pairs, "network", text(&facts.network));
    put(&mut pairs, "profile", text(facts.profile.as_str()));
    let digest = facts.profile_digest.to_string();
    put(&mut pairs, "profile_digest", Value::new_string(digest));
    put(&mut pairs, "backend", text(&facts.backend));
    put(&mut pairs, "namespaced", Value::new_bool(facts.namespaced));
    put(
        &mut pairs,
        "run_as_uid",
        Value::new_long(i64::from(facts.run_as_uid)),
    );
    let validity = job.expires_at.since(job.issued_at).as_millis();
    put(&mut pairs, "validity_ms", long(validity));
    put(&mut pairs, "nodes", long(job.nodes.len()));
    put(&mut pairs, "reason", text(&job.reason));
    Context::from_pairs(pairs).map_err(error)
}

/// A script as its interpreter is called.
fn argv_of(script: &Script) -> Vec<String> {
    let own = std::iter::once(script.interpreter.as_str().to_owned());
    own.chain(script.args.iter().cloned()).collect()
}

fn any_writable(facts: &Facts) -> bool {
    facts.program.writable || facts.interpreters.iter().any(|p| p.writable)
}

/// The context of ending a job.
pub(crate) fn cancel(requester: cedar_policy::EntityUid, reason: &str) -> Result<Context, ContextError> {
    let pairs = [
        ("requester".to_owned(), Value::new_entity_uid(requester)),
        ("reason".to_owned(), text(reason)),
    ];
    Context::from_pairs(pairs).map_err(error)
}

fn command(argv: &[String], pairs: &mut Pairs) {
    let arg = |n: usize| text(argv.get(n).map_or("", String::as_str));
    put(pairs, "argv", set(argv.iter().map(String::as_str)));
    put(pairs, "argc", long(argv.len()));
    put(pairs, "argv0", arg(0));
    put(
        pairs,
        "called",
        text(last_part(argv.first().map_or("", String::as_str))),
    );
    put(pairs, "arg1", arg(1));
    put(pairs, "arg2", arg(2));
    put(pairs, "line", Value::new_string(line(argv)));
}

fn environment(job: &Job, facts: &Facts, pairs: &mut Pairs) {
    let own = job.process().env;
    put(pairs, "env", set(facts.env_names.iter().map(String::as_str)));
    put(pairs, "job_env", set(own.keys().map(String::as_str)));
    put(
        pairs,
        "job_env_pairs",
        Value::new_set(own.iter().map(|(k, v)| Value::new_string(format!("{k}={v}")))),
    );
}

fn found(facts: &Facts, pairs: &mut Pairs) -> Result<(), ContextError> {
    put(pairs, "program", program(&facts.program)?);
    put(
        pairs,
        "interpreters",
        set(facts.interpreters.iter().map(|p| p.path.as_str())),
    );
    let digests = facts
        .interpreters
        .iter()
        .map(|p| Value::new_string(p.sha256.to_string()));
    put(pairs, "interpreter_digests", Value::new_set(digests));
    put(pairs, "any_writable", Value::new_bool(any_writable(facts)));
    put(pairs, "network", text(&facts.network));
    put(pairs, "profile", text(facts.profile.as_str()));
    put(
        pairs,
        "profile_digest",
        Value::new_string(facts.profile_digest.to_string()),
    );
    put(pairs, "backend", text(&facts.backend));
    put(pairs, "namespaced", Value::new_bool(facts.namespaced));
    let digest =
        |of: Option<lictor_proto::Digest>| Value::new_string(of.map_or_else(String::new, |d| d.to_string()));
    put(pairs, "rootfs", digest(facts.rootfs));
    put(pairs, "rootfs_index", digest(facts.rootfs_index));
    put(pairs, "run_as_uid", Value::new_long(i64::from(facts.run_as_uid)));
    put(pairs, "cwd", text(&facts.cwd));
    Ok(())
}

fn terms(job: &Job, profile: &Profile, pairs: &mut Pairs) {
    let (process, limits) = (job.process(), &profile.limits);
    put(
        pairs,
        "timeout_ms",
        long(process.timeout.unwrap_or(limits.timeout).as_millis()),
    );
    put(
        pairs,
        "grace_ms",
        process
            .grace_ms
            .map_or_else(|| long(limits.grace.as_millis()), long),
    );
    put(
        pairs,
        "keep_bytes",
        long(process.keep_bytes.unwrap_or(limits.keep)),
    );
    put(
        pairs,
        "validity_ms",
        long(job.expires_at.since(job.issued_at).as_millis()),
    );
    put(
        pairs,
        "delay_ms",
        long(job.not_before.since(job.issued_at).as_millis()),
    );
    put(pairs, "nodes", long(job.nodes.len()));
    put(pairs, "retry", Value::new_bool(job.retry_of.is_some()));
    put(pairs, "scheduled", Value::new_bool(job.fired().is_some()));
    put(pairs, "reason", text(&job.reason));
    put(pairs, "sandbox", text(process.sandbox.map_or("", Name::as_str)));
    let (word, size, sha256) = match &job.stdin {
        Stdin::Word(StdinWord::None) => ("none", 0, String::new()),
        Stdin::Word(StdinWord::E2e) => ("e2e", 0, String::new()),
        Stdin::Bytes(bytes) => ("bytes", bytes.size, bytes.sha256.to_string()),
    };
    put(pairs, "stdin", text(word));
    put(pairs, "stdin_size", long(size));
    put(pairs, "stdin_sha256", Value::new_string(sha256));
}

/// Who it runs as and within which limits, whoever has said so.
fn chosen(job: &Job, profile: &Profile, pairs: &mut Pairs) -> Result<(), ContextError> {
    let terms = job.process().terms;
    let of_profile = match &profile.run_as {
        RunAs::Agent => None,
        RunAs::User(name) => Some(name),
    };
    let user = terms.and_then(|t| t.user.as_ref()).or(of_profile);
    let group = terms.and_then(|t| t.group.as_ref());
    let umask = terms.and_then(|t| t.umask.as_deref());
    put(pairs, "user", text(user.map_or("", Name::as_str)));
    put(pairs, "group", text(group.map_or("", Name::as_str)));
    put(pairs, "umask", text(umask.unwrap_or(lictor_proto::limits::UMASK)));
    let limits = profile
        .limits_for(terms)
        .map_err(|refusal| error(refusal.message))?;
    let held = LimitName::ALL.into_iter();
    let held = held.filter_map(|name| Some((name.as_str().to_owned(), long(limits.get(name)?))));
    put(pairs, "limits", Value::new_record(held).map_err(error)?);
    Ok(())
}

fn program(facts: &ProgramFacts) -> Result<Value, ContextError> {
    Value::new_record([
        ("path".to_owned(), text(&facts.path)),
        ("name".to_owned(), text(last_part(&facts.path))),
        ("sha256".to_owned(), Value::new_string(facts.sha256.to_string())),
        ("writable".to_owned(), Value::new_bool(facts.writable)),
    ])
    .map_err(error)
}

/// What follows the last `/`.
fn last_part(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

fn put(pairs: &mut Pairs, key: &str, value: Value) {
    pairs.push((key.to_owned(), value));
}

fn text(value: &str) -> Value {
    Value::new_string(value.to_owned())
}

fn set<'a>(values: impl Iterator<Item = &'a str>) -> Value {
    Value::new_set(values.map(text))
}

/// Cedar's integers are 64 bits with a sign; what is larger counts as the largest.
fn long(value: impl TryInto<i64>) -> Value {
    Value::new_long(value.try_into().unwrap_or(i64::MAX))
}

/// The argv as one line that reads back as the same argv: words that need it stand in single quotes.
#[must_use]
pub fn line(argv: &[String]) -> String {
    let mut line = String::with_capacity(argv.iter().map(|a| a.len() + 3).sum());
    for (at, arg) in argv.iter().enumerate() {
        if at > 0 {
            line.push(' ');
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_@%+=:,./-".contains(&b);
        if !arg.is_empty() && arg.bytes().all(plain) {
            line.push_str(arg);
        } else {
            line.push('\'');
            line.push_str(&arg.replace('\'', "'\\''"));
            line.push('\'');
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn a_line_cannot_be_mistaken_for_another_argv() {
        let of = |args: &[&str]| line(&args.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["ls", "-l"]), "ls -l");
        assert_eq!(of(&["ls", "a b"]), "ls 'a b'");
        assert_eq!(of(&["ls", ""]), "ls ''");
        assert_eq!(of(&["ls", "it's"]), "ls 'it'\\''s'");
        assert_ne!(of(&["a", "b c"]), of(&["a", "b", "c"]));
    }
}
