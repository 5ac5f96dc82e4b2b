//! Cgroups that end with their owner, and all processes in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::netns::complain;

/// How long processes get to disappear after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A cgroup2 directory. Dropping it kills every process in it and removes it, with whatever is below.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes `name` directly below the mount point.
    pub fn top(name: &str) -> Result<Self> {
        Self::make(crate::kernel::cgroup2()?.join(name))
    }

    /// Makes `name` below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("cgroup {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Processes in it, those in cgroups below excepted.
    pub fn processes(&self) -> Result<Vec<u32>> {
        processes(&self.path)
    }

    /// Kills every process in it and below, and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        kill(&self.path)?;
        let deadline = Instant::now() + KILL_TIMEOUT;
        while !processes(&self.path)?.is_empty() {
            if Instant::now() >= deadline {
                bail!("cgroup {} still holds {:?}", self.path.display(), processes(&self.path)?);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            complain(&error);
        }
    }
}

/// Kills every process in a cgroup and below, and removes it; gone already is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        if !path.exists() {
            return Ok(());
        }
        kill(path)?;
        match remove_tree(path) {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() < deadline => {
                // EBUSY until the last process is gone.
                if !matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::NotFound) {
                    return Err(error).with_context(|| format!("cgroup {}", path.display()));
                }
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) => bail!("cgroup {}: {error}, still holds {:?}", path.display(), processes(path)),
        }
    }
}

/// SIGKILL to all below, by `cgroup.kill` (5.14) or one by one.
fn kill(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("{}/cgroup.kill", path.display())),
    }
    for child in children(path) {
        kill(&child)?;
    }
    for pid in processes(path).unwrap_or_default() {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Gone in the meantime is what was wanted.
            _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for child in children(path) {
        remove_tree(&child)?;
    }
    fs::remove_dir(path)
}

fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn processes(path: &Path) -> Result<Vec<u32>> {
    let file = path.join("cgroup.procs");
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
