//! The backends there are, and a profile's order of preference among them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The backends there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// The process tree is supervised; nothing is isolated.
    Host,
    /// The host's own tree behind Landlock and seccomp; not for hostile code.
    Landlock,
    /// Namespaces, a read-only root, no network, seccomp.
    Bubblewrap,
    /// The same made by an OCI runtime.
    Container,
    /// A container with a kernel of its own, in user space.
    Gvisor,
}

impl Backend {
    /// The word in documents.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Landlock => "landlock",
            Self::Bubblewrap => "bubblewrap",
            Self::Container => "container",
            Self::Gvisor => "gvisor",
        }
    }

    /// Whether it runs jobs only as an unprivileged user.
    #[must_use]
    pub const fn is_unprivileged(self) -> bool {
        !matches!(self, Self::Host)
    }

    /// Whether the job sees a root, processes and users of its own.
    #[must_use]
    pub const fn is_namespaced(self) -> bool {
        matches!(self, Self::Bubblewrap | Self::Container | Self::Gvisor)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One backend, or several in order of preference: the first that a host can use, and that can hold all of the
/// profile there, is the one that a job runs in. In documents a word, or a list of words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backends(Vec<Backend>);

impl Backends {
    /// In order of preference; never empty.
    pub fn iter(&self) -> impl Iterator<Item = Backend> + '_ {
        self.0.iter().copied()
    }

    /// The one that is preferred.
    #[must_use]
    pub fn preferred(&self) -> Backend {
        self.0.first().copied().unwrap_or(Backend::Bubblewrap)
    }

    /// Whether it is among them.
    #[must_use]
    pub fn contains(&self, backend: Backend) -> bool {
        self.0.contains(&backend)
    }
}

impl From<Backend> for Backends {
    fn from(backend: Backend) -> Self {
        Self(vec![backend])
    }
}

impl TryFrom<Vec<Backend>> for Backends {
    type Error = &'static str;

    fn try_from(list: Vec<Backend>) -> Result<Self, Self::Error> {
        let twice = |(i, b): (usize, &Backend)| list.iter().take(i).any(|before| before == b);
        match list.is_empty() {
            true => Err("name at least one backend"),
            false if list.iter().enumerate().any(twice) => Err("a backend is named twice"),
            false => Ok(Self(list)),
        }
    }
}

impl fmt::Display for Backends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, backend) in self.0.iter().enumerate() {
            let or = if i > 0 { ", else " } else { "" };
            write!(f, "{or}{backend}")?;
        }
        Ok(())
    }
}

impl Serialize for Backends {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            list => list.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Backends {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "a backend, or a list of backends in order of preference"
        )]
        enum Written {
            One(Backend),
            Several(Vec<Backend>),
        }
        match Written::deserialize(d)? {
            Written::One(one) => Ok(one.into()),
            Written::Several(list) => Self::try_from(list).map_err(serde::de::Error::custom),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Backend, Backends};

    fn parse(text: &str) -> Result<Backends, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn one_word_or_a_list_and_nothing_else() {
        let one = parse("\"host\"").expect("a word");
        assert_eq!(one, Backend::Host.into());
        assert_eq!(serde_json::to_string(&one).expect("text"), "\"host\"");
        let two = parse("[\"bubblewrap\",\"host\"]").expect("a list");
        assert_eq!(two.preferred(), Backend::Bubblewrap);
        assert_eq!(two.to_string(), "bubblewrap, else host");
        for wrong in ["[]", "[\"host\",\"host\"]", "\"docker\"", "7"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
