//! A real proxy on a real listener with a real server behind it: what passes, and what does not.

mod bench;
mod http;
mod tunnels;
