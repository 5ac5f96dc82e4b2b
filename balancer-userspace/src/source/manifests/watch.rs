//! What happens in the directory, as far as it matters here.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::mpsc::SyncSender,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode},
};

use super::store::FileName;

/// Signals that wait to be taken. When more come, inotify's own queue fills, and when that overflows
/// it says so: nothing is lost unnoticed.
pub(super) const QUEUE: usize = 1_024;

/// The symlink that a kubelet swaps to replace all files of a ConfigMap or Secret at once.
const CONFIG_MAP_LINK: &str = "..data";

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// A file was put in place, or its writer closed it: it is whole.
    Ready(FileName),
    /// Somebody is writing to a file: it may be half of what it will be.
    Writing(FileName),
    /// Owner or permissions of a file changed.
    Attributes(FileName),
    /// A file was removed or renamed away.
    Gone(FileName),
    /// Every file may have been replaced.
    Swapped,
    /// Some signals were lost.
    Lost,
    /// The directory itself was removed or renamed.
    DirectoryGone,
    /// Nothing in the directory: the source is being stopped.
    Stop,
}

/// Whether a name in the directory is a manifest: `.yaml`, `.yml` or `.json`, and not hidden, which
/// leaves out what editors and kubelets keep there.
pub(super) fn manifest_name(name: &OsStr) -> Option<FileName> {
    let name = name.to_str()?;
    let extension = Path::new(name).extension()?.to_str()?;
    (!name.starts_with('.') && matches!(extension, "yaml" | "yml" | "json")).then(|| name.into())
}

/// Starts watching `dir`. Signals end when the watcher is dropped.
pub(super) fn watch(dir: &Path, signals: SyncSender<Signal>) -> notify::Result<RecommendedWatcher> {
    let root = dir.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        let found = match event {
            Ok(event) => translate(&root, &event),
            Err(_) => vec![Signal::Lost],
        };
        for signal in found {
            // Only fails when nobody listens any more.
            let _ = signals.send(signal);
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn translate(root: &Path, event: &Event) -> Vec<Signal> {
    if event.need_rescan() {
        return vec![Signal::Lost];
    }
    // A rename within the directory is also reported in one piece, after its two halves.
    if matches!(event.kind, EventKind::Modify(ModifyKind::Name(RenameMode::Both))) {
        return Vec::new();
    }
    event.paths.iter().filter_map(|path| one(root, path, event.kind)).collect()
}

fn one(root: &Path, path: &PathBuf, kind: EventKind) -> Option<Signal> {
    if path == root {
        let gone = matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        return gone.then_some(Signal::DirectoryGone);
    }
    let name = path.file_name()?;
    if name == CONFIG_MAP_LINK {
        let placed =
            matches!(kind, EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)));
        return placed.then_some(Signal::Swapped);
    }
    let name = manifest_name(name)?;
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Signal::Ready(name)),
        EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Some(Signal::Ready(name)),
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(Signal::Gone(name)),
        EventKind::Modify(ModifyKind::Metadata(_)) => Some(Signal::Attributes(name)),
        EventKind::Modify(_) => Some(Signal::Writing(name)),
        EventKind::Create(CreateKind::Folder) => None,
        // A file that was just made is empty or being written, and its writer will close it. Links
        // to a file that is there already are never closed.
        EventKind::Create(_) => {
            let metadata = fs::symlink_metadata(path).ok()?;
            (metadata.is_symlink() || metadata.nlink() > 1).then_some(Signal::Ready(name))
        }
        EventKind::Access(_) | EventKind::Any | EventKind::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_told_from_other_files() {
        for name in ["a.yaml", "b.yml", "c.json", "with space.yaml", "a.b.yaml"] {
            assert_eq!(manifest_name(OsStr::new(name)).as_deref(), Some(name));
        }
        for name in
            [".a.yaml", "..data", ".a.yaml.swp", "a.yaml~", "4913", "a.txt", "yaml", ".yaml", "a.YAML.bak"]
        {
            assert_eq!(manifest_name(OsStr::new(name)), None, "{name}");
        }
    }
}
