//! The agent of a soak: killed, stopped, told to end, and started again as one build or the other.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use balancer_userspace::cli::exit::Exit;
use rustix::process::Signal;

use super::world::World;
use crate::{
    agent::{Agent, AgentOptions, Usage, binary},
    topology::{Scratch, Topology},
};

/// The lease. Short, so that some outages of the agent outlast it.
pub const LEASE: Duration = Duration::from_secs(5);

/// Sizes: room for all that a soak dials, and for little more.
pub const SIZES: [(&str, u32); 3] =
    [("--max-services", 40), ("--max-backends", 360), ("--max-slots", 32_768)];

/// Two builds that share their pins.
pub struct Agents<'t> {
    builds: [Agent<'t>; 2],
    current: usize,
    running: bool,
    stopped: bool,
    /// How often one was started.
    pub starts: u64,
    pins: Scratch,
    _copies: Scratch,
}

impl<'t> Agents<'t> {
    /// Starts the first build. Without another binary the second is the same under another name.
    pub fn start(topology: &'t Topology, world: &World<'_>, other: Option<PathBuf>) -> Result<Self> {
        let (pins, copies) = (Scratch::pins(), Scratch::files()?);
        // Copies: a build may put others in place while a soak runs.
        let copy = |of: &Path, name: &str| {
            let path = copies.path().join(name);
            std::fs::copy(of, &path).with_context(|| format!("a copy of {}", of.display()))?;
            anyhow::Ok(path)
        };
        let first = binary()?;
        let second = copy(other.as_deref().unwrap_or(&first), "second")?;
        let first = copy(&first, "first")?;
        let make = |binary: PathBuf| {
            let mut arguments: Vec<String> =
                ["--api-timeout", "2s", "--relist", "10s"].iter().map(|&text| text.to_owned()).collect();
            arguments.extend(SIZES.iter().flat_map(|(flag, size)| [(*flag).to_owned(), size.to_string()]));
            let options = AgentOptions {
                binary: Some(binary),
                lease: Some(LEASE),
                pins: Some(pins.path().to_owned()),
                arguments,
                ..AgentOptions::default()
            };
            Agent::of_cluster(topology, &world.kubeconfig, options)
        };
        let builds = [make(first)?, make(second)?];
        let mut agents =
            Self { builds, current: 0, running: false, stopped: false, starts: 0, pins, _copies: copies };
        agents.spawn()?;
        agents.builds[0].wait_ready()?;
        Ok(agents)
    }

    /// Where it pins.
    pub fn pins(&self) -> PathBuf {
        self.pins.path().to_owned()
    }

    /// The one that runs, or ran last.
    pub fn current(&mut self) -> &mut Agent<'t> {
        &mut self.builds[self.current]
    }

    /// Whether one runs.
    pub const fn running(&self) -> bool {
        self.running
    }

    /// Starts the current build, if none runs.
    pub fn spawn(&mut self) -> Result<()> {
        if !self.running {
            self.builds[self.current].spawn()?;
            self.running = true;
            self.starts += 1;
        }
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.resume()?;
        if std::mem::take(&mut self.running) {
            self.current().kill()?;
        }
        Ok(())
    }

    /// SIGTERM; the other build will be started next.
    pub fn end(&mut self) -> Result<()> {
        self.resume()?;
        if std::mem::take(&mut self.running) {
            let status = self.current().terminate()?;
            // One that has only just begun does not listen yet.
            let early = status.signal() == Some(libc::SIGTERM);
            ensure!(status.success() || early, "the agent ended with {status} when it was told to");
        }
        self.current = 1 - self.current;
        Ok(())
    }

    /// SIGSTOP.
    pub fn stop(&mut self) -> Result<()> {
        if self.running && !self.stopped {
            self.current().process()?.signal(Signal::STOP)?;
            self.stopped = true;
        }
        Ok(())
    }

    /// SIGCONT.
    pub fn resume(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stopped) {
            self.current().process()?.signal(Signal::CONT)?;
        }
        Ok(())
    }

    /// Whether it was stopped and not told to go on.
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Starts the other build while the first runs: it must say so and end. Of two that start at once either may be the first: nothing
    /// is tried before the first has its pins, which it has once it answers at all.
    pub fn second(&mut self) -> Result<()> {
        if !self.running || self.stopped || self.current().http("/livez").is_err() {
            return Ok(());
        }
        let other = &mut self.builds[1 - self.current];
        other.spawn()?;
        let status = other.process()?.wait(Duration::from_secs(20)).context("a second agent")?;
        ensure!(status.code() == Some(Exit::AlreadyRunning as i32), "a second agent ended with {status}");
        Ok(())
    }

    /// Fails if it has ended by itself.
    pub fn runs(&mut self) -> Result<()> {
        if self.running {
            let status = self.current().process()?.exited()?;
            ensure!(status.is_none(), "the agent ended by itself: {status:?}");
        }
        Ok(())
    }

    /// What it costs: processor time, memory and descriptors, and its threads.
    pub fn usage(&mut self) -> Result<(Usage, usize)> {
        let pid = self.current().process()?.id();
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).context("threads")?.count();
        Ok((Usage::of(pid)?, threads))
    }

    /// What both have logged.
    pub fn logs(&self) -> [String; 2] {
        [self.builds[0].log(), self.builds[1].log()]
    }
}
