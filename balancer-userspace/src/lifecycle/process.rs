//! The processes that hold sockets: which descriptor is which socket, who shares one, and whether they sleep.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::PathBuf,
};

use crate::sockets::{Hierarchy, LiveSocket, socket_inode};

/// The most processes of a cgroup that are looked at: more than a container has. Sockets of a larger one are
/// taken to be shared.
const MOST: usize = 256;

/// The most descriptors of one process that are looked at, and of all that are looked at in one pass. Who has more is
/// taken to share: processes may hold a million descriptors each, or all the same million, and every one costs time.
const MOST_OF_ONE: usize = 1 << 16;
const MOST_OF_ALL: usize = 1 << 18;

/// Where a socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// This process alone holds it, under this descriptor.
    Held {
        /// Process id.
        pid: u32,
        /// Descriptor number, in that process.
        fd: i32,
    },
    /// Several processes hold it, or one of them holds it twice, or it cannot be told, as where there are too many
    /// descriptors to look at.
    Shared,
    /// The descriptors of its process may not be looked at. These processes may hold it.
    Hidden(Vec<u32>),
    /// Nobody was found who holds it.
    Nowhere,
}

/// What was found out about processes in one pass. They change at any time: whoever acts on it looks again.
pub struct Processes {
    sees_all: bool,
    hierarchy: Hierarchy,
    descriptors: HashMap<u32, Descriptors>,
    /// How many descriptors may still be looked at.
    left: usize,
}

/// The descriptors of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Descriptors {
    /// Those of sockets, by inode number.
    Sockets(HashMap<u32, Vec<i32>>),
    /// They may not be looked at.
    Hidden,
    /// There are more than are looked at.
    TooMany,
}

impl Default for Processes {
    /// Nothing is known yet.
    fn default() -> Self {
        Self {
            sees_all: sees_all(),
            hierarchy: Hierarchy::open(),
            descriptors: HashMap::new(),
            left: MOST_OF_ALL,
        }
    }
}

impl Processes {
    /// Where `socket` is: the process that opened it is asked, and all of its cgroup, for any of them may have
    /// inherited it or been handed it.
    pub fn place(&mut self, socket: &LiveSocket) -> Place {
        if !self.sees_all {
            return Place::Hidden(Vec::new());
        }
        let Some(opener) = socket.tgid().filter(|_| socket.inode != 0) else { return Place::Nowhere };
        let Some(mut pids) = socket.cgroup_id.and_then(|id| self.relatives(id, opener)) else {
            return Place::Shared;
        };
        pids.insert(opener);
        if pids.len() > MOST {
            return Place::Shared;
        }
        let mut found = None;
        for pid in &pids {
            match self.descriptors(*pid) {
                Descriptors::Sockets(sockets) => {
                    for fd in sockets.get(&socket.inode).into_iter().flatten() {
                        if found.replace(Place::Held { pid: *pid, fd: *fd }).is_some() {
                            return Place::Shared;
                        }
                    }
                }
                // Others may be hidden, as long as they are not of this cgroup.
                Descriptors::Hidden => return Place::Hidden(pids.into_iter().collect()),
                Descriptors::TooMany => return Place::Shared,
            }
        }
        found.unwrap_or(Place::Nowhere)
    }

    /// The processes that may have got a socket from `opener`: those of its cgroup or, where that is the root,
    /// which everybody is in, its own parent and children. `None` if that cannot be told.
    fn relatives(&mut self, cgroup: u64, opener: u32) -> Option<BTreeSet<u32>> {
        if !self.hierarchy.path(cgroup)?.as_os_str().is_empty() {
            return Some(self.hierarchy.processes(cgroup).into_iter().collect());
        }
        let mut family: BTreeSet<u32> = children(opener).into_iter().collect();
        family.extend(parent(opener).filter(|pid| *pid > 1));
        Some(family)
    }

    fn descriptors(&mut self, pid: u32) -> &Descriptors {
        let left = &mut self.left;
        self.descriptors.entry(pid).or_insert_with(|| sockets_of(pid, MOST_OF_ONE, left))
    }
}

/// The descriptors of a process's sockets; none of one that has ended. Looks at no more than `most`, nor than are `left`.
fn sockets_of(pid: u32, most: usize, left: &mut usize) -> Descriptors {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Descriptors::Hidden,
        Err(_) => return Descriptors::Sockets(HashMap::new()),
    };
    let mut sockets: HashMap<u32, Vec<i32>> = HashMap::new();
    for (seen, entry) in entries.flatten().enumerate() {
        if seen == most || *left == 0 {
            return Descriptors::TooMany;
        }
        *left -= 1;
        let inode = match fs::read_link(entry.path()) {
            Ok(link) => link.to_str().and_then(socket_inode),
            // Who may list descriptors may not look where they lead without CAP_SYS_PTRACE.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Descriptors::Hidden,
            Err(_) => None,
        };
        let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(inode), Some(fd)) = (inode, fd) {
            sockets.entry(inode).or_default().push(fd);
        }
    }
    Descriptors::Sockets(sockets)
}

fn threads(pid: u32) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(format!("/proc/{pid}/task"))?.map(|entry| Ok(entry?.path())).collect()
}

fn children(pid: u32) -> Vec<u32> {
    let of_thread = |thread: PathBuf| fs::read_to_string(thread.join("children")).unwrap_or_default();
    let lists: Vec<String> = threads(pid).unwrap_or_default().into_iter().map(of_thread).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything: the state, then the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Whether every thread of a process sleeps, waiting for something: then none is about to write. A process
/// that has ended writes nothing either.
pub fn sleeps(pid: u32) -> bool {
    let Ok(threads) = threads(pid) else { return true };
    threads.into_iter().all(|thread| {
        fs::read_to_string(thread.join("stat")).map_or(true, |stat| {
            stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().next()) == Some("S")
        })
    })
}

/// Whether this process is in the PID namespace in which the programs record who connects: the machine's own.
/// In another one the numbers stand for other processes, or none.
pub fn sees_all() -> bool {
    super::rights::Rights::of(std::process::id()).pids
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_is_found_under_its_descriptors() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let twin = socket.try_clone().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(link.to_str().unwrap()).unwrap();
        let look = |pid, most, mut left| (sockets_of(pid, most, &mut left), left);
        let (Descriptors::Sockets(sockets), left) = look(std::process::id(), MOST_OF_ONE, MOST_OF_ALL) else {
            panic!("they may be looked at")
        };
        let mut found = sockets[&inode].clone();
        found.sort_unstable();
        let mut expect = [socket.as_raw_fd(), twin.as_raw_fd()];
        expect.sort_unstable();
        assert_eq!(found, expect);
        assert_eq!(look(u32::MAX, 9, 9), (Descriptors::Sockets(HashMap::new()), 9));
        // A process, or all of them, with more than are looked at; and no more than that are.
        assert!(left < MOST_OF_ALL - 2);
        assert_eq!(look(std::process::id(), 2, 9), (Descriptors::TooMany, 7));
        assert_eq!(look(std::process::id(), 9, 2), (Descriptors::TooMany, 0));
    }

    #[test]
    fn a_process_that_runs_does_not_sleep() {
        // This thread runs while it looks.
        assert!(!sleeps(std::process::id()));
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !sleeps(child.id()) {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(children(std::process::id()).contains(&child.id()));
        assert_eq!(parent(child.id()), Some(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(sleeps(child.id()), "who has ended writes nothing");
    }
}
