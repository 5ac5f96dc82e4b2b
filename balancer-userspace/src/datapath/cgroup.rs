//! Which cgroup to attach to, and what share of the machine that is.
//!
//! The kernel has one cgroup2 hierarchy, but a container sees of it what was mounted into it, and tells its
//! paths from its own cgroup namespace. What is what, the kernel's numbers tell: the id of a cgroup is the
//! inode number of its directory, and that of the hierarchy's root is 1 in every namespace.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use super::{
    DatapathError,
    mounts::{Mount, mounts_of},
};

/// Id of the root of the hierarchy (`kernfs_create_root` gives the first number to it).
pub const ROOT_ID: u64 = 1;

const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;

/// A cgroup that can be attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its directory, as this process reaches it.
    pub path: PathBuf,
    /// Its id.
    pub id: u64,
}

impl Cgroup {
    /// Whether it is the root of the kernel's hierarchy, so that every process is in it.
    pub const fn is_root(&self) -> bool {
        self.id == ROOT_ID
    }
}

/// A cgroup2 mount, and the id of what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    mount: Mount,
    id: u64,
}

/// The cgroup to attach to: the one that was asked for, or the whole hierarchy, or else the most of it that
/// this process can reach.
///
/// The whole hierarchy is wherever it is mounted, be it the host's mount in a volume; or where the first
/// process has it, if this process shares the host's PID namespace and may look. A directory that is asked for may also
/// be the host's `/sys/fs/cgroup`, wherever that is mounted: on hosts with both hierarchies cgroup2 is `unified` below
/// it, and one manifest serves both kinds of hosts.
///
/// # Errors
/// [`DatapathError::NoCgroup2`] if none is mounted, [`DatapathError::NotCgroup2`] if `asked` lies elsewhere,
/// [`DatapathError::OwnCgroupOnly`] if nothing was asked for and only this process's own container is in
/// reach.
pub fn find_cgroup2(asked: Option<&Path>) -> Result<Cgroup, DatapathError> {
    let mut mounts = mounts_of("self")?;
    mounts.retain(|mount| mount.kind == "cgroup2");
    if let Some(asked) = asked {
        let path = fs::canonicalize(asked).map_err(DatapathError::io("cannot open --cgroup", asked))?;
        // The host's /sys/fs/cgroup on a host with both hierarchies.
        let unified = path.join("unified");
        let path = if id_of(&path).is_none() && id_of(&unified).is_some() { unified } else { path };
        return id_of(&path)
            .map(|id| Cgroup { path, id })
            .ok_or_else(|| DatapathError::NotCgroup2 { path: asked.into(), mounts: list(&mounts) });
    }
    let mut seen = look(&mounts);
    if seen.is_empty() {
        return Err(DatapathError::NoCgroup2);
    }
    if !seen.iter().any(|seen| seen.id == ROOT_ID) && in_cgroup_namespace() {
        seen.extend(through_init());
    }
    match choose(&seen, own_path().as_deref()) {
        Choice::Attach(seen) => Ok(Cgroup { path: seen.mount.target.clone(), id: seen.id }),
        Choice::OwnOnly(seen) => Err(DatapathError::OwnCgroupOnly(seen.mount.target.clone())),
        Choice::None => Err(DatapathError::NoCgroup2),
    }
}

/// What [`choose`] finds.
#[derive(Debug, PartialEq, Eq)]
enum Choice<'a> {
    /// The root, or the outermost cgroup in reach.
    Attach(&'a Seen),
    /// The outermost cgroup in reach is the one that this process is in: a container that sees itself.
    OwnOnly(&'a Seen),
    /// Nothing is mounted.
    None,
}

/// The first mount of the root; else that of the cgroup furthest out, of which `own` is the path of this
/// process's own.
fn choose<'a>(seen: &'a [Seen], own: Option<&Path>) -> Choice<'a> {
    if let Some(root) = seen.iter().find(|seen| seen.id == ROOT_ID) {
        return Choice::Attach(root);
    }
    let Some(outermost) = seen.iter().min_by_key(|seen| depth(&seen.mount.root)) else { return Choice::None };
    if own == Some(&outermost.mount.root) { Choice::OwnOnly(outermost) } else { Choice::Attach(outermost) }
}

/// How far in a mount's root is: below 0 for what lies above this process's cgroup namespace. `/../..` is
/// further out than `/../x`, which is as far out as `/`, and no cgroup above it.
fn depth(root: &Path) -> i64 {
    root.components()
        .map(|component| match component {
            Component::ParentDir => -1,
            Component::Normal(_) => 1,
            _ => 0,
        })
        .sum()
}

/// The mounts of which this process can see what is there. One may be hidden by another at the same place;
/// each is then what is seen there.
fn look(mounts: &[Mount]) -> Vec<Seen> {
    mounts.iter().filter_map(|mount| Some(Seen { mount: mount.clone(), id: id_of(&mount.target)? })).collect()
}

/// The hierarchy as the first process sees it, wherever that has mounted it.
fn through_init() -> Vec<Seen> {
    let mut mounts = mounts_of("1").unwrap_or_default();
    mounts.retain(|mount| mount.kind == "cgroup2");
    for mount in &mut mounts {
        let target = mount.target.strip_prefix("/").unwrap_or(&mount.target);
        mount.target = Path::new("/proc/1/root").join(target);
    }
    look(&mounts)
}

/// The id of a cgroup by its directory; `None` for what is no such directory.
pub fn id_of(path: &Path) -> Option<u64> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
    let info = rustix::fs::statfs(path).ok()?;
    (info.f_type == CGROUP2_SUPER_MAGIC).then(|| metadata.ino())
}

/// Where this process reaches the cgroup with an id, if it does: where an agent did, or at the root of a
/// mount.
pub fn reach(id: u64, hint: &Path) -> Option<PathBuf> {
    if id_of(hint) == Some(id) {
        return Some(hint.into());
    }
    let mut mounts = mounts_of("self").ok()?;
    mounts.retain(|mount| mount.kind == "cgroup2");
    look(&mounts).into_iter().find(|seen| seen.id == id).map(|seen| seen.mount.target)
}

/// Where this process has cgroup2 mounted, outermost first.
pub fn cgroup2_mounts() -> Vec<PathBuf> {
    let mut mounts = mounts_of("self").unwrap_or_default();
    mounts.retain(|mount| mount.kind == "cgroup2");
    let mut seen = look(&mounts);
    seen.sort_by_key(|seen| (seen.id != ROOT_ID, depth(&seen.mount.root)));
    seen.into_iter().map(|seen| seen.mount.target).collect()
}

/// Whether this process is in the cgroup with an id, or below it; `None` if that cannot be told from here.
pub fn is_in(id: u64) -> Option<bool> {
    if id == ROOT_ID {
        return Some(true);
    }
    let mut mounts = mounts_of("self").ok()?;
    mounts.retain(|mount| mount.kind == "cgroup2");
    is_below(id, &look(&mounts), &own_path()?, id_of)
}

/// As [`is_in`], for a process at `own`, by the mounts that it sees and the ids of directories.
fn is_below(id: u64, seen: &[Seen], own: &Path, id_of: impl Fn(&Path) -> Option<u64>) -> Option<bool> {
    for seen in seen {
        let Some(below) = below(own, &seen.mount.root) else { continue };
        if seen.id == id {
            return Some(true);
        }
        // Names above the namespace are not told.
        let Some(below) = below else { continue };
        let own = seen.mount.target.join(below);
        let up = own.ancestors().take_while(|path| *path != seen.mount.target);
        if up.into_iter().any(|path| id_of(path) == Some(id)) {
            return Some(true);
        }
        if seen.id == ROOT_ID {
            return Some(false);
        }
    }
    None
}

/// Whether `own` is `root` or below; both are told from one cgroup namespace. Inside: the path from there,
/// where it can be told.
fn below<'a>(own: &'a Path, root: &Path) -> Option<Option<&'a Path>> {
    let goes_up = |path: &Path| path.components().any(|component| component == Component::ParentDir);
    if let Ok(path) = own.strip_prefix(root) {
        // What goes up from there is another branch.
        return (!goes_up(path)).then_some(Some(path));
    }
    let above = root.components().all(|it| matches!(it, Component::RootDir | Component::ParentDir));
    (above && !goes_up(own)).then_some(None)
}

/// This process's cgroup, told from its cgroup namespace.
fn own_path() -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(PathBuf::from)
}

/// Whether this process sees less than the first process's whole hierarchy.
fn in_cgroup_namespace() -> bool {
    match (fs::read_link("/proc/self/ns/cgroup"), fs::read_link("/proc/1/ns/cgroup")) {
        (Ok(own), Ok(first)) => own != first,
        _ => false,
    }
}

fn list(mounts: &[Mount]) -> String {
    let mounts: Vec<_> = mounts.iter().map(|mount| mount.target.display().to_string()).collect();
    if mounts.is_empty() { "nowhere".into() } else { mounts.join(", ") }
}

#[cfg(test)]
#[path = "cgroup_tests.rs"]
mod tests;
