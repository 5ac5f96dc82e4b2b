//! The network namespaces of this node: finding them, and opening a netlink socket in each.
//!
//! A namespace is found through a process that is in it (`/proc/PID/ns/net`) or a name that keeps it
//! alive (a bind mount below one of [`NAMED`]). One that only a single thread of a process, or only an
//! open descriptor, is in has neither, and is not found.

use std::{
    collections::{HashMap, HashSet},
    fmt, fs,
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
use rustix::{io::Errno, thread::LinkNameSpaceType};

use super::SocketsError;

/// Where namespaces are given names: iproute2 and CNI plugins, Docker, and the same as seen by an agent
/// that runs in a container with the host's PID namespace.
const NAMED: [&str; 4] =
    ["/run/netns", "/run/docker/netns", "/proc/1/root/run/netns", "/proc/1/root/run/docker/netns"];

/// The most namespaces that are looked into: twice the pods that a node has at most, and half of the descriptors that a
/// process has at least. Where users may make user namespaces, anybody can make network namespaces by the thousand.
const MOST: usize = 512;

/// `SO_NETNS_COOKIE` (Linux 5.14), which the libc crate does not name on every target.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespace {
    /// Its inode number, as `readlink /proc/PID/ns/net` shows it.
    pub inode: u64,
    /// What the programs know it by (`bpf_get_netns_cookie`); `None` before Linux 5.14.
    pub cookie: Option<u64>,
    /// What people know it by.
    pub name: NamespaceName,
}

/// What a [`Namespace`] was found through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamespaceName {
    /// A bind mount.
    Path(PathBuf),
    /// The process with the lowest id in it.
    Process(u32),
}

impl fmt::Display for NamespaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Process(pid) => write!(f, "process {pid}"),
        }
    }
}

/// Which namespaces to look into.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All that can be found on the node.
    #[default]
    Node,
    /// The calling thread's own; needs no CAP_SYS_ADMIN.
    Own,
}

/// A namespace and a sock_diag socket that was made in it; the socket works from any namespace.
pub struct Visited {
    /// The namespace.
    pub namespace: Arc<Namespace>,
    /// The socket.
    pub socket: Socket,
}

/// A namespace that is held open, so that it cannot go away before it is visited.
struct Found {
    handle: File,
    device: u64,
    inode: u64,
    name: NamespaceName,
}

/// Opens a sock_diag socket in each namespace of `scope`, sorted by inode number.
///
/// Namespaces that had to be left out are reported in `incomplete`.
///
/// # Errors
/// When not even the caller's own namespace can be used.
pub fn visit(scope: Scope, incomplete: &mut Vec<SocketsError>) -> Result<Vec<Visited>, SocketsError> {
    let own = own()?;
    let own_id = (own.device, own.inode);
    let mut found = match scope {
        Scope::Own => Vec::new(),
        Scope::Node => discover(Path::new("/proc"), MOST, incomplete)?,
    };
    // The caller's namespace has no process of its own when the caller is a thread that moved.
    if !found.iter().any(|namespace| (namespace.device, namespace.inode) == own_id) {
        found.push(own);
    }
    found.sort_by_key(|namespace| namespace.inode);

    // A thread of its own, because it ends up in another namespace than it began in.
    let visitor = std::thread::Builder::new()
        .name("netns-visitor".to_owned())
        .spawn(move || enter_each(found, own_id))
        .map_err(|source| SocketsError::Thread { source })?;
    let (visited, problems) = match visitor.join() {
        Ok(result) => result?,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    incomplete.extend(problems);
    Ok(visited)
}

fn enter_each(found: Vec<Found>, own: (u64, u64)) -> Result<(Vec<Visited>, Vec<SocketsError>), SocketsError> {
    let mut visited = Vec::with_capacity(found.len());
    let mut problems = Vec::new();
    let mut forbidden = 0;
    // The caller's own namespace comes first: the thread is in it, and needs no capability.
    let (at_home, abroad): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|namespace| (namespace.device, namespace.inode) == own);
    for namespace in &at_home {
        visited.push(open(namespace)?);
    }
    for namespace in abroad {
        let entered = rustix::thread::move_into_link_name_space(
            namespace.handle.as_fd(),
            Some(LinkNameSpaceType::Network),
        );
        match entered {
            Ok(()) => match open(&namespace) {
                Ok(opened) => visited.push(opened),
                Err(problem) => problems.push(problem),
            },
            Err(Errno::PERM) => forbidden += 1,
            // A name that is no network namespace: other things may be mounted in those directories.
            Err(Errno::INVAL) => {}
            Err(errno) => problems.push(SocketsError::EnterNamespace {
                name: namespace.name.to_string(),
                source: errno.into(),
            }),
        }
    }
    if forbidden > 0 {
        problems.push(SocketsError::NeedsSysAdmin { count: forbidden });
    }
    visited.sort_by_key(|visited| visited.namespace.inode);
    Ok((visited, problems))
}

/// Opens a socket in the namespace that the calling thread is in, which is `found`.
fn open(found: &Found) -> Result<Visited, SocketsError> {
    let socket = Socket::new(NETLINK_SOCK_DIAG).map_err(|source| SocketsError::Netlink { source })?;
    let namespace = Namespace { inode: found.inode, cookie: netns_cookie(&socket), name: found.name.clone() };
    Ok(Visited { namespace: Arc::new(namespace), socket })
}

/// Cookie of the calling thread's network namespace, by which the programs know a client; `None` where
/// the kernel cannot tell.
pub fn own_netns_cookie() -> Option<u64> {
    netns_cookie(&Socket::new(NETLINK_SOCK_DIAG).ok()?)
}

/// The cookie of the namespace that `socket` was made in; `None` where the kernel cannot tell.
fn netns_cookie(socket: &Socket) -> Option<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` says how large `cookie` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(cookie)
}

/// The calling thread's namespace.
fn own() -> Result<Found, SocketsError> {
    let path = PathBuf::from("/proc/thread-self/ns/net");
    let name = NamespaceName::Process(std::process::id());
    match found(&path, name) {
        Ok(found) => Ok(found),
        Err(source) => Err(SocketsError::Proc { path, source }),
    }
}

fn found(path: &Path, name: NamespaceName) -> io::Result<Found> {
    let handle = File::open(path)?;
    // Of the descriptor, not of the path: the process may have moved in between.
    let metadata = handle.metadata()?;
    Ok(Found { handle, device: metadata.dev(), inode: metadata.ino(), name })
}

/// Up to `most` of the namespaces that have a process or a name; a name wins, because it says more.
fn discover(
    proc: &Path,
    most: usize,
    incomplete: &mut Vec<SocketsError>,
) -> Result<Vec<Found>, SocketsError> {
    let mut namespaces: HashMap<(u64, u64), Found> = HashMap::new();
    for directory in NAMED {
        let Ok(entries) = fs::read_dir(directory) else { continue };
        for entry in entries.flatten() {
            let path = entry.path();
            // Files that nothing is mounted on are on the device of their directory.
            let plain = |found: &Found| {
                fs::metadata(directory).is_ok_and(|directory| directory.dev() == found.device)
            };
            match found(&path, NamespaceName::Path(path.clone())) {
                Ok(found) if !plain(&found) => {
                    namespaces.entry((found.device, found.inode)).or_insert(found);
                }
                _ => {}
            }
            if namespaces.len() > most {
                return Ok(bounded(namespaces, most, incomplete));
            }
        }
    }

    let mut hidden = Vec::new();
    let mut seen: HashSet<(u64, u64)> = namespaces.keys().copied().collect();
    for pid in pids(proc)? {
        let path = proc.join(pid.to_string()).join("ns/net");
        match fs::metadata(&path) {
            Ok(metadata) if seen.contains(&(metadata.dev(), metadata.ino())) => {}
            Ok(_) => {
                // A process that has ended meanwhile took itself off the list.
                let Ok(found) = found(&path, NamespaceName::Process(pid)) else { continue };
                seen.insert((found.device, found.inode));
                namespaces.entry((found.device, found.inode)).or_insert(found);
                if namespaces.len() > most {
                    return Ok(bounded(namespaces, most, incomplete));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => hidden.push(pid),
            // Ended meanwhile, or a zombie, which is in no namespace any more.
            Err(_) => {}
        }
    }
    if let [example, ..] = hidden[..] {
        incomplete.push(SocketsError::HiddenProcesses { count: hidden.len(), example });
    }
    Ok(namespaces.into_values().collect())
}

/// As many namespaces as are looked into, and the word that there are more.
fn bounded(
    namespaces: HashMap<(u64, u64), Found>,
    most: usize,
    incomplete: &mut Vec<SocketsError>,
) -> Vec<Found> {
    incomplete.push(SocketsError::TooManyNamespaces { most });
    namespaces.into_values().take(most).collect()
}

/// The ids of all processes, in ascending order.
pub(super) fn pids(proc: &Path) -> Result<Vec<u32>, SocketsError> {
    let entries =
        fs::read_dir(proc).map_err(|source| SocketsError::Proc { path: proc.to_owned(), source })?;
    let mut pids: Vec<u32> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_visited_without_any_capability() {
        let mut incomplete = Vec::new();
        let visited = visit(Scope::Own, &mut incomplete).unwrap();
        let inode = fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
        assert_eq!(visited.iter().map(|v| v.namespace.inode).collect::<Vec<_>>(), [inode]);
        assert!(incomplete.is_empty(), "{incomplete:?}");
    }

    #[test]
    fn every_process_is_in_a_namespace_that_is_discovered() {
        let mut incomplete = Vec::new();
        let found = discover(Path::new("/proc"), MOST, &mut incomplete).unwrap();
        let own = fs::metadata("/proc/self/ns/net").unwrap();
        let same = found.iter().filter(|f| (f.device, f.inode) == (own.dev(), own.ino()));
        assert_eq!(same.count(), 1, "each namespace once");
    }

    /// In a tree like `/proc`, where plain files stand for namespaces: each has an inode of its own.
    #[test]
    fn namespaces_beyond_the_bound_are_left_out_and_that_is_said() {
        let proc = tempfile::tempdir().unwrap();
        for pid in 1..=20 {
            fs::create_dir_all(proc.path().join(format!("{pid}/ns"))).unwrap();
            fs::write(proc.path().join(format!("{pid}/ns/net")), "").unwrap();
        }
        // Of the machine's own namespaces, those with a name come on top.
        let mut incomplete = Vec::new();
        let all = discover(proc.path(), MOST, &mut incomplete).unwrap().len();
        assert!(all >= 20 && incomplete.is_empty(), "{all} {incomplete:?}");
        let most = all - 5;
        assert_eq!(discover(proc.path(), most, &mut incomplete).unwrap().len(), most);
        assert!(matches!(incomplete[..], [SocketsError::TooManyNamespaces { .. }]), "{incomplete:?}");
        assert_eq!(discover(proc.path(), 0, &mut Vec::new()).unwrap().len(), 0);
    }

    #[test]
    fn a_missing_proc_is_named() {
        let error = pids(Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(error.contains("/nonexistent"), "{error}");
    }
}
