//! A network namespace of the test's own, with loopback up and no route out.

use std::{
    fs::File,
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::thread::LinkNameSpaceType;

/// A network namespace, removed when dropped.
pub struct Place {
    /// Keeps it alive, and is the way into it.
    handle: File,
    keeper: Keeper,
}

enum Keeper {
    /// A bind mount below `/run/netns`.
    Name(String),
    /// A process in it.
    Process(Child),
}

impl Place {
    /// One that has a name, and no process.
    pub fn named() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("balancer-sockets-{}-{number}", std::process::id());
        run(&["netns", "add", &name]);
        let handle = File::open(format!("/run/netns/{name}")).unwrap();
        let place = Self { handle, keeper: Keeper::Name(name) };
        place.enter(|| run(&["link", "set", "lo", "up"]));
        place
    }

    /// One that has a process, and no name.
    pub fn with_process() -> Self {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 600"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 3];
        std::io::Read::read_exact(&mut child.stdout.take().unwrap(), &mut line).unwrap();
        let handle = File::open(format!("/proc/{}/ns/net", child.id())).unwrap();
        Self { handle, keeper: Keeper::Process(child) }
    }

    /// What it is to be called in a listing.
    pub fn name(&self) -> String {
        match &self.keeper {
            Keeper::Name(name) => format!("/run/netns/{name}"),
            Keeper::Process(child) => format!("process {}", child.id()),
        }
    }

    /// Its inode number.
    pub fn inode(&self) -> u64 {
        std::os::unix::fs::MetadataExt::ino(&self.handle.metadata().unwrap())
    }

    /// Runs `f` in it, on a thread of its own.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let visit = || {
                let network = Some(LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.handle.as_fd(), network).unwrap();
                f()
            };
            scope.spawn(visit).join().unwrap()
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        match &mut self.keeper {
            Keeper::Name(name) => {
                let _ = Command::new("ip").args(["netns", "del", name]).status();
            }
            Keeper::Process(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn run(arguments: &[&str]) {
    let status = Command::new("ip").args(arguments).status().unwrap();
    assert!(status.success(), "ip {arguments:?}: {status}");
}
