//! Which endpoints the lane should hold. Pure.
//!
//! **Invariant:** an endpoint is wanted while a Service port in the tables has it as a backend, and no Service,
//! balanced or not, has its address.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Cidr, Endpoint};
use crate::model::{ObjectName, Protocol};

/// What became of the lane by a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Endpoints that it should hold and did not, in order.
    pub added: Vec<Endpoint>,
    /// Endpoints that it held and should not, in order.
    pub removed: Vec<Endpoint>,
    /// Addresses that a Service has now and none had before, in order: what the kernel still holds there must go at
    /// once, for it would keep connects from that Service.
    pub claimed: Vec<IpAddr>,
}

impl Delta {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.claimed.is_empty()
    }
}

/// What one Service contributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Contribution {
    /// Sorted, without duplicates.
    endpoints: Box<[Endpoint]>,
    /// Sorted, without duplicates.
    addresses: Box<[IpAddr]>,
}

/// The endpoints of all Services together, each counted.
///
/// The cost of a change depends on the Service that changes alone.
#[derive(Debug, Default)]
pub struct Desired {
    services: HashMap<ObjectName, Contribution>,
    /// How many Services have it as a backend.
    endpoints: BTreeMap<Endpoint, u32>,
    /// How many Services have it as an address.
    addresses: HashMap<IpAddr, u32>,
    /// Where endpoints may be; anywhere if there are none.
    within: Vec<Cidr>,
}

impl Desired {
    /// One that wants endpoints in these ranges alone, or everywhere if there are none.
    pub fn within(ranges: Vec<Cidr>) -> Self {
        Self { within: ranges, ..Self::default() }
    }

    /// The Services that contribute anything, in no order.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.services.keys()
    }

    /// All endpoints that are wanted, in order.
    pub fn wanted(&self) -> impl Iterator<Item = Endpoint> {
        self.endpoints.keys().filter(|endpoint| !self.addresses.contains_key(&endpoint.addr)).copied()
    }

    /// Replaces what a Service contributes: the backends of its ports in the tables, and all of its addresses.
    /// What changed by it.
    pub fn replace(
        &mut self,
        service: &ObjectName,
        endpoints: impl IntoIterator<Item = Endpoint>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Delta {
        let inside = |addr| self.within.is_empty() || self.within.iter().any(|range| range.contains(addr));
        let endpoints =
            endpoints.into_iter().filter(|endpoint| may_hold(endpoint.addr) && inside(endpoint.addr));
        let new = Contribution { endpoints: sorted(endpoints), addresses: sorted(addresses) };
        let old = if new == Contribution::default() {
            self.services.remove(service)
        } else {
            self.services.insert(service.clone(), new.clone())
        };
        let old = old.unwrap_or_default();
        // Every endpoint that may be wanted otherwise than before, with whether it was.
        let mut before: BTreeMap<Endpoint, bool> = BTreeMap::new();
        let known = |addr: IpAddr| self.endpoints.range(of(addr)).map(|(endpoint, _)| *endpoint);
        let touched = old.addresses.iter().chain(&new.addresses).filter(|addr| {
            old.addresses.binary_search(addr).is_ok() != new.addresses.binary_search(addr).is_ok()
        });
        for endpoint in touched.flat_map(|addr| known(*addr)).chain(old.endpoints.iter().copied()) {
            before.insert(endpoint, self.is_wanted(&endpoint));
        }
        for endpoint in &new.endpoints {
            before.entry(*endpoint).or_insert_with(|| self.is_wanted(endpoint));
        }
        for endpoint in &new.endpoints {
            *self.endpoints.entry(*endpoint).or_default() += 1;
        }
        let mut delta = Delta::default();
        for addr in &new.addresses {
            let count = self.addresses.entry(*addr).or_default();
            if *count == 0 {
                delta.claimed.push(*addr);
            }
            *count += 1;
        }
        for endpoint in &old.endpoints {
            if let Some(count) = self.endpoints.get_mut(endpoint) {
                *count -= 1;
                if *count == 0 {
                    self.endpoints.remove(endpoint);
                }
            }
        }
        for addr in &old.addresses {
            if let Some(count) = self.addresses.get_mut(addr) {
                *count -= 1;
                if *count == 0 {
                    self.addresses.remove(addr);
                }
            }
        }
        for (endpoint, was) in before {
            match (was, self.is_wanted(&endpoint)) {
                (false, true) => delta.added.push(endpoint),
                (true, false) => delta.removed.push(endpoint),
                _ => {}
            }
        }
        delta
    }

    fn is_wanted(&self, endpoint: &Endpoint) -> bool {
        self.endpoints.contains_key(endpoint) && !self.addresses.contains_key(&endpoint.addr)
    }
}

/// All endpoints that have this address.
fn of(addr: IpAddr) -> impl std::ops::RangeBounds<Endpoint> {
    let first = Endpoint { addr, protocol: Protocol::Tcp, port: 0 };
    let last = Endpoint { addr, protocol: Protocol::Udp, port: u16::MAX };
    first..=last
}

/// Whether the lane may hold an address at all: one that lies on this machine, on one of its links, or in several
/// places, is not a pod's. The model ignores endpoints there; so does this, whoever asks.
fn may_hold(addr: IpAddr) -> bool {
    match addr.to_canonical() {
        IpAddr::V4(addr) => {
            !(addr.octets()[0] == 0
                || addr == Ipv4Addr::BROADCAST
                || addr.is_link_local()
                || addr.is_loopback()
                || addr.is_multicast())
        }
        IpAddr::V6(addr) => {
            !(addr == Ipv6Addr::UNSPECIFIED
                || addr.is_unicast_link_local()
                || addr.is_loopback()
                || addr.is_multicast())
        }
    }
}

fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Box<[T]> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items.into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn endpoint(addr: &str) -> Endpoint {
        Endpoint { addr: addr.parse().unwrap(), protocol: Protocol::Tcp, port: 80 }
    }

    fn addrs(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn name(name: &str) -> ObjectName {
        ObjectName::new("shop", name)
    }

    #[test]
    fn an_endpoint_of_two_services_goes_with_the_last() {
        let mut desired = Desired::default();
        let (pod, other) = (endpoint("10.0.0.1"), endpoint("10.0.0.2"));
        let delta = |added: &[Endpoint], removed: &[Endpoint], claimed: &[&str]| Delta {
            added: added.to_vec(),
            removed: removed.to_vec(),
            claimed: addrs(claimed),
        };
        let first = desired.replace(&name("a"), [pod, other], addrs(&["10.96.0.1"]));
        assert_eq!(first, delta(&[pod, other], &[], &["10.96.0.1"]));
        let second = desired.replace(&name("b"), [pod], addrs(&["10.96.0.1", "10.96.0.2"]));
        assert_eq!(second, delta(&[], &[], &["10.96.0.2"]));
        assert_eq!(desired.replace(&name("a"), [], []), delta(&[], &[other], &[]));
        assert_eq!(desired.replace(&name("b"), [], []), delta(&[], &[pod], &[]));
        assert_eq!(desired.services().count(), 0);
    }

    #[test]
    fn an_address_of_any_service_is_no_endpoint() {
        let mut desired = Desired::default();
        let pod = endpoint("10.0.0.1");
        desired.replace(&name("a"), [pod], []);
        let claim = desired.replace(&name("b"), [], addrs(&["10.0.0.1"]));
        assert_eq!((claim.removed, claim.claimed), (vec![pod], addrs(&["10.0.0.1"])));
        assert_eq!(desired.wanted().count(), 0);
        // Its own address counts as well, and so does one that comes with it.
        assert!(desired.replace(&name("a"), [pod], addrs(&["10.0.0.1"])).is_empty());
        assert!(desired.replace(&name("b"), [], []).is_empty());
        assert_eq!(desired.replace(&name("a"), [pod], []).added, [pod]);
    }

    #[test]
    fn ranges_confine_it() {
        let ranges = ["10.244.0.0/16", "fd00:10:244::/56"].map(|range| range.parse().unwrap());
        let mut desired = Desired::within(ranges.to_vec());
        let [v4, v6] = ["10.244.0.1", "fd00:10:244::1"].map(endpoint);
        let elsewhere = ["10.245.0.1", "192.0.2.1", "fd00:10:245::1"].map(endpoint);
        let delta = desired.replace(&name("a"), elsewhere.into_iter().chain([v4, v6]), []);
        assert_eq!(delta, Delta { added: vec![v4, v6], ..Delta::default() });
        assert!(desired.wanted().eq([v4, v6]));
        // What is outside does not come in with a Service that goes, or an address that is given back.
        desired.replace(&name("b"), [], [elsewhere[0].addr]);
        assert!(desired.replace(&name("b"), [], []).is_empty());
        // Of one family: none of the other.
        let mut desired = Desired::within(ranges[..1].to_vec());
        assert_eq!(desired.replace(&name("a"), [v4, v6], []).added, [v4]);
    }

    #[test]
    fn some_addresses_are_no_pods() {
        for text in ["127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1"] {
            assert!(!may_hold(text.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.1", "fd00::1", "192.168.1.1"] {
            assert!(may_hold(text.parse().unwrap()), "{text}");
        }
    }

    proptest! {
        /// Whatever comes in whatever order: the changes add up to what is wanted.
        #[test]
        fn changes_add_up(steps in prop::collection::vec(
            (0u8..4, prop::collection::vec((0u8..6, 1u16..3), 0..5), prop::collection::vec(0u8..6, 0..3)), 0..40)
        ) {
            let mut desired = Desired::default();
            let mut held: BTreeSet<Endpoint> = BTreeSet::new();
            let mut services: HashMap<u8, (Vec<Endpoint>, Vec<IpAddr>)> = HashMap::new();
            let addr = |n: u8| IpAddr::from([10, 0, 0, n]);
            for (service, endpoints, addresses) in steps {
                let endpoints: Vec<Endpoint> = endpoints.into_iter()
                    .map(|(n, port)| Endpoint { addr: addr(n), protocol: Protocol::Tcp, port }).collect();
                let addresses: Vec<IpAddr> = addresses.into_iter().map(addr).collect();
                services.insert(service, (endpoints.clone(), addresses.clone()));
                let delta = desired.replace(&name(&service.to_string()), endpoints, addresses);
                for endpoint in delta.added {
                    prop_assert!(held.insert(endpoint));
                }
                for endpoint in &delta.removed {
                    prop_assert!(held.remove(endpoint));
                }
                let taken: BTreeSet<IpAddr> = services.values().flat_map(|(_, addrs)| addrs.clone()).collect();
                let expect: BTreeSet<Endpoint> = services.values().flat_map(|(endpoints, _)| endpoints.clone())
                    .filter(|endpoint| !taken.contains(&endpoint.addr)).collect();
                prop_assert_eq!(&held, &expect);
                prop_assert!(desired.wanted().eq(expect));
            }
        }
    }
}
