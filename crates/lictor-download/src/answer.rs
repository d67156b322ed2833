//! What the head of a server's answer means for an order (RFC 9110 sections 14 and 15).

use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderName};
use lictor_proto::doc::{FileUrl, Scheme};
use lictor_proto::download::{Answer, Failed, Order, Why};
use url::Url;

use crate::again;

/// Where the bytes begin, or where else the file is.
pub(crate) fn of(order: &Order, status: StatusCode, headers: &HeaderMap) -> Result<Answer, Failed> {
    match status {
        StatusCode::OK => {
            is_as_it_is(headers)?;
            if let Some(length) = number(headers, header::CONTENT_LENGTH)? {
                is_ordered(order, length)?;
            }
            Ok(Answer::Content { at: 0 })
        }
        StatusCode::PARTIAL_CONTENT => {
            is_as_it_is(headers)?;
            part(order, headers)
        }
        StatusCode::RANGE_NOT_SATISFIABLE if order.from > 0 => Err(Failed::new(
            Why::Anew,
            format!("the server has nothing from byte {} on", order.from),
        )),
        StatusCode::MOVED_PERMANENTLY
        | StatusCode::FOUND
        | StatusCode::SEE_OTHER
        | StatusCode::TEMPORARY_REDIRECT
        | StatusCode::PERMANENT_REDIRECT => elsewhere(&order.url, headers),
        // RFC 9110 section 15.5.9, RFC 8470, RFC 6585: these ask for another try.
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
            Err(again(said(status)))
        }
        status if status.is_server_error() => Err(again(said(status))),
        status => Err(Failed::new(Why::Final, said(status))),
    }
}

fn said(status: StatusCode) -> String {
    let words = status.canonical_reason().unwrap_or_default();
    format!("the server says {} {words}", status.as_u16())
        .trim_end()
        .to_owned()
}

/// The bytes of the file itself: nobody asked for others.
fn is_as_it_is(headers: &HeaderMap) -> Result<(), Failed> {
    let coded = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut coded = coded.filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    match coded.next() {
        None => Ok(()),
        Some(_) => Err(Failed::new(
            Why::Final,
            "the server sends it compressed, which nobody has asked for",
        )),
    }
}

fn is_ordered(order: &Order, length: u64) -> Result<(), Failed> {
    match length == order.size {
        true => Ok(()),
        false => Err(Failed::new(
            Why::Size,
            format!(
                "the server has {length} bytes, and the job is signed for {}",
                order.size
            ),
        )),
    }
}

/// `Content-Range: bytes FIRST-LAST/ALL`.
fn part(order: &Order, headers: &HeaderMap) -> Result<Answer, Failed> {
    let odd = || again("the server sends a part and does not say which");
    let range = one(headers, header::CONTENT_RANGE)?.ok_or_else(odd)?;
    let (range, all) = range
        .strip_prefix("bytes ")
        .and_then(|range| range.split_once('/'))
        .ok_or_else(odd)?;
    let first = range
        .split_once('-')
        .and_then(|(first, _)| plain(first))
        .ok_or_else(odd)?;
    if all != "*" {
        is_ordered(order, plain(all).ok_or_else(odd)?)?;
    }
    match first == order.from {
        true => Ok(Answer::Content { at: first }),
        false => Err(Failed::new(
            Why::Anew,
            format!(
                "the server sends what begins at byte {first}, and was asked for byte {}",
                order.from
            ),
        )),
    }
}

fn elsewhere(url: &FileUrl, headers: &HeaderMap) -> Result<Answer, Failed> {
    let finally = |text: String| Failed::new(Why::Final, text);
    let to = one(headers, header::LOCATION)?
        .ok_or_else(|| finally("the server says that it is elsewhere, and not where".to_owned()))?;
    let joined = Url::parse(url.as_str()).and_then(|base| base.join(to));
    let mut joined = joined.map_err(|e| finally(format!("the server says that it is at no URL: {e}")))?;
    // No server is asked for it (RFC 9110 section 10.2.2).
    joined.set_fragment(None);
    let to: FileUrl = joined
        .as_str()
        .parse()
        .map_err(|e| finally(format!("the server says that it is where nobody asks: {e}")))?;
    if url.scheme() == Scheme::Https && to.scheme() == Scheme::Http {
        return Err(finally(
            "the server says that it is at an http:// URL, and it is asked for by https:// only".to_owned(),
        ));
    }
    Ok(Answer::Elsewhere { url: to })
}

/// A field that stands there once or not at all.
fn one(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, Failed> {
    let mut values = headers.get_all(&name).iter();
    let value = values.next().map(|value| value.to_str());
    match (value.transpose(), values.next()) {
        (Ok(value), None) => Ok(value),
        _ => Err(again(format!(
            "the server says more than one thing as its {name}"
        ))),
    }
}

fn number(headers: &HeaderMap, name: HeaderName) -> Result<Option<u64>, Failed> {
    let odd = format!("the server's {name} is no number");
    let Some(text) = one(headers, name)? else {
        return Ok(None);
    };
    plain(text).map(Some).ok_or_else(|| again(odd))
}

fn plain(text: &str) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use hyper::StatusCode;
    use hyper::header::{HeaderMap, HeaderName, HeaderValue};
    use lictor_proto::download::{Answer, Order, Why};

    use super::of;

    fn order(from: u64) -> Order {
        Order {
            url: "https://dl.example.org/a/b?c".parse().expect("a URL"),
            from,
            size: 100,
            certificates: None,
        }
    }

    fn heard(from: u64, status: u16, fields: &[(&'static str, &str)]) -> Result<Answer, Why> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_str(value).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let status = StatusCode::from_u16(status).expect("a status");
        of(&order(from), status, &headers).map_err(|failed| failed.why)
    }

    #[test]
    fn the_file_comes_from_its_start_or_from_where_it_was_asked_for() {
        for (from, status, fields, at) in [
            (0, 200, vec![("content-length", "100")], 0),
            (0, 200, vec![], 0),
            (40, 200, vec![("content-encoding", "Identity")], 0),
            (40, 206, vec![("content-range", "bytes 40-99/100")], 40),
            (40, 206, vec![("content-range", "bytes 40-59/*")], 40),
        ] {
            assert_eq!(
                heard(from, status, &fields),
                Ok(Answer::Content { at }),
                "{fields:?}"
            );
        }
    }

    #[test]
    fn what_is_not_the_file_is_told_from_what_may_be_it_the_next_time() {
        for (from, status, fields, why) in [
            (0, 200, vec![("content-length", "99")], Why::Size),
            (0, 200, vec![("content-length", "101")], Why::Size),
            (
                0,
                200,
                vec![("content-length", "100"), ("content-length", "100")],
                Why::Again,
            ),
            (0, 200, vec![("content-length", "+100")], Why::Again),
            (0, 200, vec![("content-encoding", "gzip")], Why::Final),
            (40, 206, vec![("content-range", "bytes 40-98/99")], Why::Size),
            (40, 206, vec![("content-range", "bytes 0-99/100")], Why::Anew),
            (40, 206, vec![("content-range", "bytes */100")], Why::Again),
            (40, 206, vec![("content-range", "items 40-99/100")], Why::Again),
            (40, 206, vec![], Why::Again),
            (40, 416, vec![], Why::Anew),
            (0, 416, vec![], Why::Final),
            (0, 404, vec![], Why::Final),
            (0, 401, vec![], Why::Final),
            (0, 204, vec![], Why::Final),
            (0, 300, vec![], Why::Final),
            (0, 304, vec![], Why::Final),
            (0, 408, vec![], Why::Again),
            (0, 429, vec![], Why::Again),
            (0, 500, vec![], Why::Again),
            (0, 503, vec![], Why::Again),
            (0, 302, vec![], Why::Final),
        ] {
            assert_eq!(heard(from, status, &fields), Err(why), "{status} {fields:?}");
        }
    }

    #[test]
    fn elsewhere_is_a_url_in_its_one_spelling_and_never_less_safe() {
        for (to, url) in [
            ("/c", "https://dl.example.org/c"),
            ("c", "https://dl.example.org/a/c"),
            ("../../c", "https://dl.example.org/c"),
            ("?d#part", "https://dl.example.org/a/b?d"),
            ("//Other.example.org:443/c", "https://other.example.org/c"),
            ("https://169.254.169.254/latest", "https://169.254.169.254/latest"),
        ] {
            let there = Answer::Elsewhere {
                url: url.parse().expect("a URL"),
            };
            for status in [301, 302, 303, 307, 308] {
                assert_eq!(heard(0, status, &[("location", to)]), Ok(there.clone()), "{to}");
            }
        }
        for to in [
            "http://dl.example.org/c",
            "file:///etc/passwd",
            "https://user:word@dl.example.org/",
            "https://",
            "data:,x",
            "https://dl.example.org/..%2Fc",
        ] {
            assert_eq!(heard(0, 302, &[("location", to)]), Err(Why::Final), "{to}");
        }
        let two = [("location", "/c"), ("location", "/d")];
        assert_eq!(heard(0, 302, &two), Err(Why::Again));
    }
}
