//! The real hub on port 0, with a scripted node at the end of a real link.
#![allow(clippy::unwrap_used, unreachable_pub)]

mod audit;
mod bad_input;
mod document;
mod events;
mod firings;
mod followed;
mod limits;
mod link;
mod logs;
mod node;
mod notices;
mod offers;
mod papers;
mod poll;
mod rollouts;
mod routes;
mod secrets;
mod surface;
mod tokens;
mod uploads;
mod world;
