//! Clones: a commit of a repository that the profile may reach, brought by git in the job's sandbox, and what jobs make of it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use lictor_test::{Cli, Done, Lab};
use serde_json::Value;
use tempfile::TempDir;

use crate::law::change_law;
use crate::steps::{add_profile, audits_hold, id_of, receipt};

/// What the private half of the host asks for.
const TOKEN: &str = "gr8-Secr3t~of-the-lab";

/// `git http-backend` behind a port, below `DIR`; what is below `/private/` only with the token.
const HOST: &str = r#"
import base64, http.server, os, subprocess, sys
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
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A host of repositories, gone with this.
struct Host {
    process: Child,
    dir: TempDir,
    port: u16,
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Host {
    fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let mut command = Command::new("python3");
        command.arg("-c").arg(HOST).arg(dir.path()).arg(TOKEN);
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let out = process.stdout.take().context("piped")?;
        BufReader::new(out).read_line(&mut line)?;
        let port = line.trim().parse()?;
        Ok(Self { process, dir, port })
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// A profile that may reach it.
    fn profile(&self, name: &str) -> String {
        format!(
            "\n[profiles.{name}]\nbackend = \"bubblewrap\"\npersist = {{}}\nnetwork = \"egress\"\n[profiles.{name}.egress]\n\
             mode = \"allowlist\"\nallow = [\"127.0.0.1/32:{} http\"]\nprivate = [\"127.0.0.1/32\"]\n",
            self.port
        )
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("shop.git")
    }

    /// The repository with two commits, and both their ids.
    fn commits(&self) -> Result<(String, String)> {
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
        git(&at, &["add", "-A"])?;
        git(&at, &["commit", "-q", "-m", "second"])?;
        Ok((first, git(&at, &["rev-parse", "HEAD"])?))
    }
}

fn git(at: &Path, words: &[&str]) -> Result<String> {
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
fn work(cli: &Cli, (profile, name): (&str, &str), script: &str) -> Result<Done> {
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

fn workspace(cli: &Cli, profile: &str, words: &[&str]) -> Result<Done> {
    let mut all = vec!["workspace", "--json", "--profile", profile];
    all.extend(words);
    cli.run(&all)
}

fn result_of(done: &Done) -> Result<Value> {
    let lines = done.json_lines()?;
    let result = lines.into_iter().find(|l| l["event"] == "result");
    result.with_context(|| format!("no result: {}\n{}", done.text(), done.stderr))
}

fn fails(done: &Done, code: &str) -> Result<()> {
    ensure!(
        done.code()? != 0 && result_of(done)?["code"] == code,
        "not {code}: {}\n{}",
        done.text(),
        done.stderr
    );
    Ok(())
}

fn succeeds(done: &Done) -> Result<()> {
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    Ok(())
}

#[test]
fn a_commit_is_cloned_and_what_a_job_makes_of_it_is_a_signed_patch() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let url = host.url("shop.git/.git");
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    // The first commit's files, byte by byte, and nothing of the second.
    let there = work(
        cli,
        ("box", "shop"),
        "ls -A; od -An -tx1 a bytes; git -C /workspace log --oneline | wc -l",
    )?;
    let said = there.text();
    ensure!(there.code()? == 0, "{said}\n{}", there.stderr);
    ensure!(said.contains("6f 6e 65 0a 00 ff 0a 0d 0a"), "{said}");
    ensure!(!said.lines().any(|l| l == "b" || l == "hooked"), "{said}");
    let list = workspace(cli, "box", &["show", "local", "shop"])?;
    ensure!(list.text().contains(&first), "{}", list.text());
    fails(
        &workspace(cli, "box", &["clone", "local", "shop", &url, &first])?,
        "destination_exists",
    )?;

    succeeds(&work(
        cli,
        ("box", "shop"),
        "printf 'two\\n' > a; printf '\\000new\\377' > new; rm bytes; mkdir out; echo x > out/ignored",
    )?)?;
    let shown = cli.run(&["workspace", "--profile", "box", "diff", "local", "shop"])?;
    succeeds(&shown)?;
    ensure!(shown.stderr.contains(&first), "{}", shown.stderr);
    let copy = tempfile::tempdir()?;
    let at = copy.path().join("copy");
    git(
        copy.path(),
        &[
            "clone",
            "-q",
            "--no-checkout",
            text(&host.repository())?,
            text(&at)?,
        ],
    )?;
    fs::write(at.join(".git/info/attributes"), "* !text !eol !ident !filter\n")?;
    git(&at, &["checkout", "-q", &first])?;
    fs::write(copy.path().join("patch"), &shown.stdout)?;
    git(&at, &["apply", "../patch"])?;
    ensure!(fs::read(at.join("a"))? == b"two\n" && fs::read(at.join("new"))? == b"\0new\xff");
    ensure!(!at.join("bytes").exists() && !at.join("out").exists());
    // Whole into a file, and the receipt has its digest.
    let to = copy.path().join("whole");
    let whole = workspace(
        cli,
        "box",
        &["diff", "local", "shop", "--to", text(&to)?, "--ignored"],
    )?;
    succeeds(&whole)?;
    let signed = receipt(cli, &id_of(&result_of(&whole)?)?)?;
    let digest = lictor_proto::Digest::of(&fs::read(&to)?).to_string();
    ensure!(signed["artifacts"][0]["sha256"] == digest, "{signed}");
    ensure!(fs::read_to_string(&to)?.contains("out/ignored"));
    audits_hold(cli)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

#[test]
fn a_clone_reaches_its_host_only_and_leaves_nothing_when_it_fails() -> Result<()> {
    let (host, other, lab) = (Host::start()?, Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    other.commits()?;
    add_profile(cli, &host.profile("box"))?;
    add_profile(cli, "\n[profiles.shut]\nbackend = \"bubblewrap\"\npersist = {}\n")?;
    let clone = |profile: &str, url: &str, commit: &str| {
        workspace(cli, profile, &["clone", "local", "shop", url, commit])
    };
    let url = host.url("shop.git/.git");
    fails(&clone("shut", &url, &first)?, "unenforceable")?;
    // What the profile does not list, a commit that is not there, and a host that sends elsewhere.
    fails(
        &clone("box", &other.url("shop.git/.git"), &first)?,
        "unenforceable",
    )?;
    fails(&clone("box", &url, &"0".repeat(40))?, "git_failed")?;
    fails(
        &clone("box", &host.url("elsewhere/shop.git/.git"), &first)?,
        "git_failed",
    )?;
    // Something that is there, and is no commit.
    let tree = git(&host.repository(), &["rev-parse", "HEAD^{tree}"])?;
    let done = clone("box", &url, &tree)?;
    ensure!(done.code()? != 0, "a tree was taken for a commit");
    let left = work(cli, ("box", "shop"), "ls -A | wc -l")?;
    ensure!(left.text().trim() == "0", "{}", left.text());
    succeeds(&clone("box", &url, &first)?)
}

#[test]
fn a_credential_is_shown_to_the_host_and_is_nowhere_afterwards() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let secret = format!("amy:{TOKEN}");
    let words = ["--json", "secret", "set", "git.shop", "--nodes", "local"];
    succeeds(&cli.run_with_input(&words, secret.into_bytes())?)?;
    let url = host.url("private/shop.git/.git");
    fails(
        &workspace(cli, "box", &["clone", "local", "shop", &url, &first])?,
        "git_failed",
    )?;
    let clone = ["clone", "local", "shop", &url, &first, "--credential", "git.shop"];
    succeeds(&workspace(cli, "box", &clone)?)?;
    let script = format!("cat a; env; grep -r '{}' /workspace | wc -l", &TOKEN[4..]);
    let done = work(cli, ("box", "shop"), &script)?;
    succeeds(&done)?;
    ensure!(
        done.text().contains("one") && !done.text().contains(TOKEN),
        "{}",
        done.text()
    );
    ensure!(done.text().trim().ends_with('0'), "{}", done.text());
    // Whoever may clone may not for that use a secret.
    let rule = "\n@id(\"no-secrets\") forbid (principal, action == Action::\"use_secret\", resource)\n\
                when { context.action == \"workspace\" };\n";
    change_law(cli, "policies/demo.cedar", rule)?;
    succeeds(&workspace(cli, "box", &["rm", "local", "shop"])?)?;
    fails(&workspace(cli, "box", &clone)?, "forbidden")
}

#[test]
fn policy_sees_what_is_cloned_from_where() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, second) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let rule = format!(
        "\n@id(\"reviewed-only\") forbid (principal, action == Action::\"workspace\", resource)\n\
         when {{ context.operation == \"clone\" }} unless {{ context.git_host == \"127.0.0.1\" && \
         context.git_port == {} && context.git_commit == \"{first}\" }};\n",
        host.port
    );
    change_law(cli, "policies/demo.cedar", &rule)?;
    let url = host.url("shop.git/.git");
    fails(
        &workspace(cli, "box", &["clone", "local", "shop", &url, &second])?,
        "forbidden",
    )?;
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)
}

/// A repository and a job do what they can to have something of theirs started by whoever looks.
#[test]
fn nothing_of_a_hostile_clone_is_started_by_looking_at_it() -> Result<()> {
    let (host, lab) = (Host::start()?, Lab::start()?);
    let cli = lab.cli();
    let (first, _) = host.commits()?;
    add_profile(cli, &host.profile("box"))?;
    let url = host.url("shop.git/.git");
    succeeds(&workspace(cli, "box", &["clone", "local", "shop", &url, &first])?)?;
    let script = "printf '#!/bin/sh\\ntouch /workspace/started\\ncat\\n' > /workspace/evil; chmod 755 /workspace/evil\n\
        for key in core.fsmonitor diff.external diff.evil.textconv diff.evil.command filter.evil.clean filter.evil.smudge; \
        do git config $key /workspace/evil; done\n\
        echo '* filter=evil diff=evil' > .git/info/attributes\n\
        mkdir -p .git/hooks; for hook in post-checkout post-index-change pre-commit; do cp evil .git/hooks/$hook; done\n\
        echo changed > a; git diff > /dev/null; test -e started && rm started && echo it-works";
    let prepared = work(cli, ("box", "shop"), script)?;
    ensure!(
        prepared.text().contains("it-works"),
        "git itself starts nothing: {}\n{}",
        prepared.text(),
        prepared.stderr
    );
    let shown = cli.run(&["workspace", "--profile", "box", "diff", "local", "shop"])?;
    succeeds(&shown)?;
    ensure!(
        shown.text().contains("+changed") && !shown.text().contains("b/started"),
        "{}",
        shown.text()
    );
    succeeds(&workspace(cli, "box", &["snapshot", "local", "shop", "one"])?)?;
    succeeds(&workspace(cli, "box", &["restore", "local", "shop", "one"])?)?;
    succeeds(&workspace(cli, "box", &["show", "local", "shop"])?)?;
    let after = work(cli, ("box", "shop"), "test ! -e started && echo clean")?;
    ensure!(after.text().contains("clean"), "{}", after.text());
    Ok(())
}
