//! Who holds a socket.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use balancer_common::abi::{Phase, UDP, UdpFlows};
use balancer_userspace::sockets::{Search, owners};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::{Maps, flow, place::Place, state};

#[test]
fn the_recorded_process_is_believed_only_if_it_holds_the_socket() {
    let maps = Maps::new();
    let place = Place::named();
    let client = place.enter(|| {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:53").unwrap();
        client
    });
    maps.sockets.set(&client, &state(UDP, Phase::Established, 1, "127.0.0.1:53".parse().unwrap()));
    let found = maps.all();
    let inode = found[0].inode;
    let pids = |search| -> Vec<u32> {
        let owners = owners(&found, search).unwrap();
        owners.get(&inode).into_iter().flatten().map(|process| process.pid).collect()
    };
    assert_eq!(pids(Search::Recorded), [std::process::id()]);

    // Passed on to a process that nobody recorded, as its standard input.
    let heir =
        Ended(Command::new("sleep").arg("600").stdin(Stdio::from(OwnedFd::from(client))).spawn().unwrap());
    let (recorded, everywhere) = (pids(Search::Recorded), pids(Search::Everywhere));
    let comm = owners(&found, Search::Everywhere).unwrap().get(&inode).map(|p| p[0].comm.clone());
    assert_eq!(recorded, [0; 0]);
    assert_eq!(everywhere, [heir.0.id()]);
    assert_eq!(comm.as_deref(), Some("sleep"));
}

/// A process that ends with the test, whatever its outcome.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A child of the cgroup2 root, removed when dropped. Nothing is attached to it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup2");
        let root = Path::new(mount.split(' ').nth(1).unwrap());
        let path = root.join(format!("balancer-sockets-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn name(&self) -> String {
        format!("/{}", self.0.file_name().unwrap().to_str().unwrap())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was killed leaves a moment later.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn an_unconnected_socket_is_found_in_the_processes_of_its_cgroup() {
    let maps = Maps::new();
    let place = Place::named();
    let cgroup = Cgroup::new();
    // The shell enters the cgroup before Python makes the socket, which it then tells us of.
    let script = "import socket, sys, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
                  s.bind(('127.0.0.1', 0))\nprint(s.fileno(), flush=True)\ntime.sleep(600)";
    let mut holder = Ended(place.enter(|| {
        Command::new("sh")
            .args(["-c", "echo $$ > \"$1/cgroup.procs\" && exec python3 -c \"$2\"", "sh"])
            .arg(&cgroup.0)
            .arg(script)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }));
    let mut line = String::new();
    let mut output = BufReader::new(holder.0.stdout.take().unwrap());
    BufRead::read_line(&mut output, &mut line).unwrap();
    let socket = duplicate(holder.0.id(), line.trim().parse().unwrap());
    let mut flows = UdpFlows::default();
    flows.flows[0] = flow(Phase::Established, 1);
    maps.flows.set(&socket, &flows);
    drop(socket);

    let found = maps.all();
    let owners = owners(&found, Search::Recorded).unwrap();
    let held: Vec<_> = owners[&found[0].inode].iter().map(|p| (p.pid, p.cgroup.clone())).collect();
    assert_eq!(held, [(holder.0.id(), cgroup.name())]);
}

/// Another process's descriptor.
fn duplicate(pid: u32, fd: i32) -> OwnedFd {
    let process = pidfd_open(Pid::from_raw(pid as i32).unwrap(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).unwrap()
}
