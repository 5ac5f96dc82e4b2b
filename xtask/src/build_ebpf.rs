//! `cargo xtask build-ebpf`: the programs, as objects that the binary embeds.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Profile},
    cmd::{Cmd, check},
    elf, image, setup,
    toolchain::cargo,
    ui,
    workspace::{self, object, shown, target_bpf},
};

/// The crate with the programs.
const CRATE: &str = "balancer-ebpf";

/// Exit code of `verify-object` where the kernel does not let us load programs.
const CANNOT_LOAD_HERE: i32 = 77;

/// Options of `build-ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Do not load the objects into the kernel: checks their sections only
    #[arg(long)]
    no_load: bool,
}

/// Builds, checks, and loads where that is possible.
pub fn run(args: &Args) -> Result<ExitCode> {
    let objects = build()?;
    if args.no_load {
        return Ok(ExitCode::SUCCESS);
    }
    build::host(Profile::Debug)?;
    for object in &objects {
        verify_loads(object)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds every program object and checks its sections. Returns their paths; [`object`] is among them.
pub fn build() -> Result<Vec<PathBuf>> {
    setup::toolchain()?;
    setup::bpf_linker()?;
    let built = target_bpf().join(target()).join("bpf");
    // cargo leaves the output of a binary that the crate no longer has; it puts back what is up to date.
    for stale in files(&built, "")? {
        remove(&stale)?;
    }
    cross("build")?.args(["--profile", "bpf"]).run()?;
    let mut objects = files(&built, "")?.iter().map(|path| publish(path)).collect::<Result<Vec<_>>>()?;
    for stale in files(&target_bpf(), "o")?.iter().filter(|path| !objects.contains(path)) {
        remove(stale)?;
    }
    objects.sort();
    if !objects.contains(&object()) {
        bail!("{CRATE} has no binary named `balancer`: {} was not built", shown(&object()));
    }
    Ok(objects)
}

/// A cargo command on the eBPF crate, for the BPF target.
///
/// The flags are fixed here and those of the environment dropped: an object must not depend on who built
/// it.
///
/// # Errors
/// When rustup is not installed.
pub fn cross(subcommand: &str) -> Result<Cmd> {
    // BTF for maps and line information; v3 for atomics that return the old value and for 32-bit jumps.
    // The linker tells on success that the first of several files it tried for LLVM was not a library.
    let mut flags = format!(
        r#"--cfg=bpf_target_arch="{}" -Cdebuginfo=2 -Clink-arg=--btf -Ctarget-cpu=v3 -Alinker-messages"#,
        env::consts::ARCH
    );
    // Line information names files; it shall not name this machine's directories.
    for (from, to) in image::remapped()? {
        flags.push_str(&format!(" --remap-path-prefix={}={to}", from.display()));
    }
    Ok(cargo(subcommand)?
        .args(["--package", CRATE, "--target", target(), "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(target_bpf())
        // -Zbuild-std, and features of `core` that aya-ebpf and the programs use, on a stable release.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags)
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))
}

/// Loads the object's programs into the kernel, attaching none, and fails with the verifier's words if
/// the kernel refuses one. Where we may not load programs at all it says so and succeeds.
/// [`build::host`] must have built the program that does this.
///
/// # Errors
/// When the kernel refuses a program.
pub fn verify_loads(object: &Path) -> Result<Loads> {
    let cmd = Cmd::new(workspace::target().join(Profile::Debug.dir()).join("verify-object")).arg(object);
    let line = cmd.line();
    let status = cmd.status()?;
    match status.code() {
        Some(CANNOT_LOAD_HERE) => {
            ui::warn(format_args!(
                "{} was built but not loaded: this needs root (CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON)",
                shown(object)
            ));
            Ok(Loads::CannotTell)
        }
        _ => check(status, &line).map(|()| Loads::Verified),
    }
}

/// What [`verify_loads`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loads {
    /// The kernel accepted every program.
    Verified,
    /// The kernel lets us load nothing, here or as this user.
    CannotTell,
}

/// The compiler's target: programs have the byte order of the machine that they run on.
const fn target() -> &'static str {
    if cfg!(target_endian = "big") { "bpfeb-unknown-none" } else { "bpfel-unknown-none" }
}

/// Checks an object and puts it where the rest of the build looks for it.
fn publish(built: &Path) -> Result<PathBuf> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", shown(built)))?;
    let sections =
        elf::sections(&bytes).with_context(|| format!("{} is not a program object", shown(built)))?;
    for (section, why) in [
        (".BTF", "bpf-linker was not asked for type information"),
        ("license", "the kernel refuses GPL-only helpers without it; add the `license` static"),
    ] {
        if !sections.iter().any(|name| name == section) {
            bail!("{} has no `{section}` section: {why}", shown(built));
        }
    }
    let name = built.file_name().with_context(|| format!("{} has no name", shown(built)))?;
    let object = target_bpf().join(name).with_extension("o");
    // An unchanged object keeps its time, so that nothing that embeds it is built again.
    if fs::read(&object).ok().as_deref() != Some(&bytes) {
        fs::write(&object, &bytes).with_context(|| format!("cannot write {}", shown(&object)))?;
    }
    ui::say(format_args!(
        "{}: {} KiB, {} sections",
        shown(&object),
        bytes.len().div_ceil(1024),
        sections.len()
    ));
    Ok(object)
}

/// Where the reference of the programs is after `cross("doc")`.
pub fn doc() -> PathBuf {
    target_bpf().join(target()).join("doc")
}

/// The files of a directory that have this extension (empty: none) and are not hidden. A directory that
/// does not exist has none.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", shown(dir))),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot read {}", shown(dir)))?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.is_file() && !hidden && path.extension().unwrap_or_default() == extension {
            files.push(path);
        }
    }
    Ok(files)
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).with_context(|| format!("cannot remove {}", shown(path)))
}
