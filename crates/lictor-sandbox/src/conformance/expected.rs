//! What each backend is known to let out. These lists may only shrink: what is listed and held fails the suite as
//! what is not listed and gets out.

use lictor_trust::profiles::Backend;

use super::{Attempt, Limit, Verdict, attempts};

/// An attempt that a backend is known not to hold.
#[derive(Debug, Clone, Copy)]
pub struct Leak {
    /// The attempt's name.
    pub attempt: &'static str,
    /// Why it is so.
    pub reason: &'static str,
}

const fn leak(attempt: &'static str, reason: &'static str) -> Leak {
    Leak { attempt, reason }
}

/// `host` isolates nothing, so everything gets out but what a clean start and limits hold.
const HELD_BY_HOST: &[&str] = &[
    "inherited descriptors",
    "have the kernel start a program at a crash",
    "fork bomb",
    "threads without end",
    "zombies without end",
    "memory of a process",
    "memory of many processes",
    "memory that nobody maps",
    "a large file",
    "many files",
    "inodes",
    "open files",
];

const SAME_USER: &str = "Landlock knows no such right; ownership holds it, and the bait belongs to the sandboxes' own user, to \
                         whom nothing of the host should";
const NAMES: &str =
    "there is no file system view of its own: what a path leads to is held, that it leads somewhere is not";
const PROC: &str = "there is no process view of its own: /proc tells what it tells everybody";
const LOCKS: &str = "what is shown is the host's own file, and a lock takes no right but to read";

const LANDLOCK: &[Leak] = &[
    leak("change the mode of a file outside", SAME_USER),
    leak("change the times of a file outside", SAME_USER),
    leak("change the mode of what is shown read-only", SAME_USER),
    leak("see whether a file outside exists", NAMES),
    leak("stand in a directory outside", NAMES),
    leak("watch a directory outside", NAMES),
    leak("lock a program of the host", LOCKS),
    leak("see processes outside", PROC),
    leak("connections of the host", PROC),
    leak(
        "set the processors of a process outside",
        "threads name themselves by number there, so a filter cannot tell whose number it is",
    ),
];

const BUBBLEWRAP: &[Leak] = &[leak("lock a program of the host", LOCKS)];

const CONTAINER: &[Leak] = BUBBLEWRAP;

const GVISOR: &[Leak] = BUBBLEWRAP;

/// What a backend lets out.
#[must_use]
pub fn leaks(backend: Backend) -> Vec<Leak> {
    match backend {
        Backend::Host => attempts()
            .filter(|a| !HELD_BY_HOST.contains(&a.name))
            .map(|a| leak(a.name, "it isolates nothing"))
            .collect(),
        Backend::Landlock => LANDLOCK.to_vec(),
        Backend::Bubblewrap => BUBBLEWRAP.to_vec(),
        Backend::Container => CONTAINER.to_vec(),
        Backend::Gvisor => GVISOR.to_vec(),
    }
}

/// Limits that a backend holds on no host. A job that wants one is refused, so what the limit is against is not
/// let out, but not held either: the job does not run.
const NEVER_HELD: &[(Backend, Limit)] = &[(Backend::Host, Limit::Disk), (Backend::Gvisor, Limit::Pids)];

/// Whether a backend has no limit against it, on any host.
pub(super) fn is_always_refused(backend: Backend, attempt: &Attempt) -> bool {
    let limit = attempt.limit;
    NEVER_HELD.iter().any(|(b, l)| *b == backend && limit == Some(*l))
}

/// Whether the machine has no such thing as the attempt goes for.
fn is_absent(attempt: &Attempt, held: &str) -> bool {
    let error = held.split(' ').next().unwrap_or_default();
    attempt.absent.is_some_and(|(errors, _)| errors.contains(&error))
}

/// Compares a verdict with what is known: of a backend, or (`None`) of a plain process, where everything gets out.
///
/// # Errors
/// What differs, as a sentence.
pub fn judge(backend: Option<Backend>, attempt: &Attempt, found: &Verdict) -> Result<(), String> {
    let place = backend.map_or("a plain process", Backend::as_str);
    let gets_out = backend.is_none_or(|b| leaks(b).iter().any(|l| l.attempt == attempt.name));
    let name = attempt.name;
    if backend.is_some_and(|b| is_always_refused(b, attempt)) {
        return match found {
            Verdict::Refused(_) | Verdict::Lacks(_) => Ok(()),
            other => Err(format!(
                "{name}: {place} is known to refuse such a limit, and does not: {other:?}"
            )),
        };
    }
    match found {
        Verdict::Out(_) if gets_out => Ok(()),
        Verdict::Held(_) if !gets_out => Ok(()),
        // Nothing ran; but only a limit that the host cannot hold is a reason.
        Verdict::Refused(_) if attempt.limit.is_some() => Ok(()),
        Verdict::Lacks(_) => Ok(()),
        // The host's kernel may lack what its own processes could otherwise reach.
        Verdict::Held(how) if is_absent(attempt, how) && backend.is_none_or(|b| !b.is_unprivileged()) => {
            Ok(())
        }
        Verdict::Out(what) => Err(format!("{name}: gets out of {place}: {what}")),
        Verdict::Held(how) if backend.is_none() => Err(format!(
            "{name}: works nowhere, so holding it shows nothing: {how}"
        )),
        Verdict::Held(how) => Err(format!(
            "{name}: {place} is known to let it out, and holds it: take it off the list: {how}"
        )),
        Verdict::Refused(why) => Err(format!("{name}: {place} refuses: {why}")),
        Verdict::Broken(how) => Err(format!("{name}: the attempt itself fails in {place}: {how}")),
    }
}
