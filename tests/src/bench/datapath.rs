//! The real programs with tables written by hand: what the agent would write, at any size, at once.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use balancer_common::{
    abi::{
        Algorithm, Backend, BackendState, FIRST_BACKEND, FIRST_SERVICE, FIRST_SLOT, FULL_SCAN, FrontendKey,
        LAYOUT_VERSION, SERVICE_TRACKED, SERVICE_UNIFORM, Service, SlotRange,
    },
    addr::PortBe,
};
use balancer_userspace::{
    datapath::{Installation, Pins, Sizes, install},
    reconcile::layout::{self, Member},
};

use crate::topology::Scratch;

/// The default.
const ALGORITHM: Algorithm = Algorithm::LeastConnections;

/// The programs, attached to a cgroup, with their maps. Detached and unpinned on drop.
#[derive(Debug)]
pub struct Datapath {
    /// The maps and the loaded object.
    pub installation: Installation,
    /// Where they are pinned.
    pub pins: Pins,
    sizes: Sizes,
    cgroup: PathBuf,
    /// Programs that were replaced. They stay where they are in memory, so that others go elsewhere.
    replaced: Vec<Installation>,
    /// Of Services that are added from now on, beside [`SERVICE_UNIFORM`].
    flags: u32,
    next_service: u32,
    next_backend: u32,
    next_slot: u32,
    _scratch: Scratch,
}

impl Datapath {
    /// Attaches the programs to `cgroup`, with maps of these sizes and a lease that never lapses.
    pub fn attach(cgroup: &Path, services: u32, backends: u32) -> Result<Self> {
        let scratch = Scratch::pins();
        let pins = Pins::new(scratch.path());
        let sizes = Sizes {
            services: services + FIRST_SERVICE,
            backends: backends + FIRST_BACKEND,
            slots: backends + FIRST_SLOT,
            clients: 1024,
        };
        let installation = install(&pins, cgroup, &sizes, 0).context("the programs cannot be attached")?;
        let control = installation.maps.control();
        installation.maps.control.set(
            0,
            &balancer_common::abi::Control {
                layout_version: LAYOUT_VERSION,
                node_offset: 12_345,
                lease_expires_ns: u64::MAX,
                ..control
            },
        );
        Ok(Self {
            installation,
            pins,
            sizes,
            cgroup: cgroup.to_owned(),
            replaced: Vec::new(),
            flags: 0,
            next_service: FIRST_SERVICE,
            next_backend: FIRST_BACKEND,
            next_slot: FIRST_SLOT,
            _scratch: scratch,
        })
    }

    /// Loads the programs again, to other places in memory, and replaces those that are attached.
    pub fn reload(&mut self) -> Result<()> {
        let next = install(&self.pins, &self.cgroup, &self.sizes, 0).context("loading again")?;
        self.replaced.push(std::mem::replace(&mut self.installation, next));
        Ok(())
    }

    /// Has the programs follow what connections carry to Services that are added from now on, as with `rebalance` on.
    pub const fn follow_connections(&mut self) {
        self.flags |= SERVICE_TRACKED;
    }

    /// Adds a Service with `least-connections`, numbered and laid out as the agent does, and returns the ids of its backends.
    pub fn service(
        &mut self,
        protocol: u8,
        address: impl Into<SocketAddr>,
        backends: impl IntoIterator<Item = impl Into<SocketAddr>>,
    ) -> Result<Range<u32>> {
        let address: SocketAddr = address.into();
        let maps = &mut self.installation.maps;
        let id = self.next_service;
        ensure!(id < maps.services.len(), "no room for Service {id}");
        let (first, base) = (self.next_backend, self.next_slot);
        let mut members: Vec<Member> =
            backends.into_iter().map(|addr| Member { id: 0, weight: 1, addr: addr.into() }).collect();
        if members.len() as u32 > FULL_SCAN {
            members.sort_by_cached_key(|member| layout::ring_place(&member.addr));
        }
        for member in &mut members {
            let backend = self.next_backend;
            ensure!(backend < maps.backends.len(), "no room for backend {backend}");
            member.id = backend;
            maps.backends.set(
                backend,
                &Backend {
                    addr: member.addr.ip().into(),
                    port: PortBe::from_host(member.addr.port()),
                    state: BackendState::Ready as u16,
                    service: id,
                    generation: 1,
                    weight: member.weight,
                },
            );
            self.next_backend += 1;
        }
        members.sort_by_key(|member| member.addr);
        for slot in layout::layout(ALGORITHM, &members) {
            maps.slots.set(self.next_slot, &slot);
            self.next_slot += 1;
        }
        let count = self.next_backend - first;
        let frontend = FrontendKey::new(address.ip().into(), PortBe::from_host(address.port()), protocol);
        maps.services.set(
            id,
            &Service {
                slots: SlotRange::new(base, count),
                frontend,
                algorithm: ALGORITHM as u32,
                affinity_seconds: 0,
                flags: SERVICE_UNIFORM | self.flags,
                backends: count,
                revision: 1,
                ..Service::default()
            },
        );
        maps.insert_frontend(&frontend, id)?;
        self.next_service += 1;
        Ok(first..self.next_backend)
    }

    /// Makes every backend look as if it had so many open connections.
    pub fn preload(&self, backends: Range<u32>, active: u64) {
        for backend in backends {
            // `active` is the first word.
            if let Some(word) = self.installation.maps.backend_stats.word(backend, 0) {
                word.store(active, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
}

/// The `n`th pod address and port that nobody has: `10.244.x.y` from 10.244.16.0 on, port 8080 and up.
pub fn nobody(n: u32) -> SocketAddrV4 {
    let [_, _, high, low] = (4096 + n % 57_344).to_be_bytes();
    SocketAddrV4::new(Ipv4Addr::new(10, 244, high, low), 8080 + (n / 57_344) as u16)
}

/// The same of IPv6: `fd00:10:244::1:x:y`.
pub fn nobody_v6(n: u32) -> SocketAddrV6 {
    let (high, low) = ((n >> 16) as u16, n as u16);
    SocketAddrV6::new(Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 1, high, low), 8080, 0, 0)
}
