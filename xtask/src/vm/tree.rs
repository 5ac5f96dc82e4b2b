//! An initial file system, put together from files of this machine, each where it lies here.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    cmd::{Cmd, is_executable},
    workspace::shown,
};

/// Directories that are links into `/usr`, as on every Debian since 12.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// A directory that becomes one.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty one.
    ///
    /// # Errors
    /// When the directory, which must not exist, cannot be made.
    pub fn new(root: PathBuf) -> Result<Self> {
        for directory in ["usr", "proc", "sys", "dev", "run", "tmp", "etc", "root", "var/tmp", "vm"] {
            make(&root.join(directory))?;
        }
        for name in MERGED {
            make(&root.join("usr").join(name))?;
            symlink(Path::new("usr").join(name), root.join(name))
                .with_context(|| format!("cannot link {name}"))?;
        }
        Ok(Self { root })
    }

    /// Writes a file.
    ///
    /// # Errors
    /// When that fails.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.place(Path::new(path))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", shown(&path)))
    }

    /// Makes a file that was written executable.
    ///
    /// # Errors
    /// When that fails.
    pub fn executable(&self, path: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.place(Path::new(path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot change {}", shown(&path)))
    }

    /// Copies a file of this machine to the same place, with its mode. A link becomes what it leads to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(&self, path: &Path) -> Result<()> {
        let place = self.place(path)?;
        if place.exists() {
            return Ok(());
        }
        fs::copy(path, &place).with_context(|| format!("cannot copy {}", path.display())).map(drop)
    }

    /// Copies a program that is on `search` or where the system keeps its own, with the libraries that it needs. One that this
    /// machine does not have is left out.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn program(&self, name: &str, search: &OsStr) -> Result<()> {
        let system = ["/usr/sbin", "/usr/bin"].map(PathBuf::from);
        let found = std::env::split_paths(search).chain(system).map(|dir| dir.join(name));
        let Some(found) = found.into_iter().find(|path| is_executable(path)) else { return Ok(()) };
        // Some programs look at the name that they were started by.
        self.file(&found)?;
        let libraries = Cmd::new("ldd").arg(&found).output().unwrap_or_default();
        for library in libraries.lines().filter_map(library) {
            self.file(library)?;
        }
        let on_path = ["usr/bin", "usr/sbin"].map(|dir| self.root.join(dir).join(name));
        if !on_path.iter().any(|path| path.exists()) {
            let link = &on_path[0];
            symlink(&found, link).with_context(|| format!("cannot link {}", shown(link)))?;
        }
        Ok(())
    }

    /// Makes an archive of it that a kernel unpacks.
    ///
    /// # Errors
    /// When that fails.
    pub fn pack(&self, archive: &Path) -> Result<()> {
        let script = r#"cd "$1" && find . -print0 | cpio --null --quiet -o -H newc >"$2""#;
        Cmd::new("sh").args(["-c", script, "sh"]).arg(&self.root).arg(archive).run()
    }

    /// Where a file of this machine lies in the tree; makes its directory.
    fn place(&self, path: &Path) -> Result<PathBuf> {
        let Ok(below) = path.strip_prefix("/") else { bail!("{} is no absolute path", path.display()) };
        let place = self.root.join(unmerged(below));
        let parent = place.parent().context("no directory")?;
        make(parent)?;
        Ok(place)
    }
}

/// Where a path leads with merged directories: a link would be in the way of the directory.
fn unmerged(path: &Path) -> PathBuf {
    let merged = MERGED.iter().any(|name| path.starts_with(name));
    if merged { Path::new("usr").join(path) } else { path.to_owned() }
}

/// The library that a line of `ldd` names.
fn library(line: &str) -> Option<&Path> {
    let (path, _) = line.trim().rsplit_once(" (0x")?;
    let path = path.rsplit_once("=> ").map_or(path, |(_, path)| path);
    path.starts_with('/').then_some(Path::new(path))
}

fn make(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", shown(dir)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_libraries_that_ldd_names() {
        let name = |line| library(line).map(|path| path.to_str().unwrap());
        assert_eq!(
            name("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(name("\t/lib64/ld-linux-x86-64.so.2 (0x00007f)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(name("\tlinux-vdso.so.1 (0x00007f)"), None);
        assert_eq!(name("\tlibmissing.so => not found"), None);
        assert_eq!(name("\tstatically linked"), None);
    }

    #[test]
    fn no_file_is_laid_where_a_link_is() {
        assert_eq!(unmerged(Path::new("lib/x/libc.so")), Path::new("usr/lib/x/libc.so"));
        assert_eq!(unmerged(Path::new("library/x")), Path::new("library/x"));
        assert_eq!(unmerged(Path::new("usr/lib/x")), Path::new("usr/lib/x"));
    }
}
