//! Machines and containers as data: what each would attach to.

use std::path::Path;

use super::{Choice, Seen, choose, is_below};
use crate::datapath::mounts::parse;

/// Mounts as `/proc/self/mountinfo` has them, and for each cgroup2 mount, in order, the id that is there.
fn seen(mountinfo: &str, ids: &[u64]) -> Vec<Seen> {
    let mounts: Vec<_> = parse(mountinfo).into_iter().filter(|mount| mount.kind == "cgroup2").collect();
    assert_eq!(mounts.len(), ids.len(), "{mounts:?}");
    mounts.into_iter().zip(ids).map(|(mount, id)| Seen { mount, id: *id }).collect()
}

/// `attach` or `own only`, and where.
#[track_caller]
fn check(what: &str, mountinfo: &str, ids: &[u64], own: &str, expect: &str) {
    let seen = seen(mountinfo, ids);
    let found = match choose(&seen, Some(Path::new(own))) {
        Choice::Attach(seen) => format!("attach {}", seen.mount.target.display()),
        Choice::OwnOnly(seen) => format!("own only {}", seen.mount.target.display()),
        Choice::None => "none".to_owned(),
    };
    assert_eq!(found, expect, "{what}");
}

const PURE: &str = "\
24 30 0:22 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw
35 24 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot
36 24 0:31 / /sys/fs/bpf rw,nosuid,nodev,noexec,relatime shared:11 - bpf bpf rw,mode=700
";

const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

#[test]
fn a_host() {
    check("pure v2", PURE, &[1], "/system.slice/balancer.service", "attach /sys/fs/cgroup");
    check("pure v2, in the root cgroup", PURE, &[1], "/", "attach /sys/fs/cgroup");
    check("hybrid", HYBRID, &[1], "/", "attach /sys/fs/cgroup/unified");
    let legacy = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
    check("v1 alone", legacy, &[], "/", "none");
    // Cilium mounts one of its own; a part is mounted before the whole.
    let several = "\
34 24 0:30 /kubepods.slice /mnt/part rw - cgroup2 cgroup2 rw
35 24 0:30 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
60 24 0:30 / /run/cilium/cgroupv2 rw - cgroup2 none rw
";
    check("several mounts", several, &[4711, 1, 1], "/", "attach /sys/fs/cgroup");
}

/// A container's own view, as runtimes mount it in a cgroup namespace of its own.
const OWN: &str = "\
900 880 0:30 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate
";

#[test]
fn a_pod() {
    check("nothing of the host", OWN, &[9000], "/", "own only /sys/fs/cgroup");
    let volume =
        format!("{OWN}901 880 0:30 /../../../.. /host/sys/fs/cgroup ro,relatime - cgroup2 cgroup2 rw\n");
    check("the host's in a volume", &volume, &[9000, 1], "/", "attach /host/sys/fs/cgroup");
    // The volume of a hybrid host: what is mounted below comes along.
    let hybrid = "\
899 880 0:30 /../.. /sys/fs/cgroup/unified ro,nosuid - cgroup2 cgroup rw
901 880 0:28 / /host/sys/fs/cgroup ro,relatime - tmpfs tmpfs rw,mode=755
902 901 0:29 / /host/sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
903 901 0:30 / /host/sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    check("of a hybrid host", hybrid, &[9000, 1], "/", "attach /host/sys/fs/cgroup/unified");
    // In place of the container's own: both are listed, and what is there is the host's.
    let over = format!("{OWN}901 900 0:30 /../../.. /sys/fs/cgroup ro,relatime - cgroup2 cgroup2 rw\n");
    check("over its own", &over, &[1, 1], "/", "attach /sys/fs/cgroup");
    // With the host's cgroup namespace, runtimes mount the container's own cgroup by its whole path.
    let shared = "900 880 0:30 /kubepods/pod1/c1 /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    check("no namespace of its own", shared, &[9000], "/kubepods/pod1/c1", "own only /sys/fs/cgroup");
    // With the host's PID namespace: what the first process sees comes last.
    let init = format!("{OWN}35 24 0:30 /../../.. /proc/1/root/sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    check("the host's PID namespace", &init, &[9000, 1], "/", "attach /proc/1/root/sys/fs/cgroup");
}

#[test]
fn a_node_that_is_a_container() {
    // kind: the node's root is a cgroup of the machine below it, with a number of its own.
    check("its services", PURE, &[300], "/system.slice/balancer.service", "attach /sys/fs/cgroup");
    let pod = format!("{OWN}901 880 0:30 /../../.. /host/sys/fs/cgroup ro,relatime - cgroup2 cgroup2 rw\n");
    check("its pods", &pod, &[9000, 300], "/", "attach /host/sys/fs/cgroup");
    // The further out, the better, whatever the order.
    let two = format!("{pod}902 880 0:30 /../.. /host/kubepods ro - cgroup2 cgroup2 rw\n");
    check("a slice of it too", &two, &[9000, 300, 400], "/", "attach /host/sys/fs/cgroup");
    check("a pod that sees itself", OWN, &[9000], "/", "own only /sys/fs/cgroup");
}

#[test]
fn a_part_of_the_host_in_a_volume_is_a_part() {
    let sibling = format!("{OWN}901 880 0:30 /../../besteffort /host/part ro - cgroup2 cgroup2 rw\n");
    check("above", &sibling, &[9000, 500], "/", "attach /host/part");
}

#[test]
fn whether_a_process_is_in_a_cgroup() {
    // The directories of a host, and of the same host in a volume.
    let ids = |path: &Path| {
        let path = path.to_str().unwrap().trim_start_matches("/host");
        Some(match path.trim_end_matches('/') {
            "/sys/fs/cgroup" => 1,
            "/sys/fs/cgroup/kubepods" => 10,
            "/sys/fs/cgroup/kubepods/pod1" => 11,
            "/sys/fs/cgroup/system.slice" => 20,
            _ => return None,
        })
    };
    let host = seen(PURE, &[1]);
    let check = |what: &str, id, seen: &[Seen], own: &str, expect| {
        assert_eq!(is_below(id, seen, Path::new(own), ids), expect, "{what}");
    };
    check("the root", 1, &host, "/kubepods/pod1", Some(true));
    check("itself", 11, &host, "/kubepods/pod1", Some(true));
    check("above", 10, &host, "/kubepods/pod1", Some(true));
    check("beside", 20, &host, "/kubepods/pod1", Some(false));
    check("below", 11, &host, "/kubepods", Some(false));
    let volume = format!("{OWN}901 880 0:30 /../.. /host/sys/fs/cgroup ro,relatime - cgroup2 cgroup2 rw\n");
    let pod = seen(&volume, &[11, 1]);
    check("its own, in a namespace", 11, &pod, "/", Some(true));
    check("the root, above the namespace", 1, &pod, "/", Some(true));
    check("names above the namespace are not told", 10, &pod, "/", None);
    let outside = seen("901 880 0:30 /.. /mnt rw - cgroup2 cgroup2 rw\n", &[10]);
    check("moved out of its namespace", 10, &outside, "/../../system.slice", None);
}
