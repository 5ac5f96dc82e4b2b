//! What the kernel offers, and what this process may.

use std::{fmt, fs, path::Path};

use aya::programs::ProgramType;

use super::DatapathError;

/// Checks that the kernel has what the programs need, so that what is missing is named, not guessed from
/// a verifier's log.
///
/// # Errors
/// [`DatapathError::Kernel`] names the first missing feature, [`DatapathError::Capability`] what this
/// process lacks, [`DatapathError::Refused`] why it is refused although it lacks nothing.
pub fn check_features() -> Result<(), DatapathError> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let lacks = |feature, option| DatapathError::Kernel { release: release.clone(), feature, option };
    if version(&release) < (5, 15) {
        return Err(lacks("features of Linux 5.15", "a newer kernel"));
    }
    if !Path::new("/proc/self/ns/cgroup").exists() {
        return Err(lacks("control groups", "CONFIG_CGROUPS"));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if !missing.is_empty() {
        return Err(DatapathError::Capability {
            missing: missing.join(", "),
            during: "this process has not got all of them".into(),
        });
    }
    let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let refused = |feature: &str, error: &dyn fmt::Display| DatapathError::Refused {
        why: why_refused(&status, &uid_map),
        during: format!("probing the kernel for {feature}: {error}"),
    };
    for (program, feature) in [
        (ProgramType::CgroupSockAddr, "programs on connect() and sendmsg()"),
        (ProgramType::CgroupSock, "programs on the release of a socket"),
        (ProgramType::SockOps, "programs on TCP events"),
    ] {
        match aya::sys::is_program_supported(program) {
            Ok(true) => {}
            Ok(false) => return Err(lacks(feature, "CONFIG_CGROUP_BPF")),
            Err(error) => return Err(refused(feature, &error)),
        }
    }
    let feature = "socket-local storage";
    match aya::sys::is_map_supported(aya::maps::MapType::SkStorage) {
        Ok(true) => Ok(()),
        Ok(false) => Err(lacks(feature, "CONFIG_BPF_SYSCALL and CONFIG_INET")),
        Err(error) => Err(refused(feature, &error)),
    }
}

/// Why bpf(2) is refused to a process that has the capabilities, by the texts of its `/proc/self/status` and
/// `/proc/self/uid_map`.
fn why_refused(status: &str, uid_map: &str) -> &'static str {
    let mapped = uid_map.split_whitespace().collect::<Vec<_>>();
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim);
    if !mapped.is_empty() && mapped != ["0", "0", "4294967295"] {
        "it is in a user namespace (a pod with hostUsers: false, a rootless container), where capabilities do \
         not count for bpf(2): run it in the host's"
    } else if mode == Some("2") {
        "a seccomp profile is in force that leaves bpf(2) out: allow it, or set seccompProfile: Unconfined"
    } else {
        "look for a policy of AppArmor or SELinux, and whether the kernel is locked down \
         (/sys/kernel/security/lockdown)"
    }
}

/// What the agent needs and this process has not got, by the text of `/proc/self/status`.
///
/// A process may have all of it and still be refused, in a user namespace or by a security module.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    // Numbers of `include/uapi/linux/capability.h`. CAP_SYS_ADMIN, from whose powers CAP_BPF and
    // CAP_PERFMON were split off, stands for both.
    const SYS_ADMIN: u64 = 1 << 21;
    const NEEDED: [(&str, u64); 3] = [
        ("CAP_BPF", SYS_ADMIN | 1 << 39),
        ("CAP_NET_ADMIN", 1 << 12),
        // The verifier refuses arithmetic on pointers to map values without it.
        ("CAP_PERFMON", SYS_ADMIN | 1 << 38),
    ];
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()) else {
        return Vec::new();
    };
    NEEDED.iter().filter(|(_, any)| effective & any == 0).map(|(name, _)| *name).collect()
}

/// Major and minor of a release such as `6.1.0-28-cloud-amd64`; zeros where it is not understood.
fn version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(missing_capabilities(&format!("Name:\tx\nCapEff:\t{text}\n")), expect);
        };
        check("000001ffffffffff", &[]);
        check("000000c000001000", &[]);
        check("0000008000001000", &["CAP_PERFMON"]);
        check("0000000000201000", &[]);
        check("0000004000001000", &["CAP_BPF"]);
        check("000001ffffffefff", &["CAP_NET_ADMIN"]);
        check("0000000000000000", &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        assert!(missing_capabilities("Name:\tx\n").is_empty(), "what is not known is not missing");
    }

    #[test]
    fn what_refuses_is_named() {
        let check = |status: &str, uid_map: &str, word: &str| {
            let why = why_refused(status, uid_map);
            assert!(why.contains(word), "{why}");
        };
        let host = "         0          0 4294967295\n";
        check("Seccomp:\t0\n", "         0          0          1\n", "hostUsers");
        check("Seccomp:\t2\n", "0 100000 65536\n", "hostUsers");
        check("Name:\tx\nSeccomp:\t2\n", host, "seccompProfile");
        check("Seccomp:\t0\n", host, "AppArmor");
        check("", "", "AppArmor");
    }

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.15.0-1034-azure"), (5, 15));
        assert!(version("5.4.0") < (5, 15));
        assert_eq!(version("odd"), (0, 0));
    }
}
