//! `cargo xtask ci`: what has to pass before a change goes in.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lint, test};

/// Lints, then tests.
pub fn run(args: &test::Args) -> Result<ExitCode> {
    lint::run()?;
    test::run(args)
}
