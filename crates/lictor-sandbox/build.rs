//! Compiles the first process of containers (`init/init.rs`), which the library carries in itself: a static program of
//! a few hundred bytes that needs nothing of the root file system that it runs in.
#![allow(clippy::disallowed_methods)]

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=init");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(has_init)");
    let of = |name: &str| env::var(name).unwrap_or_default();
    let known = ["x86_64", "aarch64"].contains(&of("CARGO_CFG_TARGET_ARCH").as_str());
    if of("CARGO_CFG_TARGET_OS") != "linux" || !known {
        return;
    }
    let out = PathBuf::from(of("OUT_DIR")).join("lictor-init");
    let mut rustc = Command::new(of("RUSTC"));
    rustc.args([
        "--edition",
        "2024",
        "--crate-name",
        "lictor_init",
        "--crate-type",
        "bin",
    ]);
    rustc
        .args(["--target", &of("TARGET"), "init/init.rs", "-o"])
        .arg(&out);
    rustc.args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols"]);
    rustc.args(["-C", "relocation-model=static"]);
    for argument in ["-nostdlib", "-nostartfiles", "-static", "-Wl,--build-id=none"] {
        rustc.args(["-C", &format!("link-arg={argument}")]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.status();
    assert!(
        status.is_ok_and(|s| s.success()),
        "the first process of containers does not compile"
    );
    println!("cargo::rustc-cfg=has_init");
}
