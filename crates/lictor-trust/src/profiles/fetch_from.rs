//! Where a node may fetch files from, for jobs that put them: the profile's `fetch_from`, in the words of its egress.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{FileUrl, Scheme};
use lictor_proto::egress::{Mode, Rules};
use lictor_proto::{Code, Name};

use super::Profile;
use crate::egress::{Host, Presets, Reach, Speech};

impl Profile {
    /// Writes the presets out and checks the whole.
    pub(super) fn settle_fetch_from(&mut self, presets: &Presets) -> Result<(), String> {
        let Some(from) = &mut self.fetch_from else {
            return Ok(());
        };
        if from.mode == Mode::None {
            return Err("fetch_from wants mode = \"allowlist\" or \"open\"; leave it out for nowhere".into());
        }
        from.settle(presets).map_err(|e| format!("fetch_from: {e}"))
    }

    /// The rules that the egress proxy holds a download from there by. Whether the addresses behind the name may be
    /// reached is found out there, at each connection.
    ///
    /// # Errors
    /// `UrlRefused`: the profile, which is called `name`, has no entry for it.
    pub fn fetch_rules(&self, name: &Name, url: &FileUrl) -> Result<Rules, Refusal> {
        let refused = |why: &str| {
            let whom = format!("{}:{}", url.host(), url.port());
            Refusal::new(Code::UrlRefused, format!("profile {name}: {whom}: {why}"))
        };
        let from = self
            .fetch_from
            .as_ref()
            .ok_or_else(|| refused("it has no fetch_from, so its files come from the hub only"))?;
        let rules = from.rules(&Presets::new()).map_err(|e| refused(&e))?;
        check_url(&rules, url).map_err(|why| refused(&why))?;
        Ok(rules)
    }
}

/// Whether rules name a URL's host and port, for what is spoken there.
///
/// # Errors
/// Says what they lack.
pub fn check_url(rules: &Rules, url: &FileUrl) -> Result<(), String> {
    let host = Host::parse(url.host()).map_err(|e| e.to_string())?;
    let listed = Reach::read(rules)?.find(&host, url.port());
    let listed = listed.ok_or("no entry of fetch_from names this host and port")?;
    match (url.scheme(), listed.speech) {
        (Scheme::Http, Speech::Tls) => Err(format!(
            "the entry `{}` is for https:// only; write `http` behind it for http://",
            listed.rule
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use lictor_proto::{Code, Name};

    use crate::profiles::{Profile, Profiles};

    fn profile(more: &str) -> Result<Profile, String> {
        let text = format!(
            "[profiles.p]\nbackend = \"host\"\nnetwork = \"host\"\n{more}\n\
             [egress.presets.mirrors]\nallow = [\"*.mirror.example.org:443\"]\n"
        );
        let mut profiles: Profiles = toml::from_str(&text).map_err(|e| e.to_string())?;
        profiles.settle()?;
        profiles
            .profiles
            .remove(&"p".parse::<Name>().expect("a name"))
            .ok_or_else(|| "none".to_owned())
    }

    #[test]
    fn a_url_is_fetched_from_where_the_profile_says_and_nowhere_else() {
        let some = profile(
            "[profiles.p.fetch_from]\nmode = \"allowlist\"\npresets = [\"mirrors\"]\n\
             allow = [\"dl.example.org:443\", \"old.example.org:80 http\", \"10.1.2.3:8080 http\"]",
        )
        .expect("a profile");
        let open = profile("[profiles.p.fetch_from]\nmode = \"open\"").expect("a profile");
        let none = profile("").expect("a profile");
        for (url, of_some, of_open) in [
            ("https://dl.example.org/x", true, true),
            ("https://a.mirror.example.org/x", true, true),
            ("http://old.example.org/x", true, true),
            ("http://10.1.2.3:8080/x", true, true),
            ("http://dl.example.org/x", false, true),
            ("https://dl.example.org:8443/x", false, true),
            ("http://dl.example.org:443/x", false, true),
            ("https://mirror.example.org/x", false, true),
            ("https://evil.example.org/x", false, true),
        ] {
            let name: Name = "p".parse().expect("a name");
            let url = url.parse().expect(url);
            assert_eq!(some.fetch_rules(&name, &url).is_ok(), of_some, "{url}");
            assert_eq!(open.fetch_rules(&name, &url).is_ok(), of_open, "{url}");
            let refused = none.fetch_rules(&name, &url).expect_err("nowhere");
            assert_eq!(refused.code, Code::UrlRefused);
        }
    }

    #[test]
    fn it_is_settled_like_an_egress_section_and_goes_with_any_network() {
        for (text, why) in [
            ("[profiles.p.fetch_from]\n", "leave it out"),
            (
                "[profiles.p.fetch_from]\nmode = \"allowlist\"",
                "nothing on the list",
            ),
            (
                "[profiles.p.fetch_from]\nmode = \"allowlist\"\npresets = [\"unknown\"]",
                "not defined",
            ),
            (
                "[profiles.p.fetch_from]\nmode = \"open\"\nprivate = [\"0.0.0.0/0\"]",
                "needs naming",
            ),
        ] {
            let error = profile(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        let (with, without) = (
            profile("[profiles.p.fetch_from]\nmode = \"open\"").expect("a profile"),
            profile("").expect("a profile"),
        );
        assert_ne!(with.digest(), without.digest(), "it is part of what is approved");
        assert_eq!(with.network_word(), "host", "and of no job's own network");
    }
}
