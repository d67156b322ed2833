//! Tools that an agent has run for itself: how little they get, and that nothing is left of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

mod common;

use std::path::Path;
use std::time::Duration;

use common::processes_with;
use lictor_sandbox::{Config, Confined, Helper, HelperError, Host};

fn host() -> Host {
    Host::start(Config::default()).expect("the host starts")
}

fn shell(line: &str, place: Option<&Path>) -> Helper {
    Helper {
        argv: ["/bin/sh", "-c", line].map(str::to_owned).to_vec(),
        env: vec![("ONLY".into(), "this".into())],
        confined: place.map(|place| Confined {
            place: place.into(),
            file_size: 1 << 20,
        }),
        within: Duration::from_secs(60),
    }
}

#[tokio::test]
async fn a_confined_tool_has_no_rights_no_environment_and_one_place() {
    let host = host();
    let top = tempfile::tempdir().expect("a directory");
    let place = top.path().join("place");
    std::fs::create_dir(&place).expect("made");
    let closed: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(top.path(), closed).expect("closed");
    let line = "/usr/bin/id -u; /usr/bin/env | /usr/bin/sort; echo kept > \"$0/file\"; /bin/grep -E 'Cap(Prm|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status; \
                /usr/bin/head -c 2000000 /dev/zero > \"$0/large\"; echo $?; echo to-errors >&2";
    let mut helper = shell(line, Some(&place));
    let seen = host.helper_place(&place);
    helper.argv.push(seen.to_string_lossy().into_owned());
    let helped = host.help(&helper, || Ok(())).await.expect("it ran");
    let output = String::from_utf8_lossy(&helped.output).into_owned();
    for part in [
        "65534\n",
        "ONLY=this\n",
        "CapPrm:\t0000000000000000\n",
        "CapBnd:\t0000000000000000\n",
        "NoNewPrivs:\t1\n",
        "Seccomp:\t2\n",
    ] {
        assert!(output.contains(part), "{part:?} in {output}");
    }
    assert!(!output.contains("PATH=/usr/local"), "{output}");
    assert!(String::from_utf8_lossy(&helped.errors).contains("to-errors"));
    assert_eq!(std::fs::read(place.join("file")).expect("there"), b"kept\n");
    let large = std::fs::metadata(place.join("large")).expect("there").len();
    assert!(large <= 1 << 20, "{large} bytes");
}

#[tokio::test]
async fn what_takes_too_long_or_too_much_is_ended_with_all_that_it_has_started() {
    let host = host();
    let place = tempfile::tempdir().expect("a directory");
    let mark = format!("7{}", std::process::id());
    let line = format!("(setsid sleep {mark}1 &); sleep {mark}2");
    let late = Helper {
        within: Duration::from_millis(300),
        ..shell(&line, Some(place.path()))
    };
    let error = host.help(&late, || Ok(())).await.expect_err("late");
    assert!(matches!(error, HelperError::Late(_)), "{error}");
    assert!(processes_with(&mark).is_empty(), "{:?}", processes_with(&mark));
    let mut looks = 0;
    let enough = || {
        looks += 1;
        if looks < 2 {
            Ok(())
        } else {
            Err("enough".to_owned())
        }
    };
    let error = host
        .help(&shell(&line, Some(place.path())), enough)
        .await
        .expect_err("stopped");
    assert_eq!(error.to_string(), "enough");
    assert!(processes_with(&mark).is_empty(), "{:?}", processes_with(&mark));
}

#[tokio::test]
async fn a_tool_that_fails_or_is_not_there_says_so() {
    let host = host();
    let helped = host.help(&shell("echo why >&2; exit 3", None), || Ok(())).await;
    let helped = helped.expect("it ran");
    assert!(!helped.succeeded && helped.errors == b"why\n", "{helped:?}");
    let mut absent = shell("", None);
    absent.argv = vec!["/nonexistent/tool".into()];
    assert!(host.help(&absent, || Ok(())).await.is_err());
}
