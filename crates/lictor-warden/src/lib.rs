//! The privileged half of the agent: verify, authorise, plan, journal, spawn; knows no network
