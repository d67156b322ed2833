//! The agent's network side: enrolment, the link, poll mode
