//! Where things are pinned, and the lock that keeps a second agent away.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use balancer_common::abi::LAYOUT_VERSION;
use rustix::fs::{FlockOperation, flock};

use super::DatapathError;

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
            fs::create_dir_all(&directory).map_err(DatapathError::io("cannot make directory", directory))?;
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

    /// Takes the agent's lock, for as long as the returned value lives.
    ///
    /// The lock is on the directory itself, which every container that mounts this bpf file system sees,
    /// and goes with the process, however it ends. `None`: somebody else holds it.
    pub fn lock(&self) -> Result<Option<AgentLock>, DatapathError> {
        fs::create_dir_all(&self.root).map_err(DatapathError::io("cannot make directory", &self.root))?;
        self.try_lock(FlockOperation::NonBlockingLockExclusive)
    }

    /// Whether an agent runs: whether its lock is held.
    pub fn is_locked(&self) -> Result<bool, DatapathError> {
        Ok(self.try_lock(FlockOperation::NonBlockingLockShared)?.is_none())
    }

    fn try_lock(&self, operation: FlockOperation) -> Result<Option<AgentLock>, DatapathError> {
        let directory = match File::open(&self.root) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DatapathError::NotInstalled(self.root.clone()));
            }
            Err(error) => return Err(DatapathError::io("cannot open", &self.root)(error)),
        };
        match flock(&directory, operation) {
            Ok(()) => Ok(Some(AgentLock { _directory: directory })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(DatapathError::io("cannot lock", &self.root)(error.into())),
        }
    }
}

/// The agent's lock; released when dropped.
#[derive(Debug)]
pub struct AgentLock {
    _directory: File,
}
