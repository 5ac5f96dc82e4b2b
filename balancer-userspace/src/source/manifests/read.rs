//! Reading one file: bounded, never blocking, and knowing whether it changed meanwhile.

use std::{
    fs::{self, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// What tells two versions of a file apart without reading them.
///
/// The change time is part of it: a rename sets it, so a file put in place with the size and
/// modification time of its predecessor still differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of the file that `path` leads to, symlinks followed.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Why a file gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// No file of this name: removed, a symlink that leads nowhere, or a subdirectory, which is not read.
    #[error("it is gone")]
    Gone,
    /// A pipe, socket or device.
    #[error("it is not a regular file")]
    NotAFile,
    /// Beyond the limit.
    #[error("it is larger than the limit of {limit} bytes: split it")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// Somebody wrote to it while it was read.
    #[error("it is being written")]
    Busy,
    /// Anything else, permissions mostly.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads `path` whole, at most `limit` bytes of it.
///
/// A pipe is refused, not waited for.
pub(super) fn read(path: &Path, limit: u64) -> Result<(Vec<u8>, Stamp), ReadError> {
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(
        |error| match error.kind() {
            io::ErrorKind::NotFound => ReadError::Gone,
            _ => ReadError::Io(error),
        },
    )?;
    let before = file.metadata()?;
    if before.is_dir() {
        return Err(ReadError::Gone);
    }
    if !before.is_file() {
        return Err(ReadError::NotAFile);
    }
    if before.len() > limit {
        return Err(ReadError::TooLarge { limit });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0) + 1);
    (&mut file).take(limit + 1).read_to_end(&mut bytes)?;
    let stamp = Stamp::from(&before);
    if Stamp::from(&file.metadata()?) != stamp || bytes.len() as u64 != before.len() {
        return Err(ReadError::Busy);
    }
    Ok((bytes, stamp))
}
