//! `cargo xtask vm`: the verifier, the integration tests, or any program, under other kernels.
//!
//! A guest boots a kernel of Debian's with an initial file system that holds the tests, statically linked, and the few programs
//! that they run: it needs nothing of the kernel but what balancer needs. For tests that want more, and for programs of this
//! machine, it sees this machine's files, read-only and with a layer in memory over them, if the kernel has 9p.

mod accelerator;
mod cache;
mod console;
mod guest;
mod kernels;
mod packed;
mod results;
mod script;
mod suite;
mod table;
mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Once,
    time::Instant,
};

use anyhow::{Context, Error, Result, bail};

use self::{
    accelerator::Accelerator,
    guest::{Boot, Reach, Scratch},
    packed::Packed,
    results::{Plan, Planned, Ran, Row, Run, State},
    suite::{Set, Suite},
};
use crate::{
    build_ebpf, image, interrupt, setup, ui,
    workspace::{self, shown},
};

pub use script::{Command, variables};

/// Options of `vm`.
#[derive(clap::Args)]
pub struct Args {
    /// A version such as 6.1, `backports` for the newest there, or a Debian package such as linux-image-cloud-amd64 [default:
    /// 5.15, 6.1, 6.12 and backports, as far as apt's sources have them]
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Run every test that can run in a guest, not only those of nextest's profile `vm`
    #[arg(long, conflicts_with_all = ["verify_only", "run"])]
    all: bool,
    /// Only have the kernels verify the programs
    #[arg(long)]
    verify_only: bool,
    /// Run this program, with the arguments behind `--`, instead of tests. It sees this machine's files; what it leaves in the
    /// directory $BALANCER_OUT comes to target/vm/out/KERNEL
    #[arg(long, value_name = "PROGRAM", conflicts_with = "verify_only")]
    run: Option<PathBuf>,
    /// How long one kernel may take
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=600))]
    minutes: u64,
    /// Tests' names to filter by, or `-E FILTER`, as of nextest; arguments of the program with --run
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// The exit code where something could not run that was asked for.
const NOT_RUN: u8 = 3;

/// How a program ended in a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ended by itself, with this code.
    Code(i32),
    /// The guest did not come to its end, for this reason; there may be less output than there should be.
    Broken(String),
    /// There was no guest, for this reason.
    NotRun(String),
}

/// Runs what was asked for on every kernel in turn, and prints the table. Exit code 0: all that ran has passed; 1: something
/// failed; 3: a kernel that was named, or all of them, could not run.
pub fn run(args: &Args) -> Result<ExitCode> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("`cargo xtask vm` knows the guest's machine for x86-64 only");
    }
    let kernels: Vec<&str> = if args.kernels.is_empty() {
        kernels::DEFAULT.to_vec()
    } else {
        args.kernels.iter().map(String::as_str).collect()
    };
    kernels.iter().try_for_each(|kernel| kernels::check(kernel))?;
    setup::packages(setup::VM)?;
    if let Some(program) = &args.run {
        return run_everywhere(&kernels, program, args);
    }
    if args.all {
        setup::packages(setup::TEST)?;
    }
    setup::nextest()?;
    let objects = build_ebpf::build()?;
    fs::create_dir_all(directory()).with_context(|| format!("cannot make {}", shown(&directory())))?;
    let suite = Suite::build(&directory(), &args.rest)?;
    let plan = if args.verify_only { Plan::new() } else { plan(&suite, args.all)? };
    let chosen = plan.values().any(|planned| !matches!(planned, Planned::LeftOut(_)));
    if !chosen && !args.verify_only {
        let hint =
            if args.all { "that a guest has a place for" } else { "of the profile vm; --all has more" };
        bail!("{:?} matches no test {hint}", args.rest.join(" "));
    }
    let scratch = Scratch::new("suite")?;
    let archive = pack(&scratch, &suite, &plan, &objects, args)?;
    interrupt::outlive_children();
    let mut rows = Vec::new();
    for asked in kernels {
        rows.push(try_kernel(asked, &archive, objects.len(), args));
    }
    report(&rows, &plan)?;
    Ok(code(&rows, &plan, args.kernels.is_empty()))
}

/// Where each test runs.
fn plan(suite: &Suite, all: bool) -> Result<Plan> {
    let everything = suite.tests(Set::Everything)?;
    let (short, initial, host) = (suite.tests(Set::Short)?, suite.tests(Set::All)?, suite.tests(Set::Host)?);
    let planned = |test: &console::Test| match () {
        () if initial.contains(test) && host.contains(test) => {
            bail!("{} {} is in the profiles vm-all and vm-host", test.binary, test.name)
        }
        () if short.contains(test) && !initial.contains(test) => {
            bail!("{} {} is in the profile vm, but not in vm-all", test.binary, test.name)
        }
        () if short.contains(test) || (all && initial.contains(test)) => Ok(Planned::Initial),
        () if all && host.contains(test) => Ok(Planned::Host),
        () if initial.contains(test) || host.contains(test) => {
            Ok(Planned::LeftOut("not in the profile vm: --all runs them"))
        }
        () => Ok(Planned::LeftOut("no guest has what they need: .config/nextest.toml says what")),
    };
    everything.into_iter().map(|test| planned(&test).map(|planned| (test, planned))).collect()
}

/// Makes the initial file system of every guest.
fn pack(scratch: &Scratch, suite: &Suite, plan: &Plan, objects: &[PathBuf], args: &Args) -> Result<PathBuf> {
    let tree = guest::first(scratch.join("tree"))?;
    for object in objects {
        tree.file(object)?;
    }
    suite.plant(&tree)?;
    let dir = image::static_dir(crate::build::Profile::Debug);
    let enter = script::enter(&variables(&dir.join("balancer")));
    let mut core = script::verify(&dir.join("verify-object"), objects) + &enter;
    if plan.values().any(|planned| *planned == Planned::Initial) {
        core.push_str(&suite.command(if args.all { Set::All } else { Set::Short }));
    }
    tree.write("/vm/core.sh", &core)?;
    if plan.values().any(|planned| *planned == Planned::Host) {
        tree.write("/vm/host.sh", &(script::host(workspace::root())? + &enter + &suite.command(Set::Host)))?;
    }
    let archive = scratch.join("initrd");
    tree.pack(&archive)?;
    Ok(archive)
}

/// Runs the suite on one kernel.
fn try_kernel(asked: &str, archive: &Path, objects: usize, args: &Args) -> Row {
    let boot = || {
        let guest = bring(asked)?;
        let start = Instant::now();
        let (console, broken) = guest::boot(&Boot {
            kernel: &guest.kernel,
            accelerator: &guest.accelerator,
            archive,
            reach: if args.all { Reach::Host } else { Reach::Nothing },
            minutes: args.minutes,
            out: &out(asked),
        })?;
        let seconds = start.elapsed().as_secs();
        let ran = Ran { accelerator: guest.accelerator, seconds, console, broken, objects };
        anyhow::Ok((guest.package, ran))
    };
    let (package, run) = match boot() {
        Ok((package, ran)) => (Some(package), Run::Ran(Box::new(ran))),
        // The kernels after it may do better, and the table shows both.
        Err(error) => (None, Run::NotRun(format!("{error:#}"))),
    };
    Row { asked: asked.to_owned(), package, run }
}

/// A kernel that can be booted.
struct Guest {
    package: kernels::Package,
    kernel: Packed,
    accelerator: Accelerator,
}

/// Brings a kernel, and finds out how to run it. What apt says of packages may be old, or nothing at all: it is brought anew
/// before this fails.
///
/// # Errors
/// Why it cannot be had.
fn bring(asked: &str) -> Result<Guest> {
    if interrupt::came() {
        bail!("the run was interrupted");
    }
    let find = || {
        let package = kernels::find(asked)?.map_err(Error::msg)?;
        let kernel = Packed::of(&package)?;
        anyhow::Ok((package, kernel))
    };
    static UPDATED: Once = Once::new();
    let found = find().or_else(|error| {
        let mut updated = false;
        UPDATED.call_once(|| updated = setup::update_lists().is_ok());
        if updated { find() } else { Err(error) }
    });
    let (package, kernel) = found?;
    let accelerator = Accelerator::find(&kernel)?;
    ui::say(format_args!("booting {} {}: {accelerator}", package.name, package.version));
    Ok(Guest { package, kernel, accelerator })
}

/// Runs a program of this machine under a kernel, as root, for so many minutes at most. What it leaves in the directory that
/// the variable `BALANCER_OUT` names comes to `out`, which is emptied first; what it says goes to standard error, and to
/// `console.log` there. [`variables`] are those that programs of `tests` want.
///
/// The kernel is named as on the command line of `vm`.
///
/// # Errors
/// When `kernel` is no name of a kernel, or the emulator cannot be started.
pub fn run_command(kernel: &str, command: &Command, out: &Path, minutes: u64) -> Result<Exit> {
    kernels::check(kernel)?;
    setup::packages(setup::VM)?;
    let guest = match bring(kernel) {
        Ok(guest) => guest,
        Err(error) => return Ok(Exit::NotRun(format!("{error:#}"))),
    };
    let scratch = Scratch::new("run")?;
    let tree = guest::first(scratch.join("tree"))?;
    let program = command.line.first().context("there is no program to run")?;
    let mut variables = command.variables.clone();
    variables.push(("BALANCER_OUT".into(), "/run/out".into()));
    tree.write(
        "/vm/host.sh",
        &(script::host(Path::new(program))? + &script::enter(&variables) + &script::run(command)),
    )?;
    let archive = scratch.join("initrd");
    tree.pack(&archive)?;
    let boot = Boot {
        kernel: &guest.kernel,
        accelerator: &guest.accelerator,
        archive: &archive,
        reach: Reach::Host,
        minutes,
        out,
    };
    let (console, broken) = guest::boot(&boot)?;
    Ok(match (broken, console.no_host, console.exit) {
        (_, Some(why), _) => Exit::NotRun(why),
        (Some(why), ..) => Exit::Broken(why),
        (None, None, Some(code)) => Exit::Code(code),
        (None, None, None) => Exit::Broken("the guest did not say how the program ended".into()),
    })
}

/// The command line's form of [`run_command`]: on every kernel in turn.
fn run_everywhere(kernels: &[&str], program: &Path, args: &Args) -> Result<ExitCode> {
    let program = workspace::root().join(program);
    let program =
        program.canonicalize().with_context(|| format!("there is no program {}", program.display()))?;
    let mut line = vec![program.display().to_string()];
    line.extend(args.rest.iter().cloned());
    let command = Command { line, variables: variables(&beside(&program)) };
    interrupt::outlive_children();
    let mut worst = 0;
    let mut lines = Vec::new();
    for kernel in kernels {
        let exit = if interrupt::came() {
            Exit::NotRun("the run was interrupted".into())
        } else {
            run_command(kernel, &command, &out(kernel), args.minutes)?
        };
        let (said, code) = match exit {
            Exit::Code(0) => ("passed: exit code 0".into(), 0),
            Exit::Code(code) => (format!("FAILED: exit code {code}"), 1),
            Exit::Broken(why) => (format!("FAILED: {why}"), 1),
            Exit::NotRun(why) => {
                (format!("not run: {why}"), if args.kernels.is_empty() { 0 } else { NOT_RUN })
            }
        };
        lines.push(format!("{kernel}: {said}"));
        worst = match (worst, code) {
            (1, _) | (_, 1) => 1,
            (worst, code) => worst.max(code),
        };
    }
    lines.iter().for_each(ui::print);
    Ok(ExitCode::from(worst))
}

/// The agent that a program starts: the one beside it, if there is one, as for programs of `tests`.
fn beside(program: &Path) -> PathBuf {
    let beside = program.with_file_name("balancer");
    if beside.is_file() { beside } else { workspace::target().join("debug/balancer") }
}

/// Prints the table and writes the document.
fn report(rows: &[Row], plan: &Plan) -> Result<()> {
    let path = directory().join("results.json");
    fs::write(&path, results::json(rows, plan, &image::revision()))
        .with_context(|| format!("cannot write {}", shown(&path)))?;
    ui::print(table::draw(rows, plan).trim_end());
    ui::say(format_args!("all of it is in {}", shown(&path)));
    Ok(())
}

/// A kernel that could not run fails the command only where it was named, or nothing ran at all.
fn code(rows: &[Row], plan: &Plan, by_default: bool) -> ExitCode {
    let count = |state| rows.iter().filter(|row| row.state(plan) == state).count();
    match (count(State::Failed), count(State::Passed), count(State::NotRun)) {
        (1.., ..) => ExitCode::FAILURE,
        (0, 0, _) => ExitCode::from(NOT_RUN),
        (0, _, 1..) if !by_default => ExitCode::from(NOT_RUN),
        _ => ExitCode::SUCCESS,
    }
}

/// Where everything of guests lies.
fn directory() -> PathBuf {
    workspace::target().join("vm")
}

/// Where what a guest left behind comes to.
fn out(kernel: &str) -> PathBuf {
    directory().join("out").join(kernel)
}

#[cfg(test)]
mod tests {
    use super::{
        results::tests::{GOOD, plan, row},
        *,
    };

    #[test]
    fn a_kernel_that_was_named_and_could_not_run_is_no_success() {
        let none = || Row { asked: "5.15".into(), package: None, run: Run::NotRun("no package".into()) };
        let is = |rows: &[Row], by_default, expected: u8| {
            let found = code(rows, &plan(), by_default);
            assert_eq!(format!("{found:?}"), format!("{:?}", ExitCode::from(expected)));
        };
        is(&[row(&GOOD, None)], false, 0);
        is(&[none(), row(&GOOD, None)], true, 0);
        is(&[none(), row(&GOOD, None)], false, 3);
        is(&[none()], true, 3);
        is(&[none(), row(&GOOD, None), row(&GOOD, Some("it died"))], true, 1);
        is(&[], true, 3);
    }
}
