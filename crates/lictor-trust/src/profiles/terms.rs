//! What a job may choose within its profile: who it runs as, and limits that are narrower.
//!
//! # Invariants
//! - Nobody is chosen whom the profile does not list, and no limit becomes wider than the profile's.
//! - The agent asks here before it looks at anything of the host, and policy asks again for its verdict.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{LimitName, Terms};
use lictor_proto::{Code, Name};

use super::{Limits, Profile};

impl Profile {
    /// The limits that hold for a job with these terms.
    ///
    /// # Errors
    /// [`Code::RunAsRefused`] for a user or group that the profile does not list, [`Code::LimitExceeded`] for a limit wider than
    /// the profile's, or that does not go with the others.
    pub fn limits_for(&self, terms: Option<&Terms>) -> Result<Limits, Refusal> {
        let Some(terms) = terms else {
            return Ok(self.limits.clone());
        };
        check_listed(("user", "run_as_users"), terms.user.as_ref(), &self.run_as_users)?;
        check_listed(
            ("group", "run_as_groups"),
            terms.group.as_ref(),
            &self.run_as_groups,
        )?;
        self.narrowed(terms)
    }

    fn narrowed(&self, terms: &Terms) -> Result<Limits, Refusal> {
        let mut limits = self.limits.clone();
        for (name, wanted) in &terms.limits {
            let held = limits.held(*name);
            if let Some(most) = held.filter(|most| wanted > most) {
                let word = name.as_str();
                let text = format!("the profile's limits.{word} is {most}, and the job asks for {wanted}");
                return Err(Refusal::new(Code::LimitExceeded, text));
            }
            *held = Some(*wanted);
        }
        // What a disk needs of memory, the least that anything runs under, ...
        let wrong = |why| {
            Refusal::new(
                Code::LimitExceeded,
                format!("with the job's limits, limits.{why}"),
            )
        };
        limits.validate().map_err(wrong)?;
        if limits.disk.is_some() && self.persist.is_some() {
            let text =
                "limits.disk is gone with the job, so it does not go with a profile that keeps sandboxes";
            return Err(Refusal::new(Code::LimitExceeded, text));
        }
        Ok(limits)
    }
}

impl Limits {
    fn held(&mut self, name: LimitName) -> &mut Option<u64> {
        match name {
            LimitName::Memory => &mut self.memory,
            LimitName::Pids => &mut self.pids,
            LimitName::CpuSeconds => &mut self.cpu_seconds,
            LimitName::CpuMillis => &mut self.cpu_millis,
            LimitName::ReadBytesPerS => &mut self.read_bytes_per_s,
            LimitName::WriteBytesPerS => &mut self.write_bytes_per_s,
            LimitName::FileSize => &mut self.file_size,
            LimitName::Disk => &mut self.disk,
            LimitName::Files => &mut self.files,
            LimitName::OpenFiles => &mut self.open_files,
        }
    }

    /// The limit of this name; `None` where there is none.
    #[must_use]
    pub fn get(&self, name: LimitName) -> Option<u64> {
        *self.clone().held(name)
    }
}

fn check_listed((what, field): (&str, &str), wanted: Option<&Name>, listed: &[Name]) -> Result<(), Refusal> {
    match wanted {
        Some(name) if !listed.contains(name) => {
            let text = format!("the profile does not list {what} {name} in {field}");
            Err(Refusal::new(Code::RunAsRefused, text))
        }
        _ => Ok(()),
    }
}

/// Whom a job may choose, in words.
pub(super) fn choices(users: &[Name], groups: &[Name]) -> Vec<String> {
    let each = |what: &'static str, names: &[Name]| -> Vec<String> {
        let says = |name| format!("the host's {what} {name}, where a job says so");
        names.iter().map(says).collect()
    };
    let mut says = each("user", users);
    says.extend(each("group", groups));
    says
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let text = r#"{"backend": "bubblewrap", "run_as_users": ["deploy"], "run_as_groups": ["app"],
            "limits": {"memory": "1GiB", "disk": "512MiB", "files": 1000, "pids": 100}}"#;
        serde_json::from_str(text).expect("a profile")
    }

    fn asked(text: &str) -> Result<Limits, Code> {
        let terms: Terms = serde_json::from_str(text).expect("terms");
        profile().limits_for(Some(&terms)).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_job_chooses_whom_the_profile_lists_and_nobody_else() {
        assert!(asked(r#"{"user": "deploy", "group": "app"}"#).is_ok());
        for other in [
            r#"{"user": "root"}"#,
            r#"{"user": "app"}"#,
            r#"{"group": "deploy"}"#,
            r#"{"user": "deploy", "group": "root"}"#,
        ] {
            assert_eq!(asked(other), Err(Code::RunAsRefused), "{other}");
        }
    }

    #[test]
    fn limits_become_narrower_and_never_wider() {
        let narrow = asked(r#"{"limits": {"memory": 1073741824, "pids": 5, "open_files": 64}}"#);
        let narrow = narrow.expect("narrower, and one where the profile has none");
        assert_eq!(
            (narrow.memory, narrow.pids, narrow.open_files),
            (Some(1 << 30), Some(5), Some(64))
        );
        assert_eq!(profile().limits_for(None), Ok(profile().limits));
        for wider in [
            r#"{"limits": {"memory": 1073741825}}"#,
            r#"{"limits": {"pids": 101}}"#,
            // The profile's disk would be more than the job's memory, which it is a part of.
            r#"{"limits": {"memory": 268435456}}"#,
            r#"{"limits": {"cpu_millis": 1}}"#,
        ] {
            assert_eq!(asked(wider), Err(Code::LimitExceeded), "{wider}");
        }
    }

    #[test]
    fn each_limit_can_be_narrowed() {
        let mut limits = Limits::default();
        for (n, name) in (1..).zip(LimitName::ALL) {
            *limits.held(name) = Some(n);
            assert_eq!(limits.get(name), Some(n));
        }
        let text = serde_json::to_string(&limits).expect("JSON");
        assert!(
            LimitName::ALL.iter().all(|name| text.contains(name.as_str())),
            "{text}"
        );
    }
}
