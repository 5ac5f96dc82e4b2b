//! Who holds a socket.
//!
//! A socket has no owner in the kernel: any process with a descriptor of it holds it. The process that
//! called connect() is recorded with the socket; it is believed only when `/proc/PID/fd` shows that it
//! (still) has the socket. Failing that (the socket was passed on, the recorded process has ended, or it is
//! an unconnected UDP socket, of which no process is recorded) the processes of the cgroup that the socket
//! was made in are asked, and all processes of the node only if so wished.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
};

use super::{
    LiveSocket, SocketsError,
    cgroup::{self, Hierarchy, PodRef},
    netns::pids,
};

/// The most processes of one cgroup that are asked for a socket: more than a container has.
const CGROUP_PROCESSES: usize = 256;

/// Where to look for the processes that hold a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// The recorded process; then those of the socket's cgroup, unless that is the root.
    #[default]
    Recorded,
    /// The same; then, for sockets whose holder is still not known, every process of the node. That reads
    /// every descriptor of every process: about a microsecond each.
    Everywhere,
}

/// A process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Process id, in the PID namespace of `/proc`.
    pub pid: u32,
    /// Its name: at most 15 bytes; bytes that are no UTF-8 replaced.
    pub comm: String,
    /// Its path in the cgroup2 hierarchy.
    pub cgroup: String,
    /// The pod that it runs in.
    pub pod: Option<PodRef>,
}

/// The processes that hold each of `sockets`, by inode number, the recorded one first. A socket that
/// nobody was found for is not in the map.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn owners(sockets: &[LiveSocket], search: Search) -> Result<HashMap<u32, Vec<Process>>, SocketsError> {
    let mut finder = Finder::new(Path::new("/proc"), sockets);

    let recorded: HashSet<u32> = sockets.iter().filter_map(LiveSocket::tgid).collect();
    finder.ask(recorded);

    let mut hierarchy = Hierarchy::open();
    let cgroups: HashSet<u64> = finder.orphans(sockets).filter_map(|socket| socket.cgroup_id).collect();
    for id in cgroups {
        let is_root = hierarchy.path(id).is_none_or(|path| path.as_os_str().is_empty());
        if !is_root {
            finder.ask(hierarchy.processes(id).into_iter().take(CGROUP_PROCESSES));
        }
    }

    let unknown = finder.orphans(sockets).next().is_some();
    if search == Search::Everywhere && unknown {
        finder.ask(pids(Path::new("/proc"))?);
    }
    Ok(finder.owners)
}

/// Asks processes for the sockets that are wanted, each process once.
struct Finder<'a> {
    proc: &'a Path,
    wanted: HashSet<u32>,
    asked: HashSet<u32>,
    owners: HashMap<u32, Vec<Process>>,
}

impl<'a> Finder<'a> {
    fn new(proc: &'a Path, sockets: &[LiveSocket]) -> Self {
        // Inode 0 is a socket that no process holds any more.
        let wanted = sockets.iter().map(|socket| socket.inode).filter(|inode| *inode != 0).collect();
        Self { proc, wanted, asked: HashSet::new(), owners: HashMap::new() }
    }

    /// The sockets that no holder is known of.
    fn orphans<'s>(&self, sockets: &'s [LiveSocket]) -> impl Iterator<Item = &'s LiveSocket> {
        sockets.iter().filter(|socket| socket.inode != 0 && !self.owners.contains_key(&socket.inode))
    }

    fn ask(&mut self, pids: impl IntoIterator<Item = u32>) {
        for pid in pids {
            if !self.asked.insert(pid) {
                continue;
            }
            let held: HashSet<u32> =
                socket_inodes(&self.proc.join(pid.to_string())).filter(|i| self.wanted.contains(i)).collect();
            if held.is_empty() {
                continue;
            }
            let process = describe(self.proc, pid);
            for inode in held {
                self.owners.entry(inode).or_default().push(process.clone());
            }
        }
    }
}

/// The inode numbers of a process's sockets; none of one that has ended, or may not be looked at.
fn socket_inodes(process: &Path) -> impl Iterator<Item = u32> {
    fs::read_dir(process.join("fd")).into_iter().flatten().flatten().filter_map(|entry| {
        let link = fs::read_link(entry.path()).ok()?;
        socket_inode(link.to_str()?)
    })
}

/// The inode number in a descriptor's link: `socket:[123]`.
pub(crate) fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Name and cgroup of a process; empty ones when it has ended meanwhile.
fn describe(proc: &Path, pid: u32) -> Process {
    let directory = proc.join(pid.to_string());
    let comm = fs::read(directory.join("comm")).unwrap_or_default();
    let (cgroup, pod) = cgroup::of_process(&fs::read_to_string(directory.join("cgroup")).unwrap_or_default());
    Process { pid, comm: String::from_utf8_lossy(&comm).trim_end_matches('\n').to_owned(), cgroup, pod }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_link_is_a_socket_only_in_the_kernels_form() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        for other in ["socket:[]", "socket:[x]", "pipe:[123]", "/tmp/socket:[1]", "socket:[99999999999]"] {
            assert_eq!(socket_inode(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_holds_its_socket_and_is_described() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(link.to_str().unwrap()).unwrap();
        let pid = std::process::id();
        let mut finder = Finder::new(Path::new("/proc"), &[]);
        finder.wanted.insert(inode);
        finder.ask([u32::MAX, pid, pid]);
        let owners = &finder.owners[&inode];
        assert_eq!(owners.iter().map(|owner| owner.pid).collect::<Vec<_>>(), [pid], "asked once");
        assert_eq!(owners[0].comm, fs::read_to_string("/proc/self/comm").unwrap().trim_end());
    }
}
