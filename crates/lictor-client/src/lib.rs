//! Typed client of the hub's API: submits signed work, verifies what comes back
