//! Live sockets as rows for people.

use std::{collections::HashMap, sync::Arc};

use super::{Listing, LiveSocket, Process};
use crate::view::{self, BackendGone, BackendView, Connection, ServiceView, Snapshot};

/// The open connections of a listing, with the names of what they lead to and of who holds them.
///
/// `owners` is what [`owners`](super::owners) found for the same listing. Sockets whose close has been
/// counted already are left out, and so is the agent's self-probe. A Service that `snapshot` does not have
/// (it was removed, or its id stands for another one by now) is named by its id.
pub fn connections(
    listing: &Listing,
    owners: &HashMap<u32, Vec<Process>>,
    snapshot: &Snapshot,
) -> Vec<Connection> {
    let services: HashMap<u32, &ServiceView> =
        snapshot.services.iter().map(|service| (service.id, service)).collect();
    let backends: HashMap<u32, &BackendView> = services
        .values()
        .flat_map(|service| &service.backends)
        .map(|backend| (backend.id, backend))
        .collect();
    listing
        .sockets
        .iter()
        .filter(|socket| socket.is_open() && socket.service() >= balancer_common::abi::FIRST_SERVICE)
        .map(|socket| {
            let service = services.get(&socket.service()).copied();
            let backend = backends.get(&socket.backend().0).copied();
            let holders = owners.get(&socket.inode).map_or(&[][..], Vec::as_slice);
            row(socket, service, backend, holders)
        })
        .collect()
}

fn row(
    socket: &LiveSocket,
    service: Option<&ServiceView>,
    backend: Option<&BackendView>,
    holders: &[Process],
) -> Connection {
    // Ids are handed out again: what has another address is not what the socket knew.
    let service = service.filter(|service| service.frontend == socket.frontend());
    let backend = backend.filter(|backend| backend.addr == socket.target());
    let empty = || Arc::from("");
    let removed = backend.is_none_or(|backend| !backend.state.is_usable());
    Connection {
        process: process(holders),
        netns: socket.netns.as_ref().map_or(0, |netns| netns.inode),
        namespace: service.map_or_else(empty, |service| Arc::clone(&service.namespace)),
        service: service.map_or_else(
            || format!("removed Service {}", socket.service()).into(),
            |service| Arc::clone(&service.name),
        ),
        port_name: service.map_or_else(empty, |service| Arc::clone(&service.port_name)),
        protocol: socket.protocol,
        local: socket.local,
        frontend: socket.frontend(),
        backend: socket.target(),
        pod: backend.map_or_else(empty, |backend| Arc::clone(&backend.pod)),
        node: backend.map_or_else(empty, |backend| Arc::clone(&backend.node)),
        backend_gone: if removed { BackendGone::Yes } else { BackendGone::No },
        state: socket.status.name(),
        age: socket.age,
        idle: socket.idle,
    }
}

/// The holders of a socket in one row. The first stands for all: it is the one that called connect(), if that still holds the socket.
pub fn process(holders: &[Process]) -> Option<view::Process> {
    let (first, others) = holders.split_first()?;
    Some(view::Process {
        pid: first.pid,
        comm: first.comm.clone(),
        pod: first.pod.as_ref().map(|pod| pod.uid.clone()),
        cgroup: first.cgroup.clone(),
        sharers: others.len() as u32,
    })
}

#[cfg(test)]
#[path = "connections_tests.rs"]
mod tests;
