//! `cargo xtask test`: everything that can fail, and an honest count at the end.

use std::{path::Path, process::ExitCode};

use anyhow::{Result, bail};

use crate::{
    build::{self, Profile},
    build_ebpf::{self, Loads},
    clients,
    cmd::{Cmd, Stream},
    image, interrupt, setup,
    summary::{self, Summary},
    toolchain::cargo,
    ui, workspace,
};

/// The package whose integration tests need root and a kernel that loads programs; `.config/nextest.toml`
/// says the same.
const KERNEL_TESTS: &str = "balancer-tests";

/// Says where a real `kube-apiserver` and `etcd` are, and perhaps a `kube-proxy`.
const ASSETS: &str = "KUBEBUILDER_ASSETS";

/// Options of `test`.
#[derive(clap::Args)]
pub struct Args {
    /// Leave out the tests that need root and eBPF, and do not fail for it
    #[arg(long)]
    unprivileged: bool,
    /// Passed to `cargo nextest run`: names to filter by, or its options. Doc tests do not run then
    #[arg(last = true, value_name = "NEXTEST ARGS")]
    nextest: Vec<String>,
}

/// Runs the tests. The last line on standard output is the count of all of them; tests that could not
/// run here count as skipped, and fail the command unless `--unprivileged` was given.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut lacks = if args.unprivileged { vec![setup::Lack::NotAskedFor] } else { setup::lacks() };
    setup::toolchain()?;
    if lacks.is_empty() {
        setup::packages(setup::TEST)?;
        clients::bring_short();
    }
    setup::nextest()?;
    let objects = build_ebpf::build()?;
    let binary = build::host(Profile::Debug)?;
    if lacks.is_empty() {
        for object in &objects {
            if build_ebpf::verify_loads(object)? == Loads::CannotTell {
                lacks = vec![setup::Lack::Bpf];
                break;
            }
        }
    }
    let kernel = lacks.is_empty();
    // What is released is optimised; that takes longer to build than all tests to run.
    let image = if kernel { Some(image::build(Profile::Debug)?) } else { None };
    interrupt::outlive_children();

    let environment = |cmd: Cmd| {
        let cmd =
            cmd.quiet_env("BALANCER_BIN", &binary).quiet_env("BALANCER_EBPF_OBJECT", workspace::object());
        match &image {
            Some(image) => cmd.quiet_env("BALANCER_IMAGE", image),
            None => cmd,
        }
    };
    let mut total = nextest(args, kernel, environment)?;
    if args.nextest.is_empty() {
        total += doc_tests()?;
    } else {
        ui::say("doc tests were left out: arguments for nextest do not apply to them");
    }
    let left_out = if kernel { Vec::new() } else { kernel_tests(args) };
    if total.ran() == 0 && left_out.is_empty() {
        bail!("no test matches {:?}", args.nextest.join(" "));
    }
    if !left_out.is_empty() {
        tell_left_out(&left_out, &lacks);
        // nextest does not count the tests of binaries that a profile leaves out.
        total.skipped += left_out.len() as u64;
    }
    if kernel && args.nextest.is_empty() {
        tell_lacking(at_hand());
        tell_not_run(
            &format!("binary_id({KERNEL_TESTS}::ipvs)"),
            "a kernel with IPVS",
            "they are tried under those that have it: `cargo xtask vm`",
        );
    }
    let code = match (total.failed, left_out.is_empty() || args.unprivileged) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    };
    ui::print(total);
    Ok(code)
}

/// Unit, property and golden tests, then (nextest gives them a lower priority) those in the kernel.
fn nextest(args: &Args, kernel: bool, environment: impl Fn(Cmd) -> Cmd) -> Result<Summary> {
    let mut cmd =
        environment(workspace_wide("nextest", &["run"])?).args(["--no-fail-fast", "--no-tests=pass"]);
    let profile = if kernel { at_hand().profile() } else { Some("unprivileged") };
    if let Some(profile) = profile {
        cmd = cmd.args(["--profile", profile]);
    }
    if ui::colour() {
        cmd = cmd.args(["--color", "always"]);
    }
    let cmd = cmd.args(&args.nextest);
    let line = cmd.line();
    let mut found = None;
    let status = cmd.tee(Stream::Stderr, |line| found = summary::of_nextest(line).or(found))?;
    let Some(summary) = found else {
        crate::cmd::check(status, &line)?;
        bail!("`{line}` ended without a summary");
    };
    if !status.success() && summary.failed == 0 {
        crate::cmd::check(status, &line)?;
    }
    Ok(summary)
}

fn doc_tests() -> Result<Summary> {
    let cmd = workspace_wide("test", &["--doc"])?.arg("--no-fail-fast");
    let line = cmd.line();
    let mut total = Summary::default();
    let status = cmd.tee(Stream::Stdout, |line| {
        if let Some(summary) = summary::of_libtest(line) {
            total += summary;
        }
    })?;
    if !status.success() && total.failed == 0 {
        crate::cmd::check(status, &line)?;
    }
    Ok(total)
}

/// The names of the tests that need the kernel, as far as the person asked for them.
fn kernel_tests(args: &Args) -> Vec<String> {
    let list = |filter: &[String]| {
        let cmd = workspace_wide("nextest", &["list"]).ok()?;
        let list = cmd.args(["--message-format", "human", "--color", "never"]).args(filter).output().ok()?;
        Some(summary::integration_tests(&list, KERNEL_TESTS))
    };
    // Options that only `run` knows make the first attempt fail.
    list(&args.nextest).or_else(|| list(&[])).unwrap_or_default()
}

/// How much of a real cluster is at hand.
#[derive(Clone, Copy)]
enum Cluster {
    None,
    ApiServer,
    KubeProxy,
}

impl Cluster {
    /// The profile of `.config/nextest.toml` that leaves out what cannot run.
    const fn profile(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::ApiServer => Some("cluster"),
            Self::KubeProxy => Some("kube-proxy"),
        }
    }
}

fn at_hand() -> Cluster {
    match std::env::var_os(ASSETS).filter(|assets| !assets.is_empty()) {
        None => Cluster::None,
        Some(assets) if Path::new(&assets).join("kube-proxy").is_file() => Cluster::KubeProxy,
        Some(_) => Cluster::ApiServer,
    }
}

/// The tests that need more of a cluster are counted as skipped; this says which they are, and why.
fn tell_lacking(at_hand: Cluster) {
    let real = format!("binary_id({KERNEL_TESTS}::kubernetes) & test(/(^|::)real::/)");
    let proxy = format!("binary_id({KERNEL_TESTS}::kube_proxy)");
    match at_hand {
        Cluster::None => {
            let why = format!("{ASSETS} is not set: name a directory that holds them");
            tell_not_run(&real, "a real kube-apiserver and etcd", &why);
            tell_not_run(&proxy, "a real kube-apiserver, etcd and kube-proxy", &why);
        }
        Cluster::ApiServer => {
            tell_not_run(&proxy, "a real kube-proxy", &format!("the directory of {ASSETS} holds none"));
        }
        Cluster::KubeProxy => {}
    }
}

fn tell_not_run(filter: &str, need: &str, why: &str) {
    let list = workspace_wide("nextest", &["list"]).and_then(|cmd| {
        cmd.args(["--profile", "everything", "--message-format", "human", "--color", "never"])
            .args(["-E", filter])
            .output()
    });
    let names = summary::integration_tests(&list.unwrap_or_default(), KERNEL_TESTS);
    ui::warn(format_args!("{} tests need {need}, and did not run:", names.len()));
    for name in names {
        ui::relay(&format!("    {name}"));
    }
    ui::warn(format_args!("they did not run because {why}"));
}

fn tell_left_out(names: &[String], lacks: &[setup::Lack]) {
    ui::warn(format_args!(
        "{} tests need root and a kernel that loads eBPF programs, and did not run:",
        names.len()
    ));
    for name in names {
        ui::relay(&format!("    {name}"));
    }
    for lack in lacks {
        ui::warn(format_args!("they did not run because {lack}"));
    }
}

/// A cargo command on everything but the eBPF crate, which builds for its own target only. The choice of
/// packages is the same everywhere, so that cargo resolves the same features and builds nothing twice.
fn workspace_wide(subcommand: &str, then: &[&str]) -> Result<Cmd> {
    Ok(cargo(subcommand)?.args(then).args(["--workspace", "--exclude", "balancer-ebpf"]))
}
