//! Where things are pinned, and the lock that keeps a second agent away.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use balancer_common::abi::LAYOUT_VERSION;
use rustix::fs::{FlockOperation, flock};

use super::DatapathError;

/// How often, and how long apart, to try to take the lock: whoever asks whether it is held has it for an
/// instant.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The directory that maps and links are pinned under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Pins under `root`, a directory of a bpf file system.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What `--pins` named.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of this layout version.
    pub fn version(&self) -> PathBuf {
        self.root.join(format!("v{LAYOUT_VERSION}"))
    }

    /// The pin of a map.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// The pin of a link.
    pub fn link(&self, name: &str) -> PathBuf {
        self.version().join("links").join(name)
    }

    /// Makes the directories.
    pub fn create(&self) -> Result<(), DatapathError> {
        for directory in [self.version().join("maps"), self.version().join("links")] {
            make(&directory)?;
        }
        Ok(())
    }

    /// Directories of other layout versions, left behind by other versions of the agent.
    pub fn other_versions(&self) -> Vec<PathBuf> {
        let current = self.version();
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        let mut others: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| *path != current && path.is_dir())
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.strip_prefix('v').is_some_and(|number| number.parse::<u32>().is_ok())
            })
            .collect();
        others.sort();
        others
    }

    /// Takes the agent's lock, for as long as the returned value lives. Makes the directory if need be.
    ///
    /// The lock is on the directory itself, which every container that mounts this bpf file system sees,
    /// and goes with the process, however it ends. `None`: somebody else holds it.
    pub fn lock(&self) -> Result<Option<AgentLock>, DatapathError> {
        self.patiently(|| {
            make(&self.root)?;
            self.try_lock(FlockOperation::NonBlockingLockExclusive)
        })
    }

    /// As [`Pins::lock`], but makes nothing: for keeping agents away while all of it is removed.
    ///
    /// # Errors
    /// [`DatapathError::NotInstalled`] if there is no such directory.
    pub fn lock_existing(&self) -> Result<Option<AgentLock>, DatapathError> {
        self.patiently(|| self.try_lock(FlockOperation::NonBlockingLockExclusive))
    }

    fn patiently(
        &self,
        attempt: impl Fn() -> Result<Option<AgentLock>, DatapathError>,
    ) -> Result<Option<AgentLock>, DatapathError> {
        for _ in 0..LOCK_TRIES {
            match attempt()? {
                Some(lock) if self.is_on_this(&lock) => return Ok(Some(lock)),
                // The directory was removed while its lock was waited for: a lock that nobody sees.
                Some(_) => {}
                None => thread::sleep(LOCK_PAUSE),
            }
        }
        Ok(None)
    }

    fn is_on_this(&self, lock: &AgentLock) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (lock.directory.metadata(), fs::metadata(&self.root)) {
            (Ok(locked), Ok(present)) => id(locked) == id(present),
            _ => false,
        }
    }

    /// Whether an agent runs: whether its lock is held.
    pub fn is_locked(&self) -> Result<bool, DatapathError> {
        Ok(self.try_lock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    /// Makes sure that nobody else can remove what is pinned, or pin something else under the same names. In a file system
    /// that others may write to, they may have made the directory, or a link of its name, before us.
    fn check_owner(&self, directory: &File) -> Result<(), DatapathError> {
        let failed = |problem| Err(DatapathError::ForeignPins { path: self.root.clone(), problem });
        let io = |error| DatapathError::io("cannot look at", &self.root)(error);
        if fs::symlink_metadata(&self.root).map_err(io)?.is_symlink() {
            return failed("is a symbolic link");
        }
        let metadata = directory.metadata().map_err(io)?;
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return failed("belongs to another user");
        }
        if metadata.mode() & 0o022 != 0 {
            return failed("may be written to by others");
        }
        Ok(())
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<Option<AgentLock>, DatapathError> {
        let directory = match File::open(&self.root) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatapathError::NotInstalled(self.root.clone()));
            }
            Err(error) => return Err(DatapathError::io("cannot open", &self.root)(error)),
        };
        self.check_owner(&directory)?;
        match flock(&directory, operation) {
            Ok(()) => Ok(Some(AgentLock { directory })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(DatapathError::io("cannot lock", &self.root)(error.into())),
        }
    }
}

/// Makes a directory that nobody else can look into, and those above it.
fn make(directory: &Path) -> Result<(), DatapathError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(DatapathError::io("cannot make directory", directory))
}

/// The agent's lock; released when dropped.
#[derive(Debug)]
pub struct AgentLock {
    directory: File,
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn pins() -> (tempfile::TempDir, Pins) {
        let dir = tempfile::tempdir().unwrap();
        let pins = Pins::new(dir.path().join("balancer"));
        (dir, pins)
    }

    #[test]
    fn one_agent_at_a_time() {
        let (_dir, pins) = pins();
        assert!(matches!(pins.lock_existing(), Err(DatapathError::NotInstalled(_))));
        let lock = pins.lock().unwrap().expect("nobody holds it");
        assert!(pins.is_locked().unwrap());
        assert!(pins.lock().unwrap().is_none() && pins.lock_existing().unwrap().is_none());
        drop(lock);
        assert!(!pins.is_locked().unwrap());
        assert!(pins.lock_existing().unwrap().is_some());
    }

    #[test]
    fn whoever_asks_for_an_instant_keeps_no_agent_away() {
        let (_dir, pins) = pins();
        drop(pins.lock().unwrap());
        let asking = pins.try_lock(FlockOperation::NonBlockingLockShared).unwrap().unwrap();
        let (sender, receiver) = mpsc::channel();
        let thread = thread::spawn({
            let pins = pins.clone();
            move || sender.send(pins.lock().unwrap().is_some()).unwrap()
        });
        thread::sleep(LOCK_PAUSE);
        drop(asking);
        assert!(receiver.recv().unwrap());
        thread.join().unwrap();
    }

    #[test]
    fn a_directory_that_others_have_a_hand_in_is_refused() {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        let (dir, pins) = pins();
        drop(pins.lock().unwrap().unwrap());
        let mode = fs::metadata(pins.root()).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700, "nobody else looks into it");
        pins.create().unwrap();
        let refused = |problem: &str| {
            for result in [pins.lock(), pins.lock_existing()] {
                let error = result.unwrap_err().to_string();
                assert!(
                    error.contains(problem) && error.contains(&pins.root().display().to_string()),
                    "{error}"
                );
            }
        };
        for mode in [0o720, 0o702, 0o1777] {
            fs::set_permissions(pins.root(), fs::Permissions::from_mode(mode)).unwrap();
            refused("may be written to by others");
        }
        fs::set_permissions(pins.root(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(pins.lock().unwrap().is_some(), "as earlier versions made it");
        let moved = dir.path().join("elsewhere");
        fs::rename(pins.root(), &moved).unwrap();
        symlink(&moved, pins.root()).unwrap();
        refused("is a symbolic link");
        if rustix::process::geteuid().is_root() {
            fs::remove_file(pins.root()).unwrap();
            fs::rename(&moved, pins.root()).unwrap();
            std::os::unix::fs::chown(pins.root(), Some(65_534), None).unwrap();
            refused("belongs to another user");
        }
    }

    #[test]
    fn a_lock_on_a_directory_that_is_gone_is_none() {
        let (_dir, pins) = pins();
        let lock = pins.lock().unwrap().unwrap();
        assert!(pins.is_on_this(&lock));
        fs::remove_dir(pins.root()).unwrap();
        assert!(!pins.is_on_this(&lock));
        assert!(pins.lock().unwrap().is_some());
    }
}
