//! `lictor profiles`: the law's profiles, in words.

use std::fs;

use crate::Home;

const BUILD: &str = r#"
[profiles.build]
backend = ["bubblewrap", "landlock"]
run_as = { user = "builder" }
network = "egress"
read_only = ["/opt/toolchain"]
read_write = ["/srv/cache"]
cwd = "/workspace/src"
path = ["/usr/bin", "/opt/toolchain/bin"]
env = { LANG = "C.UTF-8" }

[profiles.build.limits]
timeout = "90s"
max_timeout = "2h"
memory = "1536MiB"
pids = 256
cpu_millis = 1500
write_bytes_per_s = "20MiB"
cpu_seconds = 600
file_size = "2GiB"
open_files = 1024

[profiles.build.egress]
mode = "allowlist"
allow = ["repo.example.com:443", "*.cdn.example.com:443", "git.example.com:22 plain"]
presets = ["rust"]

[egress.presets.rust]
allow = ["index.example.com:443"]
"#;

fn org() -> Home {
    let home = Home::new();
    home.ok(&["org", "init", "acme", "--operator", "alice"]);
    home
}

fn with_build(home: &Home) {
    let path = home.path("org/profiles.toml");
    let starter = fs::read_to_string(&path).expect("there");
    fs::write(&path, format!("{starter}{BUILD}")).expect("written");
}

#[test]
fn every_profile_of_the_pinned_law_is_explained() {
    let home = org();
    home.ok(&["org", "sign"]);
    insta::assert_snapshot!("profiles", home.ok(&["profiles"]));
}

#[test]
fn a_profile_of_a_directory_is_explained_before_it_is_signed() {
    let home = org();
    home.ok(&["org", "sign"]);
    with_build(&home);
    let dir = home.path("org").display().to_string();
    insta::assert_snapshot!("profiles_build", home.ok(&["profiles", "build", "--dir", &dir]));
    let unsigned = home.run(&["profiles", "build"]);
    assert_eq!(unsigned.status, Some(125), "{unsigned:?}");
    assert!(
        unsigned.stderr.contains("the law has host, sandbox"),
        "{unsigned:?}"
    );
}

#[test]
fn programs_get_the_words_and_the_profile_as_it_is_written() {
    let home = org();
    with_build(&home);
    home.ok(&["org", "sign"]);
    let told = home.json(&["profiles", "build"]);
    assert_eq!(told["law"], 1, "{told}");
    let build = &told["profiles"][0];
    assert_eq!(build["name"], "build");
    assert_eq!(build["words"][0]["about"], "isolation");
    assert_eq!(build["profile"]["limits"]["pids"], 256);
    // Presets are written out, and the entries say whose they are.
    let reach = build["words"].as_array().expect("topics").iter();
    let reach = reach.filter(|t| t["about"] == "may reach").collect::<Vec<_>>();
    assert_eq!(
        reach[0]["says"][3],
        "index.example.com, port 443: TLS (in the preset rust)"
    );
}
