//! Output and events on their way from one execution to any number of followers.
//!
//! ```text
//!   node --frames--> Splitter --Chunk--> Live --+--> follower queue --> HTTP body, WebSocket, SSE
//!                                               +--> pending head --> segments (recorder)
//! ```
//!
//! Bytes are never copied: a chunk is a list of slices of what the link gave, cut at frame borders. Only frame
//! headers are read.

pub mod chunk;
pub mod follower;
pub mod live;
pub mod splitter;

pub use chunk::Chunk;
pub use follower::{Follower, Out};
pub use live::{Live, LiveBook};
pub use splitter::Splitter;
