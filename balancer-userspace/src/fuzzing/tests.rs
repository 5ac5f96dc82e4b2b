//! The committed corpus, and as many random inputs as a moment allows: what CI always runs.

use std::{fs, path::Path};

use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use proptest::{collection::vec, prelude::*};

/// Inputs in `fuzz/corpus/TARGET`.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files: Vec<_> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 5, "{} has too few files", dir.display());
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// The same inputs each time: what fails in CI fails here.
fn random(count: u32, longest: usize, check: impl Fn(&[u8])) {
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&vec(any::<u8>(), 0..longest), |data| {
        check(&data);
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn sequences_of_events() {
    corpus("resolve").iter().for_each(|data| super::resolve(data));
    random(300, 3_000, super::resolve);
}

#[test]
fn texts_of_manifests() {
    corpus("manifests").iter().for_each(|data| super::manifests(data));
    random(500, 400, super::manifests);
}

#[test]
fn texts_of_annotations() {
    corpus("annotations").iter().for_each(|data| super::annotations(data));
    random(300, 200, super::annotations);
}

#[test]
fn texts_of_configuration() {
    corpus("config").iter().for_each(|data| super::config(data));
    random(100, 100, super::config);
}

#[test]
fn answers_of_the_kernel() {
    corpus("netlink").iter().for_each(|data| super::netlink(data));
    random(1_000, 600, super::netlink);
}

#[test]
fn values_of_the_maps() {
    corpus("records").iter().for_each(|data| super::records(data));
    random(1_000, 500, super::records);
}

#[test]
fn sequences_of_connects() {
    corpus("select").iter().for_each(|data| super::select(data));
    random(40, 1_000, super::select);
}

/// What is in `fuzz/` is what is tried above.
#[test]
fn every_target_has_a_corpus() {
    let names = |dir: &str| -> Vec<String> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(dir);
        let paths = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        let mut names: Vec<_> =
            paths.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    let tried = ["annotations", "config", "manifests", "netlink", "records", "resolve", "select"];
    assert_eq!(names("fuzz_targets"), tried);
    assert_eq!(names("corpus"), tried);
}

/// A corpus is for every run of the tests: few files, and small ones.
#[test]
fn the_corpus_is_small() {
    for target in ["annotations", "config", "manifests", "netlink", "records", "resolve", "select"] {
        let files = corpus(target);
        assert!(files.len() <= 80, "{target} has {} files: minimise it (-merge=1)", files.len());
        assert!(files.iter().all(|file| file.len() <= 16 << 10), "{target} has a file of more than 16 KiB");
    }
}

/// Every byte of a file in turn is another one, and every beginning of it is all there is.
#[test]
fn texts_that_were_damaged() {
    for data in corpus("manifests").iter().filter(|data| data.len() < 1_500).take(6) {
        for at in (0..data.len()).step_by(7) {
            super::manifests(&data[..at]);
            for byte in [b'\0', b'-', b':', b'9', b'"', 0xff] {
                let mut damaged = data.clone();
                damaged[at] = byte;
                super::manifests(&damaged);
            }
        }
    }
}
