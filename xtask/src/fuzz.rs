//! `cargo xtask fuzz`: a fuzz target of `fuzz/`, built with the stable compiler and run by libFuzzer.
//!
//! What cargo-fuzz would do, for this one purpose and without a nightly compiler: coverage comes from
//! LLVM's own pass. There is no address sanitizer; the code that is fuzzed has no `unsafe`.

use std::{env, fs, process::ExitCode};

use anyhow::Result;
use clap::ValueEnum;

use crate::{build_ebpf, cmd::Cmd, toolchain, workspace};

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// What to fuzz
    target: Target,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Passed on to libFuzzer: an input to try again, or flags such as -jobs=2
    #[arg(last = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// Sequences of events: an index that follows them, beside a fresh one
    Resolve,
    /// Texts of manifest files, read and resolved
    Manifests,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Manifests => "manifests",
        }
    }
}

/// What makes a program report its coverage to libFuzzer.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1";

/// Builds the target and runs it. New inputs stay below `target/fuzz`; what fails is named, and can be given
/// again behind `--`.
pub fn run(args: &Args) -> Result<ExitCode> {
    build_ebpf::build()?;
    let name = args.target.name();
    let dir = workspace::target().join("fuzz");
    let host = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    toolchain::cargo("build")?
        .args(["--manifest-path", "fuzz/Cargo.toml", "--locked", "--bin", name, "--target", &host])
        .arg("--target-dir")
        .arg(&dir)
        .quiet_env("BALANCER_EBPF_OBJECT", workspace::object())
        // With --target the flags are not those of build scripts and macros.
        .env("RUSTFLAGS", COVERAGE)
        .run()?;
    let found = dir.join("found").join(name);
    let failures = dir.join("failures").join(name);
    fs::create_dir_all(&found)?;
    fs::create_dir_all(&failures)?;
    let mut command = Cmd::new(dir.join(&host).join("debug").join(name))
        .arg(format!("-artifact_prefix={}/", failures.display()))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    if args.args.iter().all(|arg| arg.starts_with('-')) {
        command = command
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(&found)
            .arg(workspace::root().join("fuzz/corpus").join(name));
    }
    command.args(&args.args).run()?;
    Ok(ExitCode::SUCCESS)
}
