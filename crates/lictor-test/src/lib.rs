//! Fixtures and system tests over the real hub, agent and binary; never packaged
