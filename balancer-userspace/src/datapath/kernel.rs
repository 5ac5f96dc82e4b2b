//! What the kernel and its mounts offer.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::programs::ProgramType;

use super::DatapathError;

/// A mounted file system.
struct Mount {
    /// Where it is mounted.
    target: PathBuf,
    /// Its type, such as `cgroup2`.
    kind: String,
    /// The directory of the file system that is mounted there; `/` for all of it.
    root: PathBuf,
}

/// Parses the text of `/proc/PID/mountinfo`. Lines that are not understood are left out.
fn parse_mounts(text: &str) -> Vec<Mount> {
    let parse = |line: &str| {
        let (fixed, rest) = line.split_once(" - ")?;
        let mut fields = fixed.split(' ').skip(3);
        let (root, target) = (fields.next()?, fields.next()?);
        let kind = rest.split(' ').next()?;
        Some(Mount { target: unescape(target).into(), kind: kind.into(), root: unescape(root).into() })
    };
    text.lines().filter_map(parse).collect()
}

/// Undoes the octal escapes for white space and backslash.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// The cgroup2 mounts that a process sees.
fn cgroup2_mounts(process: &str) -> Result<Vec<Mount>, DatapathError> {
    let path = Path::new("/proc").join(process).join("mountinfo");
    let text = fs::read_to_string(&path).map_err(DatapathError::io("cannot read", &path))?;
    Ok(parse_mounts(&text).into_iter().filter(|mount| mount.kind == "cgroup2").collect())
}

/// The cgroup2 directory to attach to: the one that was asked for, or the root of the hierarchy.
///
/// In a container with a cgroup namespace of its own, what is mounted is a part of the host's hierarchy;
/// the whole of it is then reached through the mount that the host's first process sees, if this process
/// shares the host's PID namespace and may look.
///
/// A directory that is asked for may also be the host's `/sys/fs/cgroup`, wherever that is mounted: on hosts
/// with both hierarchies cgroup2 is `unified` below it, and one manifest serves both kinds of hosts.
///
/// # Errors
/// [`DatapathError::NoCgroup2`] if none is mounted, [`DatapathError::NotCgroup2`] if `asked` lies elsewhere.
pub fn find_cgroup2(asked: Option<&Path>) -> Result<PathBuf, DatapathError> {
    let mounts = cgroup2_mounts("self")?;
    if let Some(asked) = asked {
        let found = fs::canonicalize(asked).map_err(DatapathError::io("cannot open --cgroup", asked))?;
        let unified = found.join("unified");
        let found = if !is_cgroup2(&found) && is_cgroup2(&unified) { unified } else { found };
        let info = rustix::fs::statfs(&found)
            .map_err(io::Error::from)
            .map_err(DatapathError::io("cannot open --cgroup", asked))?;
        if info.f_type != CGROUP2_SUPER_MAGIC || !found.is_dir() {
            let mounts: Vec<_> = mounts.iter().map(|mount| mount.target.display().to_string()).collect();
            let mounts = if mounts.is_empty() { "nowhere".into() } else { mounts.join(", ") };
            return Err(DatapathError::NotCgroup2 { path: asked.into(), mounts });
        }
        return Ok(found);
    }
    let mount = mounts
        .iter()
        .find(|mount| mount.root == Path::new("/"))
        .or(mounts.first())
        .ok_or(DatapathError::NoCgroup2)?;
    if in_cgroup_namespace()
        && let Some(whole) = through_init()
    {
        return Ok(whole);
    }
    Ok(mount.target.clone())
}

/// The hierarchy as the host's first process sees it, wherever that has mounted it.
fn through_init() -> Option<PathBuf> {
    let mounts = cgroup2_mounts("1").ok()?;
    let paths: Vec<PathBuf> = mounts
        .iter()
        .map(|mount| Path::new("/proc/1/root").join(mount.target.strip_prefix("/").unwrap_or(&mount.target)))
        .filter(|path| is_cgroup2(path))
        .collect();
    paths.iter().find(|path| is_root_cgroup(path)).or(paths.first()).cloned()
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|info| info.f_type == CGROUP2_SUPER_MAGIC)
}

/// Whether `cgroup` is the root of the machine's hierarchy: every cgroup but the root has a type. In a
/// container, what is mounted may be a part of the hierarchy that looks like all of it.
pub fn is_root_cgroup(cgroup: &Path) -> bool {
    !cgroup.join("cgroup.type").exists()
}

const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Whether this process sees less than the host's whole cgroup hierarchy.
fn in_cgroup_namespace() -> bool {
    match (fs::read_link("/proc/self/ns/cgroup"), fs::read_link("/proc/1/ns/cgroup")) {
        (Ok(own), Ok(first)) => own != first,
        _ => false,
    }
}

/// Whether `path`, or the nearest directory above it that exists, is in a bpf file system.
pub fn find_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find_map(|ancestor| rustix::fs::statfs(ancestor).ok())
        .is_some_and(|info| info.f_type == BPF_FS_MAGIC)
}

/// Mounts a bpf file system at `/sys/fs/bpf` if `path` is to be there and nothing is mounted yet.
///
/// # Errors
/// [`DatapathError::NoBpffs`] with the reason and the command.
pub fn mount_bpffs(path: &Path) -> Result<(), DatapathError> {
    if find_bpffs(path) {
        return Ok(());
    }
    let usual = Path::new("/sys/fs/bpf");
    let failed = |reason: String| DatapathError::NoBpffs { path: path.into(), reason };
    if !path.starts_with(usual) {
        return Err(failed("only /sys/fs/bpf is mounted automatically".into()));
    }
    rustix::mount::mount("bpf", usual, "bpf", rustix::mount::MountFlags::empty(), None)
        .map_err(|error| failed(format!("mounting it failed: {}", io::Error::from(error))))?;
    log::info!("mounted a bpf file system at {}", usual.display());
    Ok(())
}

/// Checks that the kernel has what the programs need, so that what is missing is named, not guessed from
/// a verifier's log.
///
/// # Errors
/// [`DatapathError::Kernel`] names the first missing feature, [`DatapathError::Capability`] what this
/// process lacks, [`DatapathError::Refused`] that something else than the kernel stands in the way.
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
    let missing = missing_capabilities(&fs::read_to_string("/proc/self/status").unwrap_or_default());
    if !missing.is_empty() {
        return Err(DatapathError::Capability {
            missing: missing.join(", "),
            during: "this process has not got all of them".into(),
        });
    }
    for (program, feature) in [
        (ProgramType::CgroupSockAddr, "programs on connect() and sendmsg()"),
        (ProgramType::CgroupSock, "programs on the release of a socket"),
        (ProgramType::SockOps, "programs on TCP events"),
    ] {
        match aya::sys::is_program_supported(program) {
            Ok(true) => {}
            Ok(false) => return Err(lacks(feature, "CONFIG_CGROUP_BPF")),
            Err(error) => {
                return Err(DatapathError::Refused {
                    during: format!("probing the kernel for {feature}: {error}"),
                });
            }
        }
    }
    match aya::sys::is_map_supported(aya::maps::MapType::SkStorage) {
        Ok(true) => Ok(()),
        Ok(false) => Err(lacks("socket-local storage", "CONFIG_BPF_SYSCALL and CONFIG_INET")),
        Err(error) => Err(DatapathError::Refused {
            during: format!("probing the kernel for socket-local storage: {error}"),
        }),
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
    fn mounts_are_read_with_their_escapes() {
        let text = "\
30 24 0:26 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
31 24 0:27 /kubepods/pod1 /a\\040b rw - cgroup2 none rw
nonsense
32 24 0:28 / /sys/fs/bpf rw,nosuid - bpf bpf rw,mode=700
";
        let mounts = parse_mounts(text);
        assert_eq!(mounts.len(), 3);
        assert_eq!(mounts[0].target, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(
            (mounts[1].target.as_path(), mounts[1].root.as_path()),
            (Path::new("/a b"), Path::new("/kubepods/pod1"))
        );
        assert_eq!(mounts[2].kind, "bpf");
    }

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
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("5.15.0-1034-azure"), (5, 15));
        assert!(version("5.4.0") < (5, 15));
        assert_eq!(version("odd"), (0, 0));
    }
}
