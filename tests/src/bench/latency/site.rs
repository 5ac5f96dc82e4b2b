//! A client and a server behind a node, and the Services between them.

use std::net::{Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::super::{
    child::{Acceptor, Dialler},
    datapath::{nobody, nobody_v6},
    rules::{Family, Service},
};
use crate::topology::{Pod, Topology, service_v4, service_v6};

/// Endpoints of each Service.
pub(super) const ENDPOINTS: usize = 4;

/// What is dialled.
const PORT: u16 = 80;

/// A client and a server behind a node.
pub(super) struct Site {
    pub(super) dialler: Dialler,
    pub(super) client: Pod,
    server: Pod,
    _acceptor: Acceptor,
    pub(super) topology: Topology,
    family: Family,
}

impl Site {
    pub(super) fn new(family: Family) -> Result<Self> {
        let topology = Topology::new()?;
        let (client, server) = (topology.pod("client")?, topology.pod("server")?);
        let ports: Vec<u16> = (0..ENDPOINTS as u16).map(|n| 8080 + n).collect();
        let _acceptor = Acceptor::start(&server, &ports)?;
        let dialler = Dialler::start(&client)?;
        Ok(Self { dialler, client, server, _acceptor, topology, family })
    }

    /// What the server listens on.
    pub(super) fn endpoints(&self) -> Vec<SocketAddr> {
        (0..ENDPOINTS as u16)
            .map(|n| match self.family {
                Family::V4 => self.server.v4(8080 + n),
                Family::V6 => self.server.v6(8080 + n),
            })
            .collect()
    }

    /// Services of which the one in the middle leads to the server: where rules are tried one after the
    /// other it is neither the luckiest nor the unluckiest.
    pub(super) fn services(&self, count: usize) -> (Vec<Service<SocketAddr>>, SocketAddr) {
        let middle = count / 2;
        let services = (0..count)
            .map(|index| Service {
                address: self.address(index),
                endpoints: if index == middle {
                    self.endpoints()
                } else {
                    (0..ENDPOINTS).map(|n| self.nobody((index * ENDPOINTS + n) as u32)).collect()
                },
            })
            .collect();
        (services, self.address(middle))
    }

    fn address(&self, index: usize) -> SocketAddr {
        let number = 1 + index as u16;
        match self.family {
            Family::V4 => (service_v4(number), PORT).into(),
            Family::V6 => (service_v6(number), PORT).into(),
        }
    }

    fn nobody(&self, n: u32) -> SocketAddr {
        match self.family {
            Family::V4 => nobody(n).into(),
            Family::V6 => nobody_v6(n).into(),
        }
    }
}

/// Whether this machine has IPv6 at all.
pub(super) fn has_ipv6() -> bool {
    std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}
