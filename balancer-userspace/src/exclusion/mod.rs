//! Processes whose connects are left alone: which cgroups those are, and keeping the kernel's list of
//! them in step.
//!
//! A mesh's sidecar must see the Service's address to do its work, and an owner may want his pod left
//! out. The programs know a process by its cgroup, so a pod is left alone by leaving its cgroup alone,
//! with all that lies below. Pods are recognised by their UID, which the kubelet writes into the names of
//! the cgroups that it makes. Such a cgroup appears some time after the pod is known, and before its first
//! container: it is looked for until it is there.

mod search;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::datapath::{DatapathError, Maps};

/// How often the cgroup of a pod is looked for that has just become known.
pub const SEARCH: Duration = Duration::from_millis(250);
/// For how long it is looked for as often as that.
const EAGER: Duration = Duration::from_secs(30);
/// How often it is looked for afterwards, and how often those that were found are looked at again.
const PATIENT: Duration = Duration::from_secs(5);

/// The kernel's list of cgroups.
pub trait ExcludedCgroups {
    /// The ids in it.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn ids(&self) -> Result<Vec<u64>, DatapathError>;
    /// Adds one.
    ///
    /// # Errors
    /// What the kernel refuses: for want of room, [`DatapathError::TooManyExcluded`].
    fn insert(&mut self, cgroup: u64) -> Result<(), DatapathError>;
    /// Removes one.
    ///
    /// # Errors
    /// What the kernel refuses.
    fn remove(&mut self, cgroup: u64) -> Result<(), DatapathError>;
}

impl ExcludedCgroups for Maps {
    fn ids(&self) -> Result<Vec<u64>, DatapathError> {
        self.excluded()
    }

    fn insert(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        self.insert_excluded(cgroup)
    }

    fn remove(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        self.remove_excluded(cgroup)
    }
}

/// Which pods are to be left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// Not known yet: those that an earlier agent left alone stay so.
    Unknown,
    /// These, by UID.
    Known(BTreeSet<Arc<str>>),
}

/// What is to be left alone, and what is.
#[derive(Debug)]
pub struct Exclusions {
    /// Where pods' cgroups are looked for: the cgroup that the programs are attached to.
    root: PathBuf,
    /// Cgroups that the agent was told of by name.
    paths: Vec<PathBuf>,
    pods: Pods,
    /// When a pod became known whose cgroup has not been found.
    missing: BTreeMap<Arc<str>, Instant>,
    searched: Option<Instant>,
    /// Cgroups of pods, as of the last search.
    found: BTreeMap<Arc<str>, BTreeSet<u64>>,
    /// What the kernel holds; `None` until it was read.
    held: Option<BTreeSet<u64>>,
}

impl Exclusions {
    /// Leaves the cgroups at `paths` alone, and pods below `root` once they are known.
    pub fn new(root: &Path, paths: Vec<PathBuf>) -> Self {
        Self {
            root: root.into(),
            paths,
            pods: Pods::Unknown,
            missing: BTreeMap::new(),
            searched: None,
            found: BTreeMap::new(),
            held: None,
        }
    }

    /// Sets which pods are to be left alone. Whether anything is to be done at once.
    pub fn set_pods(&mut self, pods: Pods, now: Instant) -> bool {
        if self.pods == pods {
            return false;
        }
        if let Pods::Known(uids) = &pods {
            self.missing.retain(|uid, _| uids.contains(uid));
            self.found.retain(|uid, _| uids.contains(uid));
            for uid in uids.iter().filter(|uid| !self.found.contains_key(*uid)) {
                self.missing.entry(uid.clone()).or_insert(now);
            }
        }
        self.pods = pods;
        self.searched = None;
        true
    }

    /// Whether the cgroup of a pod is being looked for that should be there any moment.
    pub fn is_searching(&self, now: Instant) -> bool {
        self.missing.values().any(|since| now.duration_since(*since) < EAGER)
    }

    /// How many pods are to be left alone whose cgroup has not been found.
    pub fn missing(&self) -> usize {
        self.missing.len()
    }

    /// Brings the kernel's list in step. Returns how many cgroups are in it, if it could be read, and the first
    /// thing that the kernel refused; everything else is done all the same.
    pub fn refresh(
        &mut self,
        kernel: &mut impl ExcludedCgroups,
        now: Instant,
    ) -> (Option<u32>, Result<(), DatapathError>) {
        self.search(now);
        let mut desired: BTreeSet<u64> =
            self.paths.iter().filter_map(|path| Some(fs::metadata(path).ok()?.ino())).collect();
        desired.extend(self.found.values().flatten());
        let mut held: BTreeSet<u64> = match self.held.take() {
            Some(held) => held,
            None => match kernel.ids() {
                Ok(ids) => ids.into_iter().collect(),
                Err(error) => return (None, Err(error)),
            },
        };
        let mut failed = None;
        for id in desired.iter().filter(|id| !held.contains(id)).copied().collect::<Vec<_>>() {
            match kernel.insert(id) {
                Ok(()) => drop(held.insert(id)),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        // Of what an earlier agent left alone, nobody can tell which were pods.
        if self.pods != Pods::Unknown {
            for id in held.iter().filter(|id| !desired.contains(id)).copied().collect::<Vec<_>>() {
                match kernel.remove(id) {
                    Ok(()) => drop(held.remove(&id)),
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        let count = u32::try_from(held.len()).unwrap_or(u32::MAX);
        self.held = Some(held);
        (Some(count), failed.map_or(Ok(()), Err))
    }

    /// Looks for the cgroups of pods, if it is time.
    fn search(&mut self, now: Instant) {
        let Pods::Known(uids) = &self.pods else { return };
        if uids.is_empty() {
            return;
        }
        let pause = if self.is_searching(now) { SEARCH } else { PATIENT };
        if self.searched.is_some_and(|last| now.duration_since(last) < pause) {
            return;
        }
        self.searched = Some(now);
        self.found = search::pods_below(&self.root, uids);
        for uid in uids {
            match self.found.contains_key(uid) {
                true => drop(self.missing.remove(uid)),
                false => drop(self.missing.entry(uid.clone()).or_insert(now)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0a1b2c3d-0000-4000-8000-00000000000a";

    #[derive(Default)]
    struct Kernel {
        unreadable: bool,
        ids: BTreeSet<u64>,
        room: usize,
        writes: usize,
    }

    impl ExcludedCgroups for Kernel {
        fn ids(&self) -> Result<Vec<u64>, DatapathError> {
            if self.unreadable {
                return Err(DatapathError::TooManyExcluded(0));
            }
            Ok(self.ids.iter().copied().collect())
        }

        fn insert(&mut self, cgroup: u64) -> Result<(), DatapathError> {
            self.writes += 1;
            if self.ids.len() >= self.room {
                return Err(DatapathError::TooManyExcluded(self.room as u32));
            }
            self.ids.insert(cgroup);
            Ok(())
        }

        fn remove(&mut self, cgroup: u64) -> Result<(), DatapathError> {
            self.writes += 1;
            self.ids.remove(&cgroup);
            Ok(())
        }
    }

    fn kernel(ids: impl IntoIterator<Item = u64>) -> Kernel {
        Kernel { ids: ids.into_iter().collect(), room: 10, ..Kernel::default() }
    }

    fn known<const N: usize>(uids: [&str; N]) -> Pods {
        Pods::Known(uids.into_iter().map(Arc::from).collect())
    }

    fn count((count, result): (Option<u32>, Result<(), DatapathError>)) -> u32 {
        result.unwrap();
        count.unwrap()
    }

    fn inode(path: &Path) -> u64 {
        fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn a_named_cgroup_is_followed_as_it_goes_and_comes_back() {
        let root = tempfile::tempdir().unwrap();
        let named = root.path().join("batch.slice");
        let mut exclusions = Exclusions::new(root.path(), vec![named.clone()]);
        let now = Instant::now();
        exclusions.set_pods(known([]), now);
        let mut kernel = kernel([]);
        assert_eq!(count(exclusions.refresh(&mut kernel, now)), 0);
        fs::create_dir(&named).unwrap();
        assert_eq!(count(exclusions.refresh(&mut kernel, now)), 1);
        assert_eq!(kernel.ids, BTreeSet::from([inode(&named)]));
        assert_eq!(count(exclusions.refresh(&mut kernel, now)), 1);
        assert_eq!(kernel.writes, 1, "nothing is written twice");
        fs::remove_dir(&named).unwrap();
        assert_eq!(count(exclusions.refresh(&mut kernel, now)), 0);
    }

    #[test]
    fn what_an_earlier_agent_left_alone_stays_so_until_pods_are_known() {
        let root = tempfile::tempdir().unwrap();
        let mut exclusions = Exclusions::new(root.path(), Vec::new());
        let mut kernel = kernel([7, 8]);
        let now = Instant::now();
        assert_eq!(count(exclusions.refresh(&mut kernel, now)), 2);
        assert!(exclusions.set_pods(known([]), now));
        assert!(!exclusions.set_pods(known([]), now));
        assert_eq!(count(exclusions.refresh(&mut kernel, now)), 0);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_not_taken_for_an_empty_one() {
        let root = tempfile::tempdir().unwrap();
        let mut exclusions = Exclusions::new(root.path(), Vec::new());
        let mut kernel = Kernel { unreadable: true, ..kernel([7]) };
        let (held, result) = exclusions.refresh(&mut kernel, Instant::now());
        assert_eq!(held, None);
        result.unwrap_err();
        kernel.unreadable = false;
        assert_eq!(count(exclusions.refresh(&mut kernel, Instant::now())), 1);
    }

    #[test]
    fn a_pod_is_looked_for_until_its_cgroup_is_there() {
        let root = tempfile::tempdir().unwrap();
        let mut exclusions = Exclusions::new(root.path(), Vec::new());
        let mut kernel = kernel([]);
        let start = Instant::now();
        exclusions.set_pods(known([UID]), start);
        assert!(exclusions.is_searching(start));
        count(exclusions.refresh(&mut kernel, start));
        assert_eq!(exclusions.missing(), 1);
        let pod = root.path().join(format!("kubepods/burstable/pod{UID}"));
        fs::create_dir_all(pod.join("0123456789abcdef")).unwrap();
        // Not at every turn of the loop.
        assert_eq!(count(exclusions.refresh(&mut kernel, start + SEARCH / 2)), 0);
        assert_eq!(count(exclusions.refresh(&mut kernel, start + SEARCH)), 1);
        assert_eq!(kernel.ids, BTreeSet::from([inode(&pod)]));
        assert_eq!((exclusions.missing(), exclusions.is_searching(start + SEARCH)), (0, false));
        // The pod's cgroup is made anew when the kubelet restarts it.
        fs::remove_dir_all(&pod).unwrap();
        let later = start + SEARCH + PATIENT;
        assert_eq!(count(exclusions.refresh(&mut kernel, later)), 0);
        assert!(exclusions.is_searching(later));
        // One that never comes is looked for less often.
        assert!(!exclusions.is_searching(later + EAGER));
    }

    #[test]
    fn what_has_no_room_is_an_error_and_the_rest_is_done() {
        let root = tempfile::tempdir().unwrap();
        let paths = [root.path().join("a"), root.path().join("b")];
        paths.iter().for_each(|path| fs::create_dir(path).unwrap());
        let mut exclusions = Exclusions::new(root.path(), paths.to_vec());
        let mut kernel = Kernel { room: 1, ..kernel([]) };
        exclusions.set_pods(known([]), Instant::now());
        let error = exclusions.refresh(&mut kernel, Instant::now()).1.unwrap_err();
        assert!(matches!(error, DatapathError::TooManyExcluded(1)), "{error}");
        assert_eq!(kernel.ids.len(), 1);
        kernel.room = 2;
        count(exclusions.refresh(&mut kernel, Instant::now()));
        assert_eq!(kernel.ids.len(), 2);
    }
}
