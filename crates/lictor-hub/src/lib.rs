//! The control plane: API, queue, relay and store; it has no authority of its own
