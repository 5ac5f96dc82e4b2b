//! Whatever happens to a test, its topology leaves nothing in the system.

use std::{
    fs,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use balancer_tests::{
    kernel::{BPFFS, cgroup2, require_kernel},
    topology::{Pod, Scratch, Topology, sweep},
};
use rustix::io::Errno;

const PORT: u16 = 8080;

fn topology() -> Topology {
    require_kernel();
    Topology::new().unwrap()
}

#[test]
fn everything_is_gone_after_a_drop() {
    let node = topology();
    let (client, backend) = (node.pod("client").unwrap(), node.pod("backend").unwrap());
    let server = backend.server(PORT).unwrap();
    let peer = client.client().unwrap();
    peer.hold(3, backend.v4(PORT)).unwrap();
    let made = Made::of(&node, &[&client, &backend]);
    made.assert_there();

    // A pod that goes alone takes its address with it, while the rest goes on.
    drop((server, backend));
    wait_for(|| peer.check_held().unwrap().broken == 3);
    let gone = SocketAddr::new(made.addr, PORT);
    assert_eq!(peer.connect(gone).unwrap_err().errno(), Some(Errno::NETUNREACH));

    // The topology goes before its last pod.
    drop(node);
    drop((peer, client));
    made.assert_gone();
}

#[test]
fn everything_is_gone_after_a_panic() {
    let mut made = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let node = topology();
        let pods = node.pods("backend", 2).unwrap();
        let _server = pods[0].server(PORT).unwrap();
        // A process that nobody holds on to.
        let mut sleep = Command::new("sleep");
        sleep.arg("600").stdin(Stdio::null());
        std::mem::forget(pods[1].spawn(sleep).unwrap());
        made = Some(Made::of(&node, &[&pods[0], &pods[1]]));
        made.as_ref().unwrap().assert_there();
        panic!("on purpose");
    }));
    assert!(result.is_err());
    made.unwrap().assert_gone();
}

#[test]
fn what_a_killed_process_left_is_swept() {
    const VICTIM: &str = "BALANCER_TEST_VICTIM";
    require_kernel();
    if std::env::var_os(VICTIM).is_some() {
        return wait_to_be_killed();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "what_a_killed_process_left_is_swept"])
        .env(VICTIM, "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = fs::read_to_string(format!("/proc/{}/stat", victim.id())).unwrap();
    let started = started.rsplit(' ').nth(30).unwrap().to_owned();
    let mark = format!("-{}-{started}-", victim.id());
    let left = || {
        let dirs = [PathBuf::from("/run/netns"), cgroup2().unwrap(), BPFFS.into(), std::env::temp_dir()];
        dirs.map(|dir| {
            let names =
                fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with("bal") && name.contains(&mark)).count()
        })
    };
    wait_for(|| left() == [2, 1, 1, 1]);
    // Swept while it lives: untouched.
    sweep().unwrap();
    assert_eq!(left(), [2, 1, 1, 1]);
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert_eq!(left(), [2, 1, 1, 1]);
    sweep().unwrap();
    assert_eq!(left(), [0; 4]);
}

/// The victim: makes one of everything, and waits.
fn wait_to_be_killed() {
    let node = topology();
    let pod = node.pod("victim").unwrap();
    let _files = Scratch::files().unwrap();
    let pins = Scratch::pins();
    fs::create_dir(pins.path()).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("600").stdin(Stdio::null());
    pod.spawn(sleep).unwrap().wait(Duration::from_secs(60)).unwrap_err();
}

/// What a topology made in the system.
struct Made {
    paths: Vec<PathBuf>,
    addr: std::net::IpAddr,
}

impl Made {
    fn of(node: &Topology, pods: &[&Pod]) -> Self {
        let netns = |pod: &Pod| Path::new("/run/netns").join(pod.netns().name());
        let mut paths = vec![node.cgroup().to_owned(), netns(node.host())];
        for pod in pods {
            paths.extend([netns(pod), pod.cgroup().path().to_owned()]);
            paths.extend(
                pod.cgroup().processes().unwrap().iter().map(|pid| PathBuf::from(format!("/proc/{pid}/exe"))),
            );
        }
        Self { paths, addr: pods.last().unwrap().addresses().v4.into() }
    }

    fn assert_there(&self) {
        self.paths
            .iter()
            .for_each(|path| assert!(path.symlink_metadata().is_ok(), "{} is missing", path.display()));
    }

    /// `/proc/PID/exe` cannot be read once a process is dead, even before it is reaped.
    fn assert_gone(&self) {
        for path in &self.paths {
            assert!(
                fs::read_link(path).is_err() && !path.is_dir() && !path.is_file(),
                "{} is left",
                path.display()
            );
        }
    }
}

#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + balancer_tests::kernel::patience(Duration::from_secs(10));
    while !condition() {
        assert!(Instant::now() < deadline, "did not come true in 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}
