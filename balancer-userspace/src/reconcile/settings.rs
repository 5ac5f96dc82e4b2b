//! Settings of open connections in the entry of a Service.

use balancer_common::abi::{
    Rebalance, SERVICE_DRAIN, SERVICE_FORCED, SERVICE_KEEP_REMOVED, SERVICE_TRACKED, SERVICE_TRUSTED, Service,
};

use crate::model::{ConnectionSettings, Drain, RemovedSockets, Trust};

/// An entry with these settings, all else being 0.
pub(super) fn written(settings: &ConnectionSettings) -> Service {
    let mut flags = match settings.trust {
        Trust::Earned => 0,
        Trust::Immediate => SERVICE_TRUSTED,
        Trust::Forced => SERVICE_TRUSTED | SERVICE_FORCED,
    };
    if settings.rebalance != Rebalance::Off || settings.drain == Drain::Idle {
        flags |= SERVICE_TRACKED;
    }
    if settings.drain == Drain::Idle {
        flags |= SERVICE_DRAIN;
    }
    if settings.removed == RemovedSockets::Keep {
        flags |= SERVICE_KEEP_REMOVED;
    }
    Service {
        flags,
        slow_start_ms: settings.slow_start_ms,
        quiet_ms: settings.quiet_ms,
        min_age_ms: settings.min_age_ms,
        rebalance: settings.rebalance as u16,
        budget_percent: settings.budget_percent,
        ..Service::default()
    }
}

/// The settings that an entry was written with.
pub(super) fn read(service: &Service) -> ConnectionSettings {
    let has = |flag| service.flags & flag != 0;
    ConnectionSettings {
        slow_start_ms: service.slow_start_ms,
        rebalance: Rebalance::from_u16(service.rebalance),
        quiet_ms: service.quiet_ms,
        min_age_ms: service.min_age_ms,
        budget_percent: service.budget_percent,
        trust: match (has(SERVICE_FORCED), has(SERVICE_TRUSTED)) {
            (true, _) => Trust::Forced,
            (false, true) => Trust::Immediate,
            (false, false) => Trust::Earned,
        },
        drain: if has(SERVICE_DRAIN) { Drain::Idle } else { Drain::Off },
        removed: if has(SERVICE_KEEP_REMOVED) { RemovedSockets::Keep } else { RemovedSockets::Close },
    }
}

/// The entry of a Service port that is gone: nobody chooses from it, and nothing of it is moved. What
/// becomes of sockets to backends that had left before stays as it was.
pub(super) fn retired(service: &Service) -> Service {
    Service {
        slots: balancer_common::abi::SlotRange::new(0, 0),
        backends: 0,
        flags: service.flags & SERVICE_KEEP_REMOVED,
        rebalance: Rebalance::Off as u16,
        ..*service
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_the_tables() {
        for trust in Trust::ALL {
            for (rebalance, drain) in Rebalance::ALL.into_iter().flat_map(|r| Drain::ALL.map(|d| (r, d))) {
                for removed in [RemovedSockets::Close, RemovedSockets::Keep] {
                    let settings = ConnectionSettings {
                        slow_start_ms: 30_000,
                        rebalance,
                        trust,
                        drain,
                        removed,
                        ..ConnectionSettings::default()
                    };
                    let entry = written(&settings);
                    assert_eq!(read(&entry), settings);
                    let tracked = rebalance != Rebalance::Off || drain != Drain::Off;
                    assert_eq!(entry.flags & SERVICE_TRACKED != 0, tracked);
                    let gone = written(&read(&retired(&entry)));
                    assert_eq!(gone.flags, entry.flags & SERVICE_KEEP_REMOVED);
                }
            }
        }
    }
}
