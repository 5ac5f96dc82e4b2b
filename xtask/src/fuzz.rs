//! `cargo xtask fuzz`: the fuzz targets of `fuzz/`, built with the stable compiler and run by libFuzzer.
//!
//! What cargo-fuzz would do, for this one purpose and without a nightly compiler: coverage comes from
//! LLVM's own pass. There is no address sanitizer; the code that is fuzzed has no `unsafe`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    build_ebpf,
    cmd::{Cmd, Stream},
    toolchain, ui, workspace,
};

/// Options of `fuzz`.
#[derive(clap::Args)]
pub struct Args {
    /// What to fuzz
    target: Choice,
    /// For how long, each
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Passed on to libFuzzer: an input to try again, or flags such as -jobs=2
    #[arg(last = true)]
    args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// All of them, one after the other, with a table in the end
    All,
    /// Sequences of events: an index that follows them, beside a fresh one
    Resolve,
    /// Texts of manifest files, read and resolved
    Manifests,
    /// Annotations of every kind of object
    Annotations,
    /// Flags, files of flags, kubeconfigs, and values
    Config,
    /// What the kernel answers to sock_diag and to iterators
    Netlink,
    /// Values of the maps, as commands and metrics show them
    Records,
    /// Operations on the tables: the selection, beside a model of what it promises
    Select,
}

impl Choice {
    /// The targets that are meant, by the names of their files.
    fn names(self) -> Vec<String> {
        let name = |choice: &Self| choice.to_possible_value().map(|value| value.get_name().to_owned());
        match self {
            Self::All => {
                Self::value_variants().iter().filter(|one| **one != Self::All).filter_map(name).collect()
            }
            one => name(&one).into_iter().collect(),
        }
    }
}

/// What makes a program report its coverage to libFuzzer.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        -Ccodegen-units=1";

/// What libFuzzer says in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: Option<u64>,
    coverage: Option<u64>,
    features: Option<u64>,
    corpus: Option<u64>,
}

impl Figures {
    /// Takes in a line of libFuzzer's.
    fn see(&mut self, line: &str) {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.executions = count.trim().parse().ok();
        }
        // `#4096 pulse  cov: 812 ft: 2409 corp: 95/31Kb lim: 4096 exec/s: 1024 rss: 98Mb`
        let mut words = line.split_whitespace();
        if line.starts_with('#') {
            while let Some(word) = words.next() {
                let slot = match word {
                    "cov:" => &mut self.coverage,
                    "ft:" => &mut self.features,
                    "corp:" => &mut self.corpus,
                    _ => continue,
                };
                let number = words.next().and_then(|word| word.split('/').next()?.parse().ok());
                *slot = number.or(*slot);
            }
        }
    }
}

/// How one target went.
#[derive(Debug)]
struct Row {
    name: String,
    figures: Figures,
    /// Inputs that failed, by file.
    failures: Vec<PathBuf>,
    /// Whether libFuzzer itself was content.
    content: bool,
}

impl Row {
    /// It ran, and nothing failed.
    fn is_good(&self) -> bool {
        self.content && self.failures.is_empty() && self.figures.executions.is_some_and(|count| count > 0)
    }

    fn line(&self) -> String {
        let Figures { executions, coverage, features, corpus } = &self.figures;
        let number =
            |number: &Option<u64>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let outcome = match (self.failures.len(), self.is_good()) {
            (0, true) => "ok".to_owned(),
            (0, false) => "BROKEN OFF".to_owned(),
            (count, _) => format!("{count} FAILED"),
        };
        format!(
            "{:<12} {:>10} {:>9} {:>9} {:>7}  {outcome}",
            self.name,
            number(executions),
            number(coverage),
            number(features),
            number(corpus)
        )
    }
}

/// Builds the targets and runs them. New inputs stay below `target/fuzz`; what fails is named, and can be given
/// again behind `--`.
pub fn run(args: &Args) -> Result<ExitCode> {
    let names = args.target.names();
    if args.target == Choice::All && args.args.iter().any(|arg| !arg.starts_with('-')) {
        bail!("an input to try again belongs to one target: name it instead of `all`");
    }
    build(&names)?;
    let mut rows = Vec::new();
    for name in &names {
        rows.push(run_one(name, args)?);
    }
    ui::print(format_args!(
        "{:<12} {:>10} {:>9} {:>9} {:>7}  outcome",
        "target", "executions", "coverage", "features", "corpus"
    ));
    for row in &rows {
        ui::print(row.line());
        for failure in &row.failures {
            let path = workspace::shown(failure);
            ui::print(format_args!("  again: cargo xtask fuzz {} -- {path}", row.name));
        }
    }
    Ok(if rows.iter().all(Row::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(names: &[String]) -> Result<()> {
    build_ebpf::build()?;
    let mut cargo = toolchain::cargo("build")?
        .args(["--manifest-path", "fuzz/Cargo.toml", "--locked", "--target", &host()])
        .arg("--target-dir")
        .arg(directory())
        .quiet_env("BALANCER_EBPF_OBJECT", workspace::object())
        // With --target the flags are not those of build scripts and macros.
        .env("RUSTFLAGS", COVERAGE);
    for name in names {
        cargo = cargo.args(["--bin", name]);
    }
    cargo.run()
}

fn run_one(name: &str, args: &Args) -> Result<Row> {
    let dir = directory();
    let found = dir.join("found").join(name);
    let failures = dir.join("failures").join(name);
    for dir in [&found, &failures] {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", workspace::shown(dir)))?;
    }
    let before = files(&failures)?;
    let mut command = Cmd::new(dir.join(host()).join("debug").join(name))
        .arg(format!("-artifact_prefix={}/", failures.display()))
        .args(["-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]);
    let again = args.args.iter().any(|arg| !arg.starts_with('-'));
    if !again {
        command = command
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(&found)
            .arg(workspace::root().join("fuzz/corpus").join(name));
    }
    let mut figures = Figures::default();
    let status = command.args(&args.args).tee(Stream::Stderr, |line| figures.see(line))?;
    let failures = files(&failures)?.into_iter().filter(|path| !before.contains(path)).collect();
    if again && status.success() {
        figures.executions = figures.executions.or(Some(1));
    }
    Ok(Row { name: name.to_owned(), figures, failures, content: status.success() })
}

fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", workspace::shown(dir)))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

fn directory() -> PathBuf {
    workspace::target().join("fuzz")
}

fn host() -> String {
    format!("{}-unknown-linux-gnu", env::consts::ARCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_a_file_and_every_file_is_a_target() {
        let mut names = Choice::All.names();
        names.sort();
        let files = files(&workspace::root().join("fuzz/fuzz_targets")).unwrap();
        let stems: Vec<_> =
            files.iter().map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        assert_eq!(names, stems);
        assert_eq!(Choice::Select.names(), ["select"]);
    }

    #[test]
    fn the_last_figures_of_libfuzzer_count() {
        let mut figures = Figures::default();
        for line in [
            "INFO: seed corpus: files: 12 min: 1b max: 440b total: 2Kb rss: 41Mb",
            "#13\tINITED cov: 700 ft: 1200 corp: 11/1024b exec/s: 0 rss: 90Mb",
            "#4096\tpulse  cov: 812 ft: 2409 corp: 95/31Kb lim: 4096 exec/s: 1024 rss: 98Mb",
            "#5000\tDONE   cov: 813 ft: 2410 corp: 96/31Kb lim: 4096 exec/s: 1000 rss: 98Mb",
            "stat::number_of_executed_units: 5000",
        ] {
            figures.see(line);
        }
        let expect =
            Figures { executions: Some(5_000), coverage: Some(813), features: Some(2_410), corpus: Some(96) };
        assert_eq!(figures, expect);
    }

    #[test]
    fn only_a_target_that_ran_and_failed_nothing_is_good() {
        let figures = Figures { executions: Some(1), ..Figures::default() };
        let row = |figures: &Figures, failures: &[&str], content| Row {
            name: "select".into(),
            figures: figures.clone(),
            failures: failures.iter().map(PathBuf::from).collect(),
            content,
        };
        assert!(row(&figures, &[], true).is_good());
        for bad in [
            row(&Figures::default(), &[], true),
            row(&figures, &["crash-1"], true),
            row(&figures, &[], false),
        ] {
            assert!(!bad.is_good(), "{}", bad.line());
            assert!(!bad.line().ends_with("ok"), "{}", bad.line());
        }
    }
}
