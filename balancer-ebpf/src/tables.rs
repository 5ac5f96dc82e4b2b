//! The maps as the tables that a decision reads.

use core::ptr;

use aya_ebpf::{
    EbpfContext,
    bindings::BPF_NOEXIST,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_prandom_u32, bpf_ktime_get_boot_ns,
    },
    programs::SockAddrContext,
};
use balancer_common::{
    abi::{Backend, ClientKey, ClientState, FrontendKey, MAX_CGROUP_DEPTH, Mode, Service, SlotRange},
    health::Health,
    select::{
        least_connections::{self, Balance, Found},
        steer::{self, Steered},
    },
    tables::{Load, Tables},
};

use crate::{
    atomic,
    maps::{
        BACKEND_HEALTH, BACKEND_STATS, BACKENDS, CLIENTS, CONTROL, EXCLUDED, FRONTENDS, SERVICE_STATS,
        SERVICES, SLOTS,
    },
};

/// The BPF maps, seen from a hook on a socket address.
pub struct Maps<'a>(pub &'a SockAddrContext);

/// The BPF maps that need no context.
struct Shared;

impl Load for Shared {
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        SLOTS.get(index).map(|slot| (slot.backend, slot.weight))
    }

    #[inline(always)]
    fn active(&self, backend: u32) -> u64 {
        BACKEND_STATS.get_ptr(backend).map_or(0, |stats| {
            // SAFETY: the verifier has bounded the pointer to the map value. Volatile: other CPUs write it.
            unsafe { ptr::read_volatile(&raw const (*stats).active) }
        })
    }

    #[inline(always)]
    fn health(&self, backend: u32) -> Health {
        BACKEND_HEALTH.get_ptr(backend).map_or(Health::CLEAR, |health| {
            // SAFETY: the verifier has bounded the pointer to the map value. Volatile: other CPUs write it.
            Health(unsafe { ptr::read_volatile(&raw const (*health).state.0) })
        })
    }

    #[inline(always)]
    fn begin_trial(&self, backend: u32, old: Health, new: Health) -> bool {
        BACKEND_HEALTH.get_ptr_mut(backend).is_some_and(|health| {
            // SAFETY: the verifier has bounded the pointer to the map value.
            unsafe {
                let begun = atomic::replace_u64(&raw mut (*health).state.0, old.0, new.0);
                if begun {
                    atomic::add(&raw mut (*health).trials, 1);
                }
                begun
            }
        })
    }

    #[inline(always)]
    fn take_turn(&self, service: u32) -> u32 {
        SERVICE_STATS.get_ptr_mut(service).map_or(0, |stats| {
            // SAFETY: the verifier has bounded the pointer to the map value.
            atomic::fetch_add_one(unsafe { &raw mut (*stats).turn }) as u32
        })
    }

    #[inline(always)]
    fn skip_turns(&self, service: u32, count: u32) {
        if let Some(stats) = SERVICE_STATS.get_ptr_mut(service) {
            // SAFETY: the verifier has bounded the pointer to the map value.
            atomic::add(unsafe { &raw mut (*stats).turn }, u64::from(count));
        }
    }

    #[inline(always)]
    fn node_offset(&self) -> u32 {
        CONTROL.get(0).map_or(0, |control| control.node_offset)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: no arguments.
        unsafe { bpf_get_prandom_u32() }
    }
}

/// Compares all backends of a Service; its answer is a backend id with the steps above it, or [`NONE`].
///
/// Unmangled and not inlined, so that it is a global function of the program: the verifier checks it
/// once and by itself, for any arguments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn least_connections(service: u32, base: u32, len: u32, uniform: u32) -> u64 {
    let balance = if uniform != 0 { Balance::Uniform } else { Balance::Weighted };
    least_connections::scan(&Shared, service, SlotRange::new(base, len), balance)
        .map_or(NONE, |found| (u64::from(found.steps) << 32) | u64::from(found.backend))
}

/// What becomes of the choice of a backend; its answer is the backend to take in its place, [`PANIC`] or [`NONE`].
///
/// A global function, as above; such a one takes five numbers at most.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn relieve(picked: u32, service: u32, base: u32, len: u32, start: u32) -> u64 {
    let Some(entry) = SERVICES.get(service) else { return NONE };
    // SAFETY: no arguments.
    let now_ns = unsafe { bpf_ktime_get_boot_ns() };
    let slots = SlotRange::new(base, len);
    match steer::relieve(&Shared, picked, entry.algorithm, slots, start, now_ns, entry.slow_start_ms) {
        Steered::Keep => NONE,
        Steered::To(backend) => u64::from(backend),
        Steered::Panic => PANIC,
    }
}

/// Whether the current process is in a cgroup that is left alone, or below one: 1 if so.
///
/// A global function, as above: its loop would else be verified at every place from which it is called.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn excluded_cgroup() -> u32 {
    for level in 1..=MAX_CGROUP_DEPTH {
        // SAFETY: a level of any number may be asked for; 0 stands for one that there is not.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            break;
        }
        // SAFETY: only whether there is an entry is of interest.
        if unsafe { EXCLUDED.get(&id) }.is_some() {
            return 1;
        }
    }
    0
}

/// No backend.
const NONE: u64 = u64::MAX;
/// Any backend.
const PANIC: u64 = u64::MAX - 1;

impl Load for Maps<'_> {
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        Shared.slot(index)
    }

    #[inline(always)]
    fn active(&self, backend: u32) -> u64 {
        Shared.active(backend)
    }

    #[inline(always)]
    fn health(&self, backend: u32) -> Health {
        Shared.health(backend)
    }

    #[inline(always)]
    fn begin_trial(&self, backend: u32, old: Health, new: Health) -> bool {
        Shared.begin_trial(backend, old, new)
    }

    #[inline(always)]
    fn take_turn(&self, service: u32) -> u32 {
        Shared.take_turn(service)
    }

    #[inline(always)]
    fn skip_turns(&self, service: u32, count: u32) {
        Shared.skip_turns(service, count);
    }

    #[inline(always)]
    fn node_offset(&self) -> u32 {
        Shared.node_offset()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        Shared.random()
    }
}

impl Tables for Maps<'_> {
    #[inline(always)]
    fn least_connections(&self, service: u32, slots: SlotRange, balance: Balance) -> Option<Found> {
        let uniform = u32::from(matches!(balance, Balance::Uniform));
        let found = least_connections(service, slots.base(), slots.len(), uniform);
        if found == NONE { None } else { Some(Found { backend: found as u32, steps: (found >> 32) as u32 }) }
    }

    #[inline(always)]
    fn relieve(&self, picked: u32, service: u32, slots: SlotRange, start: u32) -> Steered {
        match relieve(picked, service, slots.base(), slots.len(), start) {
            NONE => Steered::Keep,
            PANIC => Steered::Panic,
            backend => Steered::To(backend as u32),
        }
    }

    #[inline(always)]
    fn service_id(&self, frontend: &FrontendKey) -> Option<u32> {
        // SAFETY: the value is one word, which is read whole; a reused entry is found out by the
        // Service, which names its own frontend.
        unsafe { FRONTENDS.get(frontend) }.copied()
    }

    #[inline(always)]
    fn service(&self, id: u32) -> Option<&Service> {
        SERVICES.get(id)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn lease_expires_ns(&self) -> u64 {
        CONTROL.get_ptr(0).map_or(0, |control| {
            // SAFETY: the verifier has bounded the pointer to the map value. Volatile: the agent writes it.
            unsafe { ptr::read_volatile(&raw const (*control).lease_expires_ns) }
        })
    }

    #[inline(always)]
    fn mode(&self) -> Mode {
        CONTROL.get(0).map_or(Mode::Balance, |control| Mode::from_u32(control.mode))
    }

    #[inline(always)]
    fn is_excluded(&self) -> bool {
        CONTROL.get(0).is_some_and(|control| control.excluded != 0) && excluded_cgroup() != 0
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: no arguments.
        unsafe { bpf_ktime_get_boot_ns() }
    }

    #[inline(always)]
    fn client(&self) -> u64 {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { bpf_get_netns_cookie(self.0.as_ptr()) }
    }

    #[inline(always)]
    fn client_state(&self, key: &ClientKey) -> Option<ClientState> {
        // SAFETY: the copy may mix two updates of one client, each of whose words is valid by itself.
        unsafe { CLIENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn take_client_turn(&self, key: &ClientKey) -> u32 {
        // The second round is for a client whose first connects come at the same time.
        for _ in 0..2 {
            if let Some(state) = CLIENTS.get_ptr_mut(key) {
                // SAFETY: the verifier has bounded the pointer to the map value. Should the map have evicted
                // the client by now, another one skips a turn.
                return atomic::fetch_add_one_u32(unsafe { &raw mut (*state).turn });
            }
            let state = ClientState { used_ns: 0, backend: 0, generation: 0, turn: 1, pad: 0 };
            if CLIENTS.insert(key, &state, u64::from(BPF_NOEXIST)).is_ok() {
                return 0;
            }
        }
        0
    }

    #[inline(always)]
    fn remember_client(&self, key: &ClientKey, state: &ClientState) {
        // An LRU map makes room by itself; where it cannot, the client is a new one next time.
        let _ = CLIENTS.insert(key, state, 0);
    }
}
