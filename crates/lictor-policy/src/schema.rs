//! The Cedar schema that policies are written against, shipped inside the program.
//!
//! A bundle names the version it was written for; a node that does not know that version loads nothing. The text is
//! part of the interface: within a version only additions that change no meaning.

use std::sync::OnceLock;

use cedar_policy::Schema;

/// The schema version that this program knows.
pub const VERSION: u64 = 1;

/// The schema as text, for people, editors and `lictor org init`.
pub const TEXT: &str = include_str!("../schema/lictor.cedarschema");

/// The parsed schema; parsed once.
///
/// `None` only if the shipped text were broken, which a test excludes; callers deny then.
pub(crate) fn schema() -> Option<&'static Schema> {
    static SCHEMA: OnceLock<Option<Schema>> = OnceLock::new();
    SCHEMA
        .get_or_init(|| Schema::from_cedarschema_str(TEXT).ok().map(|(schema, _)| schema))
        .as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shipped_schema_parses_without_warnings() {
        let (_, warnings) = Schema::from_cedarschema_str(TEXT).expect("schema");
        assert_eq!(warnings.count(), 0);
        assert!(schema().is_some());
    }

    /// Rules that speak of several ways to run something see the same names in each.
    #[test]
    fn whatever_runs_has_all_of_what_is_known_of_a_run() {
        let fields = |of: &str| -> Vec<&str> {
            let body = TEXT.split_once(&format!("type {of} = {{\n")).expect("the type").1;
            let body = body.split_once("\n};").expect("its end").0;
            body.lines().map(str::trim).collect()
        };
        for of in ["ShellRun", "ScriptRun"] {
            let has = fields(of);
            let lacks: Vec<_> = fields("Run").into_iter().filter(|f| !has.contains(f)).collect();
            assert!(lacks.is_empty(), "{of} lacks {lacks:?}");
        }
    }
}
