//! Bodies, from one side to the other: read by their framing, written with their own.

use bytes::Bytes;
use lictor_proto::egress::End;

use super::head::Framing;
use crate::meter::{Meter, Way};
use crate::pump::{carry, pass, sender_gone};
use crate::stream::{Reader, Stream};

/// The longest line with a chunk's size, and the longest trailer.
const MAX_LINE: usize = 4 * 1024;

/// Where a body goes.
#[derive(Clone, Copy)]
pub(super) struct Sink<'a> {
    pub(super) to: &'a Stream,
    pub(super) meter: &'a Meter<'a>,
    pub(super) way: Way,
    /// Whether chunks are written as chunks: not to a client of HTTP/1.0.
    pub(super) chunks: bool,
}

/// Passes one body on.
pub(super) async fn copy(from: &mut Reader<'_>, framing: Framing, sink: Sink<'_>) -> Result<(), End> {
    match framing {
        Framing::Length(n) => exactly(from, n, sink).await,
        Framing::Chunked => chunked(from, sink).await,
        Framing::Unsaid => {
            let held = from.held.split();
            pass(&held, sink.to, sink.meter, sink.way).await?;
            carry(from.stream(), sink.to, sink.meter, sink.way).await
        }
    }
}

async fn exactly(from: &mut Reader<'_>, mut left: u64, sink: Sink<'_>) -> Result<(), End> {
    while left > 0 {
        if from.held.is_empty() {
            fill(from, sink.way).await?;
        }
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(from.held.len());
        let piece = from.held.split_to(n);
        pass(&piece, sink.to, sink.meter, sink.way).await?;
        left -= n as u64;
    }
    Ok(())
}

/// Chunks are written anew, each in one size, without extensions; trailers are read and dropped.
async fn chunked(from: &mut Reader<'_>, sink: Sink<'_>) -> Result<(), End> {
    loop {
        let size = chunk_size(&line(from, sink.way).await?).ok_or(broken(sink.way))?;
        if size == 0 {
            break;
        }
        if sink.chunks {
            pass(format!("{size:x}\r\n").as_bytes(), sink.to, sink.meter, sink.way).await?;
        }
        exactly(from, size, sink).await?;
        if !line(from, sink.way).await?.is_empty() {
            return Err(broken(sink.way));
        }
        if sink.chunks {
            pass(b"\r\n", sink.to, sink.meter, sink.way).await?;
        }
    }
    let mut trailers = 0;
    loop {
        let line = line(from, sink.way).await?;
        trailers += line.len();
        if line.is_empty() {
            break;
        }
        if trailers > MAX_LINE || line.starts_with(b" ") || line.starts_with(b"\t") || !line.contains(&b':') {
            return Err(broken(sink.way));
        }
    }
    match sink.chunks {
        true => pass(b"0\r\n\r\n", sink.to, sink.meter, sink.way).await,
        false => Ok(()),
    }
}

/// A chunk's size: hexadecimal digits, then nothing, or an extension behind `;`.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    let good = (1..=13).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| good)?;
    u64::from_str_radix(text, 16).ok()
}

/// A line without its end, which is CR LF and nothing else.
async fn line(from: &mut Reader<'_>, way: Way) -> Result<Bytes, End> {
    let mut looked_at = 0;
    loop {
        while let Some(byte) = from.held.get(looked_at) {
            match byte {
                b'\n' if looked_at > 0 && from.held[looked_at - 1] == b'\r' => {
                    let mut line = from.held.split_to(looked_at + 1);
                    line.truncate(looked_at - 1);
                    return Ok(line.freeze());
                }
                b'\t' | b'\r' | b' '..=b'~' | 0x80..
                    if looked_at == 0 || from.held[looked_at - 1] != b'\r' => {}
                _ => return Err(broken(way)),
            }
            looked_at += 1;
        }
        if looked_at > MAX_LINE {
            return Err(broken(way));
        }
        fill(from, way).await?;
    }
}

async fn fill(from: &mut Reader<'_>, way: Way) -> Result<(), End> {
    match from.more().await {
        Ok(1..) => Ok(()),
        Ok(_) | Err(_) => Err(sender_gone(way)),
    }
}

fn broken(way: Way) -> End {
    match way {
        Way::Up => End::BadRequest,
        Way::Down => End::BadResponse,
    }
}

#[cfg(test)]
mod tests {
    use super::chunk_size;

    #[test]
    fn a_chunks_size_is_hexadecimal_and_nothing_else() {
        assert_eq!(chunk_size(b"0"), Some(0));
        assert_eq!(chunk_size(b"1aF;x=y"), Some(0x1af));
        for odd in [
            &b""[..],
            b"+1",
            b"-1",
            b"0x1",
            b" 1",
            b"1 ",
            b"1 ;x",
            b";x",
            b"g",
            b"11111111111111",
            b"1\x0b",
        ] {
            assert_eq!(chunk_size(odd), None, "{odd:?}");
        }
    }
}
