//! What a process may do about connections of others.

use std::fs;

/// Numbers of `include/uapi/linux/capability.h`.
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_ADMIN: u64 = 1 << 12;
const SYS_PTRACE: u64 = 1 << 19;
const SYS_ADMIN: u64 = 1 << 21;
/// `PROC_PID_INIT_INO`.
const INITIAL: &str = "pid:[4026531836]";

/// What can be done with the sockets of other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Their network namespaces can be entered: without that, sockets of pods are not even seen.
    pub namespaces: bool,
    /// The kernel closes sockets for it.
    pub destroy: bool,
    /// Their descriptors can be listed and duplicated, and their cgroups found.
    pub descriptors: bool,
    /// Process ids mean the same to it as to the programs.
    pub pids: bool,
}

impl Rights {
    /// Those of a process, by the text of its `/proc/PID/status` and the link `/proc/PID/ns/pid`. What cannot be told is taken
    /// to be there: whoever tries will see.
    pub fn read(status: &str, pid_namespace: Option<&str>) -> Self {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective =
            effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX);
        let has = |all: u64| effective & all == all;
        Self {
            namespaces: has(SYS_ADMIN | SYS_PTRACE),
            destroy: has(NET_ADMIN),
            descriptors: has(SYS_PTRACE | DAC_READ_SEARCH),
            pids: pid_namespace.is_none_or(|link| link == INITIAL),
        }
    }

    /// Those of the process `pid`, if that is a balancer, else this process's own.
    pub fn of(pid: u32) -> Self {
        let read = |process: &str| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
            let link = fs::read_link(format!("/proc/{process}/ns/pid")).ok();
            Some((status, link.and_then(|link| link.into_os_string().into_string().ok())))
        };
        let (status, link) = read(&pid.to_string())
            .filter(|(status, _)| status.starts_with("Name:\tbalancer\n"))
            .or_else(|| read("self"))
            .unwrap_or_default();
        Self::read(&status, link.as_deref())
    }

    /// What is missing and what for, a sentence each; empty if nothing is.
    pub fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.namespaces {
            missing.push(
                "connections of pods are neither moved nor closed: to see them takes CAP_SYS_ADMIN and CAP_SYS_PTRACE",
            );
        }
        if !self.pids {
            missing.push(
                "no connection is moved: to tell whether its process is about to write takes the host's PID namespace \
                 (hostPID: true)",
            );
        } else if !self.descriptors {
            missing.push(
                "connections are closed by the kernel instead of through their descriptors, or stay where that could hit \
                 another process: to reach descriptors takes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
            );
        }
        if !self.destroy {
            missing.push("sockets to backends that are gone are not closed, for want of CAP_NET_ADMIN");
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(effective: &str, namespace: Option<&str>, expect: &[&str]) {
        let missing = Rights::read(&format!("Name:\tx\nCapEff:\t{effective}\n"), namespace).missing();
        assert_eq!(missing.len(), expect.len(), "{missing:?}");
        for (text, word) in missing.iter().zip(expect) {
            assert!(text.contains(word), "{text}");
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        check("000001ffffffffff", Some(INITIAL), &[]);
        check("000001ffffffffff", None, &[]);
        check("000001ffffffffff", Some("pid:[4026532000]"), &["hostPID"]);
        // The capabilities of the DaemonSet without its overlay.
        check("000000c000001000", Some("pid:[4026532000]"), &["CAP_SYS_ADMIN", "hostPID"]);
        check("000001fffff7ffff", Some(INITIAL), &["CAP_SYS_ADMIN", "closed by the kernel"]);
        check("000001ffffffefff", Some(INITIAL), &["CAP_NET_ADMIN"]);
        assert!(Rights::read("", None).missing().is_empty(), "what is not known is not missing");
    }
}
