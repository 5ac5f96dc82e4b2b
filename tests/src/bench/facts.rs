//! What the machine is: figures mean nothing without it.

use std::{fs, thread};

use serde::{Deserialize, Serialize};

use super::baseline::Machine;

/// The machine, and how busy it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -m`.
    pub architecture: String,
    /// Model of the first CPU.
    pub cpu: String,
    /// CPUs that may be used.
    pub cpus: usize,
    /// Whether this is a virtual machine.
    pub virtual_machine: bool,
    /// How the first CPU's frequency is chosen, if that can be told.
    pub governor: Option<String>,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Whether programs are compiled to machine code (`net.core.bpf_jit_enable`).
    pub jit: Option<String>,
    /// Load averages over 1, 5 and 15 minutes when the benchmark began.
    pub load_before: String,
    /// The same when it ended.
    pub load_after: String,
    /// `release`, or `debug`: then the agent is slow.
    pub build: String,
}

impl Facts {
    /// As they are now.
    pub fn collect() -> Self {
        let uname = rustix::system::uname();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let flags = field("flags").unwrap_or_default();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpu: field("model name").unwrap_or_else(|| "unknown".into()),
            cpus: thread::available_parallelism().map_or(0, Into::into),
            virtual_machine: flags.split(' ').any(|flag| flag == "hypervisor"),
            governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            memory_mib: memory(),
            jit: read("/proc/sys/net/core/bpf_jit_enable"),
            load_before: load(),
            load_after: String::new(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }

    /// What makes it the same machine as that of another run.
    pub fn machine(&self) -> Machine {
        Machine {
            kernel: self.kernel.clone(),
            architecture: self.architecture.clone(),
            cpu: self.cpu.clone(),
            cpus: self.cpus,
            build: self.build.clone(),
        }
    }

    /// Notes how busy the machine is in the end.
    pub fn finish(&mut self) {
        self.load_after = load();
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let governor = self.governor.as_deref().unwrap_or("unknown");
        // Of what was interrupted it is not known.
        let load_after = if self.load_after.is_empty() { "?" } else { &self.load_after };
        format!(
            "Linux {} {}, {} CPUs ({}{}), governor {governor}, {} MiB, JIT {}, load {} -> {load_after}, {} build",
            self.kernel,
            self.architecture,
            self.cpus,
            self.cpu,
            if self.virtual_machine { ", virtual" } else { "" },
            self.memory_mib,
            self.jit.as_deref().unwrap_or("unknown"),
            self.load_before,
            self.build,
        )
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn load() -> String {
    let text = read("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn memory() -> u64 {
    let text = read("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}
