//! What a decision reads, as a trait: BPF maps in the kernel, pinned maps in `balancer explain`, vectors
//! in tests.

use crate::{
    abi::{Backend, ClientKey, ClientState, FrontendKey, Mode, Service, SlotRange},
    health::Health,
    select::{
        least_connections::{self, Balance, Found},
        steer::{self, Steered},
    },
};

/// The part of the tables that says how loaded backends are.
pub trait Load {
    /// Backend id and weight of a slot.
    fn slot(&self, index: u32) -> Option<(u32, u32)>;
    /// Open connections of a backend; 0 for one that does not exist.
    fn active(&self, backend: u32) -> u64;
    /// What is known of a backend's health; [`Health::CLEAR`] for one that does not exist.
    fn health(&self, backend: u32) -> Health;
    /// Exchanges what is known of a backend's health, so that this connect tries it; `false` if it was not
    /// `old` any more.
    fn begin_trial(&self, backend: u32, old: Health, new: Health) -> bool;
    /// Takes the next turn of a Service; the first is 0. Turns may repeat after 2^32.
    fn take_turn(&self, service: u32) -> u32;
    /// Takes `count` more turns of a Service, which nobody else shall have.
    fn skip_turns(&self, service: u32, count: u32);
    /// Where this node's tie order starts.
    fn node_offset(&self) -> u32;
    /// A uniform random number.
    fn random(&self) -> u32;
}

/// The tables and helpers that a decision may use. A missing entry is `None`, never a panic: the kernel
/// may read while the agent writes.
pub trait Tables: Load + Sized {
    /// Service id of what was dialled.
    fn service_id(&self, frontend: &FrontendKey) -> Option<u32>;
    /// A Service by id.
    fn service(&self, id: u32) -> Option<&Service>;
    /// A backend by id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// When the agent's lease ends, in nanoseconds of `CLOCK_BOOTTIME`.
    fn lease_expires_ns(&self) -> u64;
    /// What becomes of the backends that are chosen.
    fn mode(&self) -> Mode;
    /// Whether the process that connects is in a cgroup that is left alone.
    fn is_excluded(&self) -> bool;
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    fn now_ns(&self) -> u64;
    /// The client: the cookie of its network namespace.
    fn client(&self) -> u64;
    /// What is remembered of a client.
    fn client_state(&self, key: &ClientKey) -> Option<ClientState>;
    /// Takes the next turn of a client, and remembers it by that; the first is 0. Connects at the same
    /// time take different turns: an application opens its pool from many threads.
    fn take_client_turn(&self, key: &ClientKey) -> u32;
    /// Remembers a client. May be forgotten at any time.
    fn remember_client(&self, key: &ClientKey, state: &ClientState);
    /// Compares all backends of a Service. The eBPF programs call a function here that the verifier
    /// checks by itself, once, because it follows every round of the loop.
    #[inline(always)]
    fn least_connections(&self, service: u32, slots: SlotRange, balance: Balance) -> Option<Found> {
        least_connections::scan(self, service, slots, balance)
    }
    /// What becomes of the choice of a backend of which something is known ([`steer::relieve`]). As above,
    /// the programs call a function.
    #[inline(always)]
    fn relieve(&self, picked: u32, service: u32, slots: SlotRange, start: u32) -> Steered {
        self.service(service).map_or(Steered::Keep, |service| {
            let Service { algorithm, slow_start_ms, .. } = *service;
            steer::relieve(self, picked, algorithm, slots, start, self.now_ns(), slow_start_ms)
        })
    }
}
