//! Keys, signatures, the trust bundle and everything an org signs: the rules of docs/protocol.md as code.
#![forbid(unsafe_code)]

pub mod profiles;
