//! Names that tell who made a thing, so that what a killed process left can be told from what is in use.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};

use super::{cgroup, netns};

/// What every name begins with.
const PREFIX: &str = "bal";

/// What directories of pinned maps and of scratch files begin with.
const DIRECTORY_PREFIX: &str = "balancer-test-";

/// Names one thing's maker: process id, when that process started (ids are reused), and a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pid: u32,
    started: u64,
    serial: u32,
}

impl Owner {
    /// A name that nothing else has.
    pub fn unique() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static STARTED: OnceLock<u64> = OnceLock::new();
        let pid = std::process::id();
        let started = *STARTED.get_or_init(|| start_time(pid).unwrap_or(0));
        Self { pid, started, serial: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// The name of a directory for pinned maps, or for scratch files.
    pub fn directory(&self) -> String {
        format!("{DIRECTORY_PREFIX}{}-{}-{}", self.pid, self.started, self.serial)
    }

    /// From a name that [`Owner`] made, whatever follows the counter.
    fn parse(name: &str) -> Option<Self> {
        let rest =
            name.strip_prefix(DIRECTORY_PREFIX).or_else(|| name.strip_prefix(PREFIX)?.strip_prefix('-'))?;
        let mut parts = rest.split('-');
        let pid = parts.next()?.parse().ok()?;
        let started = parts.next()?.parse().ok()?;
        let serial = parts.next()?.parse().ok()?;
        Some(Self { pid, started, serial })
    }

    /// Whether the process that made it runs.
    fn alive(&self) -> bool {
        start_time(self.pid).is_some_and(|started| started == self.started)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}-{}-{}-{}", self.pid, self.started, self.serial)
    }
}

/// When a process started, in clock ticks since boot (`/proc/PID/stat`, field 22); `None` if it does not run or is
/// a zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the command in parentheses and may hold anything, so count from the last one.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Removes what processes that no longer run have left: processes in their cgroups, cgroups, namespaces, pins.
///
/// # Errors
///
/// The first thing that could not be removed. What belongs to a running process is never touched.
pub fn sweep() -> Result<()> {
    let root = crate::kernel::cgroup2()?;
    // Cgroups first: that ends the processes that hold the rest.
    for name in leftovers(&root)? {
        cgroup::remove(&root.join(&name)).with_context(|| format!("leftover cgroup {name}"))?;
    }
    for name in leftovers(Path::new(netns::DIR))? {
        netns::remove(&name).with_context(|| format!("leftover namespace {name}"))?;
    }
    for dir in [PathBuf::from(crate::kernel::BPFFS), std::env::temp_dir()] {
        for name in leftovers(&dir)? {
            let path = dir.join(&name);
            remove_directory(&path).with_context(|| format!("leftover {}", path.display()))?;
        }
    }
    Ok(())
}

/// Cgroups, namespaces, pins and scratch files that a process made and that are still there.
pub fn remains_of(pid: u32) -> Result<Vec<PathBuf>> {
    let dirs =
        [netns::DIR.into(), crate::kernel::cgroup2()?, crate::kernel::BPFFS.into(), std::env::temp_dir()];
    let mut remains = Vec::new();
    for dir in dirs {
        let names = owned(&dir, |owner| owner.pid == pid)?;
        remains.extend(names.into_iter().map(|name| dir.join(name)));
    }
    Ok(remains)
}

/// A directory that ends with its owner, on bpffs (for pins) or among temporary files.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A directory for temporary files.
    pub fn files() -> Result<Self> {
        let path = std::env::temp_dir().join(Owner::unique().directory());
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self { path })
    }

    /// A name below bpffs; whoever pins there makes the directory.
    pub fn pins() -> Self {
        Self { path: Path::new(crate::kernel::BPFFS).join(Owner::unique().directory()) }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove_directory(&self.path) {
            let error = anyhow::Error::from(error).context(self.path.display().to_string());
            netns::complain(&error);
        }
    }
}

/// Removes a directory with all below, pins too; nothing there is fine.
fn remove_directory(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Names in a directory whose owner is dead.
fn leftovers(dir: &Path) -> Result<Vec<String>> {
    owned(dir, |owner| !owner.alive())
}

/// Names in a directory with such an owner. No directory, no names.
fn owned(dir: &Path, such: impl Fn(&Owner) -> bool) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| Owner::parse(name).is_some_and(|owner| such(&owner))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        let owner = Owner::unique();
        assert_eq!(Owner::parse(&format!("{owner}-client")), Some(owner.clone()));
        assert_eq!(Owner::parse(&owner.directory()), Some(owner));
    }

    #[test]
    fn names_of_others_are_not() {
        for name in ["balancer", "bal", "bal-x-1-2", "bal-1", "other-1-2-3", "balancer-1-2-3"] {
            assert_eq!(Owner::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_reused_process_id_is_not_alive() {
        let owner = Owner::unique();
        assert!(owner.alive());
        assert!(!Owner { started: owner.started + 1, ..owner }.alive());
    }
}
