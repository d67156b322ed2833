//! A token that can be read is the same after being written, also when only the JSON in it was hostile.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_proto::doc::Token;
use lictor_proto::json;

/// As much as a token in one word may have.
const LONGEST: usize = 4096;

fuzz_target!(|text: &str| {
    let _ = Token::decode(&format!("lictor_enroll_{text}"));
    let read = Token::decode(text).ok();
    for token in read.into_iter().chain(json::from_slice(text.as_bytes())) {
        let word = token.encode();
        if word.len() <= LONGEST {
            assert_eq!(Token::decode(&word).as_ref(), Ok(&token));
        }
    }
});
