//! The maps. Their sizes are defaults: the agent sets them when it loads the programs.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap},
};
use balancer_common::abi::{
    Backend, BackendHealth, BackendHistory, BackendMeta, BackendStats, ClientKey, ClientState, Control,
    FrontendKey, Lifecycle, MAX_EXCLUDED, MAX_OFFERS, Offer, Service, ServiceMeta, ServiceStats, Slot,
    SocketState, UdpFlows,
};

/// What applications dial -> service id.
#[map]
pub static FRONTENDS: HashMap<FrontendKey, u32> = HashMap::with_max_entries(16_384, 0);

/// By service id.
#[map]
pub static SERVICES: Array<Service> = Array::with_max_entries(16_384, BPF_F_MMAPABLE);

/// By service id.
#[map]
pub static SERVICE_STATS: Array<ServiceStats> = Array::with_max_entries(16_384, BPF_F_MMAPABLE);

/// Runs of slots; a Service says which is its own.
#[map]
pub static SLOTS: Array<Slot> = Array::with_max_entries(262_144, BPF_F_MMAPABLE);

/// By backend id.
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// By backend id.
#[map]
pub static BACKEND_STATS: Array<BackendStats> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// By backend id.
#[map]
pub static BACKEND_HEALTH: Array<BackendHealth> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// By backend id. No program reads it.
#[map]
pub static BACKEND_HISTORY: Array<BackendHistory> = Array::with_max_entries(65_536, BPF_F_MMAPABLE);

/// By service id. No program reads it.
#[map]
pub static LIFECYCLE: Array<Lifecycle> = Array::with_max_entries(16_384, BPF_F_MMAPABLE);

/// Connections of which it is watched what comes next, by socket cookie.
#[map]
pub static OFFERS: HashMap<u64, Offer> = HashMap::with_max_entries(MAX_OFFERS, BPF_F_NO_PREALLOC);

/// What is remembered of clients; the least recently used are forgotten first.
#[map]
pub static CLIENTS: LruHashMap<ClientKey, ClientState> = LruHashMap::with_max_entries(65_536, 0);

/// Ids of the cgroups whose processes are left alone, those in cgroups below them included.
#[map]
pub static EXCLUDED: HashMap<u64, u32> = HashMap::with_max_entries(MAX_EXCLUDED, BPF_F_NO_PREALLOC);

/// One entry: the lease, and what the agent says of itself.
#[map]
pub static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Names for people, by service id. No program reads it.
#[map]
pub static SERVICE_META: HashMap<u32, ServiceMeta> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// Names for people, by backend id. No program reads it.
#[map]
pub static BACKEND_META: HashMap<u32, BackendMeta> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The translation that a connected socket carries.
#[btf_map]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// The Services that an unconnected UDP socket talks to.
#[btf_map]
pub static UDP_FLOWS: SkStorage<UdpFlows> = SkStorage::new();

/// What `map` holds for a socket, or null: for the hooks that have a socket and no socket address.
///
/// # Safety
/// `sock` must be a socket of the hook's context and not null.
#[inline(always)]
pub unsafe fn stored<T>(map: &'static SkStorage<T>, sock: *mut bpf_sock) -> *mut T {
    // SAFETY: the caller's promise; the address of a map's static is what stands for it; null asks for
    // nothing to be created.
    unsafe { bpf_sk_storage_get(ptr::from_ref(map).cast_mut().cast(), sock.cast(), ptr::null_mut(), 0) }
        .cast()
}
