//! The documentation, held to what is there: named tests exist, codes exist, links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lictor_proto::Code;
use lictor_test::workspace_root;

fn files(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("directory") {
        let path = entry.expect("entry").path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if path.is_dir() {
            if !matches!(name, "target" | ".git" | "node_modules" | "corpus" | "artifacts") {
                files(&path, extension, found);
            }
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
}

/// The names of all functions in test position: preceded by an attribute that ends in `test]` or has arguments, or in
/// a list of cases that are tried on several backends.
fn tests() -> BTreeSet<String> {
    let mut sources = Vec::new();
    files(&workspace_root().join("crates"), "rs", &mut sources);
    let mut names = BTreeSet::new();
    for path in sources {
        let text = fs::read_to_string(&path).expect("UTF-8");
        // `for_every_backend![a, b];` and its like.
        let lists = text.split("\nfor_").skip(1);
        let lists = lists.filter_map(|rest| rest.split_once("![")?.1.split_once(']'));
        for (cases, _) in lists {
            let cases = cases.split(|c: char| !c.is_alphanumeric() && c != '_');
            names.extend(cases.filter(|c| !c.is_empty()).map(str::to_owned));
        }
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if let Some((_, rest)) = line.split_once("fn ") {
                if is_test {
                    names.insert(rest.split(['(', '<']).next().unwrap_or_default().to_owned());
                }
                is_test = false;
            }
        }
    }
    assert!(
        names.contains("every_promise_names_a_test_that_exists"),
        "the tests were not found"
    );
    names
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace_root().join(path)).expect("the document exists")
}

/// What stands between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let (tests, text) = (tests(), read("docs/promises.md"));
    let mut numbers = BTreeSet::new();
    // A promise is a numbered paragraph; it ends with its tests.
    for paragraph in text.split("\n\n").flat_map(|p| p.split_inclusive("`\n")) {
        if !paragraph.starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let number: u32 = paragraph
            .split('.')
            .next()
            .unwrap_or_default()
            .parse()
            .expect("a number");
        assert!(numbers.insert(number), "two promises have the number {number}");
        let (_, named) = paragraph
            .rsplit_once("Test")
            .unwrap_or_else(|| panic!("promise {number} names no test"));
        let named = quoted(named);
        assert!(!named.is_empty(), "promise {number} names no test");
        for name in named {
            assert!(
                tests.contains(name),
                "promise {number}: there is no test `{name}`"
            );
        }
    }
    assert!(numbers.len() >= 30, "the promises were not found");
}

#[test]
fn every_attack_names_a_code_and_a_test_that_exist() {
    let (tests, text) = (tests(), read("docs/threat-model.md"));
    let codes: BTreeSet<&str> = Code::ALL.iter().map(|c| c.as_str()).collect();
    let (_, table) = text
        .split_once("| attack | code | test |")
        .expect("the table exists");
    for row in table
        .lines()
        .filter(|l| l.starts_with("| ") && !l.starts_with("| attack"))
    {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [_, code, test] = cells[..] else {
            panic!("three cells, no more: {row}");
        };
        for code in quoted(code) {
            assert!(codes.contains(code), "there is no code `{code}`: {row}");
        }
        assert!(!quoted(test).is_empty(), "no test: {row}");
        for test in quoted(test) {
            assert!(tests.contains(test), "there is no test `{test}`: {row}");
        }
    }
}

#[test]
fn a_job_can_be_followed_through_files_that_exist() {
    let text = read("ARCHITECTURE.md");
    let paths: Vec<&str> = quoted(&text)
        .into_iter()
        .filter(|q| q.starts_with("crates/"))
        .collect();
    assert!(paths.len() >= 20, "the walk was not found");
    for path in paths {
        assert!(
            workspace_root().join(path).is_file(),
            "ARCHITECTURE.md: there is no {path}"
        );
    }
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut documents = Vec::new();
    files(&workspace_root(), "md", &mut documents);
    for path in documents {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|t| !t.contains("://") && !t.starts_with('#') && !t.contains(' ')) {
            let file = target.split('#').next().unwrap_or_default();
            let from = path.parent().expect("a file has a directory");
            assert!(
                from.join(file).exists(),
                "{}: {target} leads nowhere",
                path.display()
            );
        }
    }
}
