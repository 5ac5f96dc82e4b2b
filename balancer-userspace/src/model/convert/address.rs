//! Which addresses may stand in a Service or an EndpointSlice.

use std::net::{IpAddr, Ipv4Addr};

use super::quote;

/// Reads an address; an IPv6 spelling of an IPv4 address is that IPv4 address.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(addr) => Ok(addr.to_canonical()),
        Err(_) => Err(format!("{} is not an IP address", quote(text))),
    }
}

/// The range that `addr` lies in, if connects may never be sent there on behalf of a Service.
///
/// A user who may write EndpointSlices must not reach what listens on a node's loopback address or a
/// cloud's metadata service through other people's connects. The API server refuses these ranges for
/// endpoints too; manifests and older objects have not met it.
pub(super) fn forbidden(addr: IpAddr) -> Option<&'static str> {
    match addr.to_canonical() {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("unspecified"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("broadcast"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("link-local"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("link-local"),
        addr if addr.is_unspecified() => Some("unspecified"),
        addr if addr.is_loopback() => Some("loopback"),
        addr if addr.is_multicast() => Some("multicast"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: Option<&str>) {
        assert_eq!(forbidden(text.parse().unwrap()), expect, "{text}");
    }

    #[test]
    fn connects_are_never_sent_into_these_ranges() {
        for text in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            check(text, Some("loopback"));
        }
        for text in ["169.254.169.254", "fe80::1", "febf::1", "::ffff:169.254.0.1"] {
            check(text, Some("link-local"));
        }
        for text in ["224.0.0.1", "239.255.255.255", "ff02::1"] {
            check(text, Some("multicast"));
        }
        for text in ["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"] {
            check(text, Some("unspecified"));
        }
        check("255.255.255.255", Some("broadcast"));
        for text in ["10.0.0.1", "192.168.1.1", "100.64.0.1", "fd00::1", "2001:db8::1", "240.0.0.1"] {
            check(text, None);
        }
    }

    #[test]
    fn only_addresses_are_addresses() {
        assert_eq!(parse("::ffff:10.0.0.1"), Ok("10.0.0.1".parse().unwrap()));
        for text in ["", "None", "10.0.0", "10.0.0.01", "10.0.0.1:80", "fe80::1%eth0", "example.com"] {
            assert_eq!(parse(text), Err(format!("\"{text}\" is not an IP address")));
        }
    }
}
