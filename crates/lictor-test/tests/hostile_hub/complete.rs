//! No attack without a test, and none that the threat model doesn't name.

use std::fs;

use lictor_test::hostile::attacks::all;
use lictor_test::workspace_root;

#[test]
fn every_attack_has_a_test_and_a_row_in_the_threat_model() {
    let tests = workspace_root().join("crates/lictor-test/tests/hostile_hub");
    let tests: String = fs::read_dir(tests)
        .expect("the directory")
        .map(|e| fs::read_to_string(e.expect("an entry").path()).expect("UTF-8"))
        .collect();
    let model = fs::read_to_string(workspace_root().join("docs/threat-model.md")).expect("the threat model");
    for attack in all() {
        let test = format!("#[test]\nfn {}() {{", attack.name);
        assert!(tests.contains(&test), "no test: {}", attack.name);
        let row = model
            .lines()
            .find(|l| l.contains(&format!("`{}`", attack.name)))
            .unwrap_or_else(|| panic!("no row in docs/threat-model.md: {}", attack.name));
        if let Some(code) = attack.code {
            assert!(
                row.contains(&format!("`{code}`")),
                "{}: another code: {row}",
                attack.name
            );
        }
    }
}
