//! The package's own programs, run from outside: how they end, and what they leave behind.

use std::{
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::{agent, kernel::require_kernel, topology::remains_of};

/// Runs a program to its end, with the agent that tests use and without input: how it ended, and what of its making is still
/// there. `meanwhile` runs once it has begun.
///
/// # Errors
/// When it or the agent's binary is not there.
///
/// # Panics
/// Where [`require_kernel`] does.
#[track_caller]
pub fn run(mut command: Command, meanwhile: impl FnOnce(&Child)) -> Result<(ExitStatus, Vec<PathBuf>)> {
    require_kernel();
    command.env("BALANCER_BIN", agent::binary()?).stdin(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("{:?}", command.get_program()))?;
    meanwhile(&child);
    let status = child.wait().context("waiting for it")?;
    Ok((status, remains_of(child.id())?))
}

/// What Ctrl-C sends.
///
/// # Errors
/// When it has ended.
pub fn interrupt(child: &Child) -> Result<()> {
    kill_process(Pid::from_child(child), Signal::INT).context("SIGINT")
}
