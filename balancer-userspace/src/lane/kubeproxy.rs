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

/// What a connection meets here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rules {
    /// A rule for each Service, by an iptables that works on nf_tables.
    IptablesNft,
    /// The same, by the older iptables.
    IptablesLegacy,
    /// A look-up.
    Nftables,
    /// A look-up.
    Ipvs,
    /// Nothing of kube-proxy's.
    None,
}

impl Rules {
    /// Why the lane is of no use, if it is not.
    pub(super) const fn of_no_use(self) -> Option<LaneState> {
        match self {
            Self::IptablesNft | Self::IptablesLegacy => None,
            Self::Nftables => Some(LaneState::Nftables),
            Self::Ipvs => Some(LaneState::Ipvs),
            Self::None => Some(LaneState::NoRules),
        }
    }
}

/// What kube-proxy does.
///
/// The order matters: in IPVS mode there is a chain KUBE-SERVICES too, of a few rules; and where nftables' table stands
/// beside rules that a change of mode left behind, those are about to go.
pub(super) fn look(channel: &mut Channel, family: Family, legacy: &mut Legacy) -> Result<Rules, LaneError> {
    Ok(if has_interface(IPVS_INTERFACE) {
        Rules::Ipvs
    } else if channel.ask(family, Query::Table(TABLE), |_| {})? {
        Rules::Nftables
    } else if channel.ask(family, Query::Chain(NAT, SERVICES), |_| {})? {
        Rules::IptablesNft
    } else if legacy.has_services(family)? {
        Rules::IptablesLegacy
    } else {
        Rules::None
    })
}

fn has_interface(name: &str) -> bool {
    std::net::UdpSocket::bind("127.0.0.1:0")
        .is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}
