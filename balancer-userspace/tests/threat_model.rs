//! Every test that THREATMODEL.md names is there.

use std::{fs, path::Path};

/// The tests that a text names: after a file in backticks, functions in backticks, up to the next cell or file.
fn named(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut file: Option<&str> = None;
    for (index, part) in text.split('`').enumerate() {
        // Between backticks is every second part.
        if index % 2 == 0 {
            file = file.filter(|_| !part.contains('|') && !part.contains("\n\n"));
        } else if part.ends_with(".rs") {
            file = Some(part);
        } else if let Some(file) = file {
            found.push((file.to_owned(), part.to_owned()));
        }
    }
    found
}

#[test]
fn every_test_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("THREATMODEL.md")).unwrap();
    let named = named(&text);
    assert!(named.len() >= 50, "only {} tests are named", named.len());
    let mut missing = Vec::new();
    for (file, function) in &named {
        let source = fs::read_to_string(root.join(file)).unwrap_or_default();
        // A test, or a case of a macro of tests (`name "file"`).
        let case = format!("{function} \"");
        let is_there = source.contains(&format!("fn {function}("))
            || source.lines().any(|line| line.trim_start().starts_with(&case));
        if !is_there {
            missing.push(format!("{file} {function}"));
        }
    }
    assert!(missing.is_empty(), "THREATMODEL.md names tests that are not there:\n{}", missing.join("\n"));
    // Each line that says what is checked says what shows it.
    for line in text.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 2) {
        let last = line.rsplit(" | ").next().unwrap();
        let is_head = last.starts_with("shown by") || last.starts_with("harm") || line.starts_with("| A");
        assert!(is_head || last.contains(".rs`") || last.contains("cargo xtask"), "nothing shows: {line}");
    }
}

#[test]
fn names_are_read_with_their_files() {
    let text = "| x | a `b.c` | `dir/a.rs` `one_test`, `two_tests`; `dir/b.rs` `three_tests` |\n| `not_a_test` | y |\n";
    let expect = [("dir/a.rs", "one_test"), ("dir/a.rs", "two_tests"), ("dir/b.rs", "three_tests")];
    assert_eq!(named(text), expect.map(|(file, function)| (file.to_owned(), function.to_owned())));
}
