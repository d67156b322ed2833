//! From what a filter answers to a program for the kernel, as short as a search tree makes it.
//!
//! The kernel does much with a program before it is in force: it translates it, and it runs it once for every system call
//! that there is, so that calls which are allowed whatever their arguments need not ask it again. Both grow with its
//! length: 580 instructions, one comparison after the other, took 0.5 ms of each start where posix_spawn took as much.
//!
//! A program is put together from its end: jumps lead forwards only, so their targets are there already.

use libc::sock_filter;

/// What becomes of a system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is made.
    Allow,
    /// `EPERM`.
    Deny,
    /// `ENOSYS`.
    Absent,
    /// The process ends.
    Kill,
    /// `EPERM` when any of these rules applies, else it is made.
    DenyIf(Vec<Rule>),
}

/// Applies when all of it does.
pub(super) type Rule = Vec<Condition>;

/// Looks at the lower half of an argument: what the kernel looks at, too, of those that are compared here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u8,
    /// Which bits of it; all of them when it is all ones.
    pub(super) mask: u32,
    pub(super) test: Test,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Is(u32),
    IsNot(u32),
    AtLeast(u32),
    HasAny(u32),
}

/// From which number on which answer holds, in order, the first from 0 on.
pub(super) type Ranges = Vec<(u32, Answer)>;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const ALWAYS: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const ANY_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Where `struct seccomp_data` has the call's number, its architecture, the lower half of its first argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Other architectures' calls end the process.
pub(super) fn compile(architecture: u32, ranges: &[(u32, Answer)]) -> Vec<sock_filter> {
    let mut program = Backwards::default();
    let tree = program.tree(ranges);
    let number = program.before(tree, LOAD, NUMBER);
    let foreign = program.answer(&Answer::Kill);
    let check = program.branch(EQUAL, architecture, (number, foreign));
    program.before(check, LOAD, ARCHITECTURE);
    program.program.reverse();
    program.program
}

/// An instruction that is there: how many came before it, counted from the program's end.
type Place = usize;

/// A program from its last instruction to its first.
#[derive(Default)]
struct Backwards {
    program: Vec<sock_filter>,
    /// Where the rules are that are there already.
    rules: Vec<(Vec<Rule>, Place)>,
}

impl Backwards {
    fn push(&mut self, code: u16, (jt, jf): (u8, u8), k: u32) -> Place {
        self.program.push(sock_filter { code, jt, jf, k });
        self.program.len() - 1
    }

    /// How many instructions the next one jumps over to get there.
    fn over(&self, place: Place) -> usize {
        self.program.len() - 1 - place
    }

    /// An instruction after which it goes on at `next`.
    fn before(&mut self, next: Place, code: u16, k: u32) -> Place {
        if self.over(next) > 0 {
            let over = self.over(next) as u32;
            self.push(ALWAYS, (0, 0), over);
        }
        self.push(code, (0, 0), k)
    }

    /// Goes on at the first place when the comparison holds, else at the second.
    fn branch(&mut self, code: u16, k: u32, (holds, fails): (Place, Place)) -> Place {
        // Each may push the other further away, by one instruction.
        let fails = self.within_reach(fails, 1);
        let holds = self.within_reach(holds, 0);
        let jumps = (self.over(holds) as u8, self.over(fails) as u8);
        self.push(code, jumps, k)
    }

    /// A place that a comparison can jump to, when `more` instructions come between.
    fn within_reach(&mut self, place: Place, more: usize) -> Place {
        let over = self.over(place);
        if over + more <= usize::from(u8::MAX) {
            return place;
        }
        self.push(ALWAYS, (0, 0), over as u32)
    }

    fn answer(&mut self, answer: &Answer) -> Place {
        let value = match answer {
            Answer::Allow => libc::SECCOMP_RET_ALLOW,
            Answer::Deny => libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
            Answer::Absent => libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32,
            Answer::Kill => libc::SECCOMP_RET_KILL_PROCESS,
            Answer::DenyIf(rules) => return self.known_or_new(rules),
        };
        self.value(value)
    }

    /// The nearest that gives this value, or a new one.
    fn value(&mut self, value: u32) -> Place {
        let same = |i: &sock_filter| i.code == RETURN && i.k == value;
        match self.program.iter().rposition(same) {
            Some(place) if self.over(place) < usize::from(u8::MAX) => place,
            _ => self.push(RETURN, (0, 0), value),
        }
    }

    fn known_or_new(&mut self, rules: &[Rule]) -> Place {
        if let Some((_, place)) = self.rules.iter().find(|(known, _)| known == rules) {
            return *place;
        }
        let place = self.rules(rules);
        self.rules.push((rules.to_vec(), place));
        place
    }

    fn rules(&mut self, rules: &[Rule]) -> Place {
        let mut otherwise = self.answer(&Answer::Allow);
        for rule in rules.iter().rev() {
            let mut next = self.answer(&Answer::Deny);
            for (i, condition) in rule.iter().enumerate().rev() {
                next = self.test(condition.test, (next, otherwise));
                let before = i.checked_sub(1).and_then(|i| rule.get(i));
                let whole = |c: &Condition| (c.argument, c.mask) == (condition.argument, u32::MAX);
                if before.is_some_and(whole) && condition.mask == u32::MAX {
                    // It is loaded still.
                    continue;
                }
                if condition.mask != u32::MAX {
                    next = self.before(next, AND, condition.mask);
                }
                next = self.before(next, LOAD, ARGUMENTS + 8 * u32::from(condition.argument));
            }
            otherwise = next;
        }
        otherwise
    }

    fn test(&mut self, test: Test, (holds, fails): (Place, Place)) -> Place {
        match test {
            Test::Is(value) => self.branch(EQUAL, value, (holds, fails)),
            Test::IsNot(value) => self.branch(EQUAL, value, (fails, holds)),
            Test::AtLeast(value) => self.branch(AT_LEAST, value, (holds, fails)),
            Test::HasAny(bits) => self.branch(ANY_BIT, bits, (holds, fails)),
        }
    }

    /// Finds the answer for the number that is loaded, which the ranges' first is not above.
    fn tree(&mut self, ranges: &[(u32, Answer)]) -> Place {
        if let Some((around, singles)) = few_singles(ranges) {
            let around = self.answer(around);
            return singles
                .into_iter()
                .rev()
                .fold(around, |otherwise, (number, answer)| {
                    let answer = self.answer(answer);
                    self.branch(EQUAL, number, (answer, otherwise))
                });
        }
        let half = ranges.len() / 2;
        let is_allowed = ranges.get(half).is_some_and(|(_, a)| *a == Answer::Allow);
        let cut = half - usize::from(half > 1 && !is_allowed);
        let (below, above) = ranges.split_at(cut);
        let Some((from, answer)) = above.first() else {
            return self.answer(&Answer::Kill);
        };
        // A single number stays between what is around it, which is one comparison in place of two.
        let whole = match below {
            [.., (_, around), (number, _)] if number + 1 == *from && around == answer => &ranges[..=cut],
            _ => below,
        };
        let above = self.tree(above);
        let below = self.tree(whole);
        self.branch(AT_LEAST, *from, (above, below))
    }
}

/// Most comparisons one after the other.
const IN_A_ROW: usize = 3;

/// One answer for all but a few numbers: that, and those.
fn few_singles(ranges: &[(u32, Answer)]) -> Option<(&Answer, Vec<(u32, &Answer)>)> {
    let (_, around) = ranges.first()?;
    let rest = ranges.get(1..)?;
    if rest.len() > 2 * IN_A_ROW || rest.len() % 2 != 0 {
        return None;
    }
    let single = |pair: &'_ [(u32, Answer)]| match pair {
        [(number, _), (next, after)] => *next == number + 1 && after == around,
        _ => false,
    };
    let singles = rest.chunks_exact(2).map(|pair| (pair[0].0, &pair[0].1));
    rest.chunks_exact(2)
        .all(single)
        .then(|| (around, singles.collect()))
}
