//! What a job says itself of its process: umask, narrower limits, user and group. Each backend holds it or refuses it.

// The name of a case is what it holds, as a sentence.
#![allow(missing_docs, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use lictor_proto::Code;
use lictor_proto::code::Refusal;
use lictor_proto::doc::{Exec, LimitName, Terms};
use lictor_trust::profiles::{Backend, Profile};

use super::bench::{Bench, command};
use super::case::{Case, cases};
use crate::plan::Plan;
use crate::running::StdinSource;

/// All of them.
pub const TERMS: &[Case] = cases![
    files_are_made_with_the_umask_of_the_job,
    limits_that_a_job_narrows_hold_and_wider_ones_are_refused,
    user_and_group_that_a_job_chooses_are_those_of_its_files,
    user_that_the_profile_does_not_list_is_nobodys_choice,
];

fn with(argv: &[&str], terms: Terms) -> Exec {
    Exec {
        terms: Some(terms),
        ..command(argv)
    }
}

/// Why it is not started.
fn refused(bench: &Bench, exec: &Exec) -> Refusal {
    let name = "p".parse().expect("a name");
    let dir = bench.job_dir();
    let resolved = match bench.host.resolve(&name, bench.profile(), exec, &dir) {
        Ok(resolved) => resolved,
        Err(refusal) => return refusal,
    };
    let planned = Plan::without_permit(resolved, &bench.capabilities);
    planned.expect_err("it could be started").refusal()
}

pub async fn files_are_made_with_the_umask_of_the_job(bench: &Bench) {
    // A box has a place of its own; elsewhere the job's directory is one. By a program that asks a kernel of its own in a way
    // that this one knows.
    let place = if bench.is_boxed() { "/tmp" } else { "." };
    let made = format!(
        "import os\nos.chdir('{place}')\nopen('f', 'w').close()\nos.mkdir('d')\n\
         print(*(oct(os.stat(n).st_mode & 0o777) for n in 'fd'))"
    );
    let line = ["/usr/bin/python3", "-c", &made];
    let plain = bench.run_with(&command(&line), StdinSource::Null).await;
    assert_eq!(plain.stdout, "0o644 0o755\n", "{}", plain.stderr);
    let terms = Terms {
        umask: Some("0027".to_owned()),
        ..Terms::default()
    };
    let own = bench.run_with(&with(&line, terms), StdinSource::Null).await;
    assert_eq!(own.stdout, "0o640 0o750\n", "{}", own.stderr);
}

pub async fn limits_that_a_job_narrows_hold_and_wider_ones_are_refused(bench: &Bench) {
    let mut bench = bench.again().await;
    bench.profile.limits.open_files = Some(128);
    let opens = "import os\nn = 0\ntry:\n  while n < 1000:\n    os.dup(0); n += 1\nexcept OSError as e:\n  pass\n\
                 print('many' if n > 64 else 'few')";
    let line = ["/usr/bin/python3", "-c", opens];
    let limited = |n| Terms {
        limits: BTreeMap::from([(LimitName::OpenFiles, n)]),
        ..Terms::default()
    };
    assert_eq!(bench.run(&line).await.stdout, "many\n", "by the profile's limit");
    let narrow = bench.run_with(&with(&line, limited(32)), StdinSource::Null).await;
    assert_eq!(narrow.stdout, "few\n");
    let wider = refused(&bench, &with(&line, limited(129)));
    assert_eq!(wider.code, Code::LimitExceeded, "{wider:?}");
    assert!(wider.message.contains("limits.open_files is 128"), "{wider:?}");
}

pub async fn user_that_the_profile_does_not_list_is_nobodys_choice(bench: &Bench) {
    for terms in [
        Terms {
            user: Some("root".parse().expect("a name")),
            ..Terms::default()
        },
        Terms {
            group: Some("root".parse().expect("a name")),
            ..Terms::default()
        },
    ] {
        let refused = refused(bench, &with(&["true"], terms));
        assert_eq!(refused.code, Code::RunAsRefused, "{refused:?}");
    }
}

/// A profile that lists two users and a group, and lets its jobs write to a directory of the host.
fn choosing(bench: &Bench, place: &str) -> Profile {
    let name = |text: &str| text.parse().expect("a name");
    let mut profile = bench.profile.clone();
    profile.run_as_users = vec![name("nobody"), name("daemon"), name("no-such-user")];
    profile.run_as_groups = vec![name("mail"), name("no-such-group")];
    if bench.hides() {
        profile.read_write = vec![place.to_owned()];
        profile.protect = Some(Vec::new());
    }
    profile
}

pub async fn user_and_group_that_a_job_chooses_are_those_of_its_files(bench: &Bench) {
    let place = tempfile::tempdir().expect("a directory");
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("open to all");
    let at = place.path().to_str().expect("UTF-8").to_owned();
    let mut bench = bench.again().await;
    bench.profile = choosing(&bench, &at);
    let chosen = |user: Option<&str>, group: Option<&str>| Terms {
        user: user.map(|name| name.parse().expect("a name")),
        group: group.map(|name| name.parse().expect("a name")),
        ..Terms::default()
    };
    let touch = |file: &str| format!("exec touch {at}/{file}");
    let of = |file: &str| {
        let made = fs::metadata(place.path().join(file)).expect("it was made");
        (made.uid(), made.gid())
    };
    bench.sh(&touch("own")).await;
    if !rustix::process::geteuid().is_root() {
        let somebody = refused(&bench, &with(&["true"], chosen(Some("daemon"), None)));
        assert_eq!(somebody.code, Code::Unenforceable, "{somebody:?}");
        return;
    }
    let daemon = host_user("daemon");
    for (file, terms, expected) in [
        ("user", chosen(Some("daemon"), None), daemon),
        (
            "both",
            chosen(Some("daemon"), Some("mail")),
            (daemon.0, host_group("mail")),
        ),
        (
            "group",
            chosen(None, Some("mail")),
            (of("own").0, host_group("mail")),
        ),
    ] {
        assert_ne!(of("own"), expected, "{file}: without its terms it is another");
        let line = touch(file);
        let done = bench
            .run_with(&with(&["/bin/sh", "-c", &line], terms), StdinSource::Null)
            .await;
        assert!(done.succeeded(), "{file}: {done:?}");
        assert_eq!(of(file), expected, "{file}");
    }
    for unknown in [
        chosen(Some("no-such-user"), None),
        chosen(None, Some("no-such-group")),
    ] {
        let refused = refused(&bench, &with(&["true"], unknown));
        assert_eq!(refused.code, Code::Unenforceable, "{refused:?}");
        assert!(refused.message.contains("no-such-"), "{refused:?}");
    }
    bench.profile.read_write.clear();
    if !bench.hides() || bench.backend.name() == Backend::Landlock {
        let all = with(&["id", "-G"], chosen(Some("daemon"), None));
        let groups = bench.run_with(&all, StdinSource::Null).await.stdout;
        assert_eq!(
            sorted(&groups),
            sorted(&host_groups("daemon")),
            "all of that user's groups"
        );
    }
}

fn sorted(words: &str) -> Vec<&str> {
    let mut words: Vec<&str> = words.split_whitespace().collect();
    words.sort_unstable();
    words
}

#[allow(clippy::disallowed_methods)] // what the host itself says
fn said(words: &[&str]) -> String {
    let done = std::process::Command::new("id").args(words).output();
    String::from_utf8(done.expect("id runs").stdout).expect("numbers")
}

fn host_user(name: &str) -> (u32, u32) {
    let id = |flag: &str| said(&[flag, name]).trim().parse().expect("a number");
    (id("-u"), id("-g"))
}

fn host_groups(name: &str) -> String {
    said(&["-G", name])
}

fn host_group(name: &str) -> u32 {
    let file = fs::read_to_string("/etc/group").expect("groups");
    let line = file.lines().find(|line| line.starts_with(&format!("{name}:")));
    let number = line.and_then(|line| line.split(':').nth(2));
    number.and_then(|n| n.parse().ok()).expect("a group of the host")
}
