//! A real proxy on a real listener with a real server behind it: what passes, and what does not.

mod addresses;
mod bench;
mod bodies;
mod http;
mod limits;
mod process;
mod socks;
mod tls;
mod tunnels;
