//! `lictor profiles`: what the sandbox profiles of the law mean, in words.

use lictor_trust::LawFiles;
use lictor_trust::profiles::{Profile, Topic};
use serde_json::{Value, json};

use crate::args::Profiles;
use crate::commands::org;
use crate::escape::escape;
use crate::exit::Status;
use crate::failure::{Failure, Result};
use crate::session::Session;

/// How wide the column of topics is.
const COLUMN: usize = 13;

pub(crate) fn run(session: &Session, args: &Profiles) -> Result {
    let files = files(session, args)?;
    let all = &files.profiles;
    let chosen: Vec<_> = match &args.name {
        None => all.profiles.iter().collect(),
        Some(name) => vec![
            all.profiles
                .get_key_value(name)
                .ok_or_else(|| super::unknown_profile(&files, name))?,
        ],
    };
    let told: Vec<Told<'_>> = chosen
        .into_iter()
        .map(|(name, profile)| Told {
            name: name.as_str(),
            profile,
            topics: profile.in_words(&all.egress.presets),
        })
        .collect();
    let value = json!({
        "law": args.dir.is_none().then_some(files.meta.version),
        "profiles": told.iter().map(Told::json).collect::<Vec<_>>(),
    });
    session.out.either(&value, || match told.is_empty() {
        true => "the law has no profiles".to_owned(),
        false => told.iter().map(Told::text).collect::<Vec<_>>().join("\n\n"),
    })?;
    Ok(Status::OK)
}

/// The law to explain: the pinned one, in force or not, or a directory as if it were signed now.
fn files(session: &Session, args: &Profiles) -> Result<LawFiles> {
    let store = session.trust()?;
    if let Some(dir) = &args.dir {
        return org::load_dir(dir, store.trust());
    }
    let held = store.trust().held();
    let held = held.map_err(|r| Failure::refused("this home holds no law that can be read", &r))?;
    if let Err(refusal) = store.trust().law(lictor_proto::Timestamp::now()) {
        let why = escape(&refusal.to_string());
        session
            .out
            .note(format!("warning: this law is not in force: {why}"));
    }
    Ok(LawFiles::clone(held))
}

/// One profile, explained.
struct Told<'a> {
    name: &'a str,
    profile: &'a Profile,
    topics: Vec<Topic>,
}

impl Told<'_> {
    fn json(&self) -> Value {
        json!({ "name": self.name, "digest": self.profile.digest(), "words": self.topics, "profile": self.profile })
    }

    fn text(&self) -> String {
        let mut lines = vec![format!("profile {}", self.name)];
        for topic in &self.topics {
            for (i, says) in topic.says.iter().enumerate() {
                let about = if i == 0 { topic.about } else { "" };
                lines.push(format!("  {about:COLUMN$}{}", escape(says)));
            }
        }
        lines.join("\n")
    }
}
