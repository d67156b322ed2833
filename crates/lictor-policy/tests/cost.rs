//! The cost of a verdict does not come from parsing: a hundred policies are judged many times from one load.
//!
//! Prints the time (`cargo nextest run --cargo-profile release --no-capture -p lictor-policy cost`); asserts nothing about it, since machines
//! differ.

mod common;

use std::fmt::Write as _;
use std::time::Instant;

use common::{files_of, org_with};
use lictor_policy::{Law, Outcome, cases, run_cases};

#[test]
fn a_hundred_policies_are_parsed_once_and_judged_many_times() {
    let mut text = String::from("@id(\"ops\") permit(principal in Group::\"ops\", action, resource);\n");
    for n in 0..99 {
        let _ = writeln!(
            text,
            "@id(\"f{n}\") forbid(principal, action in [Action::\"exec\", Action::\"shell\"], resource) when {{ \
             resource.labels.contains(\"x={n}\") && [\"/usr/bin/p{n}\"].contains(context.program.path) }};"
        );
    }
    let files = files_of(&org_with(&[("p", &text)]));
    let law = Law::load(&files).expect("loads");
    let case = "[[case]]\nname = \"x\"\noperator = \"carol\"\nprofile = \"sandbox\"\nargv = [\"true\"]\nexpect = \"permit\"\n";
    let case = cases::parse("x", case).expect("case");
    let rounds = 200;
    let start = Instant::now();
    for _ in 0..rounds {
        let report = run_cases(&law, &files, &case);
        assert_eq!(report.results[0].verdict.outcome, Outcome::Permit);
    }
    println!("{:?} a verdict, 100 policies", start.elapsed() / rounds);
}
