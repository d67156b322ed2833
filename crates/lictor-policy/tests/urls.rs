//! Files that nodes fetch from URLs, as policy sees them.

mod common;

use common::{files_of, org_with};
use lictor_policy::{Law, Outcome, cases, run_cases};
use lictor_proto::Code;

const RULES: &str = r#"@id("ops") permit(principal in Group::"ops", action, resource);
    @id("releases") forbid(principal, action == Action::"fetch", resource)
    when { context.source == "url" } unless { context.url like "https://dl.example.org/releases/*" };
    @id("tls") forbid(principal, action == Action::"fetch", resource)
    when { context.url_scheme == "http" || (context.url_host == "dl.example.org" && context.url_port != 443) };
    @id("hub") forbid(principal, action == Action::"fetch", resource)
    when { context.source == "hub" && (context.url != "" || context.url_port != 0 || context.size > 10) };"#;

const FROM: &str = "\n[profiles.host.fetch_from]\nmode = \"allowlist\"\n\
    allow = [\"dl.example.org:443\", \"dl.example.org:8443\", \"dl.example.org:80 http\"]\n";

fn code(more: &str) -> Option<Code> {
    let mut org = org_with(&[("p", RULES)]);
    org.entry("profiles.toml".into()).or_default().push_str(FROM);
    let files = files_of(&org);
    let law = Law::load(&files).expect("loads");
    let text = format!(
        "[[case]]\nname = \"x\"\nexpect = \"permit\"\noperator = \"carol\"\nprofile = \"host\"\n\
         fetch = \"/srv/app/file\"\n{more}\n"
    );
    let case = cases::parse("x", &text).expect("case").remove(0);
    match run_cases(&law, &files, &[case]).results.remove(0).verdict.outcome {
        Outcome::Permit => None,
        Outcome::Deny(why) => Some(why.code),
        other => panic!("{other:?}"),
    }
}

#[test]
fn policy_sees_where_a_file_comes_from() {
    assert_eq!(code("size = 10"), None);
    assert_eq!(code("size = 11"), Some(Code::Forbidden));
    assert_eq!(code("url = \"https://dl.example.org/releases/1.tar\""), None);
    for (url, why) in [
        ("https://dl.example.org/nightly/1.tar", Code::Forbidden),
        ("https://dl.example.org:8443/releases/1.tar", Code::Forbidden),
        ("http://dl.example.org/releases/1.tar", Code::Forbidden),
        // What the profile does not list no policy can allow.
        ("https://evil.example.org/releases/1.tar", Code::UrlRefused),
    ] {
        assert_eq!(code(&format!("url = \"{url}\"")), Some(why), "{url}");
    }
}

#[test]
fn a_case_has_a_url_only_beside_a_file_that_is_put() {
    let text = "[[case]]\nname = \"x\"\nexpect = \"permit\"\noperator = \"carol\"\nprofile = \"host\"\n\
        argv = [\"true\"]\nurl = \"https://dl.example.org/x\"\n";
    let error = cases::parse("x", text).expect_err("a url without fetch");
    assert!(error.to_string().contains("goes with fetch"), "{error}");
}
