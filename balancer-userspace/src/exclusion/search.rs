//! Finding the cgroups of pods in the hierarchy.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::DirEntryExt as _,
    path::Path,
    sync::Arc,
};

use crate::sockets::pod_of_path;

/// How far below the root a pod's cgroup is looked for: a node in a container has a few levels of its own above
/// the kubelet's.
const DEPTH: u32 = 8;

/// The ids of the cgroups below `root` that belong to these pods. What lies within a pod's cgroup is not looked at,
/// so that the cost is that of the pods on the node, not of their containers. What cannot be read is not there.
pub(super) fn pods_below(root: &Path, uids: &BTreeSet<Arc<str>>) -> BTreeMap<Arc<str>, BTreeSet<u64>> {
    let mut found = BTreeMap::new();
    walk(root, "", DEPTH, &mut |path, id| {
        let Some(pod) = pod_of_path(path) else { return Descend::Yes };
        if let Some(uid) = uids.get(pod.uid.as_str()) {
            found.entry(uid.clone()).or_insert_with(BTreeSet::new).insert(id);
        }
        Descend::No
    });
    found
}

enum Descend {
    Yes,
    No,
}

/// Visits the directories below `directory` with their paths, as seen from the root, and inode numbers, which are the
/// cgroups' ids.
fn walk(directory: &Path, path: &str, depth: u32, visit: &mut impl FnMut(&str, u64) -> Descend) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{path}/{name}");
        if let (Descend::Yes, 2..) = (visit(&path, entry.ino()), depth) {
            walk(&entry.path(), &path, depth - 1, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn pods_of_every_driver_and_class_are_found() {
        let root = tempfile::tempdir().unwrap();
        let uid = |number: u32| format!("0a1b2c3d-0000-4000-8000-{number:012x}");
        let hash = "0123456789abcdef0123456789abcdef";
        let systemd = uid(1).replace('-', "_");
        let wanted = [
            (
                uid(1),
                format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd}.slice"),
            ),
            (uid(2), format!("kubepods/pod{}", uid(2))),
            (
                hash.to_owned(),
                format!("kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{hash}.slice"),
            ),
        ];
        let others = [
            format!("kubepods/besteffort/pod{}", uid(9)),
            "system.slice/ssh.service".to_owned(),
            // A pod of a node within a pod is that pod's business.
            format!("kubepods/pod{}/kubepods/pod{}", uid(9), uid(2)),
        ];
        for path in wanted.iter().map(|(_, path)| path).chain(&others) {
            fs::create_dir_all(root.path().join(path).join("cri-containerd-0123456789ab.scope")).unwrap();
        }
        let uids = wanted.iter().map(|(uid, _)| Arc::from(uid.as_str())).collect();
        let expect: BTreeMap<Arc<str>, BTreeSet<u64>> = wanted
            .iter()
            .map(|(uid, path)| {
                let id = fs::metadata(root.path().join(path)).unwrap().ino();
                (uid.as_str().into(), BTreeSet::from([id]))
            })
            .collect();
        assert_eq!(pods_below(root.path(), &uids), expect);
        assert!(pods_below(&root.path().join("gone"), &uids).is_empty());
    }
}
