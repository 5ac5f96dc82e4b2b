//! The programs that are compared, one at a time behind the link of `connect4`.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::MapData,
    programs::{
        CgroupSockAddr,
        links::{FdLink, PinnedLink},
    },
};

use super::super::datapath::Datapath;

/// The real program.
pub const REAL: &str = "connect4";
/// The real decision, with nothing recorded.
pub const REAL_CHOICE: &str = "choose_real";
/// By hand: look-ups, choice, state and counters.
pub const STATE: &str = "with_state";
/// By hand: look-ups and choice.
pub const CHOICE: &str = "choose_only";
/// Nothing.
pub const EMPTY: &str = "empty";

/// All of them.
pub const PROGRAMS: [&str; 5] = [REAL, STATE, REAL_CHOICE, CHOICE, EMPTY];

/// Runs of a program and the time that they took.
pub type Counts = (u64, Duration);

/// The real programs, attached, and the minimal ones, loaded, on the same maps.
pub struct Swap<'o> {
    /// The real ones.
    pub datapath: Datapath,
    minimal: Ebpf,
    object: &'o Path,
    /// Programs that were loaded before. They stay where they are, so that others go elsewhere.
    replaced: Vec<Ebpf>,
}

impl<'o> Swap<'o> {
    /// Loads the minimal programs of `object` beside the real ones.
    pub fn new(datapath: Datapath, object: &'o Path) -> Result<Self> {
        let minimal = load(object, &datapath)?;
        Ok(Self { datapath, minimal, object, replaced: Vec::new() })
    }

    /// Loads all programs again, to other places in memory.
    pub fn reload(&mut self) -> Result<()> {
        self.datapath.reload()?;
        let next = load(self.object, &self.datapath)?;
        self.replaced.push(std::mem::replace(&mut self.minimal, next));
        Ok(())
    }

    /// Puts a program behind the link of `connect4`.
    pub fn put(&mut self, name: &str) -> Result<()> {
        let pin = self.datapath.pins.link(REAL);
        let link = PinnedLink::from_pin(&pin).with_context(|| pin.display().to_string())?;
        let link = FdLink::from(link).try_into().context("the pin is no link of connect4")?;
        self.find(name)?.attach_to_link(link).with_context(|| format!("attaching {name}"))?;
        Ok(())
    }

    /// What the kernel has counted of a program.
    pub fn counts(&mut self, name: &str) -> Result<Counts> {
        let info = self.find(name)?.info().with_context(|| format!("facts of {name}"))?;
        Ok((info.run_count(), info.run_time()))
    }

    /// What the kernel has counted of every real program.
    pub fn all_counts(&self) -> Result<BTreeMap<String, Counts>> {
        self.datapath
            .installation
            .object
            .programs()
            .map(|(name, program)| {
                let info = program.info().with_context(|| format!("facts of {name}"))?;
                Ok((name.to_owned(), (info.run_count(), info.run_time())))
            })
            .collect()
    }

    fn find(&mut self, name: &str) -> Result<&mut CgroupSockAddr> {
        let object = if name == REAL { &mut self.datapath.installation.object } else { &mut self.minimal };
        program(object, name)
    }
}

fn load(object: &Path, datapath: &Datapath) -> Result<Ebpf> {
    let bytes = fs::read(object).with_context(|| format!("{} (cargo xtask build-ebpf)", object.display()))?;
    let mut loader = EbpfLoader::new();
    let pinned = fs::read_dir(datapath.pins.version().join("maps")).context("pinned maps")?;
    let names: Vec<String> =
        pinned.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
    for name in &names {
        let info = MapData::from_pin(datapath.pins.map(name))?.info()?;
        loader.map_max_entries(name, info.max_entries());
        loader.map_pin_path(name, datapath.pins.map(name));
    }
    let mut minimal = loader.load(&bytes).context("the minimal programs")?;
    for name in &PROGRAMS[1..] {
        program(&mut minimal, name)?.load().with_context(|| format!("program {name}"))?;
    }
    Ok(minimal)
}

fn program<'e>(object: &'e mut Ebpf, name: &str) -> Result<&'e mut CgroupSockAddr> {
    let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}
