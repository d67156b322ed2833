//! A script on its way to its interpreter: in memory, sealed, and handed over by a descriptor.
//!
//! Nothing of it is on a disk, so nothing has to be removed, whoever is killed when: the text goes with the last process that
//! holds it. No path leads to it but `/dev/fd/3` of the job's own processes, and nobody can change it, the job included,
//! before the interpreter has read it or after. gVisor, which passes no descriptors on, gets a copy in the directory that is
//! made and removed with the sandbox.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::fchown;
use std::sync::Arc;

use lictor_proto::doc::Script;
use rustix::fs::{Mode, SealFlags};

use super::copy;
use super::resolve::FIRST_HELD;
use super::users::User;
use crate::program::{ExecBy, FileIdentity, OpenProgram, ProgramFile};

/// What PowerShell, which reads files by their ending only, is told to do with one that has none.
const POWERSHELL: &str =
    "& ([ScriptBlock]::Create([IO.File]::ReadAllText('SCRIPT'))) @args; exit $LASTEXITCODE";

/// The program of a script: its interpreter, which was judged and is executed by its descriptor, and finds the text held.
pub(super) fn program(
    script: &Script,
    text: &str,
    interpreter: ProgramFile,
    user: &User,
) -> io::Result<OpenProgram> {
    let held = ProgramFile {
        path: String::new(),
        identity: FileIdentity::NONE,
        held_at: Some(FIRST_HELD),
        loose: true,
        copy: Some(Arc::new(sealed(text, user)?)),
    };
    let words = words(script.interpreter.as_str(), &interpreter.path);
    Ok(OpenProgram {
        files: vec![held, interpreter],
        exec_by: ExecBy::Descriptor,
        in_place_of_first: Some(words),
        script: Some(script.sha256),
        is_own: false,
    })
}

/// The text as a file in memory that its user may read, and nobody write.
fn sealed(text: &str, user: &User) -> io::Result<File> {
    let mut file = copy::memory("lictor-script")?;
    file.write_all(text.as_bytes())?;
    // Perl reads on where the descriptor stands.
    file.rewind()?;
    // An agent that is not root runs scripts as itself, whose file it is already.
    let _ = fchown(&file, Some(user.uid), Some(user.gid));
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::XUSR)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(file.as_fd(), seals)?;
    Ok(file)
}

/// How an interpreter is told to read it: what stands before the script's own arguments.
fn words(name: &str, path: &str) -> Vec<String> {
    let script = format!("/dev/fd/{FIRST_HELD}");
    let mut words = vec![path.to_owned()];
    match name {
        // It would look for the real path of its main file, and there is none.
        "node" => words.extend(["--preserve-symlinks-main".to_owned(), script]),
        "pwsh" => {
            let options = ["-NoLogo", "-NoProfile", "-NonInteractive", "-CommandWithArgs"];
            words.extend(options.map(str::to_owned));
            words.push(POWERSHELL.replace("SCRIPT", &script));
        }
        _ => words.push(script),
    }
    words
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::sealed;
    use crate::linux::users;

    #[test]
    fn the_text_is_read_from_its_beginning_and_written_by_nobody() {
        let mut file = sealed("echo hi\n", &users::current()).expect("a file in memory");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
        let mut text = String::new();
        file.read_to_string(&mut text).expect("read");
        assert_eq!(text, "echo hi\n");
    }
}
