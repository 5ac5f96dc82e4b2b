//! What changed between two sets of backends of a Service port.

use std::cmp::Ordering;

use crate::model::DesiredBackend;

/// What to do with the backends of a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendChanges {
    /// New ones.
    pub added: Vec<DesiredBackend>,
    /// Ones that are gone.
    pub removed: Vec<DesiredBackend>,
    /// The same backend with another weight, condition, name, node or zone.
    pub updated: Vec<DesiredBackend>,
}

/// Whether something changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It did not.
    #[default]
    Same,
    /// It did.
    Changed,
}

/// Whether two entries are one backend: the same address and port, and not known to be different pods.
///
/// A pod's address is given to another pod sooner or later, whose connections are its own.
fn same_backend(old: &DesiredBackend, new: &DesiredBackend) -> bool {
    (old.addr, old.port) == (new.addr, new.port)
        && (old.pod == new.pod || old.pod.is_none() || new.pod.is_none())
}

/// Compares two versions, both sorted by address and port.
pub fn diff<'a>(old: impl Iterator<Item = &'a DesiredBackend>, new: &[DesiredBackend]) -> BackendChanges {
    let mut changes = BackendChanges::default();
    let (mut old, mut new) = (old.peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return changes,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => (old.addr, old.port).cmp(&(new.addr, new.port)),
        };
        match order {
            Ordering::Less => changes.removed.extend(old.next().cloned()),
            Ordering::Greater => changes.added.extend(new.next().cloned()),
            Ordering::Equal => {
                if let (Some(old), Some(new)) = (old.next(), new.next()) {
                    if !same_backend(old, new) {
                        changes.removed.push(old.clone());
                        changes.added.push(new.clone());
                    } else if old != new {
                        changes.updated.push(new.clone());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::Condition;

    fn backend(last: u8, pod: &str) -> DesiredBackend {
        DesiredBackend {
            addr: Ipv4Addr::new(10, 0, 0, last).into(),
            port: 80,
            weight: 1,
            condition: Condition::Ready,
            pod: (!pod.is_empty()).then(|| pod.into()),
            node: None,
            zone: None,
        }
    }

    fn check(old: &[DesiredBackend], new: &[DesiredBackend], added: &[u8], removed: &[u8], updated: &[u8]) {
        let changes = diff(old.iter(), new);
        let last = |list: &[DesiredBackend]| -> Vec<u8> {
            list.iter()
                .map(|backend| match backend.addr {
                    std::net::IpAddr::V4(addr) => addr.octets()[3],
                    std::net::IpAddr::V6(_) => 0,
                })
                .collect()
        };
        assert_eq!(
            (last(&changes.added), last(&changes.removed), last(&changes.updated)),
            (added.to_vec(), removed.to_vec(), updated.to_vec())
        );
    }

    #[test]
    fn backends_are_told_apart_by_address_and_pod() {
        let (a, b, c) = (backend(1, "a"), backend(2, "b"), backend(3, "c"));
        check(&[], &[], &[], &[], &[]);
        check(&[], &[a.clone(), b.clone()], &[1, 2], &[], &[]);
        check(&[a.clone(), b.clone()], &[b.clone(), c.clone()], &[3], &[1], &[]);
        check(std::slice::from_ref(&a), std::slice::from_ref(&a), &[], &[], &[]);
        let heavy = DesiredBackend { weight: 2, ..a.clone() };
        check(std::slice::from_ref(&a), &[heavy], &[], &[], &[1]);
        // The address was given to another pod.
        check(std::slice::from_ref(&a), &[backend(1, "z")], &[1], &[1], &[]);
        // The pod's name became known.
        check(&[backend(1, "")], &[a], &[], &[], &[1]);
    }
}
