//! The fixtures themselves: a fixture that lies makes every test above it worthless.

// Tests start processes.
#![allow(clippy::disallowed_methods)]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;
use lictor_test::{Cable, Program, can_make_namespaces, sibling, skip, wait_until};

#[test]
fn a_wait_ends_at_its_deadline_and_says_what_for() {
    let started_at = Instant::now();
    let error = wait_until("the cows to come home", Duration::from_millis(20), || false).unwrap_err();
    assert!(error.to_string().contains("the cows to come home"));
    assert!(started_at.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_program_that_ends_early_is_reported_with_its_stderr() -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "echo no such luck >&2; exit 3"]);
    let mut program = Program::start(command)?;
    let error = program
        .line("a ready line", Duration::from_secs(10), |_| Some(()))
        .unwrap_err()
        .to_string();
    assert!(error.contains("exit status: 3"), "{error}");
    Ok(())
}

#[test]
fn a_dropped_program_is_gone() -> Result<()> {
    let mut command = Command::new("sleep");
    command.arg("600");
    let program = Program::start(command)?;
    let proc = format!("/proc/{}", program.pid());
    assert!(std::path::Path::new(&proc).exists());
    drop(program);
    assert!(!std::path::Path::new(&proc).exists());
    Ok(())
}

mod whole_machine {
    use super::*;

    fn ping(cable: &Cable) -> bool {
        let port = "7777";
        let address = cable.hub().address().to_string();
        let script = format!(
            "timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{port} && read -r line <&3 && test \"$line\" = hello'"
        );
        let mut command = cable.agent().command("bash".as_ref(), &["-c", &script]);
        command.status().is_ok_and(|s| s.success())
    }

    #[test]
    fn a_cable_can_be_cut_and_made_to_swallow_packets() -> Result<()> {
        if let Err(missing) = can_make_namespaces() {
            skip(&missing);
            return Ok(());
        }
        let cable = Cable::new()?;
        let serve = "import socket\ns=socket.create_server(('',7777))\nwhile True:\n c,_=s.accept()\n c.sendall(b'hello\\n')\n c.close()";
        let _server = Program::start(cable.hub().command("python3".as_ref(), &["-c", serve]))?;
        let patience = Duration::from_secs(20);
        wait_until("a first greeting", patience, || ping(&cable))?;

        cable.cut()?;
        assert!(!ping(&cable), "a cut cable carries nothing");
        cable.mend()?;
        wait_until("a greeting over the mended cable", patience, || ping(&cable))?;

        cable.hub().swallow_incoming()?;
        assert!(!ping(&cable), "swallowed packets get no answer");
        cable.hub().pass_incoming()?;
        wait_until("a greeting after swallowing", patience, || ping(&cable))?;
        Ok(())
    }

    #[test]
    fn a_slow_relay_keeps_bytes_for_its_delay_each_way() -> Result<()> {
        let echo = TcpListener::bind("127.0.0.1:0")?;
        let target = echo.local_addr()?;
        let delay = Duration::from_millis(40);
        let arguments = [target.to_string(), delay.as_millis().to_string()];
        let mut command = Command::new(sibling("slow-relay")?);
        command.args(arguments);
        let mut relay = Program::start(command)?;
        let address: SocketAddr = relay.line("its address", Duration::from_secs(10), |l| l.parse().ok())?;
        let mut near = TcpStream::connect(address)?;
        let (mut far, _) = echo.accept()?;
        let started_at = Instant::now();
        let mut byte = [0];
        near.write_all(b"a")?;
        far.read_exact(&mut byte)?;
        far.write_all(&byte)?;
        near.read_exact(&mut byte)?;
        assert!(started_at.elapsed() >= 2 * delay);
        Ok(())
    }
}
