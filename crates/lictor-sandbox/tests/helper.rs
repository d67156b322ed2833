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
            memory: 256 << 20,
            ports: Vec::new(),
        }),
        within: Duration::from_secs(60),
        output: 64 * 1024,
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
    let held = "import ctypes; ask = ctypes.CDLL(None).prctl; \
                print('bounding', [c for c in range(41) if ask(23, c)], 'seccomp', ask(21), 'no new privileges', ask(39, 0, 0, 0, 0))";
    let line = format!(
        "/usr/bin/id -u; /usr/bin/env | /usr/bin/sort; echo kept > \"$0/file\"; /usr/bin/python3 -Sc \"{held}\"; \
         /usr/bin/head -c 2000000 /dev/zero > \"$0/large\"; echo $?; echo to-errors >&2"
    );
    let mut helper = shell(&line, Some(&place));
    let seen = host.helper_place(&place);
    helper.argv.push(seen.to_string_lossy().into_owned());
    let helped = host.help(&helper, || Ok(())).await.expect("it ran");
    let output = String::from_utf8_lossy(&helped.output).into_owned();
    for part in [
        "65534\n",
        "ONLY=this\n",
        "bounding [] seccomp 2 no new privileges 1\n",
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
async fn a_confined_tool_finds_nothing_of_others_and_only_the_ports_that_it_is_told() {
    let host = host();
    let (place, other) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir_in("/var/tmp").expect("a directory"),
    );
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(other.path(), open).expect("opened");
    let file = other.path().join("key");
    std::fs::write(&file, "theirs").expect("written");
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let (told, untold) = (listen(), listen());
    let port = |listener: &std::net::TcpListener| listener.local_addr().expect("an address").port();
    let script = "import os, socket, sys\n\
        def can(what):\n\
        \x20 try: what(); return 'yes'\n\
        \x20 except OSError as e: return str(e.errno)\n\
        print('read', can(lambda: open(sys.argv[1]).read()))\n\
        print('told', can(lambda: socket.create_connection(('127.0.0.1', int(sys.argv[2])), 5)))\n\
        print('untold', can(lambda: socket.create_connection(('127.0.0.1', int(sys.argv[3])), 5)))\n\
        print('listens', can(lambda: socket.create_server(('127.0.0.1', 0))))\n";
    let argv = [
        "/usr/bin/python3".to_owned(),
        "-Sc".into(),
        script.into(),
        file.to_string_lossy().into_owned(),
        port(&told).to_string(),
        port(&untold).to_string(),
    ];
    let run = async |confined: Option<Confined>| {
        let helper = Helper {
            argv: argv.to_vec(),
            confined,
            ..shell("", None)
        };
        let helped = host.help(&helper, || Ok(())).await.expect("it ran");
        let errors = String::from_utf8_lossy(&helped.errors).into_owned();
        (String::from_utf8_lossy(&helped.output).into_owned(), errors)
    };
    // Without being confined all of it works.
    let free = run(None).await;
    assert_eq!(
        free.0, "read yes\ntold yes\nuntold yes\nlistens yes\n",
        "{free:?}"
    );
    let confined = run(Some(Confined {
        ports: vec![port(&told)],
        ..shell("", Some(place.path())).confined.expect("confined")
    }))
    .await;
    assert_eq!(
        confined.0, "read 13\ntold yes\nuntold 13\nlistens 13\n",
        "{confined:?}"
    );
}

#[tokio::test]
async fn a_confined_tool_that_grows_gets_no_more_memory_than_it_may_have() {
    let host = host();
    let place = tempfile::tempdir().expect("a directory");
    // 512 MiB in small pieces, as a program has it that keeps what it is sent.
    let grow = "kept = []\ntry:\n for n in range(512): kept.append(bytearray(1 << 20))\nexcept MemoryError: kept = kept[:len(kept) // 2]\n\
                print(n, 'of 512')";
    let argv = ["/usr/bin/python3", "-Sc", grow].map(str::to_owned).to_vec();
    let run = async |confined| {
        let helper = Helper {
            argv: argv.clone(),
            confined,
            ..shell("", None)
        };
        let helped = host.help(&helper, || Ok(())).await.expect("it ran");
        String::from_utf8_lossy(&helped.output).into_owned()
    };
    assert_eq!(
        run(None).await,
        "511 of 512\n",
        "it grows where nobody keeps it from that"
    );
    let held = run(shell("", Some(place.path())).confined).await;
    let grown: u32 = held
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a number");
    assert!((64..=256).contains(&grown), "{held}");
}

#[test]
fn a_thread_that_unpacks_reaches_one_directory_and_nobody() {
    let (place, other) = (
        tempfile::tempdir().expect("a directory"),
        tempfile::tempdir().expect("a directory"),
    );
    let key = other.path().join("key");
    std::fs::write(&key, "theirs").expect("written");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    // It holds for one thread, and for what that makes.
    let unpacking = std::thread::spawn(move || {
        let reach = || {
            let denied = |e: std::io::Error| e.kind() == std::io::ErrorKind::PermissionDenied;
            [
                std::fs::write(place.path().join("file"), "own").map_err(denied),
                std::fs::read(&key).map(drop).map_err(denied),
                std::fs::write(&key, "mine").map_err(denied),
                std::net::TcpStream::connect(address).map(drop).map_err(denied),
                std::process::Command::new("/bin/true")
                    .status()
                    .map(drop)
                    .map_err(denied),
            ]
        };
        assert_eq!(reach(), [Ok(()); 5]);
        lictor_sandbox::confine_to_dir(place.path()).expect("confined");
        assert_eq!(reach(), [Ok(()), Err(true), Err(true), Err(true), Err(true)]);
    });
    unpacking.join().expect("it went as it should");
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
