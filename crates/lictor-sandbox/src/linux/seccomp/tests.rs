//! The filter's program, run by a small interpreter, beside what its list says.

use super::*;

/// A call as the kernel shows it to a filter.
struct Call {
    architecture: u32,
    number: u32,
    arguments: [u64; 6],
}

/// What the kernel gets, how many instructions that took, and whether an argument was looked at.
struct Outcome {
    value: u32,
    steps: usize,
    looked: bool,
}

/// Runs a program as the kernel would; panics where the kernel would refuse it.
fn run(program: &[sock_filter], call: &Call) -> Outcome {
    let (mut at, mut accumulator, mut steps, mut looked) = (0, 0_u32, 0, false);
    loop {
        let i = program[at];
        steps += 1;
        at += 1;
        let compared = match i.code {
            0x20 => {
                looked |= i.k >= 16;
                accumulator = match i.k {
                    0 => call.number,
                    4 => call.architecture,
                    k => call.arguments[(k as usize - 16) / 8] as u32,
                };
                continue;
            }
            0x54 => {
                accumulator &= i.k;
                continue;
            }
            0x05 => {
                at += i.k as usize;
                continue;
            }
            0x06 => {
                let value = i.k;
                return Outcome { value, steps, looked };
            }
            0x15 => accumulator == i.k,
            0x35 => accumulator >= i.k,
            0x45 => accumulator & i.k != 0,
            code => panic!("unknown instruction {code:#x}"),
        };
        at += usize::from(if compared { i.jt } else { i.jf });
    }
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const DENY: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
const ABSENT: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

/// What the list says, without any program.
fn listed(answers: &Answers, number: u32, arguments: [u64; 6]) -> u32 {
    let applies = |c: &Condition| {
        let value = arguments[usize::from(c.argument)] as u32 & c.mask;
        match c.test {
            Test::Is(v) => value == v,
            Test::IsNot(v) => value != v,
            Test::AtLeast(v) => value >= v,
            Test::HasAny(bits) => value & bits != 0,
        }
    };
    match answers.get(&number) {
        _ if number >= X32_BIT => KILL,
        _ if number > LAST_KNOWN => ABSENT,
        None | Some(Answer::Allow) => ALLOW,
        Some(Answer::Deny) => DENY,
        Some(Answer::Absent) => ABSENT,
        Some(Answer::Kill) => KILL,
        Some(Answer::DenyIf(rules)) if rules.iter().any(|r| r.iter().all(applies)) => DENY,
        Some(Answer::DenyIf(_)) => ALLOW,
    }
}

const BOTH: [Around; 2] = [Around::Namespaces, Around::Nothing];

fn answer(around: Around, number: i64, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let call = Call {
        architecture: ARCHITECTURE.expect("a known one"),
        number: number as u32,
        arguments: all,
    };
    run(&filter(around).expect("made"), &call).value
}

#[test]
fn program_answers_what_the_list_says_for_every_number_and_argument() {
    // What is compared with anything, what is beside it, and the halves that are not looked at.
    let mut values: Vec<u64> = vec![0, 1, 2, 3, 5, 6, 10, 16, 17, 40, 0xf0, 0x8001, 1 << 31, u64::MAX];
    values.extend(PERSONALITIES.map(u64::from));
    values.extend([u64::from(TIOCLINUX), u64::from(TIOCSETD), libc::TIOCSTI]);
    values.extend((0..32).map(|bit| 1 << bit));
    let high: Vec<u64> = values.iter().map(|v| v | 1 << 32).collect();
    values.extend(high);
    for around in BOTH {
        let (program, answers) = (filter(around).expect("made"), answers(around));
        let architecture = ARCHITECTURE.expect("a known one");
        let beyond = [X32_BIT - 1, X32_BIT, X32_BIT + 1, X32_BIT + 59, u32::MAX];
        for number in (0..1024).chain(beyond) {
            let depends = matches!(answers.get(&number), Some(Answer::DenyIf(_)));
            let some = if depends { &values[..] } else { &values[..1] };
            for a in some {
                for b in some {
                    for c in [0, 6, 17, 1, 1 << 31] {
                        let arguments = [*a, *b, c, 0, 0, 0];
                        let call = Call {
                            architecture,
                            number,
                            arguments,
                        };
                        let got = run(&program, &call).value;
                        let wanted = listed(&answers, number, arguments);
                        assert_eq!(got, wanted, "{around:?}, call {number}, {arguments:x?}");
                    }
                }
            }
        }
    }
}

#[test]
fn calls_of_other_architectures_end_the_process() {
    for around in BOTH {
        let program = filter(around).expect("made");
        for architecture in [0, 0x4000_0003, 0x4000_0028, 0xc000_0015, u32::MAX] {
            let call = Call {
                architecture,
                number: 0,
                arguments: [0; 6],
            };
            assert_eq!(run(&program, &call).value, KILL);
        }
    }
}

/// The kernel answers by itself what it sees allowed without a look at the arguments.
#[test]
fn a_call_that_is_always_allowed_is_found_soon_and_by_its_number_alone() {
    for around in BOTH {
        let (program, answers) = (filter(around).expect("made"), answers(around));
        assert!(program.len() < 180, "{} instructions", program.len());
        for number in (0..=LAST_KNOWN).filter(|n| !answers.contains_key(n)) {
            let call = Call {
                architecture: ARCHITECTURE.expect("a known one"),
                number,
                arguments: [0; 6],
            };
            let outcome = run(&program, &call);
            assert_eq!(outcome.value, ALLOW);
            assert!(
                !outcome.looked && outcome.steps <= 16,
                "call {number}: {} steps",
                outcome.steps
            );
        }
    }
}

#[test]
fn denies_by_argument_what_it_is_there_for() {
    let inet = libc::AF_INET as u64;
    for around in BOTH {
        let here = |call, arguments: &[u64]| answer(around, call, arguments);
        assert_eq!(here(libc::SYS_read, &[]), ALLOW);
        assert_eq!(here(libc::SYS_mount, &[]), DENY);
        assert_eq!(here(libc::SYS_clone3, &[]), ABSENT);
        assert_eq!(here(i64::from(LAST_KNOWN) + 1, &[]), ABSENT);
        assert_eq!(here(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOW);
        for flag in [libc::CLONE_NEWUSER, libc::CLONE_NEWNS, libc::CLONE_NEWNET] {
            assert_eq!(here(libc::SYS_clone, &[flag as u64 | 17]), DENY);
        }
        assert_eq!(here(libc::SYS_ioctl, &[0, libc::TCGETS]), ALLOW);
        for request in [libc::TIOCSTI, libc::TIOCSTI | 1 << 32, u64::from(TIOCLINUX)] {
            assert_eq!(here(libc::SYS_ioctl, &[0, request]), DENY);
        }
        assert_eq!(here(libc::SYS_personality, &[0xffff_ffff]), ALLOW);
        assert_eq!(here(libc::SYS_personality, &[0x0040_0000]), DENY);
        assert_eq!(here(libc::SYS_socketpair, &[libc::AF_UNIX as u64, 1]), ALLOW);
        assert_eq!(here(libc::SYS_socketpair, &[libc::AF_VSOCK as u64, 1]), DENY);
    }
    let boxed = |call, arguments: &[u64]| answer(Around::Namespaces, call, arguments);
    let alone = |call, arguments: &[u64]| answer(Around::Nothing, call, arguments);
    for (family, kind, protocol, expected) in [
        (libc::AF_UNIX as u64, 1, 0, ALLOW),
        (inet, 1, 6, ALLOW),
        (inet, 2, 17, ALLOW),
        (inet, 3, 1, DENY),
        (libc::AF_PACKET as u64, 3, 0, DENY),
        (libc::AF_NETLINK as u64, 3, 0, ALLOW),
        (libc::AF_NETLINK as u64, 3, 16, DENY),
    ] {
        assert_eq!(boxed(libc::SYS_socket, &[family, kind, protocol]), expected);
        assert_eq!(alone(libc::SYS_socket, &[family, kind, protocol]), DENY);
    }
    let datagrams = libc::SOCK_DGRAM as u64 | libc::SOCK_CLOEXEC as u64;
    assert_eq!(boxed(libc::SYS_socketpair, &[1, datagrams]), ALLOW);
    assert_eq!(alone(libc::SYS_socketpair, &[1, datagrams]), DENY);
    assert_eq!(alone(libc::SYS_prlimit64, &[0]), ALLOW);
    assert_eq!(alone(libc::SYS_prlimit64, &[1]), DENY);
}
