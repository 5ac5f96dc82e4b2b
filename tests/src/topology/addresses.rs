//! Which addresses the node, pods and Services have.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicU16, Ordering},
};

/// The node's own addresses, and every pod's gateway.
pub const NODE: Addresses =
    Addresses { v4: Ipv4Addr::new(10, 244, 0, 1), v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 1) };

/// Pod addresses: all that a pod has a route to.
pub const POD_CIDR_V4: &str = "10.244.0.0/16";

/// Pod addresses: all that a pod has a route to.
pub const POD_CIDR_V6: &str = "fd00:10:244::/64";

/// Service addresses; nobody has a route to them.
pub const SERVICE_CIDR_V4: &str = "10.96.0.0/16";

/// Service addresses; nobody has a route to them.
pub const SERVICE_CIDR_V6: &str = "fd00:10:96::/112";

/// The `n`th Service address: `10.96.x.y`.
pub const fn service_v4(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// The `n`th Service address: `fd00:10:96::n`.
pub const fn service_v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, n)
}

/// One address of each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Addresses {
    /// Both, IPv4 first.
    pub const fn both(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }
}

/// Hands out pod addresses, never one twice.
#[derive(Debug, Default)]
pub(super) struct Allocator {
    used: AtomicU16,
}

impl Allocator {
    /// An index from 2 on, and 10.244.x.y and fd00:10:244::n made of it.
    pub(super) fn next(&self) -> (u16, Addresses) {
        let index = self.used.fetch_add(1, Ordering::Relaxed) + 2;
        let [high, low] = index.to_be_bytes();
        let v4 = Ipv4Addr::new(10, 244, high, low);
        (index, Addresses { v4, v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, index) })
    }
}
