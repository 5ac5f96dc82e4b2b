//! Where things are.

use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the workspace: xtask is built from a directory right below it.
pub fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest)
}

/// Where cargo builds: `CARGO_TARGET_DIR`, relative to the root, or `target`.
///
/// `balancer-userspace/build.rs` has the same rule.
pub fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Where the eBPF crate builds, and where its finished objects lie: apart from `target`, so that the two
/// builds never wait for each other's lock.
pub fn target_bpf() -> PathBuf {
    target().join("bpf")
}

/// The eBPF object that the binary embeds.
pub fn object() -> PathBuf {
    target_bpf().join("balancer.o")
}

/// Tools that setup installs for this workspace alone, as the root of a `cargo install`.
pub fn tools() -> PathBuf {
    root().join(".tools")
}

/// How a path reads best to a person: relative to the root where it lies below it.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
