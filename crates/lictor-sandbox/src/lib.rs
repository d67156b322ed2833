//! Everything that talks to the kernel: plans, spawn, the process tree, and the host and bubblewrap backends
