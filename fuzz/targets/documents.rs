//! A payload that reads as a document, of whatever kind, can be validated and written, and says the same again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lictor_proto::doc::{
    Approval, Ask, Bundle, Cancel, Document, Freshness, Grant, Job, NodeRecord, Receipt, Revocation, Root,
};
use lictor_proto::json;

fn one<T: Document>(bytes: &[u8]) {
    let Ok(document) = json::from_slice::<T>(bytes) else {
        return;
    };
    // Any answer will do, as long as there is one.
    let verdict = document.validate().is_ok();
    let written = json::to_vec(&document).expect("documents are JSON");
    let again: T = json::from_slice(&written).expect("what we write, we read");
    assert_eq!(written, json::to_vec(&again).expect("documents are JSON"));
    assert_eq!(verdict, again.validate().is_ok());
}

fuzz_target!(|bytes: &[u8]| {
    one::<Root>(bytes);
    one::<Bundle>(bytes);
    one::<Freshness>(bytes);
    one::<Revocation>(bytes);
    one::<Grant>(bytes);
    one::<NodeRecord>(bytes);
    one::<Job>(bytes);
    one::<Approval>(bytes);
    one::<Cancel>(bytes);
    one::<Ask>(bytes);
    one::<Receipt>(bytes);
});
