//! A host of repositories on loopback, and what tests do with clones of them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lictor_link::cert::generate_web;
use lictor_test::{Cli, Done};
use serde_json::Value;
use tempfile::TempDir;

use crate::steps::result_of;

/// What the private half of the host asks for.
pub(crate) const TOKEN: &str = "gr8-Secr3t~of-the-lab";

/// `git http-backend` behind a port, below `DIR`; what is below `/private/` only with the token.
pub(crate) const HOST: &str = r#"
import base64, http.server, os, ssl, subprocess, sys
want = 'Basic ' + base64.b64encode(b'amy:' + sys.argv[2].encode()).decode()
class Git(http.server.BaseHTTPRequestHandler):
    def log_message(self, *a): pass
    def do_GET(self): self.serve()
    def do_POST(self): self.serve()
    def serve(self):
        path, _, query = self.path.partition('?')
        if path.startswith('/elsewhere/'):
            self.send_response(302)
            self.send_header('Location', self.path.replace('/elsewhere/', '/'))
            self.end_headers()
            return
        if path.startswith('/private/') and self.headers.get('Authorization') != want:
            self.send_response(401)
            self.send_header('WWW-Authenticate', 'Basic realm="git"')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        body = b''
        if self.headers.get('Transfer-Encoding') == 'chunked':
            while True:
                size = int(self.rfile.readline(), 16)
                body += self.rfile.read(size)
                self.rfile.readline()
                if size == 0: break
        else:
            body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        env = {'PATH': '/usr/bin:/bin', 'GIT_PROJECT_ROOT': sys.argv[1], 'GIT_HTTP_EXPORT_ALL': '1',
            'PATH_INFO': path.replace('/private/', '/'), 'QUERY_STRING': query, 'REQUEST_METHOD': self.command,
            'CONTENT_TYPE': self.headers.get('Content-Type') or '', 'CONTENT_LENGTH': str(len(body)),
            'HTTP_CONTENT_ENCODING': self.headers.get('Content-Encoding') or '',
            'GIT_PROTOCOL': self.headers.get('Git-Protocol') or '', 'GIT_CONFIG_COUNT': '1',
            'GIT_CONFIG_KEY_0': 'safe.directory', 'GIT_CONFIG_VALUE_0': '*'}
        out = subprocess.run(['git', 'http-backend'], input=body, env=env, stdout=subprocess.PIPE).stdout
        head, _, rest = out.partition(b'\r\n\r\n')
        fields = [line.split(': ', 1) for line in head.decode().split('\r\n')]
        status = [v for k, v in fields if k == 'Status']
        self.send_response(int(status[0].split()[0]) if status else 200)
        for k, v in fields:
            if k != 'Status': self.send_header(k, v)
        self.send_header('Content-Length', str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)
server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Git)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A host of repositories, gone with this.
pub(crate) struct Host {
    process: Child,
    pub(crate) dir: TempDir,
    pub(crate) port: u16,
    /// Whether it speaks TLS, as `localhost`.
    tls: bool,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Host {
    pub(crate) fn start() -> Result<Self> {
        Self::start_with(tempfile::tempdir()?, false)
    }

    /// One that shows a certificate that nobody trusts but who knows it: [`Self::authorities`].
    pub(crate) fn start_with_tls() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let pem = generate_web(&["localhost".to_owned()])?;
        fs::create_dir(dir.path().join("trusted"))?;
        fs::write(dir.path().join("trusted/ca.pem"), &pem.certificate)?;
        fs::write(
            dir.path().join("both.pem"),
            format!("{}{}", pem.key, pem.certificate),
        )?;
        Self::start_with(dir, true)
    }

    fn start_with(dir: TempDir, tls: bool) -> Result<Self> {
        let mut command = Command::new("python3");
        command.arg("-c").arg(HOST).arg(dir.path()).arg(TOKEN);
        command.args(tls.then(|| dir.path().join("both.pem")));
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = process.stdout.take().context("piped")?;
        BufReader::new(out).read_line(&mut line)?;
        let port = line.trim().parse()?;
        Ok(Self {
            process,
            dir,
            port,
            tls,
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        match self.tls {
            true => format!("https://localhost:{}/{path}", self.port),
            false => format!("http://127.0.0.1:{}/{path}", self.port),
        }
    }

    /// The directory with the certificate that it shows, `ca.pem`.
    pub(crate) fn authorities(&self) -> PathBuf {
        self.dir.path().join("trusted")
    }

    /// A profile that may reach it.
    pub(crate) fn profile(&self, name: &str) -> String {
        format!(
            "\n[profiles.{name}]\nbackend = \"bubblewrap\"\npersist = {{}}\nnetwork = \"egress\"\n[profiles.{name}.egress]\n\
             mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{} http\"]\nprivate = [\"127.0.0.1/32\"]\n",
            self.port
        )
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.dir.path().join("shop.git")
    }

    /// The repository with two commits, and both their ids.
    pub(crate) fn commits(&self) -> Result<(String, String)> {
        let at = self.repository();
        fs::create_dir(&at)?;
        git(&at, &["init", "-q", "--initial-branch=main", "."])?;
        fs::write(at.join("a"), "one\r\n")?;
        fs::write(
            at.join(".gitattributes"),
            "* text=auto eol=crlf filter=evil ident\n",
        )?;
        fs::write(at.join(".gitignore"), "out/\n")?;
        fs::write(at.join("bytes"), [0, 255, 10, 13, 10])?;
        let hook = at.join("post-checkout");
        fs::write(&hook, "#!/bin/sh\ntouch /workspace/hooked\n")?;
        git(&at, &["-c", "core.autocrlf=false", "add", "-A"])?;
        git(&at, &["commit", "-q", "-m", "first"])?;
        let first = git(&at, &["rev-parse", "HEAD"])?;
        fs::write(at.join("b"), "second\n")?;
        fs::remove_file(at.join("bytes"))?;
        git(&at, &["add", "-A"])?;
        git(&at, &["commit", "-q", "-m", "second"])?;
        Ok((first, git(&at, &["rev-parse", "HEAD"])?))
    }
}

pub(crate) fn git(at: &Path, words: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(["-c", "user.name=amy", "-c", "user.email=amy@example.org", "-C"])
        .arg(at)
        .args(words)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "git {words:?}: {said}");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// `lictor run --profile PROFILE --sandbox NAME local -- sh -c SCRIPT`.
pub(crate) fn work(cli: &Cli, (profile, name): (&str, &str), script: &str) -> Result<Done> {
    let words = [
        "run",
        "--profile",
        profile,
        "--sandbox",
        name,
        "local",
        "--",
        "sh",
        "-c",
        script,
    ];
    cli.run(&words)
}

pub(crate) fn workspace(cli: &Cli, profile: &str, words: &[&str]) -> Result<Done> {
    let mut all = vec!["workspace", "--json", "--profile", profile];
    all.extend(words);
    cli.run(&all)
}

/// What `workspace ls` and `show` list.
pub(crate) fn listed(cli: &Cli, profile: &str, words: &[&str]) -> Result<Vec<Value>> {
    let done = workspace(cli, profile, words)?;
    succeeds(&done)?;
    let lines = done.json_lines()?;
    let line = lines.into_iter().find(|l| l["event"] == "workspaces");
    let line = line.context("no list")?;
    Ok(line["workspaces"].as_array().context("a list")?.clone())
}

pub(crate) fn fails(done: &Done, code: &str) -> Result<()> {
    ensure!(
        done.code()? != 0 && result_of(done)?["code"] == code,
        "not {code}: {}\n{}",
        done.text(),
        done.stderr
    );
    Ok(())
}

pub(crate) fn succeeds(done: &Done) -> Result<()> {
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    Ok(())
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}
