//! Who is told: servers for webhooks and mail, in this process, with certificates of an authority of the test's own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lictor_proto::json::decode_base64;
use lictor_test::{Split, SplitOptions, poll};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What came to a receiver.
#[derive(Debug, Clone)]
pub(crate) struct Got {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(':'));
        lines
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    }

    pub(crate) fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| self.body.clone())
    }
}

/// What came, and how many of the next ones are refused.
#[derive(Debug, Default)]
pub(crate) struct Book {
    got: Mutex<Vec<Got>>,
    refuse: AtomicUsize,
    /// Conversations that have begun.
    begun: AtomicUsize,
    /// Every line that a mail server was sent.
    heard: Mutex<String>,
}

impl Book {
    fn keep(&self, one: Got) {
        self.got.lock().unwrap_or_else(PoisonError::into_inner).push(one);
    }

    fn takes_one(&self) -> bool {
        self.refuse
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_err()
    }
}

/// One side of a conversation.
pub(crate) trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// Holds a conversation with whoever connects.
pub(crate) trait Talk: Send + Sync + 'static {
    fn talk(&self, stream: TcpStream, book: &Book) -> Result<()>;
}

/// A server for one kind of conversation, each in a thread of its own.
pub(crate) struct Receiver {
    pub(crate) port: u16,
    book: Arc<Book>,
}

impl Receiver {
    pub(crate) fn start(talk: impl Talk) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let book = Arc::new(Book::default());
        let (kept, talk) = (book.clone(), Arc::new(talk));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, talk) = (kept.clone(), talk.clone());
                kept.begun.fetch_add(1, Ordering::Relaxed);
                // A conversation that breaks off is the other side's affair, and shows in what came.
                thread::spawn(move || drop(talk.talk(stream, &kept)));
            }
        });
        Ok(Self { port, book })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?x=1", self.port)
    }

    /// So many of the next ones are refused.
    pub(crate) fn refuse(&self, n: usize) {
        self.book.refuse.store(n, Ordering::Relaxed);
    }

    pub(crate) fn all(&self) -> Vec<Got> {
        self.book
            .got
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How often somebody has connected.
    pub(crate) fn begun(&self) -> usize {
        self.book.begun.load(Ordering::Relaxed)
    }

    /// What a mail server was sent, letters left out.
    pub(crate) fn heard(&self) -> String {
        let heard = self.book.heard.lock();
        heard.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for one of this kind that was taken in or refused.
    pub(crate) fn wait_for(&self, kind: &str) -> Result<Got> {
        poll(&format!("{kind} to come"), SOON, || {
            self.all().into_iter().find(|g| g.body.contains(kind))
        })
    }
}

/// How a webhook is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Post {
    /// 200, or 500 while it refuses.
    Takes,
    /// Elsewhere, on the same server.
    Redirects,
    /// Never.
    Silent,
}

/// A receiver of webhooks.
pub(crate) struct Http {
    how: Post,
    tls: Option<Arc<ServerConfig>>,
}

impl Http {
    pub(crate) fn new() -> Self {
        Self::which(Post::Takes)
    }

    pub(crate) fn which(how: Post) -> Self {
        Self { how, tls: None }
    }

    pub(crate) fn over_tls(tls: Arc<ServerConfig>) -> Self {
        let how = Post::Takes;
        Self { how, tls: Some(tls) }
    }

    fn answer(&self, wire: impl Wire, book: &Book) -> Result<()> {
        let mut reader = BufReader::new(wire);
        let one = request(&mut reader)?;
        let takes = book.takes_one();
        book.keep(one);
        let wire = reader.get_mut();
        match self.how {
            Post::Silent => drop(wire.read_to_end(&mut Vec::new())?),
            Post::Redirects => write!(
                wire,
                "HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n"
            )?,
            Post::Takes => {
                let status = if takes { "200 OK" } else { "500 No" };
                write!(wire, "HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")?;
            }
        }
        Ok(wire.flush()?)
    }
}

impl Talk for Http {
    fn talk(&self, stream: TcpStream, book: &Book) -> Result<()> {
        match &self.tls {
            Some(tls) => self.answer(encrypted(stream, tls)?, book),
            None => self.answer(stream, book),
        }
    }
}

fn request(reader: &mut impl BufRead) -> Result<Got> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(reader.read_line(&mut head)? > 0, "the request ended early");
    }
    let mut got = Got {
        head,
        body: String::new(),
    };
    let length: u64 = got.header("content-length").context("a length")?.parse()?;
    reader.take(length).read_to_string(&mut got.body)?;
    Ok(got)
}

/// How a mail server's connections are protected.
#[derive(Clone)]
pub(crate) enum Protection {
    None,
    Starttls(Arc<ServerConfig>),
    Tls(Arc<ServerConfig>),
}

/// A mail server (RFC 5321, 3207, 4954), as much as a client needs that sends one letter.
pub(crate) struct Smtp {
    protection: Protection,
    /// Name and password, without which it takes nothing.
    login: Option<Arc<Mutex<(String, String)>>>,
}

impl Smtp {
    pub(crate) fn plain() -> Self {
        Self {
            protection: Protection::None,
            login: None,
        }
    }

    pub(crate) fn new(protection: Protection, login: Arc<Mutex<(String, String)>>) -> Self {
        let login = Some(login);
        Self { protection, login }
    }

    /// One conversation; gives the stream back when TLS is wanted on it.
    fn converse<W: Wire>(&self, wire: W, head: &mut String, book: &Book) -> Result<Option<W>> {
        let is_offered = matches!(self.protection, Protection::Starttls(_)) && !head.contains("STARTTLS");
        let mut reader = BufReader::new(wire);
        let mut is_in = self.login.is_none();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            *head += &line;
            book.heard
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&line);
            let mut words = line.split_whitespace().map(str::to_owned);
            let word = words.next().unwrap_or_default().to_uppercase();
            let answer = match word.as_str() {
                "EHLO" => {
                    let tls = if is_offered { "250-STARTTLS\r\n" } else { "" };
                    format!("250-test\r\n{tls}250 AUTH PLAIN")
                }
                "STARTTLS" if is_offered => {
                    write!(reader.get_mut(), "220 go on\r\n")?;
                    return Ok(Some(reader.into_inner()));
                }
                "AUTH" => {
                    is_in = self.is_right(words.nth(1).unwrap_or_default().as_str());
                    let answer = if is_in {
                        "235 welcome"
                    } else {
                        "535 5.7.8 not that password"
                    };
                    answer.to_owned()
                }
                "MAIL" | "RCPT" | "DATA" if !is_in => "530 5.7.0 log in first".to_owned(),
                "DATA" => {
                    write!(reader.get_mut(), "354 go on\r\n")?;
                    let mut body = String::new();
                    while !body.ends_with("\r\n.\r\n") {
                        ensure!(reader.read_line(&mut body)? > 0, "the letter ended early");
                    }
                    let head = head.clone();
                    book.keep(Got { head, body });
                    "250 taken".to_owned()
                }
                "QUIT" => {
                    write!(reader.get_mut(), "221 bye\r\n")?;
                    return Ok(None);
                }
                _ => "250 fine".to_owned(),
            };
            write!(reader.get_mut(), "{answer}\r\n")?;
            reader.get_mut().flush()?;
        }
    }

    /// `AUTH PLAIN`: RFC 4616.
    fn is_right(&self, response: &str) -> bool {
        let Some(login) = &self.login else { return true };
        let login = login.lock().unwrap_or_else(PoisonError::into_inner);
        decode_base64(response).is_some_and(|said| said == format!("\0{}\0{}", login.0, login.1).into_bytes())
    }
}

impl Talk for Smtp {
    fn talk(&self, mut stream: TcpStream, book: &Book) -> Result<()> {
        let mut head = String::new();
        if let Protection::Tls(tls) = &self.protection {
            let mut stream = encrypted(stream, tls)?;
            write!(stream, "220 test ESMTP\r\n")?;
            stream.flush()?;
            self.converse(stream, &mut head, book)?;
            return Ok(());
        }
        write!(stream, "220 test ESMTP\r\n")?;
        let wants_tls = self.converse(stream, &mut head, book)?;
        if let (Some(stream), Protection::Starttls(tls)) = (wants_tls, &self.protection) {
            self.converse(encrypted(stream, tls)?, &mut head, book)?;
        }
        Ok(())
    }
}

fn encrypted(stream: TcpStream, tls: &Arc<ServerConfig>) -> Result<StreamOwned<ServerConnection, TcpStream>> {
    Ok(StreamOwned::new(ServerConnection::new(tls.clone())?, stream))
}

/// An authority of the test's own, which no machine trusts.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        lictor_link::install_crypto_provider();
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        Ok(Self {
            pem: params.self_signed(&key)?.pem(),
            issuer: Issuer::new(params, key),
        })
    }

    /// Its certificate, in a file.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        Ok(std::fs::write(file, &self.pem)?)
    }

    /// A server that is called this.
    pub(crate) fn server(&self, name: &str) -> Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![name.to_owned()])?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        let chain = vec![CertificateDer::from_pem_slice(certificate.pem().as_bytes())?];
        let key = match PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()) {
            Ok(key) => key,
            Err(e) => bail!("{e}"),
        };
        let config = ServerConfig::builder().with_no_client_auth();
        Ok(Arc::new(config.with_single_cert(chain, key)?))
    }
}

/// Hub and agent, the hub with these lines in its configuration.
pub(crate) fn hub_with(settings: &str, arguments: &[&str]) -> Result<Split> {
    Split::start_with(SplitOptions {
        hub_settings: settings.to_owned(),
        arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        ..SplitOptions::default()
    })
}
