//! The first thing a TLS client says (RFC 8446 section 4.1.2), read strictly, from however many pieces it comes in.
//!
//! A ClientHello may be cut into TCP segments, into TLS records of one byte each, and a server puts all of that
//! together before it looks at the name. So this does too. What a server could read in another way than this reader is
//! [`Progress::Broken`]: a name given twice, lengths that do not add up, bytes behind the message.

use lictor_trust::egress::{DnsName, Host};

/// The longest ClientHello, in bytes. Those with post-quantum keys are about 1,800.
const MAX_MESSAGE: usize = 32 * 1024;
/// The most bytes of records around it: a record may hold as little as one byte.
const MAX_RAW: usize = 64 * 1024;
/// The longest record of plain text (RFC 8446 section 5.1).
const MAX_RECORD: usize = 1 << 14;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;

/// What a ClientHello says in the open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The server name, if it gives one.
    pub sni: Option<DnsName>,
    /// Whether it says that the real name is hidden (Encrypted ClientHello, or its predecessor).
    pub hides_name: bool,
}

/// How far reading has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// It is whole, and was in this many bytes from the start.
    Whole(Hello, usize),
    /// It does not start as a TLS handshake does.
    NotTls,
    /// It starts as one and is broken, or beyond limits: what is wrong.
    Broken(&'static str),
}

/// Reads one ClientHello.
#[derive(Debug, Default)]
pub struct HelloReader {
    /// Bytes whose records have been taken apart.
    used: usize,
    message: Vec<u8>,
}

impl HelloReader {
    /// Goes on with everything that has come so far, from the first byte.
    pub fn read(&mut self, bytes: &[u8]) -> Progress {
        loop {
            let rest = bytes.get(self.used..).unwrap_or_default();
            // As soon as a byte is wrong it is said: nobody waits for a rest that may never come.
            if rest.first().is_some_and(|b| *b != HANDSHAKE) || rest.get(1).is_some_and(|b| *b != 3) {
                return self.not_a_record();
            }
            let Some((header, rest)) = rest.split_at_checked(5) else {
                return self.wait(bytes);
            };
            if header[2] > 4 {
                return self.not_a_record();
            }
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if length == 0 || length > MAX_RECORD {
                return Progress::Broken("a TLS record has an impossible length");
            }
            // The kind of message is in its first byte; a record that starts with another is no ClientHello.
            if self.message.is_empty() && rest.first().is_some_and(|b| *b != CLIENT_HELLO) {
                return Progress::Broken("the TLS handshake does not start with a ClientHello");
            }
            let Some(fragment) = rest.get(..length) else {
                return self.wait(bytes);
            };
            self.message.extend_from_slice(fragment);
            self.used += 5 + length;
            match self.whole() {
                Some(progress) => return progress,
                None if self.used > MAX_RAW => return Progress::Broken("the ClientHello is too long"),
                None => {}
            }
        }
    }

    fn not_a_record(&self) -> Progress {
        match self.used {
            0 => Progress::NotTls,
            _ => Progress::Broken("the ClientHello is not finished"),
        }
    }

    fn wait(&self, bytes: &[u8]) -> Progress {
        match bytes.len() > MAX_RAW {
            true => Progress::Broken("the ClientHello is too long"),
            false => Progress::More,
        }
    }

    /// The message, if all of it is there.
    fn whole(&self) -> Option<Progress> {
        let (header, body) = self.message.split_at_checked(4)?;
        let length = usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]);
        if length > MAX_MESSAGE {
            return Some(Progress::Broken("the ClientHello is too long"));
        }
        if body.len() < length {
            return None;
        }
        // Nothing may share a record with it: keys change behind it, and so does who reads what.
        if body.len() > length {
            return Some(Progress::Broken("there are bytes behind the ClientHello"));
        }
        Some(match client_hello(body) {
            Ok(hello) => Progress::Whole(hello, self.used),
            Err(what) => Progress::Broken(what),
        })
    }
}

/// A cursor over bytes with lengths in front.
struct Fields<'b>(&'b [u8]);

const SHORT: &str = "the lengths in the ClientHello do not add up";

impl<'b> Fields<'b> {
    fn take(&mut self, n: usize) -> Result<&'b [u8], &'static str> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = rest;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        let b = self.take(2)?;
        Ok(u16::from_be_bytes([b[0], b[1]]))
    }

    /// Bytes behind a length of one byte.
    fn short(&mut self) -> Result<&'b [u8], &'static str> {
        let n = self.take(1)?[0];
        self.take(usize::from(n))
    }

    /// Bytes behind a length of two bytes.
    fn long(&mut self) -> Result<&'b [u8], &'static str> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

fn client_hello(body: &[u8]) -> Result<Hello, &'static str> {
    let mut fields = Fields(body);
    let version = fields.u16()?;
    if !(0x0300..=0x0304).contains(&version) {
        return Err("the ClientHello is of an unknown version");
    }
    fields.take(32)?;
    let session = fields.short()?;
    let suites = fields.long()?;
    let compression = fields.short()?;
    if session.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
        return Err(SHORT);
    }
    let mut hello = Hello {
        sni: None,
        hides_name: false,
    };
    // A client older than extensions names nobody.
    if fields.0.is_empty() {
        return Ok(hello);
    }
    let mut extensions = Fields(fields.long()?);
    if !fields.0.is_empty() {
        return Err("there are bytes behind the extensions");
    }
    let mut seen = Vec::new();
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.long()?;
        if seen.contains(&kind) {
            return Err("an extension is there twice");
        }
        seen.push(kind);
        if seen.len() > 128 {
            return Err("there are more than 128 extensions");
        }
        match kind {
            0 => hello.sni = Some(server_name(content)?),
            // Encrypted ClientHello and its drafts; Encrypted SNI before it.
            0xfe08..=0xfe0d | 0xffce => hello.hides_name = true,
            _ => {}
        }
    }
    Ok(hello)
}

/// Exactly one name, of the only kind there is (RFC 6066 section 3).
fn server_name(content: &[u8]) -> Result<DnsName, &'static str> {
    let mut content = Fields(content);
    let mut list = Fields(content.long()?);
    let kind = list.take(1)?[0];
    let name = list.long()?;
    if !content.0.is_empty() || !list.0.is_empty() || kind != 0 {
        return Err("the server name extension holds something else than one name");
    }
    let text = std::str::from_utf8(name).map_err(|_| "the server name is not ASCII")?;
    match Host::parse(text) {
        Ok(Host::Name(name)) if !text.ends_with('.') => Ok(name),
        _ => Err("the server name is no host name"),
    }
}

#[cfg(test)]
mod tests;
