//! What the manifests mount of a host, on the host that this is.

use std::path::Path;

use balancer_tests::kernel::{cgroup2, require_kernel};
use balancer_userspace::datapath::find_cgroup2;

/// The manifests name `/sys/fs/cgroup`, whichever way the host has mounted its hierarchies.
#[test]
fn the_hosts_directory_of_cgroups_stands_for_its_cgroup2_root() {
    require_kernel();
    assert_eq!(find_cgroup2(Some(Path::new("/sys/fs/cgroup"))).unwrap().path, cgroup2().unwrap());
}
