//! What the lane is keyed by.

use std::net::IpAddr;

use crate::model::{Family, Protocol};

/// Bytes of a key of the IPv4 set: an address, a protocol and a port, each in whole words.
pub(super) const KEY_V4: usize = 12;
/// Bytes of a key of the IPv6 set.
pub(super) const KEY_V6: usize = 24;

/// An address, protocol and port that connects go to as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address of a pod.
    pub addr: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port, never 0.
    pub port: u16,
}

impl Endpoint {
    /// The family of its address.
    pub const fn family(&self) -> Family {
        Family::of(self.addr)
    }

    /// As registers hold it: the address, the protocol as one byte of a word, the port as two.
    pub(super) fn key(&self) -> Vec<u8> {
        let mut key = match self.addr.to_canonical() {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        let [high, low] = self.port.to_be_bytes();
        key.extend([self.protocol.number(), 0, 0, 0, high, low, 0, 0]);
        key
    }

    /// From such a key; `None` if it is none of ours.
    pub(super) fn from_key(key: &[u8]) -> Option<Self> {
        let (addr, rest) = key.split_at_checked(key.len().checked_sub(8)?)?;
        let addr = match addr.len() {
            4 => IpAddr::from(<[u8; 4]>::try_from(addr).ok()?),
            16 => IpAddr::from(<[u8; 16]>::try_from(addr).ok()?),
            _ => return None,
        };
        match *rest {
            [protocol, 0, 0, 0, high, low, 0, 0] => Some(Self {
                addr,
                protocol: Protocol::from_number(protocol)?,
                port: u16::from_be_bytes([high, low]),
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(addr: &str, protocol: Protocol, port: u16) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), protocol, port }
    }

    #[test]
    fn a_key_is_what_registers_hold() {
        let v4 = endpoint("10.244.0.3", Protocol::Tcp, 8080);
        assert_eq!(v4.key(), [10, 244, 0, 3, 6, 0, 0, 0, 0x1f, 0x90, 0, 0]);
        let v6 = endpoint("fd00::3", Protocol::Udp, 53);
        assert_eq!(v6.key()[..16], [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(v6.key()[16..], [17, 0, 0, 0, 0, 53, 0, 0]);
        assert_eq!((v4.key().len(), v6.key().len()), (KEY_V4, KEY_V6));
        for it in [v4, v6] {
            assert_eq!(Endpoint::from_key(&it.key()), Some(it));
        }
    }

    #[test]
    fn other_keys_are_nobodys() {
        let key = endpoint("10.244.0.3", Protocol::Tcp, 8080).key();
        for (at, value) in [(4, 132), (5, 1), (10, 1), (11, 1)] {
            let mut other = key.clone();
            other[at] = value;
            assert_eq!(Endpoint::from_key(&other), None, "{at}");
        }
        for length in 0..KEY_V4 {
            assert_eq!(Endpoint::from_key(&key[..length]), None, "{length}");
        }
    }
}
