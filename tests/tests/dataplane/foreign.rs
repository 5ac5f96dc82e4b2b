//! Programs of somebody else, by bpf(2) alone: each counts its events and lets everything through.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
};

use bytemuck::{Pod, Zeroable};

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_QUERY: libc::c_int = 16;
const LINK_CREATE: libc::c_int = 28;

/// `BPF_F_ALLOW_MULTI`: beside other programs.
const ALLOW_MULTI: u32 = 2;

/// Where a program can be attached: numbers of the program type and the attach type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    program: u32,
    pub attach: u32,
}

/// connect() of IPv4.
pub const CONNECT4: Hook = Hook { program: 18, attach: 10 };
/// sendto() of IPv4.
pub const SENDMSG4: Hook = Hook { program: 18, attach: 14 };
/// recvfrom() of IPv4.
pub const RECVMSG4: Hook = Hook { program: 18, attach: 19 };
/// getpeername() of IPv4.
pub const GETPEERNAME4: Hook = Hook { program: 18, attach: 29 };
/// The end of a socket.
pub const SOCK_RELEASE: Hook = Hook { program: 9, attach: 34 };
/// The life of a TCP connection.
pub const SOCK_OPS: Hook = Hook { program: 13, attach: 3 };

/// What it does beside counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Nothing.
    Quiet,
    /// `SOCK_OPS` only: asks for its own events when a connection begins and when it is established, without a thought for those that
    /// others asked for.
    Greedy,
}

/// Whether it stands others beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Company {
    /// Yes.
    Welcome,
    /// No.
    Refused,
}

/// A program attached to a cgroup; detached when dropped, if it was attached by a link.
#[derive(Debug)]
pub struct Foreign {
    counter: OwnedFd,
    _program: OwnedFd,
    _link: Option<OwnedFd>,
}

impl Foreign {
    /// Attaches one by a link.
    pub fn attach(cgroup: &Path, hook: Hook, manner: Manner) -> Self {
        let (counter, program) = load(hook, manner);
        let cgroup = File::open(cgroup).unwrap();
        let attr = LinkCreate {
            program: program.as_raw_fd() as u32,
            target: cgroup.as_raw_fd() as u32,
            attach: hook.attach,
            flags: 0,
        };
        // SAFETY: no pointer in it; the descriptor that comes back is new.
        let link = unsafe { OwnedFd::from_raw_fd(command(LINK_CREATE, &attr).unwrap()) };
        Self { counter, _program: program, _link: Some(link) }
    }

    /// Attaches one in the older way, which lasts as long as the cgroup.
    pub fn attach_without_link(cgroup: &Path, hook: Hook, company: Company) -> Self {
        let (counter, program) = load(hook, Manner::Quiet);
        let cgroup = File::open(cgroup).unwrap();
        let attr = ProgAttach {
            target: cgroup.as_raw_fd() as u32,
            program: program.as_raw_fd() as u32,
            attach: hook.attach,
            flags: if company == Company::Welcome { ALLOW_MULTI } else { 0 },
            replace: 0,
        };
        // SAFETY: no pointer in it.
        unsafe { command(PROG_ATTACH, &attr) }.unwrap();
        Self { counter, _program: program, _link: None }
    }

    /// How often it has run.
    pub fn runs(&self) -> u64 {
        let (key, mut value) = (0_u32, 0_u64);
        let attr = Lookup {
            map: self.counter.as_raw_fd() as u32,
            pad: 0,
            key: (&raw const key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        // SAFETY: key and value are as long as the map says, and outlive the call.
        unsafe { command(MAP_LOOKUP_ELEM, &attr) }.unwrap();
        value
    }
}

/// The ids of the programs that are attached to a cgroup itself, in the order in which they run.
pub fn attached(cgroup: &Path, hook: Hook) -> Vec<u32> {
    let cgroup = File::open(cgroup).unwrap();
    let mut ids = [0_u32; 64];
    let mut attr = Query {
        target: cgroup.as_raw_fd() as u32,
        attach: hook.attach,
        programs: ids.as_mut_ptr() as u64,
        count: ids.len() as u32,
        ..Query::default()
    };
    // SAFETY: the array has room for as many ids as said, and outlives the call, which writes to both.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut attr, size_of::<Query>()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    ids[..attr.count as usize].to_vec()
}

/// A map with one counter, and a program that adds to it.
fn load(hook: Hook, manner: Manner) -> (OwnedFd, OwnedFd) {
    let array = MapCreate { kind: 2, key_size: 4, value_size: 8, max_entries: 1, flags: 0 };
    // SAFETY: no pointer in it; the descriptor that comes back is new.
    let counter = unsafe { OwnedFd::from_raw_fd(command(MAP_CREATE, &array).unwrap()) };
    let program = program(counter.as_raw_fd(), manner);
    let licence = c"GPL";
    let mut log = vec![0_u8; 65_536];
    let attr = ProgLoad {
        kind: hook.program,
        instructions: program.len() as u32,
        program: program.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
        name: *b"foreign\0\0\0\0\0\0\0\0\0",
        attach: hook.attach,
        ..ProgLoad::default()
    };
    // SAFETY: all that it points to is as long as said and outlives the call; the descriptor that comes back is new.
    let loaded = unsafe { command(PROG_LOAD, &attr) };
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&log)));
    // SAFETY: as above.
    (counter, unsafe { OwnedFd::from_raw_fd(loaded) })
}

/// Adds 1 to the only entry of a map, and returns 1: proceed.
fn program(map: i32, manner: Manner) -> Vec<Instruction> {
    const CONTEXT: u8 = 6;
    let mut code = vec![
        Instruction::new(0xbf, CONTEXT, 1, 0, 0), // r6 = r1, the context
        Instruction::new(0x62, 10, 0, -4, 0),     // *(u32 *)(fp - 4) = 0
        Instruction::new(0xbf, 2, 10, 0, 0),      // r2 = fp
        Instruction::new(0x07, 2, 0, 0, -4),      // r2 -= 4
        Instruction::new(0x18, 1, 1, 0, map),     // r1 = map
        Instruction::new(0, 0, 0, 0, 0),          // (second half of it)
        Instruction::new(0x85, 0, 0, 0, 1),       // r0 = bpf_map_lookup_elem(r1, r2)
        Instruction::new(0x15, 0, 0, 2, 0),       // if r0 == 0 skip 2
        Instruction::new(0xb7, 1, 0, 0, 1),       // r1 = 1
        Instruction::new(0xdb, 0, 1, 0, 0),       // lock *(u64 *)r0 += r1
    ];
    if manner == Manner::Greedy {
        const RTT_EVENTS: i32 = 8;
        const CONNECT: i32 = 3;
        const ESTABLISHED: i32 = 4;
        code.extend([
            Instruction::new(0x61, 2, CONTEXT, 0, 0),     // r2 = which event
            Instruction::new(0x15, 2, 0, 1, CONNECT),     // if r2 == CONNECT skip 1
            Instruction::new(0x55, 2, 0, 3, ESTABLISHED), // if r2 != ESTABLISHED skip 3
            Instruction::new(0xbf, 1, CONTEXT, 0, 0),     // r1 = r6
            Instruction::new(0xb7, 2, 0, 0, RTT_EVENTS),  // r2 = its own events
            Instruction::new(0x85, 0, 0, 0, 59),          // bpf_sock_ops_cb_flags_set(r1, r2)
        ]);
    }
    code.extend([Instruction::new(0xb7, 0, 0, 0, 1), Instruction::new(0x95, 0, 0, 0, 0)]); // return 1
    code
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const fn new(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers: source << 4 | destination, offset, immediate }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct Lookup {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    program: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct ProgAttach {
    target: u32,
    program: u32,
    attach: u32,
    flags: u32,
    replace: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct Query {
    target: u32,
    attach: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
}

/// # Safety
/// Every pointer in `attr` must be valid for what the command does with it.
unsafe fn command<T: Pod>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is live and as long as said; its pointers are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
