//! Files that nodes fetch from URLs: from where the law says and nowhere else, whole or not at all, whatever the server does.
//!
//! The servers are on this machine, which the law has to name; without that the same is refused, which is shown too.

mod turns;
mod waiting;
mod whose;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use lictor_proto::Digest;
use lictor_test::{Cli, Done, Split, SplitOptions};
use serde_json::Value;
use tempfile::TempDir;

use crate::origin::{Origin, begin, cut, head, held, honest};
use crate::steps::{add_profile, audits_hold, id_of, receipt};

const MIB: usize = 1024 * 1024;

fn place() -> Result<(TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let real = dir.path().canonicalize()?;
    Ok((dir, real.join("file")))
}

/// Bytes that are nowhere the same.
fn noise(size: usize) -> Arc<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    Arc::new(bytes)
}

/// Hub and agent; the agent gives up soon.
fn split() -> Result<Split> {
    Split::start_with(SplitOptions {
        agent_settings: "[downloads]\ntries = 2\nstall_s = 2\n".to_owned(),
        ..SplitOptions::default()
    })
}

/// Where the host profile's files may come from besides the hub.
fn fetch_from(cli: &Cli, allow: &[String], more: &str) -> Result<()> {
    let text = format!(
        "\n[profiles.host.fetch_from]\nmode = \"allowlist\"\nallow = [{}]\n{more}\n",
        allow.join(", ")
    );
    add_profile(cli, &text)
}

fn words(url: &str, to: &Path, content: &[u8], more: &[&str]) -> Result<Vec<String>> {
    let to = format!("local:{}", to.to_str().context("path")?);
    let (digest, size) = (Digest::of(content).to_string(), content.len().to_string());
    let all = ["cp", "--json", url, &to, "--sha256", &digest, "--size", &size];
    Ok(all.iter().chain(more).map(|word| (*word).to_owned()).collect())
}

fn copy(cli: &Cli, url: &str, to: &Path, content: &[u8]) -> Result<Done> {
    cli.run(&words(url, to, content, &[])?)
}

fn comes(done: &Done, to: &Path, content: &[u8]) -> Result<()> {
    ensure!(done.code()? == 0, "{}\n{}", done.text(), done.stderr);
    ensure!(fs::read(to)? == content, "another file");
    fs::remove_file(to)?;
    Ok(())
}

/// It is refused by a receipt with this code, and nothing came.
fn refused(done: &Done, to: &Path, code: &str) -> Result<Value> {
    let result = done.result()?;
    ensure!(
        done.code()? != 0 && result["code"] == code,
        "not {code}: {}\n{}",
        done.text(),
        done.stderr
    );
    ensure!(!to.exists(), "something came");
    Ok(result)
}

fn events(cli: &Cli, kind: &str) -> Result<Vec<Value>> {
    let agent = cli.home().join("agent");
    let agent = agent.to_str().context("path")?;
    let text = cli.ok(&["--json", "audit", "--agent", agent, "show"])?;
    let all: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok(all.into_iter().filter(|event| event["type"] == kind).collect())
}

#[test]
fn a_file_comes_from_where_the_law_says_and_from_nowhere_else() -> Result<()> {
    let split = split()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(3 * MIB + 17);
    let origin = Origin::start(honest(content.clone()))?;
    let other = Origin::start(honest(content.clone()))?;
    let (url, elsewhere) = (origin.url("/a/b.tar?c=d"), other.url("/"));

    // Without a word of the law's nobody is asked, and nothing is looked at.
    refused(&copy(cli, &url, &to, &content)?, &to, "url_refused")?;
    fetch_from(cli, &[origin.entry()], "")?;
    let done = copy(cli, &url, &to, &content)?;
    ensure!(
        fs::metadata(&to)?.permissions().mode() & 0o7777 == 0o644,
        "its mode is another"
    );
    comes(&done, &to, &content)?;
    refused(&copy(cli, &elsewhere, &to, &content)?, &to, "url_refused")?;
    ensure!(other.asked().is_empty(), "{:?}", other.asked());
    let asked = origin.asked();
    ensure!(asked.len() == 1 && asked[0].path == "/a/b.tar?c=d", "{asked:?}");
    ensure!(asked[0].from.is_none(), "{asked:?}");

    // The receipt says what came, people see from where, and the log what was asked for on the way.
    let id = id_of(&done.result()?)?;
    let said = receipt(cli, &id)?.to_string();
    ensure!(said.contains(&Digest::of(&content).to_string()), "{said}");
    ensure!(cli.ok(&["job", &id])?.contains(&url), "the URL is not shown");
    let came = events(cli, "file_downloaded")?;
    ensure!(came.len() == 1 && came[0].to_string().contains(&url), "{came:?}");
    ensure!(
        events(cli, "egress_allowed")?.len() == 1,
        "{:?}",
        events(cli, "egress_allowed")?
    );

    // A prediction says the same.
    let to = to.to_str().context("path")?;
    for (url, code) in [(&url, 0), (&elsewhere, 126)] {
        let predicted = cli.run(&["explain", "-p", "host", "--fetch", to, "--url", url])?;
        ensure!(predicted.code()? == code, "{}", predicted.text());
    }
    audits_hold(cli)
}

#[test]
fn over_tls_the_server_proves_who_it_is_or_nothing_comes() -> Result<()> {
    let content = noise(2 * MIB);
    let origin = Origin::start_tls(honest(content.clone()))?;
    let place_of_file = tempfile::tempdir()?;
    let file = place_of_file.path().join("ca.pem");
    fs::write(&file, origin.authority.as_deref().context("an authority")?)?;
    for (more, trusted) in [(format!("ca_file = {file:?}\n"), true), (String::new(), false)] {
        let split = Split::start_with(SplitOptions {
            agent_settings: format!("[downloads]\ntries = 1\n{more}"),
            ..SplitOptions::default()
        })?;
        let cli = split.cli();
        let private = "private = [\"127.0.0.0/8\", \"::1/128\"]";
        fetch_from(cli, &[origin.entry()], private)?;
        let (_dir, to) = place()?;
        let done = copy(cli, &origin.url("/file"), &to, &content)?;
        match trusted {
            true => comes(&done, &to, &content)?,
            false => {
                let result = refused(&done, &to, "download_failed")?;
                ensure!(result.to_string().contains("certificate"), "{result}");
            }
        }
    }
    Ok(())
}

#[test]
fn no_name_leads_to_an_address_that_the_law_does_not_name() -> Result<()> {
    let split = split()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(1000);
    let origin = Origin::start(honest(content.clone()))?;
    let port = origin.port();
    let by_name = format!("http://localhost:{port}/x");
    let allow = [
        format!("\"localhost:{port} http\""),
        // A range opens no address at which a cloud hands out credentials.
        "\"169.254.0.0/16:80 http\"".to_owned(),
        "\"0.0.0.0/0:80 http\"".to_owned(),
    ];
    fetch_from(cli, &allow, "")?;
    for (url, reason) in [
        (by_name.as_str(), "private_address"),
        ("http://169.254.169.254/latest/meta-data/", "metadata_address"),
        ("http://10.1.2.3/x", "private_address"),
        ("http://192.168.1.1/x", "private_address"),
    ] {
        let result = refused(&copy(cli, url, &to, &content)?, &to, "url_refused")?;
        ensure!(result.to_string().contains(reason), "{url}: {result}");
    }
    ensure!(origin.asked().is_empty(), "{:?}", origin.asked());
    let denied = events(cli, "egress_denied")?;
    ensure!(denied.len() == 4, "{denied:?}");

    // The same name, once the law names what it leads to.
    let profiles = cli.home().join("org/profiles.toml");
    let text = fs::read_to_string(&profiles)? + "private = [\"127.0.0.0/8\", \"::1/128\"]\n";
    fs::write(&profiles, text)?;
    add_profile(cli, "")?;
    comes(&copy(cli, &by_name, &to, &content)?, &to, &content)
}

#[test]
fn each_redirect_is_judged_and_there_is_an_end_to_them() -> Result<()> {
    let split = split()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(1000);
    // Another file: one that the node has already is not asked for again.
    let second = noise(1001);
    let inside = Origin::start(honest(second.clone()))?;
    let elsewhere = inside.url("/inside");
    let bytes = content.clone();
    let origin = Origin::start(move |asked, talk| {
        let to = |to: &str| vec![format!("Location: {to}"), "Content-Length: 0".to_owned()];
        match asked.path.as_str() {
            "/0" => head(talk, "301 Moved Permanently", &to("/1?x#part")),
            "/1?x" => head(talk, "307 Temporary Redirect", &to("2")),
            "/2" => honest(bytes.clone())(asked, talk),
            "/inside" => head(talk, "302 Found", &to(&elsewhere)),
            "/file" => head(talk, "302 Found", &to("file:///etc/passwd")),
            _ => head(talk, "308 Permanent Redirect", &to("/again")),
        }
    })?;
    fetch_from(cli, &[origin.entry()], "")?;
    comes(&copy(cli, &origin.url("/0"), &to, &content)?, &to, &content)?;
    refused(
        &copy(cli, &origin.url("/inside"), &to, &second)?,
        &to,
        "url_refused",
    )?;
    ensure!(inside.asked().is_empty(), "{:?}", inside.asked());
    refused(
        &copy(cli, &origin.url("/file"), &to, &second)?,
        &to,
        "download_failed",
    )?;
    let before = origin.asked().len();
    refused(
        &copy(cli, &origin.url("/again"), &to, &second)?,
        &to,
        "download_failed",
    )?;
    ensure!(origin.asked().len() == before + 6, "{:?}", origin.asked());

    // What the law names is fetched from there, by the same way.
    let profiles = cli.home().join("org/profiles.toml");
    let text = fs::read_to_string(&profiles)?;
    let both = format!("{}, {}", origin.entry(), inside.entry());
    fs::write(&profiles, text.replace(&origin.entry(), &both))?;
    add_profile(cli, "")?;
    comes(&copy(cli, &origin.url("/inside"), &to, &second)?, &to, &second)
}

#[test]
fn what_breaks_off_goes_on_where_it_was() -> Result<()> {
    let split = split()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(4 * MIB);
    let origin = Origin::start(cut(content.clone(), MIB + MIB / 2))?;
    fetch_from(cli, &[origin.entry()], "")?;
    comes(&copy(cli, &origin.url("/file"), &to, &content)?, &to, &content)?;
    let from: Vec<Option<usize>> = origin.asked().iter().map(|asked| asked.from).collect();
    ensure!(
        from == [None, Some(MIB + MIB / 2), Some(3 * MIB)],
        "it did not go on: {from:?}"
    );
    Ok(())
}

#[test]
fn a_server_that_lies_has_nothing_put_anywhere() -> Result<()> {
    let split = split()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(MIB);
    let origin = Origin::start(honest(content.clone()))?;
    fetch_from(cli, &[origin.entry()], "")?;
    let url = origin.url("/file");
    let length = |n: usize| vec![format!("Content-Length: {n}")];

    let other = noise(MIB + 1)[1..].to_vec();
    origin.answers(move |_, talk| {
        head(talk, "200 OK", &length(other.len()))?;
        talk.write_all(&other)
    });
    refused(&copy(cli, &url, &to, &content)?, &to, "content_mismatch")?;

    for size in [MIB - 1, MIB + 1] {
        let other = noise(size);
        origin.answers(honest(other));
        refused(&copy(cli, &url, &to, &content)?, &to, "content_mismatch")?;
    }

    // One without end, which does not say how long it is: it is read to the first byte too many. Another file's, or the right one's and
    // more.
    let other = noise(64 * 1024);
    origin.answers(move |_, talk| {
        head(talk, "200 OK", &[])?;
        loop {
            talk.write_all(&other)?;
        }
    });
    refused(&copy(cli, &url, &to, &content)?, &to, "content_mismatch")?;

    origin.answers(|_, talk| head(talk, "404 Not Found", &["Content-Length: 0".to_owned()]));
    let result = refused(&copy(cli, &url, &to, &content)?, &to, "download_failed")?;
    ensure!(result.to_string().contains("404"), "{result}");

    let bytes = content.clone();
    origin.answers(move |_, talk| {
        let coded = [
            "Content-Encoding: gzip".to_owned(),
            format!("Content-Length: {}", bytes.len()),
        ];
        head(talk, "200 OK", &coded)?;
        talk.write_all(&bytes)
    });
    refused(&copy(cli, &url, &to, &content)?, &to, "download_failed")?;

    // One whose head does not end.
    origin.answers(|_, talk| {
        write!(talk, "HTTP/1.1 200 OK\r\n")?;
        loop {
            write!(talk, "X-More: {}\r\n", "x".repeat(1000))?;
        }
    });
    refused(&copy(cli, &url, &to, &content)?, &to, "download_failed")?;

    // One that sends a part, and then knows nothing of it, again and again: something comes each time, and it never comes to an end.
    let bytes = content.clone();
    origin.answers(move |asked, talk| match asked.from {
        None => begin(&bytes, asked, talk).and_then(|_| talk.write_all(&bytes[..MIB / 2])),
        Some(_) => head(
            talk,
            "416 Range Not Satisfiable",
            &["Content-Length: 0".to_owned()],
        ),
    });
    let result = refused(&copy(cli, &url, &to, &content)?, &to, "download_failed")?;
    ensure!(result.to_string().contains("of no use"), "{result}");

    // One that begins and never comes to an end, in less than a second each time; and one that says nothing at all.
    origin.answers(held(content.clone(), 10));
    let result = refused(&copy(cli, &url, &to, &content)?, &to, "download_failed")?;
    ensure!(result.to_string().contains("in 2 s"), "{result}");
    origin.answers(|_, talk| {
        while talk.read(&mut [0; 64])? > 0 {}
        Ok(())
    });
    refused(&copy(cli, &url, &to, &content)?, &to, "download_failed")?;

    // After all of that the honest one is believed.
    origin.answers(honest(content.clone()));
    comes(&copy(cli, &url, &to, &content)?, &to, &content)?;
    ensure!(
        events(cli, "download_failed")?.len() == 10,
        "{:?}",
        events(cli, "download_failed")?
    );
    audits_hold(cli)
}

#[test]
fn a_server_that_does_not_go_on_where_it_was_is_read_from_the_start() -> Result<()> {
    let split = split()?;
    let cli = split.cli();
    let (_dir, to) = place()?;
    let content = noise(2 * MIB);
    let origin = Origin::start(honest(content.clone()))?;
    fetch_from(cli, &[origin.entry()], "")?;

    // It has never heard of ranges.
    let bytes = content.clone();
    origin.answers(move |asked, talk| {
        head(talk, "200 OK", &[format!("Content-Length: {}", bytes.len())])?;
        let all = if asked.from.is_some() { bytes.len() } else { MIB };
        talk.write_all(&bytes[..all])
    });
    comes(&copy(cli, &origin.url("/file"), &to, &content)?, &to, &content)?;

    // It says that there is nothing from there on; or gives another part; or had begun another file.
    for how in ["nothing", "other part", "other file"] {
        let content = noise(2 * MIB + how.len());
        let bytes = content.clone();
        origin.answers(move |asked, talk| match (asked.from, how) {
            (None, "other file") if !seen(how) => {
                head(talk, "200 OK", &[format!("Content-Length: {}", bytes.len())])?;
                talk.write_all(&vec![7; MIB])
            }
            (Some(_), "nothing") => head(
                talk,
                "416 Range Not Satisfiable",
                &["Content-Length: 0".to_owned()],
            ),
            (Some(_), "other part") => {
                let range = format!("Content-Range: bytes 0-{}/{}", bytes.len() - 1, bytes.len());
                head(talk, "206 Partial Content", &[range])?;
                talk.write_all(&bytes)
            }
            (None, "nothing" | "other part") if !seen(how) => {
                let from = begin(&bytes, asked, talk)?;
                talk.write_all(&bytes[from..MIB])
            }
            _ => honest(bytes.clone())(asked, talk),
        });
        let done = copy(cli, &origin.url("/file"), &to, &content)?;
        comes(&done, &to, &content).context(how)?;
    }
    Ok(())
}

/// Whether this was asked before.
fn seen(word: &'static str) -> bool {
    static SEEN: std::sync::Mutex<Vec<&str>> = std::sync::Mutex::new(Vec::new());
    let mut seen = SEEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let there = seen.contains(&word);
    seen.push(word);
    there
}
