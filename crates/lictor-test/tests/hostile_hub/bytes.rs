//! Too many bytes, or bytes that are nothing: below and at the level of documents.

use lictor_test::hostile::holds;

#[test]
fn hub_sends_an_envelope_that_is_too_long() {
    holds("hub_sends_an_envelope_that_is_too_long");
}

#[test]
fn hub_floods_a_node_with_garbage() {
    holds("hub_floods_a_node_with_garbage");
}

#[test]
fn hub_sends_a_request_that_is_too_long() {
    holds("hub_sends_a_request_that_is_too_long");
}

#[test]
fn hub_sends_a_request_that_two_readers_could_read_differently() {
    holds("hub_sends_a_request_that_two_readers_could_read_differently");
}

#[test]
fn hub_sends_a_websocket_message_that_is_too_long() {
    holds("hub_sends_a_websocket_message_that_is_too_long");
}

#[test]
fn hub_sends_a_frame_that_is_too_long() {
    holds("hub_sends_a_frame_that_is_too_long");
}
