//! Loading, attaching, replacing and removing the programs.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use aya::{Ebpf, EbpfError, EbpfLoader, maps::MapError, programs::Program};

use super::{
    Access, DatapathError, Maps, Pins, sys,
    tables::{MAPS, pinned_capacity},
};

/// The programs, compiled.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("BALANCER_EBPF_OBJECT"));

/// A program and where it is attached.
#[derive(Clone, Copy)]
pub(super) struct Hook {
    /// Name of the program and of its link's pin.
    pub name: &'static str,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
}

/// All programs, in the order in which they are attached: what counts and what answers comes before what
/// translates, so that no connect is translated that would not be counted and answered in full.
const HOOKS: [Hook; 10] = [
    Hook { name: "sock_release", attach_type: 34 },
    Hook { name: "tcp", attach_type: 3 },
    Hook { name: "getpeername4", attach_type: 29 },
    Hook { name: "getpeername6", attach_type: 30 },
    Hook { name: "recvmsg4", attach_type: 19 },
    Hook { name: "recvmsg6", attach_type: 20 },
    Hook { name: "sendmsg4", attach_type: 14 },
    Hook { name: "sendmsg6", attach_type: 15 },
    Hook { name: "connect4", attach_type: 10 },
    Hook { name: "connect6", attach_type: 11 },
];

/// Those that translate, the first that a connect meets first.
pub(super) const TRANSLATING: [Hook; 4] = [HOOKS[8], HOOKS[9], HOOKS[6], HOOKS[7]];

/// The ids of the programs that are attached by what is pinned.
pub(super) fn own_programs(pins: &Pins) -> Vec<u32> {
    let program = |hook: &Hook| {
        let link = sys::obj_get(&pins.link(hook.name)).ok()?;
        sys::link_info(link.as_fd()).ok().map(|info| info.program)
    };
    HOOKS.iter().filter_map(program).collect()
}

/// How many entries the maps hold. Maps that are already pinned keep their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Service ports, per family.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Slots.
    pub slots: u32,
    /// Clients that are remembered for affinity and client-round-robin.
    pub clients: u32,
}

impl Sizes {
    /// The flag that sets the size of a map, and the size; `None` for maps of fixed size.
    fn of(&self, map: &str) -> Option<(&'static str, u32)> {
        match map {
            "FRONTENDS" | "SERVICES" | "SERVICE_STATS" | "SERVICE_META" | "LIFECYCLE" => {
                Some(("max-services", self.services))
            }
            "BACKENDS" | "BACKEND_STATS" | "BACKEND_META" | "BACKEND_HEALTH" | "BACKEND_HISTORY" => {
                Some(("max-backends", self.backends))
            }
            "SLOTS" => Some(("max-slots", self.slots)),
            "CLIENTS" => Some(("max-clients", self.clients)),
            _ => None,
        }
    }
}

/// What [`install`] brought about.
#[derive(Debug)]
pub struct Installation {
    /// The maps, open for writing.
    pub maps: Maps,
    /// The loaded object; the kernel's log lines are read through it.
    pub object: Ebpf,
    /// Programs that took over from earlier ones.
    pub replaced: usize,
    /// What a user should know: sizes that could not be changed, other layouts that were removed.
    pub notes: Vec<String>,
}

/// Loads the programs and attaches them to `cgroup`, taking over maps and links that are pinned.
///
/// A connect that happens meanwhile is translated by the old programs or by the new ones. The caller
/// holds the agent's lock.
///
/// # Errors
/// Whatever stands in the way, by name. What was attached before stays attached and working.
pub fn install(
    pins: &Pins,
    cgroup: &Path,
    sizes: &Sizes,
    log_level: u8,
) -> Result<Installation, DatapathError> {
    pins.create()?;
    let mut notes = Vec::new();
    let mut object = load(pins, sizes, log_level, &mut notes)?;
    let directory = File::open(cgroup).map_err(DatapathError::io("cannot open cgroup", cgroup))?;
    let id = directory.metadata().map_err(DatapathError::io("cannot read cgroup", cgroup))?.ino();
    // All are verified before the first is attached: a kernel that refuses one of a newer version leaves
    // the earlier version's in place, all of them.
    let mut programs = Vec::with_capacity(HOOKS.len());
    for hook in &HOOKS {
        programs.push(verify(&mut object, hook.name)?);
    }
    let mut replaced = 0;
    let mut created = Vec::new();
    for (hook, program) in HOOKS.iter().zip(&programs) {
        match attach(pins, hook, program.as_fd(), directory.as_fd(), id) {
            Ok(Attached::Replaced) => replaced += 1,
            Ok(Attached::Created) => created.push(pins.link(hook.name)),
            Err(error) => {
                // All or none: what this call attached goes again, what was there stays.
                for path in created.iter().rev() {
                    let _ = fs::remove_file(path);
                }
                return Err(error);
            }
        }
    }
    for other in pins.other_versions() {
        remove_tree(&other)?;
        notes.push(format!("removed the pins of another layout, {}: its counts end here", other.display()));
    }
    Ok(Installation { maps: Maps::open(pins, Access::Write)?, object, replaced, notes })
}

fn load(pins: &Pins, sizes: &Sizes, log_level: u8, notes: &mut Vec<String>) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    for spec in &MAPS {
        loader.map_pin_path(spec.name, pins.map(spec.name));
        let pinned = pinned_capacity(pins, spec)?;
        let Some((flag, asked)) = sizes.of(spec.name) else { continue };
        let capacity = pinned.unwrap_or(asked);
        if capacity != asked {
            notes.push(format!(
                "map {} keeps its {capacity} entries, though --{flag} asks for {asked}: the size is set \
                 when nothing is pinned (`balancer detach` removes the pins)",
                spec.name
            ));
        }
        loader.map_max_entries(spec.name, capacity);
    }
    loader.override_global("AYA_LOG_LEVEL", &log_level, false);
    loader.load(OBJECT).map_err(|error| object_error(pins, error))
}

fn object_error(pins: &Pins, error: EbpfError) -> DatapathError {
    if let EbpfError::MapError(MapError::IncompatiblePinnedMap { name, property, expected, actual }) = &error
    {
        let reason = format!("its {property} is {actual} where {expected} is expected");
        return DatapathError::Incompatible { path: pins.map(name), reason };
    }
    let text = format!("{error:?}");
    if text.contains("PermissionDenied") || text.contains("code: 1,") {
        return DatapathError::Capability { missing: "CAP_BPF".into(), during: "creating maps".into() };
    }
    Box::new(error).into()
}

/// Has the kernel verify a program.
fn verify(object: &mut Ebpf, name: &str) -> Result<OwnedFd, DatapathError> {
    let failed = |cause| DatapathError::Program { program: name.into(), cause: Box::new(cause) };
    let program =
        object.program_mut(name).ok_or_else(|| DatapathError::Object(Box::new(EbpfError::NoBTF)))?;
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => Err(aya::programs::ProgramError::UnexpectedProgramType),
    }
    .map_err(failed)?;
    let fd = program.fd().and_then(|fd| fd.try_clone().map_err(aya::programs::ProgramError::IOError));
    let fd = fd.map_err(failed)?;
    fd.as_fd().try_clone_to_owned().map_err(DatapathError::io("cannot duplicate the descriptor of", name))
}

enum Attached {
    Created,
    Replaced,
}

/// Attaches a program, or puts it behind the link that is already pinned for it.
fn attach(
    pins: &Pins,
    hook: &Hook,
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    cgroup_id: u64,
) -> Result<Attached, DatapathError> {
    let path = pins.link(hook.name);
    let failed = |what| DatapathError::io(what, &path);
    let existing = match sys::obj_get(&path) {
        Ok(link) => Some(link),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed("cannot open link")(error)),
    };
    if let Some(link) = &existing {
        let info = sys::link_info(link.as_fd()).map_err(failed("cannot read the facts of link"))?;
        if info.cgroup == cgroup_id && info.attach_type == hook.attach_type {
            sys::link_update(link.as_fd(), program).map_err(failed("cannot replace the program of link"))?;
            return Ok(Attached::Replaced);
        }
    }
    let before = sys::effective_programs(cgroup, hook.attach_type).unwrap_or_default();
    let link = sys::link_create(program, cgroup, hook.attach_type).map_err(|error| match error.kind() {
        // The capability is there, or the programs would not have been loaded: one here or further up stands
        // no other.
        io::ErrorKind::PermissionDenied
            if !before.is_empty() || sys::is_taken(cgroup, hook.attach_type).unwrap_or(false) =>
        {
            DatapathError::Exclusive { hook: hook.name }
        }
        io::ErrorKind::PermissionDenied => DatapathError::Capability {
            missing: "CAP_NET_ADMIN".into(),
            during: format!("attaching {}", hook.name),
        },
        _ => failed("cannot attach the program for")(error),
    })?;
    // One that allows cgroups below to override it would be, by ours.
    let after = sys::effective_programs(cgroup, hook.attach_type).unwrap_or_else(|_| before.clone());
    if let Some(id) = before.iter().find(|id| !after.contains(id)) {
        return Err(DatapathError::Overrides { hook: hook.name, program: *id });
    }
    if existing.is_none() {
        sys::obj_pin(link.as_fd(), &path).map_err(failed("cannot pin link"))?;
        return Ok(Attached::Created);
    }
    // The old link is to another cgroup, or to one that is gone: the new one takes its place.
    let next = successor(pins, hook.name);
    let _ = fs::remove_file(&next);
    sys::obj_pin(link.as_fd(), &next).map_err(failed("cannot pin link"))?;
    fs::rename(&next, &path).map_err(failed("cannot replace link"))?;
    Ok(Attached::Replaced)
}

/// Where a link is pinned that is about to take the place of the one called `name`. A bpf file system
/// allows no dot in a name.
fn successor(pins: &Pins, name: &str) -> PathBuf {
    pins.link(&format!("{name}-next"))
}

/// Whether [`detach`] acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It does.
    Act,
    /// It only says what it would do.
    DryRun,
}

/// What [`detach`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Detached {
    /// Pins that are gone, or would be.
    pub removed: Vec<PathBuf>,
    /// What stands beside them and is not ours.
    pub kept: Vec<PathBuf>,
}

/// Removes everything that is ours: links first, so that nothing is translated that is not counted.
///
/// Touches nothing but what this and other layout versions pin.
///
/// # Errors
/// [`DatapathError::NotInstalled`] if there is nothing, or what stands in the way.
pub fn detach(pins: &Pins, removal: Removal) -> Result<Detached, DatapathError> {
    if !pins.root().exists() {
        return Err(DatapathError::NotInstalled(pins.root().into()));
    }
    // A successor is there where an agent was killed while it replaced a link, and is attached too.
    let links = HOOKS.iter().rev().flat_map(|hook| [successor(pins, hook.name), pins.link(hook.name)]);
    let maps = MAPS.iter().map(|spec| pins.map(spec.name));
    let ours: Vec<PathBuf> = links.chain(maps).filter(|path| path.exists()).collect();
    let others = pins.other_versions();
    let version = pins.version();
    let directories = [version.join("links"), version.join("maps"), version, pins.root().into()];
    let kept = directories
        .iter()
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| !ours.contains(path) && !others.contains(path) && !directories.contains(path))
        .collect();
    if removal == Removal::Act {
        for path in HOOKS.iter().rev().map(|hook| pins.link(hook.name)).filter(|path| path.exists()) {
            detach_link(&path)?;
        }
        for path in &ours {
            fs::remove_file(path).map_err(DatapathError::io("cannot remove", path))?;
        }
        for other in &others {
            for entry in fs::read_dir(other.join("links")).into_iter().flatten().flatten() {
                // Whatever else may lie there goes with the directory.
                let _ = detach_link(&entry.path());
            }
            remove_tree(other)?;
        }
        for directory in directories {
            match fs::remove_dir(&directory) {
                Ok(()) => {}
                // Somebody else's files are in it, or it was never made.
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                }
                Err(error) => return Err(DatapathError::io("cannot remove directory", directory)(error)),
            }
        }
    }
    Ok(Detached { removed: ours.into_iter().chain(others).collect(), kept })
}

/// Detaches what a pinned link attaches.
fn detach_link(path: &Path) -> Result<(), DatapathError> {
    sys::obj_get(path)
        .and_then(|link| sys::link_detach(link.as_fd()))
        .map_err(DatapathError::io("cannot detach link", path))
}

/// Removes a version's directory. bpffs holds nothing but pins and directories.
fn remove_tree(path: &Path) -> Result<(), DatapathError> {
    fs::remove_dir_all(path).map_err(DatapathError::io("cannot remove", path))
}

/// What of the hooks is attached, and to which cgroup (id). `None`: the link is missing.
pub fn attachments(pins: &Pins) -> Vec<(&'static str, Option<u64>)> {
    let cgroup = |hook: &Hook| {
        let link = sys::obj_get(&pins.link(hook.name)).ok()?;
        sys::link_info(link.as_fd()).ok().map(|info| info.cgroup)
    };
    HOOKS.iter().map(|hook| (hook.name, cgroup(hook))).collect()
}

/// Why connects are not balanced although everything was attached to `cgroup` (id): what of it was taken
/// away since; `None` if nothing was.
pub fn detached_since(pins: &Pins, cgroup: u64) -> Option<String> {
    if !pins.version().exists() {
        return Some(format!("the pins under {} are gone", pins.root().display()));
    }
    let attachments = attachments(pins);
    let names = |of: &dyn Fn(Option<u64>) -> bool| {
        let names = attachments.iter().filter(|(_, id)| of(*id)).map(|(name, _)| *name);
        names.collect::<Vec<_>>().join(", ")
    };
    let (unpinned, loose) = (names(&|id| id.is_none()), names(&|id| id.is_some_and(|id| id != cgroup)));
    if !unpinned.is_empty() {
        Some(format!(
            "programs are not attached any more, because the pins of their links are gone: {unpinned}"
        ))
    } else if !loose.is_empty() {
        Some(format!("programs are not attached any more, because their cgroup is gone: {loose}"))
    } else {
        None
    }
}
