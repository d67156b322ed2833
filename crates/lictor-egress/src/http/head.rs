//! Heads of requests and answers: whole, bounded, and readable in exactly one way.
//!
//! `httparse` takes a head apart; it is lenient where servers differ (bare line feeds, folded lines, lengths that are said
//! twice), and that is where smuggling lives. So the bytes are looked at before it, and the fields after it.

use bytes::Bytes;

use crate::stream::Reader;

/// The most fields of a head.
const MAX_FIELDS: usize = 100;

/// Why there is no head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    /// It can't be read in exactly one way.
    Broken(&'static str),
    /// The connection ended within it.
    Gone,
}

/// A field's name in lower case and its value.
pub(super) type Field = (String, Bytes);

/// A request, as far as its head says.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) version: u8,
    pub(super) fields: Vec<Field>,
    pub(super) framing: Framing,
}

/// An answer, as far as its head says.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) version: u8,
    pub(super) code: u16,
    pub(super) phrase: String,
    pub(super) fields: Vec<Field>,
    pub(super) framing: Framing,
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Nothing is said: a request has no body, an answer's goes to the end of the connection.
    Unsaid,
    /// This many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
}

/// Reads up to the empty line; nothing when the connection ends before the first byte.
pub(super) async fn read(from: &mut Reader<'_>, limit: usize) -> Result<Option<Bytes>, HeadError> {
    let mut looked_at = 0;
    loop {
        let (window, _) = from.held.split_at(from.held.len().min(limit));
        if let Some(end) = scan(window, &mut looked_at).map_err(HeadError::Broken)? {
            return Ok(Some(from.held.split_to(end).freeze()));
        }
        if from.held.len() >= limit {
            return Err(HeadError::Broken("the head is too long"));
        }
        match from.more().await {
            Ok(1..) => {}
            Ok(_) if from.held.is_empty() => return Ok(None),
            Ok(_) | Err(_) => return Err(HeadError::Gone),
        }
    }
}

/// Looks at the bytes of a head from `looked_at` on, and says where it ends. Whatever a line could end with but CR LF is
/// refused where it stands.
pub(super) fn scan(bytes: &[u8], looked_at: &mut usize) -> Result<Option<usize>, &'static str> {
    while let Some(byte) = bytes.get(*looked_at) {
        let at = *looked_at;
        let before = at.checked_sub(1).map(|i| bytes[i]);
        match (before, byte) {
            (Some(b'\r'), b'\n') => {}
            (Some(b'\r'), _) => return Err("a carriage return stands alone"),
            (_, b'\n') => return Err("a line feed stands alone"),
            (_, 0) => return Err("there is a NUL byte in the head"),
            (Some(b'\n') | None, b' ' | b'\t') => return Err("a line is folded"),
            (None, b'\r') => return Err("the head starts with an empty line"),
            _ => {}
        }
        *looked_at += 1;
        if bytes[..*looked_at].ends_with(b"\r\n\r\n") {
            return Ok(Some(*looked_at));
        }
    }
    Ok(None)
}

/// Takes a request's head apart.
pub(super) fn request(head: &[u8]) -> Result<Request, &'static str> {
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut space);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err("there are too many fields"),
        _ => return Err("the head is no HTTP/1 head"),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err("the head is no HTTP/1 head");
    };
    let (method, target) = (method.to_owned(), target.to_owned());
    let fields = fields(parsed.headers)?;
    let framing = framing(&fields, version)?;
    Ok(Request {
        method,
        target,
        version,
        fields,
        framing,
    })
}

/// Takes an answer's head apart.
pub(super) fn answer(head: &[u8]) -> Result<Answer, &'static str> {
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut space);
    match parsed.parse(head) {
        Ok(httparse::Status::Complete(n)) if n == head.len() => {}
        _ => return Err("the head is no HTTP/1 head"),
    }
    let (Some(version), Some(code)) = (parsed.version, parsed.code) else {
        return Err("the head is no HTTP/1 head");
    };
    let phrase = parsed.reason.unwrap_or_default().to_owned();
    let fields = fields(parsed.headers)?;
    let framing = framing(&fields, version)?;
    Ok(Answer {
        version,
        code,
        phrase,
        fields,
        framing,
    })
}

fn fields(parsed: &[httparse::Header<'_>]) -> Result<Vec<Field>, &'static str> {
    let read = parsed.iter().map(|field| {
        let control = |b: &u8| *b != b'\t' && (*b < b' ' || *b == 0x7f);
        if field.name.is_empty() || field.value.iter().any(control) {
            return Err("a field has control characters");
        }
        let value = Bytes::copy_from_slice(field.value.trim_ascii());
        Ok((field.name.to_ascii_lowercase(), value))
    });
    read.collect()
}

/// The value of a field that may be there once at most.
pub(super) fn once<'f>(fields: &'f [Field], name: &str) -> Result<Option<&'f Bytes>, &'static str> {
    let mut found = fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err("a field that may be there once is there twice"),
        (first, None) => Ok(first),
    }
}

/// How the body's end is said: once, or not at all.
fn framing(fields: &[Field], version: u8) -> Result<Framing, &'static str> {
    let length = once(fields, "content-length")?;
    let coding = once(fields, "transfer-encoding")?;
    match (length, coding) {
        (None, None) => Ok(Framing::Unsaid),
        (Some(_), Some(_)) => Err("there are both a length and a transfer coding"),
        (Some(length), None) => number(length).map(Framing::Length),
        (None, Some(_)) if version == 0 => Err("HTTP/1.0 has no transfer coding"),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => Err("the transfer coding is another than chunked"),
    }
}

fn number(text: &[u8]) -> Result<u64, &'static str> {
    let digits = !text.is_empty() && text.len() <= 15 && text.iter().all(u8::is_ascii_digit);
    let number = if digits {
        std::str::from_utf8(text).ok().and_then(|t| t.parse().ok())
    } else {
        None
    };
    number.ok_or("the length is no number")
}

/// Fields that are about one connection (RFC 9110 section 7.6.1), and those that we write ourselves.
const OUR_OWN: &[&str] = &[
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

/// The fields that go on to the other side, and whether this side wants the connection closed.
pub(super) fn passed_on(fields: &[Field]) -> Result<(Vec<&Field>, bool), &'static str> {
    let mut named = Vec::new();
    for (_, value) in fields
        .iter()
        .filter(|(n, _)| n == "connection" || n == "proxy-connection")
    {
        let text = std::str::from_utf8(value).map_err(|_| "the Connection field is not ASCII")?;
        let options = text.split(',').map(|o| o.trim().to_ascii_lowercase());
        named.extend(options.filter(|o| !o.is_empty()));
    }
    // Whoever asks for these to be taken out wants the two sides to see two different messages.
    if named
        .iter()
        .any(|o| ["host", "content-length", "transfer-encoding"].contains(&o.as_str()))
    {
        return Err("the Connection field names a field that the message is read by");
    }
    let goes_on = |(name, _): &&Field| !OUR_OWN.contains(&name.as_str()) && !named.contains(name);
    Ok((
        fields.iter().filter(goes_on).collect(),
        named.iter().any(|o| o == "close"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &[u8]) -> Result<Option<usize>, &'static str> {
        scan(text, &mut 0)
    }

    #[test]
    fn lines_end_in_one_way_only() {
        assert_eq!(whole(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest"), Ok(Some(24)));
        assert_eq!(whole(b"GET / HTTP/1.1\r\nA: b\r\n\r"), Ok(None));
        for odd in [
            &b"GET / HTTP/1.1\n\n"[..],
            b"GET / HTTP/1.1\r\nA: b\n\r\n",
            b"GET / HTTP/1.1\rA: b\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\0c\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n",
            b" GET / HTTP/1.1\r\n\r\n",
            b"\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\r\n\r\n",
        ] {
            assert!(whole(odd).is_err(), "{:?}", String::from_utf8_lossy(odd));
        }
    }

    #[test]
    fn a_body_has_one_length() {
        let framing =
            |fields: &str| request(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()).map(|r| r.framing);
        assert_eq!(framing(""), Ok(Framing::Unsaid));
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Transfer-Encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for odd in [
            "Content-Length: 5\r\nContent-Length: 5\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length: \r\n",
            "Content-Length: 5 5\r\n",
            "Content-Length: 9999999999999999\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length : 5\r\n",
        ] {
            assert!(framing(odd).is_err(), "{odd:?}");
        }
        assert!(request(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
    }

    #[test]
    fn fields_of_one_connection_stay_on_it() {
        let head = b"GET / HTTP/1.1\r\nHost: a.b\r\nProxy-Authorization: x\r\nX-One: 1\r\nConnection: x-one, close\r\nTE: trailers\r\n\
            Upgrade: h2c\r\nX-Two: 2\r\nKeep-Alive: 5\r\n\r\n";
        let request = request(head).expect("a request");
        let (on, close) = passed_on(&request.fields).expect("fields");
        assert_eq!(on.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["x-two"]);
        assert!(close);
        for odd in ["host", "Content-Length", "close, transfer-encoding"] {
            let fields = [("connection".to_owned(), Bytes::copy_from_slice(odd.as_bytes()))];
            assert!(passed_on(&fields).is_err(), "{odd}");
        }
    }
}
