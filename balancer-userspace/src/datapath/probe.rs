//! The self-probe: a real connect() of our own, to see that the programs see it.
//!
//! Two Services that no application can know lead from an unused loopback address to the discard port of
//! 127.0.0.1, where nothing listens. A UDP connect to the one sends nothing and shows, by the state that
//! the socket then carries, that it was translated. A TCP connect to the other is refused, and shows by
//! its backend's counters that failures are counted. Neither leaves the machine, translated or not.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use balancer_common::{
    abi::{
        Backend, BackendState, FIRST_BACKEND, FrontendKey, PROBE_TCP, PROBE_UDP, SERVICE_UNIFORM, Service,
        Slot, SlotRange, TCP, UDP,
    },
    addr::PortBe,
};

use super::{DatapathError, Maps};

/// What the probes dial.
const FRONTEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 110, 111, 1)), 9);
/// Where they should be sent.
const BACKEND: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9);
/// How long a connect over loopback may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a probe showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// Both connects were translated and counted.
    Works,
    /// They were left alone, because the lease has lapsed.
    LeaseLapsed,
    /// They were not; why, as far as it can be told.
    Failed(String),
}

/// Puts the probes' Services into the maps. Slots `0..2` are theirs.
pub(crate) fn set_up(maps: &mut Maps) -> Result<(), DatapathError> {
    for (id, protocol) in [(PROBE_UDP, UDP), (PROBE_TCP, TCP)] {
        let frontend = key(protocol);
        maps.backends.set(
            id,
            &Backend {
                addr: BACKEND.ip().into(),
                port: PortBe::from_host(BACKEND.port()),
                state: BackendState::Ready as u16,
                service: id,
                generation: 1,
                weight: 1,
            },
        );
        maps.slots.set(id, &Slot { backend: id, weight: 1 });
        maps.services.set(
            id,
            &Service {
                slots: SlotRange::new(id, 1),
                frontend,
                flags: SERVICE_UNIFORM,
                backends: 1,
                revision: 1,
                ..Service::default()
            },
        );
        maps.insert_frontend(&frontend, id)?;
    }
    Ok(())
}

fn key(protocol: u8) -> FrontendKey {
    FrontendKey::new(FRONTEND.ip().into(), PortBe::from_host(FRONTEND.port()), protocol)
}

/// Dials the probes' Services from this process, which must be in the cgroup that is attached to.
pub fn probe(maps: &Maps) -> ProbeOutcome {
    let counters = || {
        let of = |id| maps.backend_stats.get(id).unwrap_or_default();
        (of(PROBE_UDP), of(PROBE_TCP))
    };
    let (udp_before, tcp_before) = counters();
    let lapsed = |maps: &Maps| super::boot_ns() > maps.control().lease_expires_ns;
    if let Err(error) = dial() {
        return ProbeOutcome::Failed(format!("connecting over loopback failed: {error}"));
    }
    let (udp, tcp) = counters();
    if udp.opened <= udp_before.opened || tcp.opened <= tcp_before.opened {
        if lapsed(maps) {
            return ProbeOutcome::LeaseLapsed;
        }
        let which = if udp.opened <= udp_before.opened { "UDP" } else { "TCP" };
        return ProbeOutcome::Failed(format!(
            "a {which} connect from this process was not translated: the programs are attached to a cgroup \
             that it is not in"
        ));
    }
    if udp.closed <= udp_before.closed {
        return ProbeOutcome::Failed("the close of a UDP socket was not counted".into());
    }
    if tcp.refused <= tcp_before.refused {
        return ProbeOutcome::Failed("a refused TCP connect was not counted as refused".into());
    }
    ProbeOutcome::Works
}

fn dial() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(FRONTEND)?;
    drop(socket);
    // Refused where nothing listens, which is the point.
    let _ = TcpStream::connect_timeout(&FRONTEND, PATIENCE);
    Ok(())
}

const _: () = assert!(PROBE_UDP < FIRST_BACKEND && PROBE_TCP < FIRST_BACKEND);
