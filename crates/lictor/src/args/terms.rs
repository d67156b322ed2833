//! Arguments about who a job's process is, and how much it may use.

use clap::Args;
use lictor_proto::Name;
use lictor_proto::doc::{self, LimitName};
use lictor_trust::profiles::parse_size;

/// What a job says of this itself; the profile says the rest.
#[derive(Debug, Args)]
pub(crate) struct Terms {
    /// Run as this user of the node, with its groups; one that the profile lists in run_as_users
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<Name>,
    /// In this group, in place of the user's own; one that the profile lists in run_as_groups
    #[arg(long, value_name = "NAME")]
    pub(crate) group: Option<Name>,
    /// Permission bits that new files are without, in octal: 0027 [default: 0022]
    #[arg(long, value_name = "BITS", value_parser = umask)]
    pub(crate) umask: Option<String>,
    /// Limits at most as wide as the profile's: memory=512MiB, pids=64, cpu_seconds=60, cpu_millis=500, file_size=1GiB,
    /// disk=1GiB, files=10000, open_files=256, read_bytes_per_s=10MiB, write_bytes_per_s=10MiB (repeatable)
    #[arg(long = "limit", value_name = "NAME=N", value_delimiter = ',', value_parser = limit)]
    pub(crate) limits: Vec<(LimitName, u64)>,
}

impl Terms {
    /// As the job has them; `None` when nothing was said.
    pub(crate) fn of_job(&self) -> Option<doc::Terms> {
        let terms = doc::Terms {
            user: self.user.clone(),
            group: self.group.clone(),
            umask: self.umask.clone(),
            limits: self.limits.iter().copied().collect(),
        };
        (!terms.is_empty()).then_some(terms)
    }
}

/// Three octal digits, or four of which the first is 0: no umask takes away more than permissions.
fn umask(text: &str) -> Result<String, String> {
    let digits = match text.len() {
        4 => text.strip_prefix('0'),
        3 => Some(text),
        _ => None,
    };
    let digits = digits.filter(|d| d.bytes().all(|b| (b'0'..=b'7').contains(&b)));
    let digits = digits.ok_or("write it as three octal digits: 027 leaves nothing to others")?;
    Ok(format!("0{digits}"))
}

fn limit(text: &str) -> Result<(LimitName, u64), String> {
    let (word, value) = text.split_once('=').ok_or("write it as NAME=N: memory=512MiB")?;
    let name = LimitName::from_word(word).ok_or_else(|| {
        let all: Vec<&str> = LimitName::ALL.iter().map(|name| name.as_str()).collect();
        format!("{word} is no limit of a job; there are {}", all.join(", "))
    })?;
    let number = match name.is_size() {
        true => parse_size(value)?,
        false => value.parse().map_err(|_| format!("{word} is a number"))?,
    };
    if number == 0 {
        return Err(format!("nothing runs with {word}=0"));
    }
    Ok((name, number))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::{LimitName, limit, umask};

    #[test]
    fn a_umask_is_octal_and_a_limit_has_its_unit() {
        assert_eq!(umask("027").as_deref(), Ok("0027"));
        assert_eq!(umask("0077").as_deref(), Ok("0077"));
        for wrong in ["27", "1777", "0o77", "0888", "-022", ""] {
            assert!(umask(wrong).is_err(), "{wrong}");
        }
        assert_eq!(limit("memory=512MiB"), Ok((LimitName::Memory, 512 << 20)));
        assert_eq!(limit("pids=64"), Ok((LimitName::Pids, 64)));
        for wrong in ["memory", "pids=64MiB", "timeout=5", "pids=0", "open_files=-1"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }
}
