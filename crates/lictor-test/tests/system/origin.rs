//! A server on this machine that nodes fetch files from; a test says how it answers.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A connection with whoever asks.
pub(crate) trait Talk: Read + Write {}
impl<T: Read + Write> Talk for T {}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) path: String,
    /// From which byte on, where that was said.
    pub(crate) from: Option<usize>,
}

type Answer = Arc<dyn Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync>;

/// One that listens until the test ends.
pub(crate) struct Origin {
    address: SocketAddr,
    /// Whom a client has to trust, where it speaks TLS.
    pub(crate) authority: Option<String>,
    asked: Arc<Mutex<Vec<Asked>>>,
    answer: Arc<Mutex<Answer>>,
}

impl Origin {
    /// One that speaks in the clear.
    pub(crate) fn start(
        answer: impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        Self::listen(Arc::new(answer), None)
    }

    /// One that is `localhost`, and proves it.
    pub(crate) fn start_tls(
        answer: impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (tls, authority) = identity()?;
        let origin = Self::listen(Arc::new(answer), Some(tls))?;
        Ok(Self {
            authority: Some(authority),
            ..origin
        })
    }

    fn listen(answer: Answer, tls: Option<Arc<rustls::ServerConfig>>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let origin = Self {
            address: listener.local_addr()?,
            authority: None,
            asked: Arc::default(),
            answer: Arc::new(Mutex::new(answer)),
        };
        let (asked, answer) = (origin.asked.clone(), origin.answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, tls) = (asked.clone(), tls.clone());
                let answer = answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
                std::thread::spawn(move || {
                    // A client that goes away is what some tests are about.
                    let _ = match tls {
                        None => serve(stream, &asked, &answer),
                        Some(tls) => rustls::ServerConnection::new(tls)
                            .map_err(io::Error::other)
                            .and_then(|tls| serve(rustls::StreamOwned::new(tls, stream), &asked, &answer)),
                    };
                });
            }
        });
        Ok(origin)
    }

    /// From now on it answers so.
    pub(crate) fn answers(
        &self,
        answer: impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static,
    ) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(answer);
    }

    /// What it was asked for so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        match self.authority {
            Some(_) => format!("https://localhost:{}{path}", self.port()),
            None => format!("http://127.0.0.1:{}{path}", self.port()),
        }
    }

    /// How a law names it.
    pub(crate) fn entry(&self) -> String {
        match self.authority {
            Some(_) => format!("\"localhost:{}\"", self.port()),
            None => format!("\"127.0.0.1:{} http\"", self.port()),
        }
    }
}

fn identity() -> Result<(Arc<rustls::ServerConfig>, String)> {
    let own = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(authority, own)?;
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &authority)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    Ok((Arc::new(config), authority.pem()))
}

fn serve(stream: impl Talk, asked: &Mutex<Vec<Asked>>, answer: &Answer) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let range = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("range: bytes=")
            .map(str::to_owned)
    });
    let from = range.and_then(|range| range.trim_end_matches('-').parse().ok());
    let this = Asked { path, from };
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(this.clone());
    let mut stream = stream.into_inner();
    answer(&this, &mut stream)?;
    stream.flush()
}

/// A status line and fields; what follows is the body.
pub(crate) fn head(talk: &mut dyn Talk, status: &str, fields: &[String]) -> io::Result<()> {
    write!(talk, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    for field in fields {
        write!(talk, "{field}\r\n")?;
    }
    write!(talk, "\r\n")
}

/// The head of an honest answer; gives where the body begins.
pub(crate) fn begin(content: &[u8], asked: &Asked, talk: &mut dyn Talk) -> io::Result<usize> {
    let length = |n: usize| format!("Content-Length: {n}");
    match asked.from {
        Some(from) if from < content.len() => {
            let range = format!(
                "Content-Range: bytes {from}-{}/{}",
                content.len() - 1,
                content.len()
            );
            head(
                talk,
                "206 Partial Content",
                &[length(content.len() - from), range],
            )?;
            Ok(from)
        }
        Some(_) => {
            let range = format!("Content-Range: bytes */{}", content.len());
            head(talk, "416 Range Not Satisfiable", &[length(0), range])?;
            Ok(content.len())
        }
        None => {
            head(talk, "200 OK", &[length(content.len())])?;
            Ok(0)
        }
    }
}

/// The whole file, or the rest of it.
pub(crate) fn honest(
    content: Arc<Vec<u8>>,
) -> impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static {
    move |asked, talk| {
        let from = begin(&content, asked, talk)?;
        talk.write_all(&content[from..])
    }
}

/// No more than `most` bytes of it at a time; then it breaks off.
pub(crate) fn cut(
    content: Arc<Vec<u8>>,
    most: usize,
) -> impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static {
    move |asked, talk| {
        let from = begin(&content, asked, talk)?;
        talk.write_all(&content[from..content.len().min(from + most)])
    }
}

/// The first bytes of it, wherever one begins; then nothing more, until the other side has gone.
pub(crate) fn held(
    content: Arc<Vec<u8>>,
    most: usize,
) -> impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static {
    move |asked, talk| {
        let from = begin(&content, asked, talk)?;
        talk.write_all(content.get(from..most).unwrap_or_default())?;
        talk.flush()?;
        while talk.read(&mut [0; 64])? > 0 {}
        Ok(())
    }
}

/// What a server waits for before it goes on.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let mut open = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = self.0.1.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The first bytes of what is asked for, and the rest once the gate is open.
pub(crate) fn gated(
    content: Arc<Vec<u8>>,
    most: usize,
    gate: Gate,
) -> impl Fn(&Asked, &mut dyn Talk) -> io::Result<()> + Send + Sync + 'static {
    move |asked, talk| {
        let from = begin(&content, asked, talk)?;
        let middle = content.len().min(from + most);
        talk.write_all(&content[from..middle])?;
        talk.flush()?;
        gate.pass();
        talk.write_all(&content[middle..])
    }
}
