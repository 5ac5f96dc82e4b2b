//! Packages, kept from one run to the next, outside of the tree. None is used that does not hash to what apt says.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result, bail};

use super::kernels::Package;
use crate::{cmd::Cmd, ui};

/// The package's file, downloaded unless it is there already and whole.
///
/// # Errors
/// When it cannot be downloaded, or hashes to something else than apt says.
pub fn fetch(package: &Package) -> Result<PathBuf> {
    fetch_into(&directory()?, package, |dir| {
        Cmd::new("apt-get")
            // As root, apt-get would use a user of its own, who may not write here.
            .args(["-qq", "-o", "APT::Sandbox::User=root", "download"])
            .arg(format!("{}={}", package.name, package.version))
            .current_dir(dir)
            .run()
    })
}

/// Where packages are kept.
fn directory() -> Result<PathBuf> {
    let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME says where caches are")?.join("balancer/kernels"))
}

fn fetch_into(dir: &Path, package: &Package, download: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let name = format!("{}_{}.deb", package.name, package.version.replace(':', "%3a"));
    let kept = dir.join(&name);
    if kept.exists() {
        if hash(&kept)? == package.sha256 {
            return Ok(kept);
        }
        ui::warn(format_args!("{} is damaged, and is downloaded again", kept.display()));
    }
    // Apart from others who do the same at this time, and from what is whole.
    let apart = dir.join(format!("partial.{}", process::id()));
    fs::create_dir_all(&apart).with_context(|| format!("cannot make {}", apart.display()))?;
    let outcome = download(&apart).and_then(|()| {
        let mut files = fs::read_dir(&apart)?.filter_map(Result::ok).map(|entry| entry.path());
        let file = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let file = file.with_context(|| format!("apt-get brought no file of {}", package.name))?;
        let found = hash(&file)?;
        if found != package.sha256 {
            bail!("{} was downloaded, and hashes to {found}: apt says {}", package.name, package.sha256);
        }
        fs::rename(&file, &kept).with_context(|| format!("cannot write {}", kept.display()))
    });
    fs::remove_dir_all(&apart).with_context(|| format!("cannot remove {}", apart.display()))?;
    outcome.map(|()| kept)
}

/// The SHA-256 of a file.
fn hash(path: &Path) -> Result<String> {
    let line = Cmd::new("sha256sum").arg("--").arg(path).output()?;
    // A backslash says that the name, which follows, has characters that were quoted.
    let word = line.split_whitespace().next().unwrap_or_default();
    Ok(word.trim_start_matches('\\').to_owned())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A directory that ends with the test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = env::temp_dir().join(format!("xtask-cache-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn names(&self) -> Vec<String> {
            fs::read_dir(&self.0)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn package() -> Package {
        Package {
            name: "linux-image-x".into(),
            version: "1:2".into(),
            sha256: "of nothing that there is".into(),
        }
    }

    fn whole() -> Package {
        let dir = Dir::new("hash");
        fs::write(dir.0.join("file"), "kernel").unwrap();
        Package { sha256: hash(&dir.0.join("file")).unwrap(), ..package() }
    }

    #[test]
    fn a_package_is_downloaded_once_and_again_when_it_was_damaged() {
        let (dir, package, downloads) = (Dir::new("once"), whole(), Cell::new(0));
        let fetch = || {
            fetch_into(&dir.0, &package, |to| {
                downloads.set(downloads.get() + 1);
                fs::write(to.join("whatever.deb"), "kernel").map_err(Into::into)
            })
        };
        let file = fetch().unwrap();
        assert_eq!(file, fetch().unwrap());
        assert_eq!(downloads.get(), 1);
        fs::write(&file, "kernal").unwrap();
        fetch().unwrap();
        assert_eq!((downloads.get(), fs::read_to_string(file).unwrap().as_str()), (2, "kernel"));
        assert_eq!(dir.names(), ["linux-image-x_1%3a2.deb"]);
    }

    #[test]
    fn what_hashes_to_something_else_is_refused_and_not_kept() {
        let dir = Dir::new("refused");
        let download = |to: &Path| fs::write(to.join("x.deb"), "another").map_err(Into::into);
        let error = fetch_into(&dir.0, &package(), download).unwrap_err().to_string();
        assert!(error.contains(&package().sha256), "{error}");
        assert_eq!(dir.names(), [""; 0]);
    }

    #[test]
    fn a_download_that_fails_leaves_nothing() {
        let dir = Dir::new("fails");
        assert!(fetch_into(&dir.0, &package(), |_| bail!("no network")).is_err());
        assert!(fetch_into(&dir.0, &package(), |_| Ok(())).is_err(), "nothing came");
        assert_eq!(dir.names(), [""; 0]);
    }
}
