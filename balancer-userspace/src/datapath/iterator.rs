//! The three commands of bpf(2) that walking a map, or the loaded programs, with an iterator program takes;
//! aya binds iterators to no map.
//!
//! Each struct is the part of `union bpf_attr` (`include/uapi/linux/bpf.h`) that the command reads; the
//! kernel takes any length, and what is beyond it as 0.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

use super::{
    assembler::Instruction,
    sys::{bpf, owned},
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ITER_CREATE: libc::c_long = 33;
const BPF_PROG_TYPE_TRACING: u32 = 26;
const BPF_TRACE_ITER: u32 = 28;

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
    prog_btf_fd: u32,
    func_info_rec_size: u32,
    func_info: u64,
    func_info_cnt: u32,
    line_info_rec_size: u32,
    line_info: u64,
    line_info_cnt: u32,
    attach_btf_id: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    iter_info: u64,
    iter_info_len: u32,
    pad: u32,
}

/// `union bpf_iter_link_info`, of which a walk over a map uses one field.
#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct IterLinkInfo {
    map_fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct IterCreate {
    link_fd: u32,
    flags: u32,
}

/// Loads an iterator program; `target` is the BTF id of what it iterates over.
pub fn load(instructions: &[Instruction], license: &CStr, target: u32) -> io::Result<OwnedFd> {
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACING,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        expected_attach_type: BPF_TRACE_ITER,
        attach_btf_id: target,
        prog_name: *b"balancer_walk\0\0\0",
        ..Default::default()
    };
    // SAFETY: the structure is the one for BPF_PROG_LOAD; `instructions` and `license` outlive the
    // call, which reads as much of them as `attr` says.
    unsafe { bpf(BPF_PROG_LOAD, &mut attr) }.map(owned)
}

/// Binds an iterator program to the map that it is to walk.
pub fn link(program: BorrowedFd<'_>, map: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let info = IterLinkInfo { map_fd: map.as_raw_fd() as u32 };
    link_create(&mut LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        attach_type: BPF_TRACE_ITER,
        iter_info: (&raw const info) as u64,
        iter_info_len: size_of::<IterLinkInfo>() as u32,
        ..Default::default()
    })
}

/// Binds an iterator program to what it walks where that is not a map.
pub fn link_to_all(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    link_create(&mut LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        attach_type: BPF_TRACE_ITER,
        ..Default::default()
    })
}

fn link_create(attr: &mut LinkCreate) -> io::Result<OwnedFd> {
    // SAFETY: the structure is the one for BPF_LINK_CREATE; what it points to is in the callers above, which
    // keep it until this returns, and is as long as it says.
    unsafe { bpf(BPF_LINK_CREATE, attr) }.map(owned)
}

/// Begins a walk: a file that yields what the program writes.
pub fn start(link: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attr = IterCreate { link_fd: link.as_raw_fd() as u32, flags: 0 };
    // SAFETY: the structure is the one for BPF_ITER_CREATE, and holds no pointer.
    unsafe { bpf(BPF_ITER_CREATE, &mut attr) }.map(owned)
}
