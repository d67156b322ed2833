//! Streams of frames and of events give the same, or the same error, however their bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_proto::agent::stream::Decoder;
use lictor_proto::frame::FrameDecoder;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, bytes)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(cut).max(1);
    assert_eq!(frames(bytes, step), frames(bytes, bytes.len().max(1)));
    assert_eq!(events(bytes, step), events(bytes, bytes.len().max(1)));
});

fn frames(bytes: &[u8], step: usize) -> (Vec<String>, bool) {
    let mut decoder = FrameDecoder::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => seen.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(_) => return (seen, false),
            }
        }
    }
    (seen, true)
}

fn events(bytes: &[u8], step: usize) -> (Vec<String>, bool) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.push(piece);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => seen.push(format!("{message:?}")),
                Ok(None) => break,
                Err(_) => return (seen, false),
            }
        }
    }
    (seen, true)
}
