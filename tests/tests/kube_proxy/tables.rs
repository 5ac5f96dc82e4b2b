//! What the agent's programs would do: read from the pinned maps as the programs read them.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use balancer_common::abi::{BackendState, FIRST_SERVICE};
use balancer_tests::kubeproxy::Verdict;
use balancer_userspace::{
    datapath::{Access, Maps, Pins},
    model::{Frontend, Protocol},
};

/// The maps of a running agent.
pub struct Tables(Maps);

impl Tables {
    pub fn open(pins: &Path) -> Result<Self> {
        Ok(Self(Maps::open(&Pins::new(pins), Access::Read)?))
    }

    /// Every Service address that connects are translated from. One without a usable backend is left out: they are
    /// passed through.
    pub fn rules(&self) -> Result<BTreeMap<Frontend, Verdict>> {
        let mut rules = BTreeMap::new();
        for (key, id) in self.0.frontends()? {
            if id < FIRST_SERVICE {
                continue;
            }
            let service = self.0.services.get(id).context("a Service beyond the end")?;
            // The next look finds it as it should be.
            if !service.frontend.same(&key) || service.slots.is_empty() {
                continue;
            }
            let addr = std::net::IpAddr::from(key.addr);
            let protocol = Protocol::from_number(key.protocol).context("protocol")?;
            let mut endpoints = std::collections::BTreeSet::new();
            for index in 0..service.slots.len() {
                let slot = self.0.slots.get(service.slots.base() + index).context("a slot beyond the end")?;
                let backend = self.0.backends.get(slot.backend).context("a backend beyond the end")?;
                if backend.service == id && BackendState::from_u16(backend.state).is_usable() {
                    endpoints.insert(SocketAddr::new(backend.addr.into(), backend.port.to_host()));
                }
            }
            if endpoints.is_empty() {
                continue;
            }
            let seconds = u64::from(service.affinity_seconds);
            let affinity = (seconds > 0).then(|| Duration::from_secs(seconds));
            let frontend = Frontend { addr, port: key.port.to_host(), protocol };
            let earlier = rules.insert(frontend, Verdict::Endpoints { endpoints, affinity });
            ensure!(earlier.is_none(), "{frontend} stands there twice");
        }
        Ok(rules)
    }
}
