//! Root filesystems by digest: what a profile names, a node holds, and a sandbox shows.
//!
//! ```text
//! DIR/rootfs/                      0711, of the agent's own user
//!   sha256-HEX/tree/               what the archive held, never changed once it is here
//!   sha256-HEX/meta.json           what it is and where it came from
//!   sha256-HEX/lock                held by every job that uses it; changed when it was last used
//!   .new-PID-N/  .old-PID-N/       on the way in, on the way out
//! ```
//!
//! A root filesystem is called by the SHA-256 of the tarball as it was given, by that of an OCI image's manifest, or by that of an
//! index which has that image for this machine; then it knows its manifest besides.
//! [`Store`] is all that running jobs takes. Unpacking is behind the feature `import`: it reads what may come from
//! anywhere, so only the program that people call has it.
//!
//! # Invariants
//! - What is visible under a digest was checked against it, byte for byte, and is on the disk.
//! - Nothing that a job holds is removed.

mod error;
#[cfg(all(feature = "import", unix))]
mod import;
mod meta;
mod prune;
mod store;

pub use error::RootfsError;
#[cfg(all(feature = "import", unix))]
pub use import::{Import, Incoming, Limits, Wanted};
pub use meta::{Form, Meta};
pub use prune::Bounds;
pub use store::{Held, Kept, Store};
