//! Who may be dialled by which address: two Services can claim the same one.
//!
//! The API server hands out every cluster IP once, but manifests and moments between two events hold
//! duplicates. The older Service wins, of equally old ones the first by namespace and name, of two
//! ports of one Service the first: whatever the order of events, every agent decides alike.

use std::collections::HashMap;

use super::{Frontend, ObjectName, ServiceSpec};

/// Ordered by precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    created: i64,
    service: ObjectName,
    port_index: usize,
}

/// All claims of all Services, the ones that are not balanced included: their addresses are not free.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Never empty, sorted by precedence.
    by_frontend: HashMap<Frontend, Vec<Claim>>,
}

impl Claims {
    /// Replaces the claims of one Service, and calls `affected` for every other Service whose say in a
    /// frontend may have changed by it (possibly more than once).
    pub(super) fn replace(
        &mut self,
        old: Option<&ServiceSpec>,
        new: Option<&ServiceSpec>,
        mut affected: impl FnMut(&ObjectName),
    ) {
        let mut owners: HashMap<Frontend, Claim> = HashMap::new();
        for (frontend, claim) in claims_of(old).chain(claims_of(new)) {
            if let Some(owner) = self.by_frontend.get(&frontend).and_then(|claims| claims.first()) {
                // Alone with this claim: nobody else has a say.
                if *owner != claim || self.by_frontend[&frontend].len() > 1 {
                    owners.entry(frontend).or_insert_with(|| owner.clone());
                }
            }
        }
        for (frontend, claim) in claims_of(old) {
            if let Some(claims) = self.by_frontend.get_mut(&frontend) {
                claims.retain(|other| *other != claim);
                if claims.is_empty() {
                    self.by_frontend.remove(&frontend);
                }
            }
        }
        for (frontend, claim) in claims_of(new) {
            let claims = self.by_frontend.entry(frontend).or_insert_with(|| Vec::with_capacity(1));
            if let Err(place) = claims.binary_search(&claim) {
                claims.insert(place, claim);
            }
        }
        let Some(this) = old.or(new).map(|spec| &spec.name) else { return };
        for (frontend, owner) in owners {
            let claims = self.by_frontend.get(&frontend).map_or(&[][..], Vec::as_slice);
            if claims.first() != Some(&owner) {
                let services = claims.iter().map(|claim| &claim.service);
                services.filter(|service| *service != this).for_each(&mut affected);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_frontend.is_empty()
    }

    /// The Service that `frontend` belongs to, unless that is port `port_index` of `service`.
    pub(super) fn other_owner(
        &self,
        frontend: &Frontend,
        service: &ObjectName,
        port_index: usize,
    ) -> Option<&ObjectName> {
        let owner = self.by_frontend.get(frontend)?.first()?;
        (owner.service != *service || owner.port_index != port_index).then_some(&owner.service)
    }
}

fn claims_of(spec: Option<&ServiceSpec>) -> impl Iterator<Item = (Frontend, Claim)> {
    spec.into_iter().flat_map(|spec| {
        spec.cluster_ips.iter().flat_map(move |addr| {
            spec.ports.iter().enumerate().map(move |(port_index, port)| {
                let frontend = Frontend { addr: *addr, port: port.port, protocol: port.protocol };
                (frontend, Claim { created: spec.created, service: spec.name.clone(), port_index })
            })
        })
    })
}
