//! The exact compiler, and how to run cargo under it.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    cmd::{Cmd, is_executable},
    workspace,
};

/// The Rust release that builds everything but xtask.
pub const TOOLCHAIN: &str = "1.98.0";

/// What setup adds to the minimal profile: `rust-src` because the BPF target has no prebuilt `core`.
pub const COMPONENTS: [&str; 3] = ["rust-src", "clippy", "rustfmt"];

/// The release of bpf-linker. It reads the bitcode of [`TOOLCHAIN`] through that toolchain's own LLVM, so
/// the two change together.
pub const BPF_LINKER: &str = "0.10.3";

/// The release of cargo-nextest that setup installs where there is none.
pub const NEXTEST: &str = "0.9.143";

/// The oldest cargo-nextest that reads `.config/nextest.toml`, where the same number stands.
pub const NEXTEST_OLDEST: &str = "0.9.91";

/// The release of cargo-deny, which `cargo xtask audit` runs.
pub const DENY: &str = "0.20.2";

/// Variables that the cargo which started xtask sets for its children. Inherited, they would point the
/// next cargo at the wrong compiler, or name the wrong package to build scripts.
const SET_BY_CARGO: [&str; 18] = [
    "CARGO",
    "CARGO_CRATE_NAME",
    "CARGO_BIN_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_TMPDIR",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "MFLAGS",
    "OUT_DIR",
    "RUSTC",
    "RUSTDOC",
    "RUSTC_LINKER",
    "RUST_RECURSION_COUNT",
    "RUSTUP_TOOLCHAIN",
    "RUSTUP_TOOLCHAIN_SOURCE",
];

/// `cargo +TOOLCHAIN SUBCOMMAND`, with the workspace's own tools first on `PATH`.
///
/// # Errors
/// When rustup is not installed.
pub fn cargo(subcommand: &str) -> Result<Cmd> {
    let cmd = Cmd::new("cargo").arg(format!("+{TOOLCHAIN}")).arg(subcommand);
    Ok(clean(cmd).quiet_env("PATH", path()?))
}

/// `rustup`, free of what the outer cargo set.
///
/// # Errors
/// When rustup is not installed.
pub fn rustup() -> Result<Cmd> {
    Ok(clean(Cmd::new("rustup")).quiet_env("PATH", path()?))
}

/// Removes from a command what the cargo around us set for us.
pub fn clean(mut cmd: Cmd) -> Cmd {
    for name in SET_BY_CARGO {
        cmd = cmd.env_remove(name);
    }
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"CARGO_PKG_")) {
        cmd = cmd.env_remove(name);
    }
    // cargo also puts its own compiler's libraries on the search path; bpf-linker would take its LLVM.
    match library_path() {
        Some(value) => cmd.quiet_env("LD_LIBRARY_PATH", value),
        None => cmd.env_remove("LD_LIBRARY_PATH"),
    }
}

/// `PATH` for children: our own tools, then the rustup proxies, then whatever there was.
///
/// # Errors
/// When rustup is not installed.
pub fn path() -> Result<OsString> {
    let proxies = proxies().context(
        "rustup is not installed; it brings the exact Rust release that this project builds with. \
         Install it from https://rustup.rs, then run this again",
    )?;
    let inherited = env::var_os("PATH").unwrap_or_default();
    let own = [workspace::tools().join("bin"), proxies];
    env::join_paths(own.into_iter().chain(env::split_paths(&inherited))).context("PATH holds a bad entry")
}

/// The directory of rustup's proxies.
fn proxies() -> Option<PathBuf> {
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let path = env::var_os("PATH").unwrap_or_default();
    let has_both = |dir: &PathBuf| is_executable(&dir.join("rustup")) && is_executable(&dir.join("cargo"));
    cargo_home.map(|home| home.join("bin")).into_iter().chain(env::split_paths(&path)).find(has_both)
}

/// `LD_LIBRARY_PATH` without what cargo added.
fn library_path() -> Option<OsString> {
    let inherited = env::var_os("LD_LIBRARY_PATH")?;
    let target = workspace::target();
    let foreign = env::split_paths(&inherited).filter(|dir| {
        !dir.as_os_str().is_empty()
            && !dir.starts_with(&target)
            && !dir.components().any(|part| part.as_os_str() == "toolchains")
    });
    env::join_paths(foreign).ok().filter(|value| !value.is_empty())
}
