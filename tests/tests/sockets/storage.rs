//! An sk_storage map like the programs' own, whose values the test writes: the state of a socket is then
//! whatever a case needs, without a program, and nothing is attached anywhere.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

/// Commands of bpf(2).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const BTF_LOAD: libc::c_int = 18;

/// `BPF_MAP_TYPE_HASH` and `BPF_MAP_TYPE_SK_STORAGE`.
const HASH: u32 = 1;
const SK_STORAGE: u32 = 24;
/// `BPF_F_NO_PREALLOC`, which an sk_storage map must have.
const NO_PREALLOC: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
    map_ifindex: u32,
    btf_fd: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    btf_vmlinux_value_type_id: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Pod, Zeroable)]
struct BtfLoad {
    btf: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    pad: u32,
}

/// A map in the kernel, gone when dropped.
pub struct Map(OwnedFd);

impl Map {
    /// An sk_storage map with values of `value_size` bytes.
    pub fn sk_storage(value_size: usize) -> Self {
        let btf = btf(value_size as u32);
        Self(create(&MapCreate {
            map_type: SK_STORAGE,
            key_size: 4,
            value_size: value_size as u32,
            map_flags: NO_PREALLOC,
            map_name: *b"test_storage\0\0\0\0",
            btf_fd: btf.as_raw_fd() as u32,
            btf_key_type_id: 1,
            btf_value_type_id: 3,
            ..Default::default()
        }))
    }

    /// A map of another kind.
    pub fn hash() -> Self {
        Self(create(&MapCreate {
            map_type: HASH,
            key_size: 4,
            value_size: 4,
            max_entries: 1,
            ..Default::default()
        }))
    }

    /// Gives `socket` a value, as a program would.
    #[track_caller]
    pub fn set<T: Pod>(&self, socket: impl AsFd, value: &T) {
        let key = socket.as_fd().as_raw_fd();
        let attr = MapUpdate {
            map_fd: self.0.as_raw_fd() as u32,
            key: (&raw const key) as u64,
            value: std::ptr::from_ref(value) as u64,
            ..Default::default()
        };
        // SAFETY: key and value outlive the call, and are as long as the map says.
        unsafe { command(MAP_UPDATE_ELEM, &attr) }.unwrap();
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn create(attr: &MapCreate) -> OwnedFd {
    // SAFETY: `attr` holds no pointer; the descriptor that comes back is new.
    unsafe { OwnedFd::from_raw_fd(command(MAP_CREATE, attr).unwrap()) }
}

/// Types 1 to 3: a 32-bit integer (the key), a byte, and an array of `length` bytes (the value).
fn btf(length: u32) -> OwnedFd {
    const INT: u32 = 1 << 24;
    const ARRAY: u32 = 3 << 24;
    let strings = b"\0int\0u8\0";
    let types: [u32; 14] = [1, INT, 4, 1 << 24 | 32, 5, INT, 1, 8, 0, ARRAY, 0, 2, 1, length];
    let types: &[u8] = bytemuck::bytes_of(&types);
    let mut btf = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, types.len(), types.len(), strings.len()] {
        btf.extend((word as u32).to_ne_bytes());
    }
    btf.extend(types);
    btf.extend(strings);
    let attr = BtfLoad { btf: btf.as_ptr() as u64, size: btf.len() as u32, ..Default::default() };
    // SAFETY: `btf` outlives the call and is as long as said; the descriptor that comes back is new.
    unsafe { OwnedFd::from_raw_fd(command(BTF_LOAD, &attr).unwrap()) }
}

/// # Safety
/// Every pointer in `attr` must be valid for what the command does with it.
unsafe fn command<T: Pod>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is live and as long as said; its pointers are the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
