//! Writes docs/protocol/vectors anew: `cargo run -p lictor-trust --example write_vectors`.
//!
//! A change of any file there is a change of the protocol.

#[path = "../tests/support/mod.rs"]
mod support;

fn main() -> std::io::Result<()> {
    let dir = support::vectors::directory();
    std::fs::create_dir_all(&dir)?;
    for (name, text) in support::vectors::all() {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(())
}
