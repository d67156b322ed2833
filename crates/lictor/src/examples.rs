//! Every command that the documentation shows is one that this program takes: its words, its options, their values.

use std::path::{Path, PathBuf};

use clap::Parser as _;

use crate::args::Cli;

/// What an example writes in place of a job's id is cut short; here it is a whole one.
const SOME_JOB: &str = "j_x4vjzq6nq3m5s2c7d2vqk5h3zk3h2b6w";

/// README and every page below `docs/`, but for the reference, which is usage and not examples.
fn pages() -> Vec<PathBuf> {
    fn below(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("docs are there").flatten() {
            let path = entry.path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|e| e == "md") && !path.ends_with("docs/cli.md") {
                found.push(path);
            }
        }
    }
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let mut found = vec![root.join("README.md")];
    below(&root.join("docs"), &mut found);
    found
}

/// The lines of a page that somebody would paste: those after a prompt, and those of blocks of shell.
fn pasted(page: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let (mut fence, mut goes_on) = (None::<&str>, false);
    for line in page.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = fence.is_none().then_some(language);
            goes_on = false;
            continue;
        }
        let said = line.trim_start();
        let said = match (fence, said.strip_prefix("$ ")) {
            (Some(_), Some(after)) => after,
            (Some("sh"), None) => said,
            (Some(_), None) if goes_on => said,
            _ => continue,
        };
        match found.last_mut() {
            Some(begun) if goes_on => *begun = format!("{} {said}", begun.trim_end_matches('\\')),
            _ => found.push(said.to_owned()),
        }
        goes_on = said.ends_with('\\');
    }
    found
}

/// The calls of this program in a line: the words of each, without what the shell itself reads.
fn calls(line: &str) -> Vec<Vec<String>> {
    let words = shlex::split(line).unwrap_or_else(|| panic!("no shell would read this: {line}"));
    let mut found = Vec::new();
    for part in words.split(|word| ["|", "||", "&&", ";", "&"].contains(&word.as_str())) {
        let mut part = part.iter().skip_while(|word| is_assignment(word));
        if part.next().is_none_or(|program| program != "lictor") {
            continue;
        }
        let mut call = vec!["lictor".to_owned()];
        let mut is_file = false;
        for word in part {
            let redirects = [">", ">>", "<", "2>"].contains(&word.as_str());
            if !redirects && !is_file {
                call.push(whole(word));
            }
            is_file = redirects;
        }
        found.push(call);
    }
    found
}

fn is_assignment(word: &str) -> bool {
    word.split_once('=')
        .is_some_and(|(name, _)| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
}

fn whole(word: &str) -> String {
    match word.strip_prefix("j_") {
        Some(rest) if rest.ends_with("...") => SOME_JOB.to_owned(),
        _ => word.to_owned(),
    }
}

#[test]
fn every_command_of_the_documentation_is_understood() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page reads");
        for call in pasted(&text).iter().flat_map(|line| calls(line)) {
            seen += 1;
            if let Err(e) = Cli::try_parse_from(&call)
                && e.use_stderr()
            {
                let why = e.to_string();
                let why = why.lines().next().unwrap_or_default();
                wrong.push(format!("{}: {}\n    {why}", page.display(), call.join(" ")));
            }
        }
    }
    assert!(seen > 60, "only {seen} commands were found");
    assert!(
        wrong.is_empty(),
        "{} of {seen}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn a_line_is_read_as_a_shell_reads_it() {
    let found = calls("printf %s \"$X\" | A=1 lictor secret set db --nodes role=web > out # why");
    assert_eq!(found, [["lictor", "secret", "set", "db", "--nodes", "role=web"]]);
    let page = "```sh\nlictor a \\\n  b\n```\nlictor c\n```console\n$ lictor d\nlictor e\n```\n";
    assert_eq!(pasted(page), ["lictor a  b", "lictor d"]);
}
