//! One node's tables in memory, read by the selection code that the eBPF programs run.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr},
};

use balancer_common::{
    abi::{
        Algorithm, Backend, BackendState, ClientKey, ClientState, FIRST_SERVICE, FrontendKey, Mode,
        SERVICE_UNIFORM, Service, Slot, SlotRange, TCP,
    },
    addr::PortBe,
    health::Health,
    tables::{Load, Tables},
    translate::{self, Translation},
};
use balancer_userspace::reconcile::layout::{Member, layout};

/// A node with one Service of least-connections, all of whose backends are well and of one weight, and the
/// connections that it holds open. Nobody on it has connected before.
#[derive(Debug)]
pub struct Node {
    service: Service,
    slots: Vec<Slot>,
    backends: Vec<Backend>,
    active: Vec<Cell<u64>>,
    turn: Cell<u32>,
    offset: u32,
}

impl Node {
    /// A node whose ties begin at `offset`, with so many backends.
    pub fn new(offset: u32, backends: u32) -> Self {
        let address = |id: u32| Ipv4Addr::from(0x0a01_0001 + id);
        let members: Vec<Member> = (0..backends)
            .map(|id| Member { id, weight: 1, addr: SocketAddr::from((address(id), 8080)) })
            .collect();
        let backend = |id: u32| Backend {
            addr: address(id).into(),
            port: PortBe::from_host(8080),
            state: BackendState::Ready as u16,
            service: FIRST_SERVICE,
            generation: 1,
            weight: 1,
        };
        let slots = layout(Algorithm::LeastConnections, &members);
        Self {
            service: Service {
                frontend: frontend(),
                algorithm: Algorithm::LeastConnections as u32,
                slots: SlotRange::new(0, slots.len() as u32),
                flags: SERVICE_UNIFORM,
                backends,
                ..Service::default()
            },
            slots,
            backends: (0..backends).map(backend).collect(),
            active: vec![Cell::new(0); backends as usize],
            turn: Cell::new(0),
            offset,
        }
    }

    /// Opens a connection to the Service and holds it. Nothing if it was left alone, as a Service without backends is.
    pub fn open(&self) {
        if let Translation::Rewrite(choice) = translate::connect(self, &frontend())
            && let Some(active) = self.active.get(choice.backend as usize)
        {
            active.set(active.get() + 1);
        }
    }

    /// Open connections, by backend.
    pub fn loads(&self) -> impl Iterator<Item = u64> {
        self.active.iter().map(Cell::get)
    }
}

fn frontend() -> FrontendKey {
    FrontendKey::new(Ipv4Addr::new(10, 96, 0, 10).into(), PortBe::from_host(80), TCP)
}

impl Load for Node {
    fn slot(&self, index: u32) -> Option<(u32, u32)> {
        self.slots.get(index as usize).map(|slot| (slot.backend, slot.weight))
    }

    fn active(&self, backend: u32) -> u64 {
        self.active.get(backend as usize).map_or(0, Cell::get)
    }

    fn health(&self, _: u32) -> Health {
        Health::CLEAR
    }

    fn begin_trial(&self, _: u32, _: Health, _: Health) -> bool {
        false
    }

    fn take_turn(&self, _: u32) -> u32 {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }

    fn skip_turns(&self, _: u32, count: u32) {
        self.turn.set(self.turn.get().wrapping_add(count));
    }

    fn node_offset(&self) -> u32 {
        self.offset
    }

    /// Only what steers around a failing backend draws numbers, and none fails here.
    fn random(&self) -> u32 {
        0
    }
}

impl Tables for Node {
    fn service_id(&self, dialled: &FrontendKey) -> Option<u32> {
        self.service.frontend.same(dialled).then_some(FIRST_SERVICE)
    }

    fn service(&self, id: u32) -> Option<&Service> {
        (id == FIRST_SERVICE).then_some(&self.service)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id as usize)
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
        1
    }

    fn client_state(&self, _: &ClientKey) -> Option<ClientState> {
        None
    }

    fn take_client_turn(&self, _: &ClientKey) -> u32 {
        0
    }

    fn remember_client(&self, _: &ClientKey, _: &ClientState) {}
}
