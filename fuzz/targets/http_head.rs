//! A head is read the same however it comes; what goes on to a server is one head, reads back as the same request to the same
//! place, and holds nothing that two readers could take for two things.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_egress::http::understood::{answer, request};
use lictor_trust::egress::Host;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(cut).max(1);
    assert_eq!(answer(bytes, step), answer(bytes, usize::MAX));
    let read = request(bytes, step);
    assert_eq!(read, request(bytes, usize::MAX));
    let Ok((understood, length)) = read else {
        return;
    };
    assert!(bytes[..length].ends_with(b"\r\n\r\n"));
    assert!(!bytes[..length - 1].windows(4).any(|w| w == b"\r\n\r\n"));
    // What follows the head changes nothing.
    assert_eq!(request(&bytes[..length], step).as_ref(), Ok(&(understood.clone(), length)));
    assert_eq!(Host::parse(&understood.host.to_string()).as_ref(), Ok(&understood.host));
    let Some(sent) = &understood.sent else { return };
    // As it would have been asked of another proxy.
    let (method, rest) = sent.split_once(' ').expect("a method");
    let (_, host) = sent.split_once("\r\nHost: ").expect("a host");
    let (host, _) = host.split_once("\r\n").expect("a line");
    assert!(rest.starts_with('/'), "{sent}");
    let asked = format!("{method} http://{host}{rest}");
    let (again, length) = request(asked.as_bytes(), step).expect("what was sent is understood");
    assert_eq!((again, length), (understood.clone(), asked.len()));
    for field in ["host:", "content-length:", "transfer-encoding:", "connection:"] {
        let lines = sent.lines().filter(|l| l.to_ascii_lowercase().starts_with(field));
        assert!(lines.count() <= 1, "{field} {sent}");
    }
});
