//! Specs as they are written and read.

use super::{Exec, JobId, JobKind, Script, Spec, Workspace};
use crate::Digest;
use crate::doc::Operation;

const BEFORE: &str =
    r#"{"argv":["true"],"env":{},"cwd":null,"timeout_ms":null,"grace_ms":null,"keep_bytes":null}"#;

fn read(kind: JobKind, text: &str) -> Result<Spec, String> {
    Spec::read(kind, serde_json::from_str(text).expect("JSON"))
}

fn script() -> Script {
    Script::new(
        "sh".parse().expect("a name"),
        "echo hi\n".into(),
        vec!["a".into()],
    )
}

/// What was signed before there were other kinds, and kept sandboxes, reads as before and is written as before.
#[test]
fn a_plain_command_is_written_as_if_there_were_nothing_else() {
    let exec = Exec::new(vec!["true".to_owned()]);
    let spec = Spec::Exec(exec);
    assert_eq!(serde_json::to_string(&spec).expect("JSON"), BEFORE);
    assert_eq!(read(JobKind::Exec, BEFORE), Ok(spec));
    let named = BEFORE.replace("null}", "null,\"sandbox\":\"work\"}");
    let named = read(JobKind::Exec, &named).expect("a spec");
    assert_eq!(named.process().sandbox.map(|n| n.as_str()), Some("work"));
}

#[test]
fn an_error_in_a_spec_names_the_field() {
    for (wrong, words) in [
        (BEFORE.replace("argv", "agrv"), "agrv"),
        (BEFORE.replace("{}", "{\"A\": 1}"), "spec.env.A: invalid type"),
        (
            BEFORE.replace("[\"true\"]", "[\"true\", 1]"),
            "spec.argv[1]: invalid type",
        ),
        (
            BEFORE.replace("\"cwd\":null,", "\"cwd\":[],"),
            "spec.cwd: invalid type",
        ),
        (
            BEFORE.replace("\"argv\":[\"true\"],", ""),
            "spec: missing field `argv`",
        ),
        (
            BEFORE.replace("null}", "null,\"sandbox\":\"../up\"}"),
            "spec.sandbox: ",
        ),
    ] {
        let error = read(JobKind::Exec, &wrong).expect_err("wrong");
        assert!(error.contains(words), "{error}");
    }
    let error = read(JobKind::Script, BEFORE).expect_err("a command is no script");
    assert!(error.contains("argv: unknown field `argv`"), "{error}");
}

#[test]
fn a_script_is_its_text_or_a_name_and_its_digest() {
    assert_eq!(script().validate(), Ok(()));
    let text = serde_json::to_string(&Spec::Script(script())).expect("JSON");
    assert_eq!(read(JobKind::Script, &text), Ok(Spec::Script(script())));
    let other = Script {
        sha256: Digest::of(b"another"),
        ..script()
    };
    let both = Script {
        name: Some("sh".parse().expect("a name")),
        ..script()
    };
    let neither = Script {
        content: None,
        ..script()
    };
    let large = Script::new(
        "sh".parse().expect("a name"),
        "#".repeat((1 << 20) + 1),
        Vec::new(),
    );
    let nul = Script {
        args: vec!["\0".into()],
        ..script()
    };
    for (script, field) in [
        (other, "spec.sha256"),
        (both, "spec.content"),
        (neither, "spec.content"),
        (large, "spec.content"),
        (nul, "spec.args"),
    ] {
        assert_eq!(script.validate().expect_err(field).field, field);
    }
}

#[test]
fn a_script_in_words_is_not_its_text() {
    let words = Spec::Script(script()).words();
    assert_eq!(words.first().map(String::as_str), Some("sh"));
    assert!(
        words
            .get(1)
            .is_some_and(|w| w.starts_with("sha256:") && w.len() == 19),
        "{words:?}"
    );
    assert_eq!(words.get(2).map(String::as_str), Some("a"));
}

#[test]
fn a_kept_sandbox_is_not_called_like_a_job() {
    let named = |name: &str| {
        let sandbox = Some(name.parse().expect("a name"));
        let exec = Exec {
            sandbox,
            ..Exec::new(vec!["true".to_owned()])
        };
        Spec::Exec(exec).validate()
    };
    let id = JobId::from_digest(&Digest::of(b"a job"));
    assert_eq!(named(id.as_str()).expect_err("refused").field, "spec.sandbox");
    assert_eq!(named("j_short"), Ok(()));
    let removal = Workspace::new(Operation::Remove, Some(id.as_str().parse().expect("a name")));
    assert!(Spec::Workspace(removal).validate().is_err());
}
