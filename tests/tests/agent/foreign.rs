//! Somebody else's programs and pins, in the few commands of bpf(2) that they take: what is ours must
//! leave them alone.

use std::{
    ffi::CString,
    fs::File,
    io,
    net::SocketAddrV4,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

const MAP_CREATE: libc::c_long = 0;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const PROG_ATTACH: libc::c_long = 8;
const PROG_QUERY: libc::c_long = 16;
const LINK_CREATE: libc::c_long = 28;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR` and `BPF_CGROUP_INET4_CONNECT`.
const CGROUP_SOCK_ADDR: u32 = 18;
/// What connect4 is attached as.
pub const INET4_CONNECT: u32 = 10;
/// What sock_release is attached as.
pub const SOCK_RELEASE: u32 = 34;

/// Issues a command; the structure is the beginning of `union bpf_attr` that the command reads.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: every caller passes the structure that its command expects, with pointers that outlive the
    // call, and its true size.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: libc::c_long) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

#[repr(C)]
#[derive(Default)]
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
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to connect() of IPv4 that lets everything pass. It goes with the returned link.
pub fn attach(cgroup: &Path) -> OwnedFd {
    attach_as(cgroup, "foreign")
}

/// The same under a name of at most 15 characters.
pub fn attach_as(cgroup: &Path, name: &str) -> OwnedFd {
    // r0 = 1; exit
    attach_link(cgroup, &load(name, &[0x0000_0001_0000_00b7, 0x95]))
}

/// One that sends what dials `from` to `to`, as another socket load balancer does.
pub fn attach_rewriting(cgroup: &Path, name: &str, from: SocketAddrV4, to: SocketAddrV4) -> OwnedFd {
    /// Offsets in `struct bpf_sock_addr`: what is dialled, both in network byte order.
    const ADDRESS: u64 = 4;
    const PORT: u64 = 24;
    let word = |addr: SocketAddrV4| u64::from(u32::from_ne_bytes(addr.ip().octets()));
    let instructions = [
        0x1261 | ADDRESS << 16, // r2 = address
        // Two halves of a constant of 32 bits, unsigned.
        0x0318 | (word(from) << 32),
        0,
        0x0005_325d, // if r2 != from skip 5
        0x0218 | (word(to) << 32),
        0,
        0x2163 | ADDRESS << 16, // address = r2
        0x02b7 | u64::from(to.port().to_be()) << 32,
        0x2163 | PORT << 16, // port = r2
        0x0000_0001_0000_00b7,
        0x95,
    ];
    attach_link(cgroup, &load(name, &instructions))
}

/// How a program is attached without a link.
#[derive(Clone, Copy)]
pub enum Manner {
    /// As the only one, here and below.
    Alone = 0,
    /// Until one below overrides it.
    Overridable = 1,
}

/// Attaches a program without a link, for as long as the cgroup lives. Returns its id.
pub fn attach_without_link(cgroup: &Path, manner: Manner) -> u32 {
    let program = load("foreign", &[0x0000_0001_0000_00b7, 0x95]);
    let directory = File::open(cgroup).unwrap();
    let mut attr = ProgAttach {
        target_fd: directory.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: INET4_CONNECT,
        attach_flags: manner as u32,
    };
    bpf(PROG_ATTACH, &mut attr).unwrap();
    programs(cgroup, INET4_CONNECT, 0)[0]
}

#[repr(C)]
#[derive(Default)]
struct ProgAttach {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

fn load(name: &str, instructions: &[u64]) -> OwnedFd {
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(name.as_bytes());
    let program = bpf(
        PROG_LOAD,
        &mut ProgLoad {
            prog_type: CGROUP_SOCK_ADDR,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            prog_name,
            expected_attach_type: INET4_CONNECT,
            ..ProgLoad::default()
        },
    );
    owned(program.unwrap())
}

fn attach_link(cgroup: &Path, program: &OwnedFd) -> OwnedFd {
    let cgroup = File::open(cgroup).unwrap();
    let link = bpf(
        LINK_CREATE,
        &mut LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_fd: cgroup.as_raw_fd() as u32,
            attach_type: INET4_CONNECT,
            flags: 0,
        },
    );
    owned(link.unwrap())
}

#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// A kind of map, as the kernel counts them.
#[derive(Clone, Copy)]
pub enum MapType {
    Hash = 1,
    Array = 2,
}

/// A map of somebody's own.
pub fn map(kind: MapType, key_size: u32, value_size: u32, max_entries: u32) -> OwnedFd {
    let mut attr = MapCreate { map_type: kind as u32, key_size, value_size, max_entries, map_flags: 0 };
    owned(bpf(MAP_CREATE, &mut attr).unwrap())
}

#[repr(C)]
#[derive(Default)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins a map, a program or a link.
pub fn pin(fd: &OwnedFd, path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut attr = ObjPin { pathname: name.as_ptr() as u64, bpf_fd: fd.as_raw_fd() as u32, file_flags: 0 };
    bpf(OBJ_PIN, &mut attr).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
}

/// How many programs are attached to a cgroup itself, by whomever.
pub fn attached(cgroup: &Path, attach_type: u32) -> u32 {
    programs(cgroup, attach_type, 0).len() as u32
}

/// The programs that run for a cgroup's processes, those of cgroups above included, in their order.
pub fn effective(cgroup: &Path, attach_type: u32) -> Vec<u32> {
    /// `BPF_F_QUERY_EFFECTIVE`.
    const EFFECTIVE: u32 = 1;
    programs(cgroup, attach_type, EFFECTIVE)
}

fn programs(cgroup: &Path, attach_type: u32, query_flags: u32) -> Vec<u32> {
    let cgroup = File::open(cgroup).unwrap();
    let mut ids = [0_u32; 64];
    let mut attr = ProgQuery {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        query_flags,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: ids.len() as u32,
        ..ProgQuery::default()
    };
    bpf(PROG_QUERY, &mut attr).unwrap();
    ids[..attr.prog_cnt as usize].to_vec()
}
