//! The few commands of bpf(2) that aya does not offer for every kind of program: pins, links and their
//! facts.
//!
//! aya replaces the program behind a link atomically for socket-address programs alone; here one way
//! serves all ten.

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// How programs are attached that allow others beside them.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Issues a command of bpf(2).
///
/// # Safety
/// `attr` must be the structure that the kernel expects of `command`, and the pointers within it valid.
pub(super) unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the caller's promise; the size is that of the structure.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The descriptor that a command has returned.
pub(super) fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// What a socket carries in a map of socket storage; `None` for nothing.
pub fn storage<T: bytemuck::Pod>(map: BorrowedFd<'_>, socket: BorrowedFd<'_>) -> io::Result<Option<T>> {
    let (key, mut value) = (socket.as_raw_fd(), T::zeroed());
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd() as u32,
        key: (&raw const key) as u64,
        value: (&raw mut value) as u64,
        ..ElementAttr::default()
    };
    // SAFETY: the structure is the one for BPF_MAP_LOOKUP_ELEM; key and value outlive the call, and are of the
    // map's sizes, which were checked when it was opened.
    match unsafe { bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) } {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Opens what is pinned at `path`: a map, a program or a link.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, ..ObjAttr::default() };
    // SAFETY: the structure is the one for BPF_OBJ_GET; the path outlives the call.
    unsafe { bpf(BPF_OBJ_GET, &mut attr) }.map(owned)
}

/// Pins a map, a program or a link at `path`, which must not exist.
pub fn obj_pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: fd.as_raw_fd() as u32, file_flags: 0 };
    // SAFETY: the structure is the one for BPF_OBJ_PIN; the path outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup, beside whatever else is attached there.
pub fn link_create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr {
        prog_fd: program.as_raw_fd() as u32,
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        flags: 0,
    };
    // SAFETY: the structure is the one for BPF_LINK_CREATE.
    unsafe { bpf(BPF_LINK_CREATE, &mut attr) }.map(owned)
}

#[repr(C)]
#[derive(Default)]
struct ProgQueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// Whether a program is attached to the cgroup that allows no other beside it.
pub fn is_taken(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<bool> {
    let mut attr =
        ProgQueryAttr { target_fd: cgroup.as_raw_fd() as u32, attach_type, ..ProgQueryAttr::default() };
    // SAFETY: the structure is the one for BPF_PROG_QUERY; without an array it asks for the count alone.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    Ok(attr.prog_cnt > 0 && attr.attach_flags & BPF_F_ALLOW_MULTI == 0)
}

/// The ids of the programs that run for processes of the cgroup: those attached to it and to those above it.
/// Of more than 256, the first.
pub fn effective_programs(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    /// `BPF_F_QUERY_EFFECTIVE`.
    const EFFECTIVE: u32 = 1;
    let mut ids = [0_u32; 256];
    let mut attr = ProgQueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        query_flags: EFFECTIVE,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..ProgQueryAttr::default()
    };
    // SAFETY: the structure is the one for BPF_PROG_QUERY; the array has room for as many ids as it says and
    // outlives the call.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(ids[..(attr.prog_cnt as usize).min(ids.len())].to_vec()),
        Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(ids.to_vec()),
        Err(error) => Err(error),
    }
}

/// The beginning of the kernel's `struct bpf_prog_info`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ProgramInfo {
    program_type: u32,
    id: u32,
    tag: [u8; 8],
    jited_len: u32,
    translated_len: u32,
    jited: u64,
    translated: u64,
    load_time: u64,
    uid: u32,
    map_ids_len: u32,
    map_ids: u64,
    name: [u8; 16],
}

/// The name of a loaded program. Takes CAP_SYS_ADMIN.
pub fn program_name(id: u32) -> io::Result<String> {
    #[repr(C)]
    #[derive(Default)]
    struct GetIdAttr {
        id: u32,
        next_id: u32,
        open_flags: u32,
    }
    let mut attr = GetIdAttr { id, ..GetIdAttr::default() };
    // SAFETY: the structure is the one for BPF_PROG_GET_FD_BY_ID.
    let program = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }.map(owned)?;
    let info: ProgramInfo = info(program.as_fd())?;
    Ok(name_text(&info.name))
}

/// A name as the kernel keeps it: up to the first zero.
pub fn name_text(name: &[u8; 16]) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Puts another program behind a link, without an instant in which there is none.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdateAttr {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        ..LinkUpdateAttr::default()
    };
    // SAFETY: the structure is the one for BPF_LINK_UPDATE.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct LinkDetachAttr {
    link_fd: u32,
}

/// Detaches the program of a link: when this returns, no new event reaches it. Closing and unpinning a link
/// come to the same, but only some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkDetachAttr { link_fd: link.as_raw_fd() as u32 };
    // SAFETY: the structure is the one for BPF_LINK_DETACH.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn info<T: bytemuck::Pod>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::zeroed();
    let mut attr = InfoAttr {
        bpf_fd: fd.as_raw_fd() as u32,
        info_len: size_of::<T>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    // SAFETY: the structure is the one for BPF_OBJ_GET_INFO_BY_FD; the kernel writes at most `info_len`
    // bytes to `info`, which outlives the call, and any bit pattern is a valid `T`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// The beginning of the kernel's `struct bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct MapInfo {
    /// `enum bpf_map_type`.
    pub map_type: u32,
    /// Map id.
    pub id: u32,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub map_flags: u32,
}

/// The facts of a map.
pub fn map_info(fd: BorrowedFd<'_>) -> io::Result<MapInfo> {
    info(fd)
}

/// The beginning of the kernel's `struct bpf_link_info`, as it is for links to a cgroup.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct CgroupLinkInfo {
    /// `enum bpf_link_type`.
    pub link_type: u32,
    /// Link id.
    pub id: u32,
    /// Program id.
    pub program: u32,
    /// Always 0: the union that follows is aligned to 8 bytes.
    pub pad: u32,
    /// Cgroup id (the inode number of its directory); 0 once the cgroup is gone.
    pub cgroup: u64,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// Always 0.
    pub pad2: u32,
}

/// The facts of a link to a cgroup.
pub fn link_info(fd: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    info(fd)
}
