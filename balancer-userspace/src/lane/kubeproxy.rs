//! What kube-proxy does in this network namespace.

use balancer_common::abi::LaneState;

use super::{LaneError, message::Query, netlink::Channel, xtables::Legacy};
use crate::model::Family;

/// The interface that holds ClusterIPs in IPVS mode, and is there in no other.
const IPVS_INTERFACE: &str = "kube-ipvs0";
/// kube-proxy's table in nftables mode.
const TABLE: &str = "kube-proxy";
/// Where iptables over nf_tables puts what it is told, and kube-proxy's chain there.
const NAT: &str = "nat";
const SERVICES: &str = "KUBE-SERVICES";

/// Whether the lane is of use, as the state that it is in: [`LaneState::Installed`], [`LaneState::Nftables`],
/// [`LaneState::Ipvs`] or [`LaneState::NoRules`].
///
/// The order matters: in IPVS mode there is a chain KUBE-SERVICES too, of a few rules; and where nftables' table stands
/// beside rules that a change of mode left behind, those are about to go.
pub(super) fn look(
    channel: &mut Channel,
    family: Family,
    legacy: &mut Legacy,
) -> Result<LaneState, LaneError> {
    if has_interface(IPVS_INTERFACE) {
        return Ok(LaneState::Ipvs);
    }
    if channel.ask(family, Query::Table(TABLE), |_| {})? {
        return Ok(LaneState::Nftables);
    }
    if channel.ask(family, Query::Chain(NAT, SERVICES), |_| {})? || legacy.has_services(family)? {
        return Ok(LaneState::Installed);
    }
    Ok(LaneState::NoRules)
}

fn has_interface(name: &str) -> bool {
    std::net::UdpSocket::bind("127.0.0.1:0")
        .is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}
