//! Addresses and ports as the kernel hands them to a hook: in network byte order.
//!
//! One representation serves IPv4, IPv6 and v4-mapped IPv6 (`::ffff:a.b.c.d`, what Java and Go dial
//! through an `AF_INET6` socket): four 32-bit words, IPv4 in its v4-mapped form. Two spellings of one
//! address are therefore one key in every map.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// The third word of a v4-mapped IPv6 address, `0000ffff`, in network byte order.
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// An IP address: four words in network byte order, IPv4 as v4-mapped IPv6.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct Ip(pub [u32; 4]);

impl Ip {
    /// An IPv4 address from its word in network byte order (`bpf_sock_addr.user_ip4`).
    #[inline(always)]
    pub const fn from_v4_be(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    /// The IPv4 word in network byte order, or `None` for a genuine IPv6 address.
    #[inline(always)]
    pub const fn v4_be(&self) -> Option<u32> {
        if self.is_v4() { Some(self.0[3]) } else { None }
    }

    /// Whether this is an IPv4 address (or an IPv6 spelling of one).
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// Compares word by word: slices would become a byte loop in eBPF.
    #[inline(always)]
    pub const fn same(&self, other: &Self) -> bool {
        self.0[3] == other.0[3]
            && self.0[2] == other.0[2]
            && self.0[1] == other.0[1]
            && self.0[0] == other.0[0]
    }
}

impl From<IpAddr> for Ip {
    fn from(addr: IpAddr) -> Self {
        let octets = match addr {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self(bytemuck::cast(octets))
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        let v6 = Ipv6Addr::from(bytemuck::cast::<_, [u8; 16]>(ip.0));
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(addr: Ipv4Addr) -> Self {
        IpAddr::V4(addr).into()
    }
}

/// A port in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Pod, Zeroable)]
pub struct PortBe(pub u16);

impl PortBe {
    /// From a port number as people write it.
    #[inline(always)]
    pub const fn from_host(port: u16) -> Self {
        Self(port.to_be())
    }

    /// The port number as people write it.
    #[inline(always)]
    pub const fn to_host(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From `bpf_sock_addr.user_port`: 32 bits wide, of which the low 16 hold the port in network byte order.
    #[inline(always)]
    pub const fn from_user_port(user_port: u32) -> Self {
        Self(user_port as u16)
    }

    /// For `bpf_sock_addr.user_port`.
    #[inline(always)]
    pub const fn to_user_port(self) -> u32 {
        self.0 as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &str) {
        let ip = Ip::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(IpAddr::from(ip).to_string(), expect);
    }

    #[test]
    fn every_spelling_of_an_ipv4_address_is_one_address() {
        check("10.0.0.1", "10.0.0.1");
        check("::ffff:10.0.0.1", "10.0.0.1");
        check("fd00::1", "fd00::1");
        check("::1", "::1");
        let word = u32::from(Ipv4Addr::new(10, 0, 0, 1)).to_be();
        assert_eq!(Ip::from_v4_be(word), Ip::from(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(Ip::from_v4_be(word).v4_be(), Some(word));
        assert_eq!(Ip::from("fd00::1".parse::<IpAddr>().unwrap()).v4_be(), None);
    }

    #[test]
    fn a_port_survives_the_wide_field_of_the_hook() {
        for port in [0, 1, 80, 443, 8080, u16::MAX] {
            let be = PortBe::from_host(port);
            assert_eq!(PortBe::from_user_port(be.to_user_port()), be);
            assert_eq!(be.to_host(), port);
        }
    }
}
