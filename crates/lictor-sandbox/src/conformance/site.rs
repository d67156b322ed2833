//! Where attempts are made: the bait outside, and running one without and within a sandbox.
//!
//! # Invariants
//! - The bait is made anew before each attempt, belongs to the sandbox's own user and may be used by everybody, and
//!   lies in the file system of the jobs' directories: nothing but the sandbox keeps a job from it.

// The half without a sandbox, and the bait, are plain processes.
#![allow(clippy::disallowed_methods)]

use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use lictor_proto::Name;
use lictor_proto::doc::{Exec, Exit};
use lictor_trust::profiles::{Backend as BackendName, Profile};
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::program::{command, verdict};
use super::{Attempt, Verdict};
use crate::backend::Backend;
use crate::capability::Capabilities;
use crate::host::{Config, Host};
use crate::plan::Plan;
use crate::running::{Cause, Ended, OutputReader, StdinSource};

const BAIT: &str = include_str!("bait.py");
/// What the files to be read hold.
const TEXT: &str = "7f3a-the-secret-outside";
/// Most of an attempt's output that is kept.
const MOST_OUTPUT: usize = 64 * 1024;

/// The form of a backend's sandboxes that an attempt is made in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// As a profile makes them that asks for nothing.
    #[default]
    Plain,
    /// With the egress proxy as the way out, for one name that does not exist.
    Egress,
    /// Made before the job came. What an attempt finds shown is laid anew for each, which no prepared sandbox outlives:
    /// this shape shows nothing.
    Prepared,
}

/// Bait, and a place for jobs beside it.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    user: Option<(u32, u32)>,
    bait: Bait,
    shape: Shape,
    /// A descriptor without close-on-exec in every process that this one starts without care.
    _leak: OwnedFd,
    jobs: u32,
}

#[derive(Debug)]
struct Bait {
    process: Child,
    ask: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    known: Value,
}

impl Site {
    /// Lays out the bait in an empty directory. Before the host is started, for its processes to inherit what leaks.
    ///
    /// # Errors
    /// The system's; or when there is no Python at `/usr/bin/python3`.
    pub fn prepare(root: &Path) -> io::Result<Self> {
        let config = Config::default();
        let is_root = rustix::process::geteuid().is_root();
        let user = is_root.then_some((config.sandbox_uid, config.sandbox_gid));
        let root = root.canonicalize()?;
        fs::set_permissions(&root, Permissions::from_mode(0o755))?;
        let run = root.join("run");
        fs::create_dir(&run)?;
        give(&run, 0o755, user)?;
        fs::write(run.join("secret"), TEXT)?;
        give(&run.join("secret"), 0o666, user)?;
        lay(&root, user)?;
        let agents = root.join("agents-key");
        fs::write(&agents, TEXT)?;
        fs::set_permissions(&agents, Permissions::from_mode(0o600))?;
        let leaks = OFlags::DIRECTORY | OFlags::RDONLY;
        let leak = rustix::fs::open(&run, leaks, Mode::empty())?;
        Ok(Self {
            bait: Bait::start(&root, user)?,
            root,
            user,
            shape: Shape::Plain,
            _leak: leak,
            jobs: 0,
        })
    }

    /// The same bait, for sandboxes of another shape.
    #[must_use]
    pub fn shaped(self, shape: Shape) -> Self {
        Self { shape, ..self }
    }

    /// Where jobs are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The profile of a job that tries it.
    ///
    /// # Errors
    /// When the shape is none of this backend's.
    pub fn profile(&self, backend: BackendName, attempt: &Attempt) -> io::Result<Profile> {
        let mut profile = profile((backend, self.shape), attempt)?;
        if backend.is_unprivileged() && self.shape != Shape::Prepared {
            let shown = self.root.join("shown");
            profile.read_only.push(shown.to_string_lossy().into_owned());
        }
        Ok(profile)
    }

    /// Tries it as a plain process, which is what a sandbox is measured against.
    ///
    /// # Errors
    /// The system's.
    pub fn without(&mut self, attempt: &Attempt) -> io::Result<Verdict> {
        let argv = self.set_out(attempt)?;
        let dir = self.job_dir();
        fs::create_dir(&dir)?;
        let mut plain = Command::new(&argv[0]);
        plain.args(&argv[1..]).current_dir(&dir).env_clear();
        let output = plain.stdin(Stdio::from(self.input()?)).output()?;
        fs::remove_dir_all(&dir)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let error = String::from_utf8_lossy(&output.stderr);
        let found = verdict(&said);
        let ended = || Verdict::Broken(format!("{:?}: {said}{error}", output.status.signal()));
        self.seen_outside(found.unwrap_or_else(ended))
    }

    /// Tries it in a sandbox of `backend`, which can do what its probe has said.
    ///
    /// # Errors
    /// The system's, and what kept the sandbox from being made.
    pub async fn within(
        &mut self,
        host: &Host,
        (backend, capabilities): (&dyn Backend, &Capabilities),
        attempt: &Attempt,
    ) -> io::Result<Verdict> {
        if let Some(missing) = attempt.needs.filter(|c| !capabilities.has(*c)) {
            return Ok(Verdict::Lacks(missing));
        }
        let argv = self.set_out(attempt)?;
        let plan = match self.plan(host, (backend.name(), capabilities), attempt, argv)? {
            Ok(plan) => plan,
            Err(refused) => return Ok(Verdict::Refused(refused)),
        };
        let mut sandbox = backend.create(plan).await.map_err(io::Error::other)?;
        let input = StdinSource::File(self.input()?);
        let run = async {
            let mut running = sandbox.exec(input.into()).await.map_err(io::Error::other)?;
            let (out, err) = (running.take_stdout(), running.take_stderr());
            let (ended, out, err) = tokio::join!(running.wait(), read_all(out), read_all(err));
            Ok::<_, io::Error>((ended, out?, err?))
        };
        let result = run.await;
        sandbox.destroy().await?;
        let (ended, said, error) = result?;
        let found = verdict(&said).unwrap_or_else(|| by_end(attempt, &ended, &(said + &error)));
        self.seen_outside(found)
    }

    fn plan(
        &mut self,
        host: &Host,
        (backend, capabilities): (BackendName, &Capabilities),
        attempt: &Attempt,
        argv: Vec<String>,
    ) -> io::Result<Result<Plan, String>> {
        let profile = self.profile(backend, attempt)?;
        let name: Name = "escape".parse().map_err(io::Error::other)?;
        let mut exec = Exec::new(argv);
        exec.timeout_ms = Some(25_000);
        exec.grace_ms = Some(0);
        let dir = self.job_dir();
        let resolved = host.resolve(&name, (&profile, backend), &exec, &dir);
        let resolved = resolved.map_err(|r| io::Error::other(r.message))?;
        Ok(Plan::without_permit(resolved, capabilities).map_err(|e| e.to_string()))
    }

    /// What a job reads: a file of its own user's, opened for reading.
    fn input(&self) -> io::Result<fs::File> {
        fs::File::open(self.root.join("input"))
    }

    fn job_dir(&mut self) -> PathBuf {
        self.jobs += 1;
        self.root.join(format!("job-{}", self.jobs))
    }

    /// Fresh bait, and the attempt's command line.
    fn set_out(&mut self, attempt: &Attempt) -> io::Result<Vec<String>> {
        lay(&self.root, self.user)?;
        self.bait.events()?;
        let outside = self.root.join("outside");
        let mut known = self.bait.known.clone();
        known["text"] = json!(TEXT);
        known["dir"] = json!(self.root);
        known["outside"] = json!(outside);
        known["shown"] = json!(self.root.join("shown"));
        known["secret"] = json!(outside.join("secret"));
        known["agents"] = json!(self.root.join("agents-key"));
        Ok(command(attempt, &known))
    }

    /// What reached the bait counts, whatever the program believes.
    fn seen_outside(&mut self, found: Verdict) -> io::Result<Verdict> {
        let mut events = self.bait.events()?;
        if fs::read(self.root.join("input"))? != TEXT.as_bytes() {
            events.push("its input was changed".to_owned());
        }
        let seen = !events.is_empty() && matches!(found, Verdict::Held(_));
        Ok(if seen {
            Verdict::Out(events.join(", "))
        } else {
            found
        })
    }
}

impl Bait {
    fn start(root: &Path, user: Option<(u32, u32)>) -> io::Result<Self> {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-I", "-S", "-c", BAIT]).arg(root).env_clear();
        command.env("LICTOR_BAIT", TEXT);
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        let mut process = command
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let ask = process.stdin.take();
        let answers = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut bait = Self {
            process,
            ask,
            answers: BufReader::new(answers),
            known: Value::Null,
        };
        bait.known = serde_json::from_str(&bait.line()?)?;
        Ok(bait)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(line)
    }

    /// What reached it since it was asked last.
    fn events(&mut self) -> io::Result<Vec<String>> {
        let ask = self.ask.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        ask.write_all(b"\n")?;
        Ok(serde_json::from_str(&self.line()?)?)
    }
}

impl Drop for Bait {
    fn drop(&mut self) {
        // It takes its shared memory away and ends when nobody can ask any more.
        self.ask.take();
        let _ = self.process.wait();
    }
}

/// The files that attempts go for, as they are before each.
fn lay(root: &Path, user: Option<(u32, u32)>) -> io::Result<()> {
    let outside = root.join("outside");
    let _ = fs::remove_dir_all(&outside);
    fs::create_dir(&outside)?;
    give(&outside, 0o777, user)?;
    for file in [outside.join("secret"), root.join("input")] {
        fs::write(&file, TEXT)?;
        give(&file, 0o666, user)?;
    }
    let shown = root.join("shown");
    let _ = fs::remove_dir_all(&shown);
    fs::create_dir(&shown)?;
    give(&shown, 0o777, user)?;
    fs::write(shown.join("file"), "shown")?;
    give(&shown.join("file"), 0o666, user)
}

fn give(path: &Path, mode: u32, user: Option<(u32, u32)>) -> io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    user.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
}

fn profile((backend, shape): (BackendName, Shape), attempt: &Attempt) -> io::Result<Profile> {
    let backend_name = backend.as_str();
    let text = match shape {
        _ if !backend.is_unprivileged() => json!({ "backend": backend_name, "network": "host" }),
        Shape::Plain => json!({ "backend": backend_name, "network": "none" }),
        Shape::Prepared => json!({ "backend": backend_name, "network": "none", "warm": 1 }),
        Shape::Egress => {
            let egress = json!({ "mode": "allowlist", "allow": ["in.example.test:443"] });
            json!({ "backend": backend_name, "network": "egress", "egress": egress })
        }
    };
    let mut profile: Profile = serde_json::from_value(text)?;
    if let Some(limit) = attempt.limit {
        limit.set(&mut profile.limits);
    }
    Ok(profile)
}

async fn read_all(reader: Option<OutputReader>) -> io::Result<String> {
    let mut reader = reader.ok_or(io::ErrorKind::BrokenPipe)?;
    let (mut kept, mut part) = (Vec::new(), bytes::BytesMut::new());
    while reader.read(&mut part, MOST_OUTPUT).await? > 0 {
        let room = MOST_OUTPUT.saturating_sub(kept.len()).min(part.len());
        kept.extend_from_slice(&part[..room]);
        part.clear();
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

/// A program that could not say anything any more: only a signal that means a limit or a filter is an answer.
fn by_end(attempt: &Attempt, ended: &Ended, text: &str) -> Verdict {
    let signal = match ended.exit {
        Some(Exit::Signal(n)) if ended.cause == Cause::Exited => n,
        _ => 0,
    };
    let by_limit = attempt.limit.is_some() && [libc::SIGKILL, libc::SIGXFSZ].contains(&signal);
    if signal == libc::SIGSYS || by_limit {
        return Verdict::Held(format!("signal {signal}"));
    }
    Verdict::Broken(format!("{:?} {:?}: {text}", ended.cause, ended.exit))
}
