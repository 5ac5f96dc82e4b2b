//! `cargo xtask kernels`: the verifier and the integration tests under other kernels, in an emulator.
//!
//! A guest boots a kernel of Debian's and sees this machine's file system, read-only and with a layer in
//! memory over it, so that what was built here runs there as it is. Emulation needs no privilege and no
//! hardware support, and is some ten times slower than the machine.

mod guest;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};

use crate::{
    build::{self, Profile},
    build_ebpf,
    cmd::Cmd,
    setup,
    summary::Summary,
    toolchain::cargo,
    ui, workspace,
};

/// Options of `kernels`.
#[derive(clap::Args)]
pub struct Args {
    /// Debian packages with the kernels, such as linux-image-6.1.0-28-amd64 or a metapackage; the -cloud- ones lack a
    /// file system that this needs [default: all linux-image…-amd64 metapackages that apt knows]
    #[arg(value_name = "PACKAGE")]
    packages: Vec<String>,
    /// How long one kernel may take
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Only have the kernels verify the programs
    #[arg(long)]
    verify_only: bool,
    /// Passed to `cargo nextest run`: names to filter by, or its options
    #[arg(last = true, value_name = "NEXTEST ARGS")]
    nextest: Vec<String>,
}

/// What became of one kernel.
struct Row {
    kernel: String,
    programs: Programs,
    tests: Tests,
}

/// What the verifier made of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Programs {
    /// It accepted all, this many.
    Verified(usize),
    /// It refused one, or the guest never got so far.
    Refused,
}

/// How the tests went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tests {
    /// They were not asked for.
    LeftOut,
    /// They ran to their end.
    Counted(Summary),
    /// The time ran out, or the guest died.
    BrokenOff,
}

impl Row {
    const fn good(&self) -> bool {
        let verified = matches!(self.programs, Programs::Verified(1..));
        let passed = match self.tests {
            Tests::LeftOut => true,
            Tests::Counted(summary) => summary.failed == 0 && summary.passed > 0,
            Tests::BrokenOff => false,
        };
        verified && passed
    }

    fn line(&self) -> String {
        let programs = match self.programs {
            Programs::Verified(count) => format!("{count} verified"),
            Programs::Refused => "NOT verified".into(),
        };
        let tests = match self.tests {
            Tests::LeftOut => "left out".into(),
            Tests::Counted(summary) => summary.to_string(),
            Tests::BrokenOff => "BROKEN OFF".into(),
        };
        format!("{:<32} {programs:<14} {tests}", self.kernel)
    }
}

/// Runs every kernel in turn. Exit code 0: all verified, and all tests that ran passed.
pub fn run(args: &Args) -> Result<ExitCode> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("`cargo xtask kernels` knows the emulated machine for x86-64 only");
    }
    setup::toolchain()?;
    setup::packages(setup::KERNELS)?;
    setup::packages(setup::TEST)?;
    setup::nextest()?;
    let objects = build_ebpf::build()?;
    let balancer = build::host(Profile::Debug)?;
    let packages = if args.packages.is_empty() { known()? } else { args.packages.clone() };
    let plan = guest::Plan {
        objects,
        balancer,
        tests: if args.verify_only { None } else { Some(test_binaries()?) },
        nextest: args.nextest.clone(),
        minutes: args.minutes,
    };
    let mut rows = Vec::new();
    for package in packages {
        let package = real_package(&package)?;
        ui::say(format_args!("booting {package}"));
        rows.push(guest::run(&package, &plan)?);
    }
    ui::print(format_args!("{:<32} {:<14} tests", "kernel", "programs"));
    for row in &rows {
        ui::print(row.line());
    }
    Ok(if rows.iter().all(Row::good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The metapackages for ordinary kernels that apt knows.
fn known() -> Result<Vec<String>> {
    let names = Cmd::new("apt-cache").args(["pkgnames", "linux-image-"]).output()?;
    let mut found: Vec<String> = names.lines().filter(|name| is_meta(name)).map(str::to_owned).collect();
    found.sort();
    if found.is_empty() {
        bail!("apt knows no package linux-image-amd64: run `apt-get update`, or name a package");
    }
    Ok(found)
}

/// Whether a name is that of a metapackage: `linux-image-amd64`, `linux-image-6.12-amd64`.
fn is_meta(name: &str) -> bool {
    name.strip_prefix("linux-image-").and_then(|rest| rest.strip_suffix("amd64")).is_some_and(|version| {
        version.chars().all(|c| c.is_ascii_digit() || c == '.' || c == '-')
            && version.matches('.').count() < 2
    })
}

/// The package that holds the kernel: what a metapackage depends on, or the package itself.
fn real_package(package: &str) -> Result<String> {
    if !is_meta(package) {
        return Ok(package.to_owned());
    }
    let depends = Cmd::new("apt-cache").args(["depends", "--important", package]).output()?;
    let found = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let version = found.with_context(|| format!("package {package} names no kernel"))?;
    Ok(format!("linux-image-{version}"))
}

/// Builds the integration tests and writes down where they are, for a nextest that has no cargo.
fn test_binaries() -> Result<guest::Tests> {
    let dir = directory();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", workspace::shown(&dir)))?;
    let list = cargo("nextest")?
        .args(["list", "--workspace", "--exclude", "balancer-ebpf"])
        .args(["--list-type", "binaries-only", "--message-format", "json"])
        .output()?;
    let metadata = cargo("metadata")?.args(["--format-version", "1"]).output()?;
    let tests = guest::Tests { binaries: dir.join("binaries.json"), metadata: dir.join("metadata.json") };
    for (path, text) in [(&tests.binaries, list), (&tests.metadata, metadata)] {
        fs::write(path, text).with_context(|| format!("cannot write {}", workspace::shown(path)))?;
    }
    Ok(tests)
}

/// Where packages and initial file systems are kept.
fn directory() -> PathBuf {
    workspace::target().join("kernels")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metapackages_are_told_from_kernels_and_flavours() {
        for meta in ["linux-image-amd64", "linux-image-6.12-amd64"] {
            assert!(is_meta(meta), "{meta}");
        }
        for other in [
            "linux-image-cloud-amd64",
            "linux-image-rt-amd64",
            "linux-image-amd64-dbg",
            "linux-image-6.1.0-28-amd64",
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.1.0-28-amd64-unsigned",
        ] {
            assert!(!is_meta(other), "{other}");
        }
    }

    #[test]
    fn only_a_kernel_that_ran_something_and_failed_nothing_is_good() {
        let row = |programs, tests| Row { kernel: String::new(), programs, tests };
        let counted = |passed, failed| Tests::Counted(Summary { passed, failed, skipped: 0 });
        assert!(row(Programs::Verified(10), counted(3, 0)).good());
        assert!(row(Programs::Verified(10), Tests::LeftOut).good());
        for bad in [
            row(Programs::Verified(0), counted(3, 0)),
            row(Programs::Refused, counted(3, 0)),
            row(Programs::Verified(10), counted(3, 1)),
            row(Programs::Verified(10), counted(0, 0)),
            row(Programs::Verified(10), Tests::BrokenOff),
        ] {
            assert!(!bad.good(), "{}", bad.line());
        }
    }
}
