//! A ClientHello is read the same however it comes, and what is read is in the bytes as a server would find it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_egress::hello::{HelloReader, Progress};

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(cut).max(1);
    let mut reader = HelloReader::default();
    let mut given = 0;
    let mut piecewise = reader.read(&[]);
    while piecewise == Progress::More && given < bytes.len() {
        given = (given + step).min(bytes.len());
        piecewise = reader.read(&bytes[..given]);
    }
    // What has been said about the start is not taken back by what follows.
    assert_eq!(piecewise, HelloReader::default().read(&bytes[..given]));
    let Progress::Whole(hello, length) = HelloReader::default().read(bytes) else {
        return;
    };
    assert!(length <= bytes.len());
    assert_eq!(piecewise, Progress::Whole(hello.clone(), length));
    let message = fragments(&bytes[..length]);
    assert_eq!(usize::from(message[2]) << 8 | usize::from(message[3]), message.len() - 4);
    if let Some(name) = &hello.sni {
        let lower = message.to_ascii_lowercase();
        let name = name.as_str().as_bytes();
        assert!(lower.windows(name.len()).any(|w| w == name));
    }
});

/// The handshake message without the headers of its records.
fn fragments(mut records: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    while let [22, 3, _, high, low, rest @ ..] = records {
        let (fragment, rest) = rest.split_at(usize::from(*high) << 8 | usize::from(*low));
        message.extend_from_slice(fragment);
        records = rest;
    }
    assert!(records.is_empty());
    message
}
