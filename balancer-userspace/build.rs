//! Finds the eBPF object that the binary embeds, and tells the compiler its path as
//! `BALANCER_EBPF_OBJECT`.
//!
//! `cargo xtask build-ebpf` builds it; `BALANCER_EBPF_OBJECT` in the environment names another one.

use std::{
    env,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=BALANCER_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");

    let object = object();
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=BALANCER_EBPF_OBJECT={}", object.display());
    } else {
        println!(
            "cargo::error=the eBPF object {} does not exist: run `cargo xtask build-ebpf` first, or name \
             another object in BALANCER_EBPF_OBJECT",
            object.display()
        );
    }
}

/// The object, as an absolute path. xtask has the same rule for the directory.
fn object() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let root = manifest.parent().unwrap_or(Path::new("/"));
    if let Some(named) = env::var_os("BALANCER_EBPF_OBJECT") {
        return root.join(named);
    }
    let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root.join(target).join("bpf/balancer.o")
}
