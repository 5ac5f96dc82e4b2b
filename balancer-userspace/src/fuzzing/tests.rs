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
