//! A kernel and its modules, taken out of their package.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context, Result};

use super::{cache, kernels::Package};
use crate::{cmd::Cmd, workspace};

/// Takes a package apart.
const PACK: &str = include_str!("pack.sh");

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct Packed {
    /// The kernel.
    pub image: PathBuf,
    /// An archive with its modules.
    pub modules: PathBuf,
}

impl Packed {
    /// Brings a package, and takes it apart unless that was done before.
    ///
    /// # Errors
    /// When it cannot be had, or holds no kernel.
    pub fn of(package: &Package) -> Result<Self> {
        let all = workspace::target().join("vm/kernels");
        let dir = all.join(&package.name);
        let packed = Self { image: dir.join("vmlinuz"), modules: dir.join("modules.cpio") };
        // Made anew also where this file, which says how, has changed.
        let (stamp, stamped) = (dir.join("stamp"), format!("{}\n{PACK}", package.sha256));
        if fs::read_to_string(&stamp).is_ok_and(|text| text == stamped) {
            return Ok(packed);
        }
        let deb = cache::fetch(package)?;
        let apart = all.join(format!("{}.partial.{}", package.name, process::id()));
        fs::create_dir_all(&apart).with_context(|| format!("cannot make {}", apart.display()))?;
        let outcome = take_apart(&deb, &apart, &stamped).and_then(|()| {
            if dir.exists() {
                fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
            }
            fs::rename(&apart, &dir).with_context(|| format!("cannot make {}", dir.display()))
        });
        if outcome.is_err() {
            let _ = fs::remove_dir_all(&apart);
        }
        outcome.map(|()| packed)
    }
}

fn take_apart(deb: &Path, dir: &Path, stamp: &str) -> Result<()> {
    let script = dir.join("pack.sh");
    fs::write(&script, PACK).with_context(|| format!("cannot write {}", script.display()))?;
    Cmd::new("sh").arg(&script).arg(deb).arg(dir).run()?;
    fs::remove_file(&script).with_context(|| format!("cannot remove {}", script.display()))?;
    let path = dir.join("stamp");
    fs::write(&path, stamp).with_context(|| format!("cannot write {}", path.display()))
}
