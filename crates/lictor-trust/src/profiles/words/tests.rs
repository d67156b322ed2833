//! What is said about profiles.

use super::{Backend, Topic};
use crate::profiles::Profiles;

fn words(toml: &str) -> Vec<Topic> {
    let mut profiles: Profiles = toml::from_str(toml).expect("profiles");
    profiles.settle().expect("good profiles");
    let profile = profiles.profiles.values().next().expect("one");
    profile.in_words(&profiles.egress.presets)
}

fn said<'a>(topics: &'a [Topic], about: &str) -> &'a [String] {
    let found = topics.iter().find(|t| t.about == about);
    found.map_or(&[], |t| &t.says)
}

#[test]
fn what_is_not_for_hostile_code_says_so() {
    let topics = words("[profiles.quick]\nbackend = \"landlock\"\n");
    assert!(said(&topics, "isolation")[0].contains("not for hostile code"));
}

#[test]
fn a_backend_that_never_holds_a_profile_is_named_with_the_reason() {
    let topics = words(
        "[profiles.web]\nbackend = [\"landlock\", \"bubblewrap\"]\nnetwork = \"egress\"\n\
         egress = { mode = \"open\" }\n",
    );
    assert_eq!(
        said(&topics, "never on"),
        ["landlock: it has no way out through the egress proxy"]
    );
    let needs = said(&topics, "needs").join("\n");
    assert!(!needs.contains("landlock"), "{needs}");
    let topics = words("[profiles.odd]\nbackend = \"host\"\nnetwork = \"none\"\n");
    assert!(
        said(&topics, "never on")
            .join("\n")
            .contains("refused everywhere")
    );
}

#[test]
fn devices_and_a_stricter_filter_are_spoken_of() {
    let topics = words(
        "[profiles.gpu]\nbackend = \"bubblewrap\"\ndevices = [\"/dev/dri/renderD128\"]\nseccomp = \"strict\"\n",
    );
    assert_eq!(said(&topics, "devices"), ["/dev/dri/renderD128 of the host"]);
    assert!(said(&topics, "system calls")[0].starts_with("the strict filter"));
    let topics = words("[profiles.odd]\nbackend = \"host\"\nnetwork = \"host\"\nseccomp = \"strict\"\n");
    assert_eq!(said(&topics, "never on")[0], "host: it has no system call filter");
}

#[test]
fn a_root_of_its_own_says_where_it_comes_from_and_what_may_be_written() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let said_of = |more: &str| {
        words(&format!(
            "[profiles.image]\nbackend = \"bubblewrap\"\nrootfs = \"{digest}\"\n{more}"
        ))
    };
    let by_hand = said_of("");
    assert!(
        said(&by_hand, "needs").join("\n").contains("somebody adds it"),
        "{by_hand:?}"
    );
    assert!(!said(&by_hand, "writes")[0].contains("root file system"));
    let pulled =
        said_of("image = \"registry.example.com/team/name\"\npull = \"missing\"\nrootfs_writable = true\n");
    let needs = said(&pulled, "needs").join("\n");
    for part in [
        "registry.example.com/team/name",
        "skopeo",
        "an agent that is root",
    ] {
        assert!(needs.contains(part), "{needs}");
    }
    let writes = &said(&pulled, "writes")[0];
    assert!(
        writes.contains("root file system") && writes.contains("1 GiB, which is memory"),
        "{writes}"
    );
}

#[test]
fn a_profile_without_lists_and_limits_says_that_there_are_none() {
    let topics = words("[profiles.plain]\nbackend = \"host\"\nnetwork = \"host\"\n");
    assert_eq!(
        said(&topics, "limits"),
        ["none on memory, processes, processors or disks"]
    );
    assert_eq!(said(&topics, "environment"), ["empty, but for what a job sets"]);
    assert_eq!(said(&topics, "may reach"), [""; 0]);
}

#[test]
fn entries_of_the_allowlist_say_whom_they_name_what_may_be_spoken_and_whose_list_they_are_on() {
    let topics = words(
        r#"
        [profiles.build]
        backend = "bubblewrap"
        network = "egress"
        [profiles.build.egress]
        mode = "allowlist"
        allow = ["repo.example.com:443", "*.cdn.example.com:443 http", "git.example.com:22 plain", "10.1.0.0/16:5000-5010"]
        presets = ["rust"]
        private = ["10.1.0.0/16"]
        tls = { not_tls = "allow" }
        [egress.presets.rust]
        allow = ["index.example.com:443"]
        "#,
    );
    assert_eq!(
        said(&topics, "may reach"),
        [
            "repo.example.com, port 443: TLS",
            "every name below cdn.example.com, port 443: TLS or plain HTTP",
            "git.example.com, port 22: anything",
            "addresses in 10.1.0.0/16, ports 5000 to 5010: TLS",
            "index.example.com, port 443: TLS (in the preset rust)",
        ]
    );
    assert_eq!(
        said(&topics, "not public"),
        ["listed names may have addresses in 10.1.0.0/16"]
    );
    assert_eq!(
        said(&topics, "lets pass"),
        ["what is not TLS, to whoever is listed"]
    );
}

#[test]
fn every_backend_has_words_of_its_own() {
    let mut seen = std::collections::BTreeSet::new();
    for backend in [
        Backend::Host,
        Backend::Landlock,
        Backend::Bubblewrap,
        Backend::Container,
        Backend::Gvisor,
    ] {
        assert!(seen.insert(super::Isolation::of(backend).means), "{backend}");
    }
}
