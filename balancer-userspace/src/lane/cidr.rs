//! Ranges of addresses that the lane is confined to.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;

/// All addresses with one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no range.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CidrError {
    /// It has no slash, or no address or number beside it.
    #[error("not an address and a prefix length, as 10.244.0.0/16 or fd00:10:244::/56")]
    Form,
    /// The prefix is longer than an address.
    #[error("the prefix length must be 0 to {most}")]
    Prefix {
        /// The bits of an address.
        most: u8,
    },
    /// There are bits behind the prefix: one of the two is a mistake.
    #[error("the address has bits behind its prefix: the range that it lies in is {range}")]
    Host {
        /// The range.
        range: Cidr,
    },
    /// An IPv4 address in IPv6's clothes.
    #[error("IPv4-mapped addresses name no range: write it as one of IPv4")]
    Mapped,
}

impl Cidr {
    /// Whether an address is one of them; an IPv4-mapped one counts as IPv4.
    pub fn contains(self, addr: IpAddr) -> bool {
        masked(addr.to_canonical(), self.prefix) == Some(self.network)
    }
}

/// An address without what is behind a prefix; `None` if that is longer than the address.
fn masked(addr: IpAddr, prefix: u8) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(addr) => {
            let behind = 32_u32.checked_sub(prefix.into())?;
            let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
            Some(IpAddr::V4((addr.to_bits() & mask).into()))
        }
        IpAddr::V6(addr) => {
            let behind = 128_u32.checked_sub(prefix.into())?;
            let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
            Some(IpAddr::V6((addr.to_bits() & mask).into()))
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (addr, prefix) = text.trim().split_once('/').ok_or(CidrError::Form)?;
        let addr: IpAddr = addr.parse().map_err(|_| CidrError::Form)?;
        if !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(CidrError::Form);
        }
        let most = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.parse().map_err(|_| match prefix {
            "" => CidrError::Form,
            _ => CidrError::Prefix { most },
        })?;
        if addr.to_canonical() != addr {
            return Err(CidrError::Mapped);
        }
        let network = masked(addr, prefix).ok_or(CidrError::Prefix { most })?;
        let range = Self { network, prefix };
        if network == addr { Ok(range) } else { Err(CidrError::Host { range }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_hold_what_has_their_prefix() {
        let holds = |range: &str, addr: &str| {
            let range: Cidr = range.parse().unwrap_or_else(|error| panic!("{range}: {error}"));
            range.contains(addr.parse().unwrap())
        };
        for (range, within, without) in [
            ("10.244.0.0/16", ["10.244.0.0", "10.244.255.255"], "10.245.0.0"),
            ("10.244.3.128/25", ["10.244.3.128", "::ffff:10.244.3.200"], "10.244.3.127"),
            ("10.0.0.1/32", ["10.0.0.1", "10.0.0.1"], "10.0.0.2"),
            ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255"], "::"),
            (" fd00:10:244::/56 ", ["fd00:10:244::", "fd00:10:244:ff:ffff::1"], "fd00:10:244:100::"),
            ("fd00::1/128", ["fd00::1", "fd00::1"], "fd00::2"),
            ("::/0", ["::", "ffff::"], "10.0.0.1"),
        ] {
            assert!(within.iter().all(|addr| holds(range, addr)), "{range}");
            assert!(!holds(range, without), "{range} {without}");
        }
    }

    #[test]
    fn what_is_no_range_is_told_why() {
        for (text, expect) in [
            ("", CidrError::Form),
            ("10.244.0.0", CidrError::Form),
            ("10.244.0.0/", CidrError::Form),
            ("10.244.0.0/+16", CidrError::Form),
            ("10.244/16", CidrError::Form),
            ("pods/16", CidrError::Form),
            ("10.244.0.0/33", CidrError::Prefix { most: 32 }),
            ("10.244.0.0/260", CidrError::Prefix { most: 32 }),
            ("fd00::/129", CidrError::Prefix { most: 128 }),
            ("10.244.3.0/16", CidrError::Host { range: "10.244.0.0/16".parse().unwrap() }),
            ("::ffff:10.244.0.0/112", CidrError::Mapped),
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(expect), "{text:?}");
        }
    }
}
