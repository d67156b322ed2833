//! Jobs that have a secret as a file, and what any backend must make of that.
//!
//! Not looked at here: the mode of the directory, any mode in gVisor's own kernel, and what is left when an agent is killed.
//! The system test of that is of bubblewrap's `/run/secrets`; beside the devices they are mounts of the same namespaces.

use lictor_proto::code::Refusal;
use lictor_proto::doc::{Delivery, SecretUse};
use lictor_proto::{Code, Digest};
use lictor_sandbox::{Plan, SecretFile, StdinSource};
use lictor_trust::profiles::Backend;

use super::{Bench, Outcome, command, outcome};

const VALUE: &str = "gr8-Secr3t/of the lab";

/// A shell line as a job that has the secret `db.key` as a file.
async fn sh(bench: &Bench, line: &str) -> Result<Outcome, Refusal> {
    let (name, set_by) = ("p".parse().expect("a name"), "alice".parse().expect("a name"));
    let used = SecretUse {
        name: "db.key".parse().expect("a name"),
        version: 1,
        digest: Digest::of(b"a document"),
        delivery: Delivery::File,
    };
    let value = SecretFile::new(VALUE.as_bytes()).expect("a file in memory");
    let exec = command(&["/bin/sh", "-c", line]);
    let resolved = bench
        .host
        .resolve(&name, bench.profile(), &exec, &bench.job_dir())?
        .with_secrets([(&used, &set_by)])?
        .hold(vec![value])?;
    let plan = Plan::without_permit(resolved, &bench.capabilities).expect("the profile can be enforced");
    let mut sandbox = bench.backend.create(plan).await.expect("made");
    let running = sandbox.exec(StdinSource::Null.into()).await.expect("it starts");
    let outcome = outcome(running).await;
    sandbox.destroy().await.expect("destroyed");
    Ok(outcome)
}

/// Below this directory, its user's alone, in memory, and nobody's to change.
pub async fn is_a_file_of_its_users_alone(bench: &Bench, below: &str) {
    let line = "f=$LICTOR_SECRET_DB_KEY; echo \"at $f\"; cat \"$f\"; echo; ls -ln \"$f\"; echo \"is $(id -u)\"; ls -A \"${f%/*}\"; \
                echo x >> \"$f\" || echo kept; rm -f \"$f\" || echo stays; echo x > \"${f%/*}/more\" || echo closed; \
                while read what at kind how rest; do case $at in \"${f%/*}\"|\"$f\") echo \"on $kind $how\";; esac; done < /proc/mounts";
    let done = sh(bench, line).await.expect("it is enforced here");
    let lines: Vec<&str> = done.stdout.lines().collect();
    let says = |line: &str| lines.contains(&line);
    assert!(says(&format!("at {below}/db.key")) && says(VALUE), "{done:?}");
    assert!(says("kept") && says("stays") && says("closed"), "{done:?}");
    // Its own kernel does not know all that `ls` of this host asks for, and tells of mounts in its own words.
    if bench.backend.name() != Backend::Gvisor {
        let at = format!("{below}/db.key");
        let listed = lines.iter().find(|l| l.starts_with('-') && l.ends_with(&at));
        let words: Vec<&str> = listed.expect("it is listed").split_whitespace().collect();
        let id = lines.iter().find_map(|l| l.strip_prefix("is ")).expect("an id");
        assert!(
            words[0].starts_with("-r--------") && words[2] == id && says("db.key"),
            "{done:?}"
        );
        let on = lines
            .iter()
            .find_map(|l| l.strip_prefix("on "))
            .expect("it is mounted");
        assert!(
            on.starts_with("tmpfs ro,") || on.starts_with("tmpfs ro "),
            "{done:?}"
        );
    }
    let without = bench.sh(&format!("ls {below}; echo $LICTOR_SECRET_DB_KEY")).await;
    assert_eq!(without.stdout, "\n", "and nothing of it is there for another job");
}

/// Not without mounts of its own: then it is said, and what to do in its place.
pub async fn is_refused_as_a_file(bench: &Bench) {
    let refused = sh(bench, "true").await.expect_err("refused");
    assert_eq!(refused.code, Code::Unenforceable);
    for way in ["--secret NAME=stdin", "bubblewrap", "as root"] {
        assert!(refused.message.contains(way), "{refused}");
    }
}
