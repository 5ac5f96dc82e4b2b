//! What is mounted where, and the BPF file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::DatapathError;

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A mounted file system, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is mounted.
    pub target: PathBuf,
    /// Its type, such as `cgroup2`.
    pub kind: String,
    /// The directory of the file system that is mounted there; `/` for all of it. Of a cgroup2 mount it is
    /// told from the reader's cgroup namespace: `/` is that namespace's root, `/..` the cgroup above it.
    pub root: PathBuf,
}

/// The mounts that a process (`self`, or an id) sees, in the order in which they were made.
pub(super) fn mounts_of(process: &str) -> Result<Vec<Mount>, DatapathError> {
    let path = Path::new("/proc").join(process).join("mountinfo");
    let text = fs::read_to_string(&path).map_err(DatapathError::io("cannot read", &path))?;
    Ok(parse(&text))
}

/// Parses the text of `/proc/PID/mountinfo`. Lines that are not understood are left out.
pub(super) fn parse(text: &str) -> Vec<Mount> {
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
    // As systemd mounts it. By default everybody may make directories in it, also the one that is to be ours.
    rustix::mount::mount("bpf", usual, "bpf", rustix::mount::MountFlags::empty(), Some(c"mode=0700"))
        .map_err(|error| failed(format!("mounting it failed: {}", io::Error::from(error))))?;
    log::info!("mounted a bpf file system at {}", usual.display());
    Ok(())
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
33 24 0:26 /../.. /host/cgroup ro,nosuid shared:9 master:2 - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 4);
        assert_eq!(mounts[0].target, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(
            (mounts[1].target.as_path(), mounts[1].root.as_path()),
            (Path::new("/a b"), Path::new("/kubepods/pod1"))
        );
        assert_eq!(mounts[2].kind, "bpf");
        assert_eq!((mounts[3].kind.as_str(), mounts[3].root.as_path()), ("cgroup2", Path::new("/../..")));
    }
}
