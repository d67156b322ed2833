//! What a profile's egress section allows, refuses, and cannot be mistaken for.

use super::*;

fn egress(toml: &str) -> Result<Egress, String> {
    toml::from_str(toml).map_err(|e| e.to_string())
}

fn rules(toml: &str) -> Result<wire::Rules, String> {
    egress(toml)?.rules(&Presets::new())
}

fn reach(toml: &str) -> Reach {
    Reach::read(&rules(toml).expect("rules")).expect("reach")
}

fn host(text: &str) -> Host {
    Host::parse(text).expect("a host")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Whether an address may be dialled for this host at port 443.
fn dials(reach: &Reach, asked: &str, address: &str, owner: Owner) -> bool {
    let listed = reach.find(&host(asked), 443).expect("listed");
    reach.refuses(ip(address), &listed, owner).is_none()
}

#[test]
fn nothing_is_allowed_unless_it_is_written() {
    let none = reach("");
    assert_eq!(none.mode(), Mode::None);
    assert_eq!(none.find(&host("example.com"), 443), None);
    let listed = reach("mode = 'allowlist'\nallow = ['a.example.com:443']");
    assert!(listed.find(&host("a.example.com"), 443).is_some());
    assert_eq!(listed.find(&host("b.example.com"), 443), None);
    assert_eq!(listed.find(&host("a.example.com"), 80), None);
    assert_eq!(listed.find(&host("93.184.216.34"), 443), None);
}

#[test]
fn lists_that_mean_something_else_than_they_say_are_refused() {
    for odd in [
        "mode = 'allowlist'",
        "allow = ['a.b:443']",
        "mode = 'none'\nprivate = ['10.0.0.0/8']",
        "mode = 'open'\nprivate = ['0.0.0.0/0']",
        "mode = 'open'\nprivate = ['8.0.0.0/8']",
        "mode = 'open'\npresets = ['rust']",
        "mode = 'any'",
        "mode = 'open'\nextra = 1",
        "mode = 'open'\ntls = { sni = 'deny' }",
        "mode = 'open'\nlimits = { connections = 0 }",
        "mode = 'open'\nlimits = { bytes_up = '0' }",
        "mode = 'open'\nlimits = { idle = '0s' }",
        "mode = 'open'\nlimits = { head = '1MiB' }",
    ] {
        assert!(rules(odd).is_err(), "{odd}");
    }
}

#[test]
fn a_preset_is_a_list_of_the_orgs_own() {
    #[derive(Deserialize)]
    struct Law {
        presets: Presets,
        profile: Egress,
    }
    let law: Law = toml::from_str(
        "[presets.rust]\nallow = ['index.example.com:443']\n\
         [profile]\nmode = 'allowlist'\npresets = ['rust']\nallow = ['own.example.com:443']",
    )
    .expect("TOML");
    let rules = law.profile.rules(&law.presets).expect("rules");
    assert_eq!(rules.allow, ["own.example.com:443", "index.example.com:443"]);
}

#[test]
fn an_address_that_is_not_public_needs_a_range_of_its_own_kind() {
    let open = reach("mode = 'open'");
    assert!(dials(&open, "example.com", "8.8.8.8", Owner::Other));
    for special in [
        "10.0.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "::1",
        "fd00::1",
        "::ffff:8.8.8.8",
        "100.64.0.1",
    ] {
        assert!(!dials(&open, "example.com", special, Owner::Other), "{special}");
    }
    let named =
        reach("mode = 'open'\nprivate = ['10.1.0.0/16', '169.254.0.0/16', 'fd00::/8', '127.0.0.0/8']");
    for opened in ["10.1.2.3", "169.254.1.1", "fd00::1", "127.0.0.1"] {
        assert!(dials(&named, "example.com", opened, Owner::Other), "{opened}");
    }
    for still in [
        "10.2.0.1",
        "169.254.169.254",
        "fd00:ec2::254",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::7f00:1",
    ] {
        assert!(!dials(&named, "example.com", still, Owner::Other), "{still}");
    }
    let metadata = reach("mode = 'open'\nprivate = ['169.254.169.254']");
    assert!(dials(&metadata, "example.com", "169.254.169.254", Owner::Other));
}

#[test]
fn a_wide_range_on_the_list_opens_nothing_that_is_not_public() {
    let wide = reach("mode = 'allowlist'\nallow = ['0.0.0.0/0:443']");
    assert!(dials(&wide, "8.8.8.8", "8.8.8.8", Owner::Other));
    for special in ["10.0.0.1", "127.0.0.1", "169.254.169.254"] {
        assert!(!dials(&wide, special, special, Owner::Other), "{special}");
    }
    let named = reach("mode = 'allowlist'\nallow = ['10.0.0.0/8:443', 'db.example.com:443']");
    assert!(dials(&named, "10.0.0.1", "10.0.0.1", Owner::Other));
    // A range on the list is for addresses asked for as such; names need `private`.
    assert!(!dials(&named, "db.example.com", "10.0.0.1", Owner::Other));
}

#[test]
fn this_machines_own_addresses_are_named_one_by_one() {
    let open = reach("mode = 'open'\nprivate = ['10.0.0.0/8', '127.0.0.0/8']");
    assert!(dials(&open, "example.com", "10.0.0.1", Owner::Other));
    assert!(!dials(&open, "example.com", "10.0.0.1", Owner::ThisMachine));
    assert!(!dials(&open, "example.com", "8.8.8.8", Owner::ThisMachine));
    assert!(dials(&open, "example.com", "127.0.0.1", Owner::ThisMachine));
    let named = reach("mode = 'open'\nprivate = ['10.0.0.1', '8.8.8.8']");
    assert!(dials(&named, "example.com", "10.0.0.1", Owner::ThisMachine));
    assert!(dials(&named, "example.com", "8.8.8.8", Owner::ThisMachine));
}

#[test]
fn the_narrowest_entry_decides() {
    let reach = reach(
        "mode = 'allowlist'\nallow = ['*.example.com:1-65535 plain', '*.b.example.com:443', 'a.example.com:443']",
    );
    let rule = |h: &str| reach.find(&host(h), 443).map(|l| l.rule);
    assert_eq!(rule("a.example.com").as_deref(), Some("a.example.com:443"));
    assert_eq!(rule("x.b.example.com").as_deref(), Some("*.b.example.com:443"));
    assert_eq!(
        rule("c.example.com").as_deref(),
        Some("*.example.com:1-65535 plain")
    );
}

#[test]
fn a_section_reads_back_as_it_was_written() {
    let law = egress(
        "mode = 'allowlist'\nallow = ['*.example.com:443', '[fd00::/8]:22 plain']\nprivate = ['fd00::/8']\n\
         tls = { ech = 'allow' }\nlimits = { bytes_up = '1MiB', idle = '30s' }",
    )
    .expect("a section");
    let json = serde_json::to_string(&law).expect("JSON");
    assert_eq!(serde_json::from_str::<Egress>(&json).expect("read back"), law);
}
