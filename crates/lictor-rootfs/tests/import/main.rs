//! Taking in tarballs and images: what comes out, what is refused, and that nothing of a refused one is left.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod fetched;
mod hostile;
mod images;
mod readers;
mod tarballs;
