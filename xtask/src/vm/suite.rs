//! The integration tests, statically linked: they run on nothing but a kernel.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{console::Test, tree::Tree};
use crate::{
    build::Profile,
    cmd::Cmd,
    image,
    toolchain::{self, cargo},
    workspace::{self, shown},
};

/// The package that holds them.
const PACKAGE: &str = "balancer-tests";

/// Programs of this machine that they run, or that are worth having in a guest. What a kernel has no use for is missing.
const PROGRAMS: [&str; 18] = [
    // That of busybox would run busybox's own `ip`.
    "sh",
    "ip",
    "ss",
    "nstat",
    "iptables",
    "iptables-restore",
    "iptables-nft",
    "iptables-nft-restore",
    "iptables-legacy",
    "iptables-legacy-restore",
    "ip6tables",
    "nft",
    "ipvsadm",
    "curl",
    "unshare",
    "nsenter",
    "setpriv",
    "ps",
];

/// Lists the files that tests read.
const FILES: [&str; 8] =
    ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "deploy", "tests", ".config"];

/// Where iptables looks for its matches and targets.
const XTABLES: [&str; 2] = ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib64/xtables"];

/// A profile of `.config/nextest.toml`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Some tests of each kind, which take little time in emulation.
    Short,
    /// Every test that needs no more than the initial file system.
    All,
    /// Those that need programs of this machine.
    Host,
    /// Everything.
    Everything,
}

impl Set {
    /// Its name there.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "vm",
            Self::All => "vm-all",
            Self::Host => "vm-host",
            Self::Everything => "everything",
        }
    }
}

/// The tests, built.
#[derive(Debug)]
pub struct Suite {
    /// nextest's list of their binaries.
    binaries: PathBuf,
    /// `cargo metadata`.
    metadata: PathBuf,
    /// The binaries.
    files: Vec<PathBuf>,
    /// What chooses among them.
    filter: Vec<String>,
}

impl Suite {
    /// Builds them, and writes into a directory what nextest needs to know where there is no cargo.
    ///
    /// # Errors
    /// When something does not compile.
    pub fn build(dir: &Path, filter: &[String]) -> Result<Self> {
        image::binary(Profile::Debug)?;
        let list = image::static_cargo(&["nextest", "list"])?.args([
            "--package",
            PACKAGE,
            "--list-type",
            "binaries-only",
            "--message-format",
            "json",
        ]);
        // Built before, where one can see it.
        image::static_cargo(&["build"])?.args(["--package", PACKAGE, "--tests", "--bins"]).run()?;
        let list = list.output()?;
        let metadata = cargo("metadata")?.args(["--format-version", "1"]).output()?;
        let suite = Self {
            binaries: dir.join("binaries.json"),
            metadata: dir.join("metadata.json"),
            files: binaries(&list)?,
            filter: filter.to_vec(),
        };
        for (path, text) in [(&suite.binaries, list), (&suite.metadata, metadata)] {
            fs::write(path, text).with_context(|| format!("cannot write {}", shown(path)))?;
        }
        Ok(suite)
    }

    /// The tests of a profile, as far as the person asked for them.
    ///
    /// # Errors
    /// When nextest does not understand what the person asked for.
    pub fn tests(&self, profile: Set) -> Result<BTreeSet<Test>> {
        let list = image::static_cargo(&["nextest", "list"])?
            .args(["--package", PACKAGE, "--profile", profile.name(), "--message-format", "json"])
            .args(&self.filter)
            .output()?;
        chosen(&list)
    }

    /// Puts them where they lie on this machine, with the programs that they run.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn plant(&self, tree: &Tree) -> Result<()> {
        let root = workspace::root();
        for file in Cmd::new("git").args(FILES).output()?.split('\0') {
            if !file.is_empty() && root.join(file).is_file() {
                tree.file(&root.join(file))?;
            }
        }
        tree.file(&root.join("Cargo.toml"))?;
        let balancer = image::static_dir(Profile::Debug).join("balancer");
        for file in self.files.iter().chain([&self.binaries, &self.metadata, &balancer]) {
            tree.file(file)?;
        }
        let search = toolchain::path()?;
        tree.program("cargo-nextest", &search)?;
        for name in PROGRAMS {
            tree.program(name, &search)?;
        }
        for dir in XTABLES.map(Path::new).into_iter().filter(|dir| dir.is_dir()) {
            for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
                tree.file(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// The command, for a shell in a guest, that runs a profile of them.
    pub fn command(&self, profile: Set) -> String {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
        let filter: Vec<_> = self.filter.iter().map(|word| quoted(word)).collect();
        // Through a pipe: to a terminal, even a serial one, nextest draws instead of writing lines.
        format!(
            "cargo-nextest nextest run --binaries-metadata {} --cargo-metadata {} --profile {} --no-fail-fast \
             --no-tests=pass {} 2>&1 </dev/null | cat",
            quoted(&self.binaries.display().to_string()),
            quoted(&self.metadata.display().to_string()),
            profile.name(),
            filter.join(" ")
        )
    }
}

/// The files of the test binaries in nextest's list, and of the programs that tests start.
fn binaries(list: &str) -> Result<Vec<PathBuf>> {
    let list: Value = serde_json::from_str(list).context("nextest's list of binaries")?;
    let all = list["rust-binaries"].as_object().context("nextest's list names no binaries")?;
    let tests = all.values().filter(|binary| binary["kind"] == "test");
    let mut files: Vec<_> =
        tests.filter_map(|binary| binary["binary-path"].as_str().map(PathBuf::from)).collect();
    let meta = &list["rust-build-meta"];
    let target = Path::new(meta["target-directory"].as_str().context("nextest's list names no directory")?);
    let programs = meta["non-test-binaries"].as_object().into_iter().flatten();
    let programs = programs.flat_map(|(_, programs)| programs.as_array().into_iter().flatten());
    files.extend(programs.filter_map(|program| Some(target.join(program["path"].as_str()?))));
    Ok(files)
}

/// The tests that a list says would run: integration tests only.
fn chosen(list: &str) -> Result<BTreeSet<Test>> {
    let list: Value = serde_json::from_str(list).context("nextest's list of tests")?;
    let suites = list["rust-suites"].as_object().context("nextest's list names no tests")?;
    let mut tests = BTreeSet::new();
    for (binary, suite) in suites.iter().filter(|(_, suite)| suite["kind"] == "test") {
        let cases = suite["testcases"].as_object().into_iter().flatten();
        for (name, case) in cases {
            if case["filter-match"]["status"] == "matches" && case["ignored"] == false {
                tests.insert(Test { binary: binary.clone(), name: name.clone() });
            }
        }
    }
    Ok(tests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_integration_tests_that_match_are_chosen() {
        let list = r#"{"rust-suites": {
            "t::tcp": {"kind": "test", "testcases": {
                "one": {"ignored": false, "filter-match": {"status": "matches"}},
                "two": {"ignored": false, "filter-match": {"status": "mismatch", "reason": "default-filter"}},
                "three": {"ignored": true, "filter-match": {"status": "matches"}}}},
            "t::udp": {"kind": "test", "status": "skipped", "testcases": {}},
            "t": {"kind": "lib", "testcases": {"unit": {"ignored": false, "filter-match": {"status": "matches"}}}}}}"#;
        let only = Test { binary: "t::tcp".into(), name: "one".into() };
        assert_eq!(chosen(list).unwrap(), BTreeSet::from([only]));
        assert!(chosen("{}").is_err());
    }

    #[test]
    fn binaries_of_tests_and_the_programs_that_they_start_are_found() {
        let list = r#"{"rust-build-meta": {"target-directory": "/t", "non-test-binaries": {"p": [{"path": "musl/peer"}]}},
            "rust-binaries": {"t::tcp": {"kind": "test", "binary-path": "/t/tcp-1"},
            "t": {"kind": "lib", "binary-path": "/t/t-1"}}}"#;
        assert_eq!(binaries(list).unwrap(), ["/t/tcp-1", "/t/musl/peer"].map(PathBuf::from));
    }
}
