//! Root file systems that the law lets a node fetch by itself: when one is fetched, and what its jobs are told meanwhile.
//!
//! ```text
//!   missing --a job names it--> under way --ok--> there
//!      ^                            '--failed--> not again for 5 s, 30 s, 2 min, 10 min, then an hour each
//!      '-------------a job names it, and it is time-------------'
//! ```
//!
//! The warden speaks with no registry and unpacks nothing. A process of the agent's own program does both
//! (`lictor agent rootfs pull`), and ends with the agent.
//!
//! # Invariants
//! - Only what the law names is fetched, by its digest, and only when a signed job of a known operator names it: what
//!   nobody uses costs nothing, what was removed to make room is not fetched again for nobody, and a hub that holds no operator's key has nothing fetched.
//! - A job whose root is not there waits while it is fetched, and while there is hope. After some failures it is refused with
//!   the reason: whoever waits for what never comes is better told.
//! - A waiting job has no place among those that run, so no other job waits for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lictor_audit::{Event, EventType};
use lictor_proto::code::Refusal;
use lictor_proto::{Code, Digest};
use lictor_rootfs::Store;
use lictor_sandbox::{Helper, HelperError};
use lictor_trust::profiles::{ImageName, Profile, Profiles};
use serde::Deserialize;
use tokio::time::Instant;

use crate::core::Core;

/// What is waited after the first failure, the second, ...; the last of them from then on.
const AGAIN: [Duration; 5] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(600),
    Duration::from_secs(3600),
];
/// After so many failures jobs are refused and not kept waiting.
const HOPE: usize = 3;
/// How many are fetched at once: two could fill the disk together, each within what was free.
const AT_ONCE: usize = 1;

/// What fetches: a program and its words, to which the image is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Puller {
    /// An absolute path, then its arguments.
    pub argv: Vec<String>,
    /// How long one may take.
    pub within: Duration,
}

/// What is known of root file systems that were to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Pulls(Mutex<BTreeMap<Wanted, Try>>);

type Wanted = (Digest, ImageName);

/// How it went.
#[derive(Debug, Clone, Default)]
struct Try {
    under_way: bool,
    failed: usize,
    /// Not before then.
    again_at: Option<Instant>,
    why: String,
}

/// What is done about a root file system that a job names and that is not there.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    /// It is fetched from now on, by whoever gets this.
    Begin(Refusal),
    Wait(Refusal),
    Refuse(Refusal),
}

impl Pulls {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Wanted, Try>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what the law names no more.
    fn keep(&self, law: &Profiles) {
        let named: Vec<_> = law.profiles.values().filter_map(Profile::pulled).collect();
        self.all()
            .retain(|(digest, image), t| t.under_way || named.contains(&(image, digest)));
    }

    fn asked(&self, wanted: &Wanted, now: Instant) -> Asked {
        let mut all = self.all();
        let busy = all.values().filter(|t| t.under_way).count();
        let t = all.entry(wanted.clone()).or_default();
        let due = t.again_at.is_none_or(|at| at <= now);
        if !t.under_way && !due && t.failed >= HOPE {
            return Asked::Refuse(t.refusal(wanted, now));
        }
        if t.under_way || !due || busy >= AT_ONCE {
            return Asked::Wait(t.waits(wanted));
        }
        t.under_way = true;
        Asked::Begin(t.waits(wanted))
    }

    fn done(&self, wanted: &Wanted, result: Result<(), String>, now: Instant) {
        let mut all = self.all();
        match result {
            Ok(()) => {
                all.remove(wanted);
            }
            Err(why) => {
                let t = all.entry(wanted.clone()).or_default();
                let wait = AGAIN.get(t.failed).or(AGAIN.last()).copied().unwrap_or_default();
                *t = Try {
                    under_way: false,
                    failed: t.failed + 1,
                    again_at: Some(now + wait),
                    why,
                };
            }
        }
    }
}

impl Try {
    fn waits(&self, (digest, image): &Wanted) -> Refusal {
        match self.failed {
            0 => Refusal::new(
                Code::RootfsPulling,
                format!("the node fetches {digest} from {image}"),
            ),
            // Another code, so that whoever waits is told.
            n => Refusal::new(
                Code::RootfsPullFailed,
                format!(
                    "{digest} could not be fetched from {image} and is tried again ({n} of {HOPE}): {}",
                    self.why
                ),
            ),
        }
    }

    fn refusal(&self, (digest, image): &Wanted, now: Instant) -> Refusal {
        let left = self.again_at.unwrap_or(now).saturating_duration_since(now);
        let message = format!(
            "{digest} could not be fetched from {image}, {} times, the last time: {}; a job that comes in {} s or later has it \
             tried again, or add it on the node: `lictor agent rootfs pull {image}@{digest}`",
            self.failed,
            self.why,
            left.as_secs() + 1
        );
        Refusal::new(Code::RootfsPullFailed, message)
    }
}

/// What the law lets a node do about a root file system that is not there.
pub(crate) enum Awaited {
    /// The job is to come again.
    Later(Refusal),
    /// It is not.
    Denied(Refusal),
}

impl Core {
    /// What a job of this profile is told when its root file system has to be fetched first. `None` where it need not be, or
    /// where nobody fetches it; then looking for its program says what there is to say.
    pub(crate) fn awaits_rootfs(self: &Arc<Self>, profile: &Profile, law: &Profiles) -> Option<Awaited> {
        let (image, digest) = profile.pulled()?;
        let puller = self.config.puller.as_ref()?;
        // A host that cannot hold the profile fetches nothing for it.
        if Store::of_node(&self.config.dir).has(digest) || !self.sandboxes.can_hold(profile) {
            return None;
        }
        self.pulls.keep(law);
        let wanted = (*digest, image.clone());
        Some(match self.pulls.asked(&wanted, Instant::now()) {
            Asked::Begin(refusal) => {
                self.tasks.spawn(self.clone().pull(puller.clone(), wanted));
                Awaited::Later(refusal)
            }
            Asked::Wait(refusal) => Awaited::Later(refusal),
            Asked::Refuse(refusal) => Awaited::Denied(refusal),
        })
    }

    async fn pull(self: Arc<Self>, puller: Puller, wanted: Wanted) {
        let result = self.run(&puller, &wanted).await;
        let (digest, image) = &wanted;
        let event = match &result {
            Ok(()) => {
                tracing::info!(%digest, %image, "a root filesystem was fetched");
                Event::new(EventType::RootfsFetched)
            }
            Err(why) => {
                tracing::warn!(%digest, %image, error = %why, "a root filesystem could not be fetched");
                Event::new(EventType::RootfsFetchFailed).with("reason", why.as_str())
            }
        };
        let event = event.with_id("rootfs", digest).with("image", image.as_str());
        self.pulls.done(&wanted, result, Instant::now());
        self.audit(event).await;
    }

    async fn run(&self, puller: &Puller, (digest, image): &Wanted) -> Result<(), String> {
        let mut argv = puller.argv.clone();
        argv.push(format!("{image}@{digest}"));
        let helper = Helper {
            argv,
            env: Vec::new(),
            confined: None,
            within: puller.within,
            output: 0,
        };
        let watch = || match self.is_closed() {
            true => Err("the agent ends".to_owned()),
            false => Ok(()),
        };
        tracing::info!(%digest, %image, "a root filesystem is being fetched");
        match self.sandboxes.help(&helper, watch).await {
            Ok(helped) if helped.succeeded => Ok(()),
            Ok(helped) => Err(reason(&helped.errors)),
            Err(HelperError::Io(e)) => Err(format!("what fetches it cannot be run: {e}")),
            Err(e) => Err(e.to_string()),
        }
    }
}

/// Why the program says that it failed: its last line is an error as JSON, or else words for people.
fn reason(said: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Line {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        message: String,
        causes: Vec<String>,
    }
    let text = String::from_utf8_lossy(said);
    let last = text.trim_end().lines().next_back().unwrap_or_default();
    let told = match serde_json::from_str::<Line>(last) {
        Ok(Line { error }) if error.causes.is_empty() => error.message,
        Ok(Line { error }) => error.causes.join(": "),
        Err(_) => text.into_owned(),
    };
    let words: Vec<&str> = told.split_whitespace().collect();
    let line = words.join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).take(600).collect();
    match line.is_empty() {
        true => "it ended without a word".to_owned(),
        false => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(name: &str) -> Wanted {
        let image = format!("registry.example.com/{name}").parse().expect("an image");
        (Digest::of(name.as_bytes()), image)
    }

    fn begins(pulls: &Pulls, wanted: &Wanted, now: Instant) -> bool {
        matches!(pulls.asked(wanted, now), Asked::Begin(_))
    }

    #[test]
    fn one_is_fetched_once_and_again_later_after_each_failure() {
        let pulls = Pulls::default();
        let (a, mut at) = (wanted("a"), Instant::now());
        assert!(begins(&pulls, &a, at));
        assert!(!begins(&pulls, &a, at), "it is under way");
        pulls.done(&a, Err("no".into()), at);
        for wait in [5, 30, 120, 600, 3600, 3600] {
            let wait = Duration::from_secs(wait);
            assert!(!begins(&pulls, &a, at + wait / 2), "{wait:?}");
            at += wait;
            assert!(begins(&pulls, &a, at), "{wait:?}");
            pulls.done(&a, Err("no".into()), at);
        }
        at += Duration::from_secs(3600);
        assert!(begins(&pulls, &a, at));
        pulls.done(&a, Ok(()), at);
        assert!(
            begins(&pulls, &a, at),
            "what was there and is gone is fetched again"
        );
    }

    #[test]
    fn one_is_fetched_at_a_time_and_the_next_waits() {
        let pulls = Pulls::default();
        let now = Instant::now();
        let many: Vec<Wanted> = (0..=AT_ONCE).map(|n| wanted(&n.to_string())).collect();
        let begun = many.iter().filter(|w| begins(&pulls, w, now)).count();
        assert_eq!(begun, AT_ONCE);
        assert!(matches!(pulls.asked(&many[AT_ONCE], now), Asked::Wait(r) if r.code == Code::RootfsPulling));
        pulls.done(&many[0], Ok(()), now);
        assert!(begins(&pulls, &many[AT_ONCE], now));
    }

    #[test]
    fn jobs_wait_while_there_is_hope_and_hear_why_when_there_is_not() {
        let pulls = Pulls::default();
        let (a, mut now) = (wanted("a"), Instant::now());
        let Asked::Begin(first) = pulls.asked(&a, now) else {
            panic!("not begun")
        };
        assert_eq!(first.code, Code::RootfsPulling);
        for n in 1..=HOPE {
            pulls.done(&a, Err("manifest unknown".into()), now);
            let Asked::Wait(refusal) = pulls.asked(&a, now) else {
                assert_eq!(n, HOPE);
                break;
            };
            assert_eq!(refusal.code, Code::RootfsPullFailed);
            assert!(refusal.message.contains("manifest unknown"), "{refusal}");
            now += Duration::from_secs(3600);
            assert!(begins(&pulls, &a, now));
        }
        let Asked::Refuse(refusal) = pulls.asked(&a, now) else {
            panic!("it still waits")
        };
        for word in [
            "manifest unknown",
            "3 times",
            "in 121 s",
            "lictor agent rootfs pull registry.example.com/a@sha256:",
        ] {
            assert!(refusal.message.contains(word), "{refusal}");
        }
        now += Duration::from_secs(3600);
        assert!(
            begins(&pulls, &a, now),
            "the next job after that has it tried again"
        );
    }

    #[test]
    fn what_the_law_names_no_more_is_forgotten_unless_it_is_under_way() {
        let pulls = Pulls::default();
        let (a, b, now) = (wanted("a"), wanted("b"), Instant::now());
        assert!(begins(&pulls, &a, now));
        pulls.done(&a, Err("no".into()), now);
        assert!(begins(&pulls, &b, now));
        pulls.keep(&Profiles::default());
        let known: Vec<Wanted> = pulls.all().keys().cloned().collect();
        assert_eq!(known, [b]);
    }

    #[test]
    fn what_a_program_says_becomes_one_short_line() {
        let json = br#"{"note":"x"}
            {"error":{"code":"rootfs_pull_failed","message":"could not","causes":["skopeo: no","\u001b[31mred"],"hint":"y"}}
        "#;
        assert_eq!(reason(json), "skopeo: no: [31mred");
        assert_eq!(
            reason(br#"{"error":{"code":null,"message":"wrong","causes":[]}}"#),
            "wrong"
        );
        assert_eq!(reason(b"  a\n b\x1b[31m\n"), "a b[31m");
        assert_eq!(reason(b"\n"), "it ended without a word");
        assert!(reason(&[b'x'; 5000]).len() <= 600);
    }
}
