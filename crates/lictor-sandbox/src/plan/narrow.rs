//! The way out of a job that clones: to the host that it names, and nowhere else.

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{GitCommit, Spec};
use lictor_proto::egress::{Mode, Rules};
use lictor_trust::egress::{Destination, Host};
use lictor_trust::profiles::Network;

use super::LaunchSpec;

impl LaunchSpec {
    /// Takes from its way out what this work does not need.
    ///
    /// # Errors
    /// `unenforceable` when the profile has none, or none to the host that is named.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code))]
    pub(crate) fn narrow_for(&mut self, spec: &Spec) -> Result<(), Refusal> {
        let Spec::Workspace(workspace) = spec else {
            return Ok(());
        };
        let refuse = |why: String| Err(Refusal::new(Code::Unenforceable, why));
        let Some(git) = &workspace.git else {
            // Nothing else of this kind needs any.
            self.egress = self.egress.take().map(closed);
            return Ok(());
        };
        match (self.network, self.egress.take()) {
            (Network::Egress, Some(rules)) => match to_host(rules, git) {
                Some(rules) => self.egress = Some(rules),
                None => {
                    let why = format!(
                        "the profile's egress does not list the host of {}; add it to allow",
                        git.url
                    );
                    return refuse(why);
                }
            },
            (Network::Host, _) => {}
            _ => {
                let why = "the profile's jobs have no network; give it network = \"egress\", with the host of the repository";
                return refuse(why.to_owned());
            }
        }
        Ok(())
    }
}

fn closed(rules: Rules) -> Rules {
    Rules {
        mode: Mode::None,
        allow: Vec::new(),
        private: Vec::new(),
        ..rules
    }
}

/// Only the entries by which that host is reached; of rules that are open, that host by its name.
fn to_host(rules: Rules, git: &GitCommit) -> Option<Rules> {
    let (host, port) = git.host()?;
    let wanted = Host::parse(host).ok()?;
    let is_it = |entry: &String| {
        let entry = entry.parse::<Destination>();
        entry.is_ok_and(|entry| entry.matches(&wanted, port))
    };
    // Of a whole domain, this one name.
    let narrowed = |entry: &String| match entry.strip_prefix("*.") {
        Some(below) => format!("{host}:{port}{}", below.find(' ').map_or("", |at| &below[at..])),
        None => entry.clone(),
    };
    let mut allow: Vec<String> = rules
        .allow
        .iter()
        .filter(|entry| is_it(entry))
        .map(narrowed)
        .collect();
    if allow.is_empty() && rules.mode == Mode::Open && matches!(wanted, Host::Name(_)) {
        let speech = if git.is_tls() { "" } else { " http" };
        allow.push(format!("{host}:{port}{speech}"));
    }
    let listed = !allow.is_empty() && rules.mode != Mode::None;
    listed.then_some(Rules {
        mode: Mode::Allowlist,
        allow,
        ..rules
    })
}

#[cfg(test)]
mod tests {
    use lictor_proto::doc::GitCommit;
    use lictor_proto::egress::{Limits, Mode, Rules};

    use super::to_host;

    #[test]
    fn only_the_named_host_is_left_of_the_way_out() {
        let rules = |mode, allow: &[&str]| Rules {
            mode,
            allow: allow.iter().map(|&entry| entry.to_owned()).collect(),
            private: Vec::new(),
            tls: Default::default(),
            limits: Limits {
                connections: 1,
                attempts: 1,
                bytes_up: 1,
                bytes_down: 1,
                head_bytes: 1024,
                idle_ms: 1000,
                handshake_ms: 1000,
            },
        };
        let git = GitCommit {
            url: "https://git.example.org/a".to_owned(),
            commit: "0".repeat(40),
        };
        let left = |mode, allow: &[&str]| to_host(rules(mode, allow), &git).map(|r| (r.mode, r.allow));
        let listed = [
            "git.example.org:443",
            "other.example.org:443",
            "*.example.org:8443",
        ];
        let only = vec!["git.example.org:443".to_owned()];
        assert_eq!(
            left(Mode::Allowlist, &listed),
            Some((Mode::Allowlist, only.clone()))
        );
        assert_eq!(
            left(Mode::Open, &["other.example.org:443"]),
            Some((Mode::Allowlist, only.clone()))
        );
        assert_eq!(
            left(Mode::Allowlist, &["*.example.org:443"]),
            Some((Mode::Allowlist, only.clone()))
        );
        assert_eq!(left(Mode::Allowlist, &listed[1..]), None);
        assert_eq!(left(Mode::None, &listed), None);
    }
}
