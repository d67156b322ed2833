//! The control plane: API, queue, relay and store; it has no authority of its own.
//!
//! ```text
//!   listener --> api --> app --> store            api   HTTP, and nothing but HTTP
//!       |                 ^                       app   what the hub does; knows no HTTP
//!       +------> link ----+--> relay              link  one owner task per connected node
//!                tasks ---+                       relay output and events to any number of followers
//! ```
//!
//! The hub stores and forwards. It may delay, drop and hide; it cannot forge, change, replay or widen anything,
//! since everything with authority is signed outside it and checked on the node. What it checks itself (shape,
//! signature, roster, size) keeps rubbish out and nothing more.
#![forbid(unsafe_code)]

pub mod api;
pub mod app;
pub mod config;
pub mod hub;
pub mod link;
mod listener;
pub mod relay;
pub mod store;
mod tasks;
mod tls;

pub use config::HubConfig;
pub use hub::{Hub, StartError};
