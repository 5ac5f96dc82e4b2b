//! What a process costs.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};

/// A reading of `/proc/PID`.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Resident memory in bytes (`VmRSS`).
    pub rss: u64,
    /// Open descriptors.
    pub fds: usize,
}

impl Usage {
    /// Reads it now.
    pub fn of(pid: u32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
        // The name in parentheses may hold anything; user and system time are the 12th and 13th field after it.
        let fields: Vec<&str> = stat.rsplit_once(')').context("stat")?.1.split_ascii_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).context("stat");
        let per_second = rustix::param::clock_ticks_per_second();
        let cpu = Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / per_second);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("status")?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: u64 = rss.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).context("fd")?.count();
        Ok(Self { cpu, rss: kib * 1024, fds })
    }
}
