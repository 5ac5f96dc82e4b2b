//! Putting a listing together.

use std::{collections::HashMap, net::SocketAddr, os::fd::BorrowedFd, sync::Arc, time::Duration};

use balancer_common::abi::{SocketState, UdpFlow};

use super::{
    Destroyed, Diag, LiveSocket, Namespace, RawSocket, Scope, SocketStatus, SocketsError, TcpMetrics,
    TcpState, Translation, Transport, netns, walk,
};
use crate::{
    datapath::boot_ns,
    model::{Family, Protocol},
};

/// The live translated sockets of the node.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted by cookie: an order without meaning, and the same each time.
    pub sockets: Vec<LiveSocket>,
    /// What could not be looked at, and why; what is listed is right all the same.
    pub incomplete: Vec<SocketsError>,
}

/// Lists the live sockets that carry a value in `socket_map` (the pinned `SOCKETS`) or, if given, in
/// `flow_map` (`UDP_FLOWS`).
///
/// # Errors
/// When no namespace at all could be listed. What is missing from an otherwise good answer is in
/// [`Listing::incomplete`].
pub fn live_sockets(
    socket_map: BorrowedFd<'_>,
    flow_map: Option<BorrowedFd<'_>>,
    scope: Scope,
) -> Result<Listing, SocketsError> {
    let mut listing = Listing::default();
    let mut udp = Udp::default();
    if let Err(problem) = udp.read(socket_map, flow_map) {
        listing.incomplete.push(problem);
    }

    let mut channels = Channels::open(scope, &mut listing.incomplete)?;
    let now = Clock::now();
    channels.each(&mut listing, |diag, place, into| {
        tcp(diag, socket_map, place, &now, into)?;
        udp.locate(diag, place, &now, into)
    })?;
    if scope == Scope::Node && !udp.carried.is_empty() {
        // Not in any namespace: closed since the walk, or in one that nothing leads to. Look again.
        let mut still = Udp::default();
        if still.read(socket_map, flow_map).is_ok() {
            udp.carried.retain(|cookie, _| still.carried.contains_key(cookie));
            udp.rest(&now, &mut listing.sockets);
        }
    }
    listing.sockets.sort_by_key(|socket| socket.cookie);
    // The same trouble in every namespace is one trouble.
    listing.incomplete.dedup_by_key(|problem| problem.to_string());
    Ok(listing)
}

/// A channel to the socket table of each network namespace of the node, for as long as somebody works there.
pub struct Channels(Vec<(Arc<Namespace>, Diag)>);

impl Channels {
    /// Visits every namespace of `scope`; what had to be left out is told in `incomplete`.
    ///
    /// # Errors
    /// When not even the caller's own namespace can be used.
    pub fn open(scope: Scope, incomplete: &mut Vec<SocketsError>) -> Result<Self, SocketsError> {
        let visited = netns::visit(scope, incomplete)?;
        let channel = |visited: netns::Visited| Ok((visited.namespace, Diag::new(visited.socket)?));
        visited.into_iter().map(channel).collect::<Result<_, _>>().map(Self)
    }

    /// Lists the TCP sockets, and the connected UDP sockets if asked for, that carry a value in `socket_map`.
    ///
    /// # Errors
    /// As for [`live_sockets`].
    pub fn connected(
        &mut self,
        socket_map: BorrowedFd<'_>,
        transports: &[Transport],
    ) -> Result<Listing, SocketsError> {
        let mut listing = Listing::default();
        let mut udp = Udp::default();
        if transports.contains(&Transport::Udp)
            && let Err(problem) = udp.read(socket_map, None)
        {
            listing.incomplete.push(problem);
        }
        let now = Clock::now();
        self.each(&mut listing, |diag, place, into| {
            if transports.contains(&Transport::Tcp) {
                tcp(diag, socket_map, place, &now, into)?;
            }
            udp.locate(diag, place, &now, into)
        })?;
        Ok(listing)
    }

    /// Closes a socket that was listed, unless it is another one by now.
    ///
    /// # Errors
    /// Those of [`Diag::destroy`].
    pub fn destroy(&mut self, socket: &LiveSocket) -> Result<Destroyed, SocketsError> {
        let place = |(namespace, _): &&mut (Arc<Namespace>, Diag)| socket.netns.as_ref() == Some(namespace);
        let (Some((_, diag)), Some(local), Some(remote)) =
            (self.0.iter_mut().find(place), socket.local, socket.remote)
        else {
            return Ok(Destroyed::Gone);
        };
        let transport = match socket.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
        };
        diag.destroy(transport, local, remote, socket.cookie)
    }

    /// Works in one namespace after the other. Where nothing at all could be listed, the reason is an error.
    fn each(
        &mut self,
        listing: &mut Listing,
        mut work: impl FnMut(&mut Diag, &Arc<Namespace>, &mut Vec<LiveSocket>) -> Result<(), SocketsError>,
    ) -> Result<(), SocketsError> {
        let mut listed = 0;
        for (place, diag) in &mut self.0 {
            match work(diag, place, &mut listing.sockets) {
                Ok(()) => listed += 1,
                Err(problem) => listing.incomplete.push(problem),
            }
        }
        match listing.incomplete.pop() {
            Some(problem) if listed == 0 => Err(problem),
            Some(problem) => {
                listing.incomplete.push(problem);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Open sockets by backend id and generation: what the `active` counters should say.
pub fn active_by_backend(sockets: &[LiveSocket]) -> HashMap<(u32, u32), u64> {
    let mut active = HashMap::new();
    for socket in sockets.iter().filter(|socket| socket.is_open()) {
        *active.entry(socket.backend()).or_default() += 1;
    }
    active
}

/// The instant of a listing, on the clock of the programs.
struct Clock {
    now_ns: u64,
}

impl Clock {
    fn now() -> Self {
        Self { now_ns: boot_ns() }
    }

    /// Time since an instant; none for one that was not recorded.
    fn since(&self, instant_ns: u64) -> Option<Duration> {
        (instant_ns != 0).then(|| Duration::from_nanos(self.now_ns.saturating_sub(instant_ns)))
    }
}

/// Adds the translated TCP sockets of one namespace.
fn tcp(
    diag: &mut Diag,
    map: BorrowedFd<'_>,
    place: &Arc<Namespace>,
    now: &Clock,
    into: &mut Vec<LiveSocket>,
) -> Result<(), SocketsError> {
    for family in [Family::V4, Family::V6] {
        for raw in diag.dump(&[map], family, Transport::Tcp, |raw| !raw.storages.is_empty())? {
            let state = state_of(&raw)?;
            into.push(tcp_socket(&raw, state, place, now));
        }
    }
    Ok(())
}

/// The sockets in an answer to request `sequence`, as [`tcp`] lists them: sock_diag without a socket to ask.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_answer(bytes: &[u8], sequence: u32, now_ns: u64) -> Result<Vec<LiveSocket>, SocketsError> {
    let name = netns::NamespaceName::Process(1);
    let (place, now) = (Arc::new(Namespace { inode: 1, cookie: None, name }), Clock { now_ns });
    let mut raw = Vec::new();
    super::parse::datagram(bytes, sequence, |socket| raw.push(socket))?;
    raw.retain(|socket| !socket.storages.is_empty());
    raw.iter().map(|raw| Ok(tcp_socket(raw, state_of(raw)?, &place, &now))).collect()
}

/// The UDP sockets in what the iterators over both maps write.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_walk(bytes: &[u8], now_ns: u64) -> Vec<LiveSocket> {
    let mut udp = Udp::default();
    walk::records(bytes)
        .into_iter()
        .for_each(|record| udp.add(record.cookie, Translation::Connect(record.value)));
    walk::records(bytes)
        .into_iter()
        .for_each(|record| udp.add(record.cookie, Translation::Flow(record.value)));
    let mut sockets = Vec::new();
    udp.rest(&Clock { now_ns }, &mut sockets);
    sockets
}

/// The value that came with a socket; one map was asked for, so there is one.
fn state_of(raw: &RawSocket) -> Result<SocketState, SocketsError> {
    let value = raw.storages.first().map_or(&[][..], |storage| &storage.value);
    bytemuck::try_pod_read_unaligned(value).map_err(|_| SocketsError::Layout {
        map: super::SOCKETS,
        expected: size_of::<SocketState>(),
        found: value.len(),
    })
}

fn tcp_socket(raw: &RawSocket, state: SocketState, place: &Arc<Namespace>, now: &Clock) -> LiveSocket {
    let status = TcpState::from_number(raw.state).map_or(SocketStatus::Unknown, SocketStatus::Tcp);
    let handshake_over = status != SocketStatus::Tcp(TcpState::SynSent);
    let tcp = raw.tcp_info.as_ref().filter(|_| handshake_over).map(TcpMetrics::new);
    // Without payload so far: since the handshake, or since connect().
    let quiet_since = if state.established_ns != 0 { state.established_ns } else { state.opened_ns };
    LiveSocket {
        netns: Some(Arc::clone(place)),
        protocol: Protocol::Tcp,
        local: with_port(raw.local),
        remote: with_port(raw.remote),
        status,
        cookie: raw.cookie,
        inode: raw.inode,
        cgroup_id: raw.cgroup_id,
        translation: Translation::Connect(state),
        receive_queue: raw.receive_queue,
        send_queue: raw.send_queue,
        age: now.since(state.opened_ns),
        idle: tcp.and_then(|tcp| tcp.idle().or_else(|| now.since(quiet_since))),
        tcp,
    }
}

/// The kernel writes port 0 for "none".
fn with_port(address: SocketAddr) -> Option<SocketAddr> {
    (address.port() != 0).then_some(address)
}

/// What UDP sockets carry, by cookie, until each is found in some namespace.
#[derive(Default)]
struct Udp {
    carried: HashMap<u64, Vec<Translation>>,
}

impl Udp {
    fn read(
        &mut self,
        socket_map: BorrowedFd<'_>,
        flow_map: Option<BorrowedFd<'_>>,
    ) -> Result<(), SocketsError> {
        for record in walk::udp_sockets(socket_map)? {
            self.add(record.cookie, Translation::Connect(record.value));
        }
        if let Some(map) = flow_map {
            for record in walk::udp_flows(map)? {
                self.add(record.cookie, Translation::Flow(record.value));
            }
        }
        Ok(())
    }

    fn add(&mut self, cookie: u64, translation: Translation) {
        self.carried.entry(cookie).or_default().push(translation);
    }

    /// Lists those that are in the namespace of `diag`.
    fn locate(
        &mut self,
        diag: &mut Diag,
        place: &Arc<Namespace>,
        now: &Clock,
        into: &mut Vec<LiveSocket>,
    ) -> Result<(), SocketsError> {
        for family in [Family::V4, Family::V6] {
            if self.carried.is_empty() {
                break;
            }
            let wanted = |raw: &RawSocket| self.carried.contains_key(&raw.cookie);
            for raw in diag.dump(&[], family, Transport::Udp, wanted)? {
                for translation in self.carried.remove(&raw.cookie).into_iter().flatten() {
                    into.push(LiveSocket {
                        netns: Some(Arc::clone(place)),
                        local: with_port(raw.local),
                        remote: with_port(raw.remote),
                        status: if with_port(raw.remote).is_some() {
                            SocketStatus::Connected
                        } else {
                            SocketStatus::Unconnected
                        },
                        inode: raw.inode,
                        cgroup_id: raw.cgroup_id,
                        ..udp_socket(raw.cookie, translation, now)
                    });
                }
            }
        }
        Ok(())
    }

    /// Lists those that were in no namespace. A value outlives its socket for a moment, but not open.
    fn rest(self, now: &Clock, into: &mut Vec<LiveSocket>) {
        for (cookie, translations) in self.carried {
            let sockets = translations.into_iter().map(|translation| udp_socket(cookie, translation, now));
            into.extend(sockets.filter(LiveSocket::is_open));
        }
    }
}

/// A UDP socket of which nothing is known but what it carries.
fn udp_socket(cookie: u64, translation: Translation, now: &Clock) -> LiveSocket {
    let (age, idle) = match &translation {
        Translation::Connect(SocketState { opened_ns, .. }) => (now.since(*opened_ns), None),
        Translation::Flow(UdpFlow { used_ns, .. }) => (None, now.since(*used_ns)),
    };
    LiveSocket {
        netns: None,
        protocol: Protocol::Udp,
        local: None,
        remote: None,
        status: SocketStatus::Unknown,
        cookie,
        inode: 0,
        cgroup_id: None,
        translation,
        tcp: None,
        receive_queue: 0,
        send_queue: 0,
        age,
        idle,
    }
}
