//! An envelope that parses has one payload, within limits, and says the same after a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_proto::{Envelope, limits};

fuzz_target!(|bytes: &[u8]| {
    let Ok(envelope) = Envelope::parse(bytes, limits::ENVELOPE) else {
        return;
    };
    assert!((1..=limits::SIGNATURES).contains(&envelope.signatures.len()));
    let again = Envelope::parse(&envelope.to_bytes(), usize::MAX).expect("what we write, we read");
    assert_eq!(envelope, again);
    assert_eq!(envelope.digest(), again.digest());
});
