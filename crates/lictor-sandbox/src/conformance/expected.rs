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
const NEVER_HELD: &[(Backend, Limit)] = &[(Backend::Host, Limit::Disk)];

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

/// What is not the filter's to answer: in namespaces it is an own network that has none of it.
const OF_NETWORKS: &[&str] = &[
    "connect to the host by IPv6",
    "interfaces and addresses of the host",
];

/// Whether the kernel said that it has no such thing where a filter should have answered before it: with another kernel
/// this would get out.
fn passes_the_filter(backend: Backend, attempt: &Attempt, held: &str) -> bool {
    let has_filter = match backend {
        Backend::Landlock | Backend::Bubblewrap | Backend::Container => true,
        // The one isolates nothing, the other has a kernel of its own that lacks most of it.
        Backend::Host | Backend::Gvisor => false,
    };
    has_filter && !OF_NETWORKS.contains(&attempt.name) && is_absent(attempt, held)
}

/// [`judge`] on a machine that has all that limits take: there a job that is refused shows that something is not found
/// out any more.
///
/// # Errors
/// What differs, as a sentence.
pub fn judge_where_limits_are_held(
    backend: Option<Backend>,
    attempt: &Attempt,
    found: &Verdict,
) -> Result<(), String> {
    let is_known = backend.is_some_and(|b| is_always_refused(b, attempt));
    match found {
        Verdict::Refused(why) if !is_known => Err(format!("{}: refused here: {why}", attempt.name)),
        Verdict::Lacks(missing) if !is_known => Err(format!("{}: no {missing} here", attempt.name)),
        _ => judge(backend, attempt, found),
    }
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
        Verdict::Held(how) if backend.is_some_and(|b| passes_the_filter(b, attempt, how)) => Err(format!(
            "{name}: {place} asks the kernel, which happens to lack it: {how}"
        )),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> &'static Attempt {
        let mut all = attempts();
        all.find(|a| a.name == name).unwrap_or_else(|| panic!("{name}"))
    }

    #[test]
    fn what_only_the_kernel_lacks_is_not_held_by_a_filter() {
        let ciphers = named("ciphers of the kernel");
        let (by_filter, by_kernel) = (
            Verdict::Held("EPERM socket".into()),
            Verdict::Held("EAFNOSUPPORT socket".into()),
        );
        for backend in [Backend::Landlock, Backend::Bubblewrap, Backend::Container] {
            assert_eq!(judge(Some(backend), ciphers, &by_filter), Ok(()));
            assert!(judge(Some(backend), ciphers, &by_kernel).is_err(), "{backend}");
        }
        assert_eq!(judge(Some(Backend::Gvisor), ciphers, &by_kernel), Ok(()));
        assert_eq!(judge(None, ciphers, &by_kernel), Ok(()), "a plain process");
        let other = Verdict::Held("EADDRNOTAVAIL connect".into());
        let network = named("connect to the host by IPv6");
        assert_eq!(judge(Some(Backend::Bubblewrap), network, &other), Ok(()));
    }

    #[test]
    fn a_refusal_passes_only_where_limits_may_be_missing_or_never_are_held() {
        let bomb = named("fork bomb");
        let refused = Verdict::Refused("no pids".into());
        assert_eq!(judge(Some(Backend::Bubblewrap), bomb, &refused), Ok(()));
        assert!(judge_where_limits_are_held(Some(Backend::Bubblewrap), bomb, &refused).is_err());
        assert!(judge_where_limits_are_held(Some(Backend::Gvisor), bomb, &refused).is_err());
        let files = named("many files");
        assert_eq!(
            judge_where_limits_are_held(Some(Backend::Host), files, &refused),
            Ok(())
        );
        let lacks = Verdict::Lacks(crate::capability::Capability::MemoryOfTree);
        let many = named("memory of many processes");
        assert!(judge_where_limits_are_held(Some(Backend::Host), many, &lacks).is_err());
        assert_eq!(judge(Some(Backend::Host), many, &lacks), Ok(()));
    }
}
