//! Every attack, by what it is aimed at.

pub mod approvals;
pub mod approvers;
pub mod bytes;
pub mod client;
pub mod control;
pub mod enrolment;
pub mod files;
pub mod fleet;
pub mod jobs;
pub mod law;
pub mod listing;
pub mod releases;
pub mod schedules;
pub mod scripts;
pub mod secrets;
pub mod stdin;
pub mod time;
pub mod workspaces;

use super::Attack;

/// An attack of this module: the function, and the code that it must be refused with.
macro_rules! attacks {
    ($($run:ident => $code:expr),* $(,)?) => {
        /// The attacks of this family.
        pub const ATTACKS: &[$crate::hostile::Attack] = &[$(
            $crate::hostile::Attack {
                name: stringify!($run),
                code: $code,
                run: || Box::pin($run()),
            }
        ),*];
    };
}
pub(crate) use attacks;

/// The families: a word for each, and its attacks.
pub const FAMILIES: &[(&str, &[Attack])] = &[
    ("jobs", jobs::ATTACKS),
    ("scripts", scripts::ATTACKS),
    ("secrets", secrets::ATTACKS),
    ("time", time::ATTACKS),
    ("law", law::ATTACKS),
    ("approvals", approvals::ATTACKS),
    ("approvers", approvers::ATTACKS),
    ("releases", releases::ATTACKS),
    ("schedules", schedules::ATTACKS),
    ("control", control::ATTACKS),
    ("standard input", stdin::ATTACKS),
    ("files", files::ATTACKS),
    ("workspaces", workspaces::ATTACKS),
    ("bytes", bytes::ATTACKS),
    ("enrolment", enrolment::ATTACKS),
    ("client", client::ATTACKS),
    ("listing", listing::ATTACKS),
    ("fleet", fleet::ATTACKS),
];

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Attack> {
    FAMILIES.iter().flat_map(|(_, attacks)| *attacks)
}
