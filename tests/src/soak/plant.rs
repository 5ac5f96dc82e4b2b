//! Bugs that are planted, to see that the soak finds them: each breaks what one invariant is about.

use anyhow::{Context as _, Result};
use balancer_common::{
    abi::{BackendState, FIRST_BACKEND},
    addr::PortBe,
};
use balancer_userspace::datapath::{Access, Maps, Pins};

use super::run::Soak;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// A connection is counted that nobody opened, as opened and as active.
    Active,
    /// An opened connection is counted that never closes.
    Opened,
    /// Backends that were removed stay in their Services' slots.
    Stale,
    /// Backends have a port that nobody listens on.
    Port,
    /// A pin that nobody removes.
    Pin,
    /// A backend id that is never freed.
    Id,
}

impl Soak<'_> {
    /// Plants it.
    pub fn plant(&mut self, plant: Plant) -> Result<()> {
        self.ledger.note(format!("planted: {plant:?}"));
        let pins = Pins::new(self.agents.pins());
        let maps = Maps::open(&pins, Access::Write).context("tables")?;
        let ready = |state: u16| BackendState::from_u16(state) == BackendState::Ready;
        let backends: Vec<_> = maps
            .backends
            .iter()
            .filter(|(id, backend)| *id >= FIRST_BACKEND && ready(backend.state))
            .collect();
        let (first, _) = *backends.first().context("no backend")?;
        match plant {
            Plant::Active | Plant::Opened => {
                let mut stats = maps.backend_stats.get(first).context("no counters")?;
                stats.opened += 1;
                stats.active += u64::from(plant == Plant::Active);
                maps.backend_stats.set(first, &stats);
            }
            Plant::Stale => {
                for (id, mut backend) in backends {
                    backend.state = BackendState::Removed as u16;
                    maps.backends.set(id, &backend);
                }
            }
            Plant::Port => {
                for (id, mut backend) in backends {
                    backend.port = PortBe::from_host(9);
                    maps.backends.set(id, &backend);
                }
            }
            Plant::Pin => {
                let copy = aya::maps::MapData::from_pin(pins.map("EXCLUDED"))?;
                copy.pin(pins.map("EXTRA"))?;
            }
            Plant::Id => {
                let (_, backend) = backends[0];
                let free = maps.backends.iter().skip(FIRST_BACKEND as usize).filter(|(_, it)| it.state == 0);
                let (id, _) = free.last().context("no free id")?;
                let meta = maps.backend_meta(first)?.context("no names")?;
                let mut maps = maps;
                maps.set_backend_meta(id, &meta)?;
                let state = BackendState::Removed as u16;
                maps.backends.set(id, &balancer_common::abi::Backend { state, generation: 1, ..backend });
            }
        }
        Ok(())
    }
}
