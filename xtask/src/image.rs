//! `cargo xtask image`: a static binary, alone in an image.
//!
//! The binary is built here, not in the image's build: no base image, no registry, and the exact compiler that everything
//! else is built with. Neither it nor the image tells where or when it was built, so that the same commit gives the same
//! image.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::{
    build::Profile,
    build_ebpf,
    cmd::Cmd,
    setup,
    toolchain::{TOOLCHAIN, cargo, rustup},
    ui,
    workspace::{self, shown},
};

/// Version of the workspace, which xtask shares.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Options of `image`.
#[derive(clap::Args)]
pub struct Args {
    /// Build the binary without optimisations: quicker, for trying the image out
    #[arg(long)]
    debug: bool,
}

/// Builds the image, and says where it is and how to push it.
pub fn run(args: &Args) -> Result<ExitCode> {
    setup::packages(setup::IMAGE)?;
    build_ebpf::build()?;
    let image = build(if args.debug { Profile::Debug } else { Profile::Release })?;
    let archive = shown(&image);
    ui::say(format_args!("built {archive}, an OCI archive of balancer:{VERSION}"));
    ui::say(format_args!(
        "push it: buildah push oci-archive:{archive} docker://registry.example.com/balancer:{VERSION}"
    ));
    Ok(ExitCode::SUCCESS)
}

/// Builds the static binary, then the image; the eBPF object must be there already. Returns the OCI archive.
///
/// # Errors
/// When something does not compile, or buildah fails.
pub fn build(profile: Profile) -> Result<PathBuf> {
    let binary = binary(profile)?;
    let dir = workspace::target().join("image").join(profile.dir());
    let context = dir.join("context");
    // The storage of an earlier run would only grow.
    for stale in [&context, &dir.join("storage")] {
        if stale.exists() {
            fs::remove_dir_all(stale).with_context(|| format!("cannot remove {}", shown(stale)))?;
        }
    }
    fs::create_dir_all(&context).with_context(|| format!("cannot make {}", shown(&context)))?;
    fs::copy(&binary, context.join("balancer")).with_context(|| format!("cannot copy {}", shown(&binary)))?;
    let archive = dir.join("balancer.oci.tar");
    if archive.exists() {
        fs::remove_file(&archive).with_context(|| format!("cannot remove {}", shown(&archive)))?;
    }
    let name = format!("balancer:{VERSION}");
    buildah(&dir)
        // The file system's own time stamps, and the image's, are those of the epoch.
        .args(["build", "--isolation", "chroot", "--timestamp", "0", "--quiet"])
        .args([
            "--build-arg",
            &format!("VERSION={VERSION}"),
            "--build-arg",
            &format!("REVISION={}", revision()),
        ])
        .arg("--file")
        .arg(workspace::root().join("deploy/Dockerfile"))
        .args(["--tag", &name])
        .arg(&context)
        .run()?;
    buildah(&dir)
        .args(["push", "--quiet", &name])
        .arg(format!("oci-archive:{}:{name}", archive.display()))
        .run()?;
    Ok(archive)
}

/// buildah with storage of its own, which needs no kernel module and is nobody else's.
fn buildah(dir: &Path) -> Cmd {
    Cmd::new("buildah")
        .arg("--root")
        .arg(dir.join("storage"))
        .arg("--runroot")
        .arg(dir.join("run"))
        .args(["--storage-driver", "vfs"])
}

/// Builds the binary for the musl target and returns its path.
///
/// # Errors
/// When it does not compile.
pub fn binary(profile: Profile) -> Result<PathBuf> {
    static_cargo(&["build"])?
        .args(["--package", "balancer-userspace", "--bin", "balancer"])
        .args(profile.flags())
        .run()?;
    let binary = static_dir(profile).join("balancer");
    if !binary.is_file() {
        bail!("{} was not built", shown(&binary));
    }
    Ok(binary)
}

/// The target of static binaries.
fn static_target() -> String {
    format!("{}-unknown-linux-musl", env::consts::ARCH)
}

/// Where static binaries lie.
pub fn static_dir(profile: Profile) -> PathBuf {
    workspace::target().join(static_target()).join(profile.dir())
}

/// A cargo command that builds static binaries, which name no directory of this machine and carry no symbols. One choice of
/// flags for all of them, so that nothing is built twice.
///
/// # Errors
/// When rustup is not installed, or cannot bring the target.
pub fn static_cargo(subcommand: &[&str]) -> Result<Cmd> {
    let target = static_target();
    rustup()?.args(["--quiet", "target", "add", &target, "--toolchain", TOOLCHAIN]).run()?;
    let variable = |start: &str| format!("{start}_{}", target.replace('-', "_"));
    let prefixes = remapped()?;
    let rust = prefixes.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let c = prefixes.iter().map(|(from, to)| format!("-ffile-prefix-map={}={to}", from.display()));
    let (first, rest) = subcommand.split_first().context("no subcommand")?;
    Ok(cargo(first)?
        .args(rest)
        .args(["--target", &target])
        .env(&variable("CC"), "musl-gcc")
        .quiet_env(&variable("CFLAGS"), c.collect::<Vec<_>>().join(" "))
        // These take the place of RUSTFLAGS, whatever those are: an image must not depend on who built it.
        .quiet_env("CARGO_ENCODED_RUSTFLAGS", rust.collect::<Vec<_>>().join("\u{1f}"))
        .env("CARGO_PROFILE_DEV_DEBUG", "false")
        .env("CARGO_PROFILE_DEV_STRIP", "symbols")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols"))
}

/// Directories of this machine that a compiler would write down, and what stands for them. Flags are separated by
/// white space, so a directory with some in its name stays as it is.
///
/// # Errors
/// When rustup is not installed.
pub fn remapped() -> Result<Vec<(PathBuf, &'static str)>> {
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let rustup_home = rustup()?.args(["show", "home"]).output()?;
    let all = [
        (workspace::root().to_owned(), "/balancer"),
        (cargo_home, "/cargo"),
        (rustup_home.trim().into(), "/rustup"),
    ];
    let plain = |path: &Path| path.to_str().is_some_and(|path| !path.contains(char::is_whitespace));
    Ok(all.into_iter().filter(|(path, _)| plain(path)).collect())
}

/// The commit, with a plus sign behind it where files differ from it; `unknown` outside of a repository.
pub fn revision() -> String {
    let git = |args: &[&str]| Cmd::new("git").args(args).output().ok();
    let Some(commit) = git(&["rev-parse", "HEAD"]) else { return "unknown".into() };
    let clean = git(&["status", "--porcelain"]).is_some_and(|changes| changes.trim().is_empty());
    format!("{}{}", commit.trim(), if clean { "" } else { "+" })
}
