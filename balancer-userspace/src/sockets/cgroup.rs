//! From a cgroup to the pod and container that it was made for.

use std::{
    collections::HashMap,
    ffi::c_int,
    fs::{self, File},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::datapath;

/// A pod, as far as the name of a cgroup tells.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodRef {
    /// The pod's UID; for a static pod the hash that the kubelet uses instead.
    pub uid: String,
    /// The container's id; `None` for a process directly in the pod's cgroup.
    pub container: Option<String>,
}

/// The pod that a cgroup path belongs to; `None` for a cgroup that the kubelet did not make.
///
/// Both of the kubelet's drivers are known (`pkg/kubelet/cm`): systemd writes
/// `kubepods-burstable-pod<uid with _ for ->.slice/cri-containerd-<id>.scope`, cgroupfs
/// `kubepods/burstable/pod<uid>/<id>`. A guaranteed pod has no word for its class, and a node in a container
/// has more in front.
pub fn pod_of_path(path: &str) -> Option<PodRef> {
    let mut parts = path.split('/').skip_while(|part| !part.contains("kubepods"));
    let uid = parts.find_map(|part| match part.strip_suffix(".slice") {
        Some(slice) => uid_of(slice.rsplit_once("-pod")?.1),
        None => uid_of(part.strip_prefix("pod")?),
    })?;
    let container = parts.next().and_then(container_of);
    Some(PodRef { uid, container })
}

/// A UUID, with either separator, or the 32 digits of a static pod.
fn uid_of(text: &str) -> Option<String> {
    let uid = text.replace('_', "-");
    let groups: Vec<usize> = uid.split('-').map(str::len).collect();
    let known = groups == [8, 4, 4, 4, 12] || groups == [32];
    (known && uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit())).then_some(uid)
}

/// `cri-containerd-<id>.scope`, `crio-<id>.scope`, `docker-<id>.scope` or `<id>`.
fn container_of(part: &str) -> Option<String> {
    let id = part.strip_suffix(".scope").unwrap_or(part);
    let id = id.rsplit_once('-').map_or(id, |(_, id)| id);
    (id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// What `/proc/PID/cgroup` says: the path in the cgroup2 hierarchy, and the pod.
///
/// With both hierarchies mounted, processes may all be in the root of cgroup2; the pod is then looked for
/// in the paths of the first hierarchy.
pub(super) fn of_process(text: &str) -> (String, Option<PodRef>) {
    let unified = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("").to_owned();
    let others = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let pod = pod_of_path(&unified).or_else(|| others.filter_map(pod_of_path).next());
    (unified, pod)
}

/// The cgroup2 hierarchy, for finding a cgroup by the id that the kernel gives with a socket.
pub(crate) struct Hierarchy {
    mount: Option<(PathBuf, File)>,
    paths: HashMap<u64, Option<PathBuf>>,
}

impl Hierarchy {
    /// The mount from which most can be seen: in a container the host's, if it is there, rather than its own.
    /// Without any, no id is found.
    pub fn open() -> Self {
        let mount = datapath::cgroup2_mounts()
            .into_iter()
            .find_map(|path| File::open(&path).ok().map(|file| (path, file)));
        Self { mount, paths: HashMap::new() }
    }

    /// Where the cgroup is below the mount; `None` when it is gone, or may not be looked up (that takes
    /// CAP_DAC_READ_SEARCH). The root is the empty path.
    pub fn path(&mut self, id: u64) -> Option<&Path> {
        let mount = self.mount.as_ref()?;
        self.paths
            .entry(id)
            .or_insert_with(|| {
                let directory = open_by_id(&mount.1, id)?;
                let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
                path.strip_prefix(&mount.0).ok().map(Path::to_owned)
            })
            .as_deref()
    }

    /// The processes in the cgroup; none when that cannot be told.
    pub fn processes(&mut self, id: u64) -> Vec<u32> {
        let Some(path) = self.path(id).map(Path::to_owned) else { return Vec::new() };
        let Some((mount, _)) = &self.mount else { return Vec::new() };
        let text = fs::read_to_string(mount.join(path).join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }
}

/// Opens the directory of a cgroup: an id is what a kernfs file handle consists of
/// (`kernfs_fh_to_dentry`, `include/linux/exportfs.h`).
fn open_by_id(mount: &File, id: u64) -> Option<OwnedFd> {
    /// `FILEID_KERNFS`.
    const KERNFS: c_int = 0xfe;
    /// `struct file_handle` with its 8 bytes.
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: c_int,
        id: [u8; 8],
    }
    let mut handle = Handle { bytes: 8, kind: KERNFS, id: id.to_ne_bytes() };
    // SAFETY: `handle` is laid out as `struct file_handle` with the 8 bytes that it says it has.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC,
        )
    };
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4c1f0a7d7b4e2a9c1d5b6e8f00112233445566778899aabbccddeeff001122";
    const UID: &str = "2b801b7a-5266-4386-864c-45a0cc136f3e";

    fn check(path: &str, uid: &str, container: Option<&str>) {
        let expect = PodRef { uid: uid.to_owned(), container: container.map(str::to_owned) };
        assert_eq!(pod_of_path(path), Some(expect), "{path}");
    }

    #[test]
    fn the_systemd_driver_writes_slices_and_scopes() {
        let uid = UID.replace('-', "_");
        for class in ["-burstable", "-besteffort", ""] {
            for runtime in ["cri-containerd", "crio", "docker"] {
                let slice = if class.is_empty() { String::new() } else { format!("/kubepods{class}.slice") };
                let pod = format!("/kubepods.slice{slice}/kubepods{class}-pod{uid}.slice");
                check(&format!("{pod}/{runtime}-{ID}.scope"), UID, Some(ID));
                check(&pod, UID, None);
            }
        }
    }

    #[test]
    fn the_cgroupfs_driver_writes_plain_directories() {
        check(&format!("/kubepods/burstable/pod{UID}/{ID}"), UID, Some(ID));
        check(&format!("/kubepods/besteffort/pod{UID}/{ID}"), UID, Some(ID));
        check(&format!("/kubepods/pod{UID}/{ID}"), UID, Some(ID));
        check(&format!("/kubepods/burstable/pod{UID}"), UID, None);
    }

    #[test]
    fn a_node_in_a_container_and_a_cgroup_namespace_put_more_in_front() {
        let pod = format!("kubelet-kubepods-besteffort-pod{}.slice", UID.replace('-', "_"));
        let path = format!(
            "/docker/{ID}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/{pod}/cri-containerd-{ID}.scope"
        );
        check(&path, UID, Some(ID));
        check(&format!("/../../../kubepods/burstable/pod{UID}/{ID}"), UID, Some(ID));
    }

    #[test]
    fn a_static_pod_has_a_hash_for_a_uid() {
        let hash = "06794a5f1c2a4a8ab5c2a6c1b8e5f001";
        check(&format!("/kubepods/burstable/pod{hash}/{ID}"), hash, Some(ID));
        let path = format!(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{hash}.slice/crio-{ID}.scope"
        );
        check(&path, hash, Some(ID));
    }

    #[test]
    fn other_cgroups_are_no_pods() {
        for path in [
            "",
            "/",
            "/system.slice/docker.service",
            "/user.slice/user-1000.slice/session-2.scope",
            "/kubepods",
            "/kubepods.slice/kubepods-burstable.slice",
            "/kubepods/burstable/podinfo/x",
            &format!("/machine/pod{UID}/{ID}"),
            &format!("/docker/{ID}"),
        ] {
            assert_eq!(pod_of_path(path), None, "{path}");
        }
    }

    #[test]
    fn a_hybrid_host_shows_the_pod_in_the_first_hierarchy() {
        let text = format!("12:memory:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/x:y\n0::/\n");
        let (path, pod) = of_process(&text);
        assert_eq!((path.as_str(), pod.map(|pod| pod.uid)), ("/", Some(UID.to_owned())));
        assert_eq!(of_process(""), (String::new(), None));
    }
}
