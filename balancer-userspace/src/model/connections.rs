//! What is done with connections that live on while the endpoints of their Service come and go.

use balancer_common::abi::Rebalance;

use super::Protocol;

/// What holds for one Service port, or as the node's default. Times are whole milliseconds, as in the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSettings {
    /// How long a new backend takes to get its full share of connects; 0: it has it at once.
    pub slow_start_ms: u32,
    /// Whether open connections are moved to even out.
    pub rebalance: Rebalance,
    /// How long a connection must have been quiet before it is moved, at least.
    pub quiet_ms: u32,
    /// How old it must be.
    pub min_age_ms: u32,
    /// How many may be moved in ten seconds, in percent of those that are open; at most
    /// [`balancer_common::abi::MAX_BUDGET`].
    pub budget_percent: u16,
    /// What is asked of a Service before its connections are moved.
    pub trust: Trust,
    /// Whether connections to terminating backends are moved.
    pub drain: Drain,
    /// What becomes of sockets to backends that are gone.
    pub removed: RemovedSockets,
}

impl Default for ConnectionSettings {
    /// Those of an agent without flags.
    fn default() -> Self {
        Self {
            slow_start_ms: 0,
            rebalance: Rebalance::Off,
            quiet_ms: 2_000,
            min_age_ms: 10_000,
            budget_percent: 5,
            trust: Trust::Earned,
            drain: Drain::Off,
            removed: RemovedSockets::Close,
        }
    }
}

impl ConnectionSettings {
    /// What of it concerns a port: nothing is moved that is not TCP, and new backends of others get their
    /// full share at once.
    #[must_use]
    pub const fn of_port(self, protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => self,
            Protocol::Udp => Self {
                slow_start_ms: 0,
                rebalance: Rebalance::Off,
                quiet_ms: 0,
                min_age_ms: 0,
                budget_percent: 0,
                trust: Trust::Earned,
                drain: Drain::Off,
                removed: self.removed,
            },
        }
    }
}

/// What is asked of a Service before its connections are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// A clean record: connections that could have been moved, and on which the client spoke next.
    #[default]
    Earned,
    /// Nothing, as long as no harm is seen.
    Immediate,
    /// Nothing, even where servers speak first.
    Forced,
}

impl Trust {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Earned, Self::Immediate, Self::Forced];

    /// The name that annotations use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Earned => "earned",
            Self::Immediate => "immediate",
            Self::Forced => "forced",
        }
    }
}

/// Whether connections to terminating backends are moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drain {
    /// They stay.
    #[default]
    Off,
    /// Idle ones are.
    Idle,
}

impl Drain {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Off, Self::Idle];

    /// The name that annotations and flags use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Idle => "idle",
        }
    }
}

/// What becomes of sockets to backends that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemovedSockets {
    /// They are closed: nobody answers them any more.
    #[default]
    Close,
    /// They are left alone.
    Keep,
}

/// What the annotations of a Service say of it. `None` where absent or malformed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionWishes {
    /// `balancer.dev/slow-start`.
    pub slow_start_ms: Option<u32>,
    /// `balancer.dev/rebalance`.
    pub rebalance: Option<Rebalance>,
    /// `balancer.dev/rebalance-quiet`.
    pub quiet_ms: Option<u32>,
    /// `balancer.dev/rebalance-min-age`.
    pub min_age_ms: Option<u32>,
    /// `balancer.dev/rebalance-budget`.
    pub budget_percent: Option<u16>,
    /// `balancer.dev/rebalance-trust`.
    pub trust: Option<Trust>,
    /// `balancer.dev/drain`.
    pub drain: Option<Drain>,
    /// `balancer.dev/close-removed`.
    pub removed: Option<RemovedSockets>,
}

impl ConnectionWishes {
    /// What holds for a Service that says this on a node with these defaults.
    ///
    /// Where idle connections are moved at all, they are also moved away from terminating backends, unless
    /// the Service itself says otherwise.
    pub fn over(&self, node: ConnectionSettings) -> ConnectionSettings {
        let rebalance = self.rebalance.unwrap_or(node.rebalance);
        let drain = if rebalance == Rebalance::Idle { Drain::Idle } else { node.drain };
        ConnectionSettings {
            slow_start_ms: self.slow_start_ms.unwrap_or(node.slow_start_ms),
            rebalance,
            quiet_ms: self.quiet_ms.unwrap_or(node.quiet_ms),
            min_age_ms: self.min_age_ms.unwrap_or(node.min_age_ms),
            budget_percent: self.budget_percent.unwrap_or(node.budget_percent),
            trust: self.trust.unwrap_or(node.trust),
            drain: self.drain.unwrap_or(drain),
            removed: self.removed.unwrap_or(node.removed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wishes: ConnectionWishes, node: ConnectionSettings, expect: (Rebalance, Drain)) {
        let settings = wishes.over(node);
        assert_eq!((settings.rebalance, settings.drain), expect);
    }

    #[test]
    fn who_moves_idle_connections_drains_unless_told_otherwise() {
        let silent = ConnectionWishes::default();
        let off = ConnectionSettings::default();
        assert_eq!(silent.over(off), off);
        let idle = ConnectionSettings { rebalance: Rebalance::Idle, ..off };
        let draining = ConnectionSettings { drain: Drain::Idle, ..off };
        let rebalance = |rebalance| ConnectionWishes { rebalance: Some(rebalance), ..silent };
        check(silent, idle, (Rebalance::Idle, Drain::Idle));
        check(silent, draining, (Rebalance::Off, Drain::Idle));
        check(rebalance(Rebalance::Idle), off, (Rebalance::Idle, Drain::Idle));
        check(rebalance(Rebalance::DryRun), off, (Rebalance::DryRun, Drain::Off));
        check(rebalance(Rebalance::Off), idle, (Rebalance::Off, Drain::Off));
        let refuses = ConnectionWishes { drain: Some(Drain::Off), ..rebalance(Rebalance::Idle) };
        check(refuses, draining, (Rebalance::Idle, Drain::Off));
    }

    #[test]
    fn of_udp_only_what_becomes_of_its_sockets_counts() {
        let all = ConnectionSettings {
            slow_start_ms: 1,
            rebalance: Rebalance::Idle,
            trust: Trust::Forced,
            drain: Drain::Idle,
            removed: RemovedSockets::Keep,
            ..ConnectionSettings::default()
        };
        assert_eq!(all.of_port(Protocol::Tcp), all);
        let udp = all.of_port(Protocol::Udp);
        assert_eq!((udp.rebalance, udp.drain, udp.trust), (Rebalance::Off, Drain::Off, Trust::Earned));
        assert_eq!((udp.slow_start_ms, udp.removed), (0, RemovedSockets::Keep));
    }
}
