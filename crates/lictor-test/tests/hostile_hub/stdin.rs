//! Standard input: changed, short, or more than anybody needs.

use lictor_test::hostile::holds;

#[test]
fn hub_changes_standard_input() {
    holds("hub_changes_standard_input");
}

#[test]
fn hub_leaves_standard_input_out() {
    holds("hub_leaves_standard_input_out");
}

#[test]
fn hub_floods_a_node_with_standard_input() {
    holds("hub_floods_a_node_with_standard_input");
}
