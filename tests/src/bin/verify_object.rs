//! Loads every program of an eBPF object into the kernel, attaches none, and says what the verifier made
//! of each: `verify-object OBJECT`.
//!
//! Exit code 1 means that the kernel refused the object, or that a program took its verifier more work than is
//! recorded (`balancer-ebpf/verifier.txt`); 77 that this user, or this kernel, lets nobody
//! find out.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is the output of a command-line tool")]

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError, ProgramInfo, ProgramType},
    sys::is_program_supported,
};
use clap::Parser;
use verifier::Release;

#[path = "../../../balancer-ebpf/verifier.rs"]
mod verifier;

/// Exit code where programs cannot be loaded at all; xtask knows it.
const CANNOT_LOAD_HERE: u8 = 77;

/// Load an eBPF object's programs into the kernel without attaching them.
#[derive(Parser)]
struct Args {
    /// The object
    object: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = may_load() {
        eprintln!("cannot load eBPF programs here: {error:#}");
        return ExitCode::from(CANNOT_LOAD_HERE);
    }
    match verify(&args.object) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Tries the smallest program of a type that every kernel which we support has.
fn may_load() -> Result<()> {
    match is_program_supported(ProgramType::CgroupSockAddr) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("this kernel has no cgroup_sock_addr programs"),
        Err(error) => Err(error).context("a two-instruction program was refused"),
    }
}

fn verify(object: &PathBuf) -> Result<()> {
    let bytes = std::fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    // A map that asks to be pinned by its name fails here, where it would leave something behind.
    let nowhere = tempfile::tempdir().context("cannot make a temporary directory")?;
    let mut ebpf = EbpfLoader::new()
        .default_map_pin_directory(nowhere.path())
        .load(&bytes)
        .with_context(|| format!("the maps of {} could not be created", object.display()))?;
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    if names.is_empty() {
        bail!("{} holds no program", object.display());
    }
    let release = kernel()?;
    // Of an object that is recorded, all of it is.
    let recorded = verifier::programs();
    let is_recorded = names.iter().any(|name| recorded.contains(&name.as_str()));
    let mut refused = Vec::new();
    let gone = recorded.iter().filter(|program| is_recorded && !names.iter().any(|name| name == *program));
    let mut costly: Vec<String> = gone
        .map(|program| format!("{program} is in balancer-ebpf/verifier.txt and not in the object"))
        .collect();
    for name in &names {
        match load(&mut ebpf, name) {
            Ok(info) => {
                report(name, &info);
                if is_recorded {
                    costly.extend(excess(release, name, &info));
                }
            }
            Err(error) => {
                eprintln!("{name}: {error:#}");
                refused.push(name.as_str());
            }
        }
    }
    if !refused.is_empty() {
        bail!("the kernel refused {} of {} programs: {}", refused.len(), names.len(), refused.join(", "));
    }
    if !costly.is_empty() {
        bail!("{}", costly.join("; "));
    }
    if is_recorded && !verifier::releases().contains(&release) {
        println!(
            "Linux {release} is not recorded in balancer-ebpf/verifier.txt: compared with the nearest that is"
        );
    }
    Ok(())
}

/// The kernel that this runs on.
fn kernel() -> Result<Release> {
    let path = "/proc/sys/kernel/osrelease";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Release::parse(&text).with_context(|| format!("{text:?} is no release of the kernel"))
}

/// Why the verifier's work on a program is too much, if it is.
fn excess(release: Release, name: &str, info: &ProgramInfo) -> Option<String> {
    if verifier::bound(release, name).is_none() {
        return Some(format!("{name} is not recorded: add it to balancer-ebpf/verifier.txt"));
    }
    match info.verified_instruction_count() {
        Some(count) => verifier::over_bound(release, name, count.into()),
        // Before Linux 5.16 the kernel does not tell.
        None => None,
    }
}

fn load(ebpf: &mut Ebpf, name: &str) -> Result<ProgramInfo> {
    let program = ebpf.program_mut(name).context("it is not in the object")?;
    let outcome = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        other => bail!("verify-object does not load programs of type {:?}: teach it", other.prog_type()),
    };
    match outcome {
        Ok(()) => program.info().context("the kernel says nothing of the loaded program"),
        Err(ProgramError::LoadError { io_error, verifier_log }) => Err(refusal(&io_error, &verifier_log)),
        Err(error) => Err(error.into()),
    }
}

/// The verifier's log with its error code: `Display` of the log keeps its line breaks.
fn refusal(io_error: &io::Error, log: &impl std::fmt::Display) -> anyhow::Error {
    anyhow::anyhow!("{io_error}; the verifier says:\n{log}")
}

fn report(name: &str, info: &ProgramInfo) {
    let count = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let translated = info.size_translated().map(|bytes| bytes / 8);
    let jited = info.size_jitted();
    println!(
        "{name:<16} {:>7} instructions verified, {:>5} in the program, {jited:>6} bytes of machine code",
        count(info.verified_instruction_count()),
        count(translated),
    );
}
