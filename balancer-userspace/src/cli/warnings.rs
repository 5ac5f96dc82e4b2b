//! What a user should know before believing a table.

use std::time::Duration;

use balancer_common::abi::Mode;

use super::text;
use crate::view::{Lease, Liveness, MapFill, Snapshot};

/// How long the source may be out of touch before it is worth a word. A watch is renewed within 5 minutes.
const CONTACT_LIMIT: Duration = Duration::from_secs(600);

/// One thing to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// For scripts.
    pub code: &'static str,
    /// For people: what is so, what follows, what to do.
    pub message: String,
}

/// Everything to know of the agent and its tables, worst first.
pub fn warnings(snapshot: &Snapshot) -> Vec<Warning> {
    let agent = &snapshot.agent;
    let mut warnings = Vec::new();
    let mut warn = |code, message| warnings.push(Warning { code, message });
    if agent.liveness == Liveness::Dead {
        let then = match agent.lease {
            Lease::Endless => {
                "its lease never lapses: connects still go by its last tables, however old".to_owned()
            }
            Lease::Valid(rest) => {
                format!(
                    "connects go by its last tables for another {}, then are left alone",
                    text::duration(rest)
                )
            }
            Lease::Lapsed(_) | Lease::Never => "connects are left alone (kube-proxy answers them)".to_owned(),
        };
        warn("agent-dead", format!("the agent is not running; {then}"));
    }
    match agent.lease {
        Lease::Lapsed(since) => warn(
            "lease-lapsed",
            format!(
                "the lease lapsed {} ago: no connect is balanced until an agent renews it",
                text::duration(since)
            ),
        ),
        Lease::Never => {
            warn("lease-never-taken", "no agent has taken the lease yet: no connect is balanced".to_owned());
        }
        Lease::Endless | Lease::Valid(_) => {}
    }
    if agent.mode == Mode::Observe {
        warn(
            "observing",
            "the agent only observes (--mode observe): every connect is left alone, and counted as if it had \
             gone to the backend that balancing would have chosen"
                .to_owned(),
        );
    }
    if agent.synced.is_none() {
        warn(
            "not-synced",
            format!("the agent has not read all of {} yet: Services may be missing", agent.source),
        );
    }
    if let Some(age) = agent.contact.filter(|age| *age > CONTACT_LIMIT && agent.liveness == Liveness::Running)
    {
        warn(
            "source-silent",
            format!(
                "{} was last heard of {} ago: changes since then are unknown",
                agent.source,
                text::duration(age)
            ),
        );
    }
    if agent.skipped > 0 {
        warn(
            "objects-skipped",
            format!(
                "{} skipped; the agent's log names each and says why",
                text::count(agent.skipped.into(), "object was", "objects were"),
            ),
        );
    }
    for fill in snapshot.maps.iter().filter(|fill| is_nearly_full(fill)) {
        warn(
            "map-nearly-full",
            format!(
                "{} holds {} of {} entries: what does not fit is not balanced; raise --{}",
                fill.name, fill.used, fill.capacity, fill.flag,
            ),
        );
    }
    warnings
}

/// From 90% on. The map of clients is a cache: it is full in the normal course of things, and forgets the oldest.
fn is_nearly_full(fill: &MapFill) -> bool {
    fill.name != "CLIENTS" && fill.used.saturating_mul(10) >= fill.capacity.saturating_mul(9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    fn codes(snapshot: &Snapshot) -> Vec<&'static str> {
        warnings(snapshot).into_iter().map(|warning| warning.code).collect()
    }

    #[track_caller]
    fn check(change: impl FnOnce(&mut Snapshot), expect: &[&str]) {
        let mut snapshot = fixture::snapshot();
        change(&mut snapshot);
        assert_eq!(codes(&snapshot), expect);
        let manual = include_str!("../../../docs/output.md");
        for code in expect {
            assert!(manual.contains(&format!("`{code}`")), "docs/output.md does not mention {code}");
        }
    }

    #[test]
    fn each_trouble_has_its_code() {
        check(|_| {}, &[]);
        check(|it| it.agent.lease = Lease::Endless, &[]);
        check(|it| it.agent.liveness = Liveness::Dead, &["agent-dead"]);
        check(|it| it.agent.lease = Lease::Lapsed(Duration::from_secs(9)), &["lease-lapsed"]);
        check(|it| it.agent.lease = Lease::Never, &["lease-never-taken"]);
        check(|it| it.agent.synced = None, &["not-synced"]);
        check(|it| it.agent.contact = Some(Duration::from_secs(601)), &["source-silent"]);
        check(|it| it.agent.skipped = 2, &["objects-skipped"]);
        check(|it| it.maps[0].used = it.maps[0].capacity / 10 * 9, &[]);
        check(|it| it.maps[0].used = it.maps[0].capacity - 1, &["map-nearly-full"]);
        check(|it| it.maps[0] = MapFill { name: "CLIENTS", used: 9, capacity: 9, flag: "max-clients" }, &[]);
    }

    #[test]
    fn a_dead_agent_is_told_with_what_follows() {
        let mut snapshot = fixture::snapshot();
        snapshot.agent.liveness = Liveness::Dead;
        snapshot.agent.lease = Lease::Valid(Duration::from_secs(41));
        assert!(warnings(&snapshot)[0].message.contains("another 41s"));
        snapshot.agent.lease = Lease::Endless;
        assert!(warnings(&snapshot)[0].message.contains("never lapses"));
        snapshot.agent.lease = Lease::Lapsed(Duration::from_secs(100));
        snapshot.agent.contact = Some(Duration::from_secs(10_000));
        assert_eq!(
            codes(&snapshot),
            ["agent-dead", "lease-lapsed"],
            "a dead agent's contact says nothing more"
        );
    }
}
