//! Which endpoints a Service port uses: kube-proxy's rules, as in `pkg/proxy/topology.go` of Kubernetes,
//! KEP-1669 (terminating endpoints) and KEP-3015 (hints).

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use super::{Condition, Conditions, Departure, EndpointSpec, InternalTraffic, NodeInfo};

/// An endpoint of a slice with the number and weight that the slice gives it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) endpoint: &'a EndpointSpec,
    pub(super) port: u16,
    pub(super) weight: u32,
}

/// Why connects do not go to an endpoint that is not selected.
pub(super) const fn departure(endpoint: &EndpointSpec) -> Departure {
    if endpoint.conditions.terminating { Departure::Draining } else { Departure::Unused }
}

impl Candidate<'_> {
    pub(super) fn target(&self) -> (IpAddr, u16) {
        (self.endpoint.addr, self.port)
    }

    /// `None` if no connect may go there.
    pub(super) fn condition(&self) -> Option<Condition> {
        let Conditions { ready, serving, terminating } = self.endpoint.conditions;
        if ready {
            Some(Condition::Ready)
        } else if serving && terminating {
            Some(Condition::Terminating)
        } else {
            None
        }
    }

    /// Which of two copies counts. One that is not terminating comes first, as with kube-proxy: where an
    /// address was given to another pod before the old pod is quite gone, the slices hold both, and the old
    /// one's condition must not stand for the new one's. Then the better condition: ready, then serving.
    fn rank(&self) -> Reverse<(bool, bool, bool)> {
        let Conditions { ready, serving, terminating } = self.endpoint.conditions;
        Reverse((!terminating, ready, serving))
    }

    fn is(&self, condition: Condition) -> bool {
        self.condition() == Some(condition)
    }
}

/// Sorts by address and port and keeps one of each: the one of the best [`Candidate::rank`], of equals the
/// first.
///
/// An endpoint that moves between slices stands in both for a while.
pub(super) fn sort_and_merge(candidates: &mut Vec<Candidate<'_>>) {
    candidates.sort_by_key(|candidate| (candidate.target(), candidate.rank()));
    candidates.dedup_by_key(|candidate| candidate.target());
}

/// Keeps those that connects go to. All that remain are in the same [`Condition`].
pub(super) fn select(candidates: &mut Vec<Candidate<'_>>, policy: InternalTraffic, node: &NodeInfo) {
    if policy == InternalTraffic::Local {
        candidates.retain(|candidate| is_on(candidate.endpoint, node));
    }
    if !candidates.iter().any(|candidate| candidate.is(Condition::Ready)) {
        candidates.retain(|candidate| candidate.is(Condition::Terminating));
        return;
    }
    candidates.retain(|candidate| candidate.is(Condition::Ready));
    if policy == InternalTraffic::Cluster {
        apply_hints(candidates, node);
    }
}

/// An unnamed node has no endpoints.
fn is_on(endpoint: &EndpointSpec, node: &NodeInfo) -> bool {
    !node.name.is_empty() && endpoint.node.as_ref() == Some(&node.name)
}

/// Never leaves nothing: hints count only if every endpoint has one and one of them is for us.
fn apply_hints(ready: &mut Vec<Candidate<'_>>, node: &NodeInfo) {
    let node_name = Some(&node.name).filter(|name| !name.is_empty());
    let zone = node.zone.as_ref().filter(|zone| !zone.is_empty());
    let hints: [(Option<&Arc<str>>, Hints); 2] =
        [(node_name, |endpoint| &endpoint.node_hints), (zone, |endpoint| &endpoint.zone_hints)];
    for (ours, of) in hints {
        let Some(ours) = ours else { continue };
        let complete = ready.iter().all(|candidate| !of(candidate.endpoint).is_empty());
        if complete && ready.iter().any(|candidate| of(candidate.endpoint).contains(ours)) {
            ready.retain(|candidate| of(candidate.endpoint).contains(ours));
            return;
        }
    }
}

type Hints = fn(&EndpointSpec) -> &Vec<Arc<str>>;

#[cfg(test)]
mod tests;
