//! The tables as a program sees them.

use std::cell::Cell;

use balancer_common::{
    abi::{Backend, ClientKey, ClientState, FrontendKey, Mode, Service},
    health::Health,
    tables::{Load, Tables},
};

use super::fake::Fake;

/// One run of a program.
pub(super) struct Eyes<'a> {
    fake: &'a Fake,
    client: u64,
    roll: Cell<u32>,
    leaves_traces: bool,
}

impl<'a> Eyes<'a> {
    /// A run that leaves everything as it is.
    pub(super) fn looking(fake: &'a Fake, client: u64, roll: u32) -> Self {
        Self { fake, client, roll: Cell::new(roll), leaves_traces: false }
    }

    /// A run that takes turns and is remembered.
    pub(super) fn dialling(fake: &'a Fake, client: u64, roll: u32) -> Self {
        Self { leaves_traces: true, ..Self::looking(fake, client, roll) }
    }
}

impl Load for Eyes<'_> {
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        self.fake.slots.get(index as usize).map(|slot| (slot.backend, slot.weight))
    }

    fn active(&self, backend: u32) -> u64 {
        self.fake.active.get(backend as usize).copied().unwrap_or_default()
    }

    fn health(&self, backend: u32) -> Health {
        self.fake.health.get(backend as usize).map_or(Health::CLEAR, |health| health.state)
    }

    fn begin_trial(&self, _: u32, _: Health, _: Health) -> bool {
        true
    }

    fn take_turn(&self, service: u32) -> u32 {
        let turn = &self.fake.turns[service as usize];
        let taken = turn.get();
        if self.leaves_traces {
            turn.set(taken.wrapping_add(1));
        }
        taken
    }

    fn skip_turns(&self, _: u32, _: u32) {}

    fn node_offset(&self) -> u32 {
        self.roll.get()
    }

    fn random(&self) -> u32 {
        self.roll.replace(self.roll.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    }
}

impl Tables for Eyes<'_> {
    fn service_id(&self, frontend: &FrontendKey) -> Option<u32> {
        self.fake.frontends.get(frontend).copied()
    }

    fn service(&self, id: u32) -> Option<&Service> {
        self.fake.services.get(id as usize)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.fake.backends.get(id as usize)
    }

    fn lease_expires_ns(&self) -> u64 {
        u64::MAX
    }

    fn mode(&self) -> Mode {
        Mode::Balance
    }

    fn is_excluded(&self) -> bool {
        false
    }

    fn now_ns(&self) -> u64 {
        1
    }

    fn client(&self) -> u64 {
        self.client
    }

    fn client_state(&self, key: &ClientKey) -> Option<ClientState> {
        self.fake.clients.borrow().get(key).copied()
    }

    fn take_client_turn(&self, _: &ClientKey) -> u32 {
        0
    }

    fn remember_client(&self, key: &ClientKey, state: &ClientState) {
        if self.leaves_traces {
            self.fake.clients.borrow_mut().insert(*key, *state);
        }
    }
}
