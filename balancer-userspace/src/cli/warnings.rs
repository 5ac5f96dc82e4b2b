//! What a user should know before believing a table.

use std::time::Duration;

use super::text;
use crate::view::{AgentView, Lease, Liveness};

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

/// Everything to know of the agent, worst first.
pub fn warnings(agent: &AgentView) -> Vec<Warning> {
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
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    #[track_caller]
    fn check(change: impl FnOnce(&mut AgentView), codes: &[&str]) {
        let mut agent = fixture::agent();
        change(&mut agent);
        let found: Vec<_> = warnings(&agent).into_iter().map(|warning| warning.code).collect();
        assert_eq!(found, codes);
    }

    #[test]
    fn each_trouble_has_its_code() {
        check(|_| {}, &[]);
        check(|agent| agent.lease = Lease::Endless, &[]);
        check(|agent| agent.liveness = Liveness::Dead, &["agent-dead"]);
        check(|agent| agent.lease = Lease::Lapsed(Duration::from_secs(9)), &["lease-lapsed"]);
        check(|agent| agent.lease = Lease::Never, &["lease-never-taken"]);
        check(|agent| agent.synced = None, &["not-synced"]);
        check(|agent| agent.contact = Some(Duration::from_secs(601)), &["source-silent"]);
        check(|agent| agent.skipped = 2, &["objects-skipped"]);
    }

    #[test]
    fn a_dead_agent_is_told_with_what_follows() {
        let mut agent = fixture::agent();
        agent.liveness = Liveness::Dead;
        agent.lease = Lease::Valid(Duration::from_secs(41));
        assert!(warnings(&agent)[0].message.contains("another 41s"));
        agent.lease = Lease::Endless;
        assert!(warnings(&agent)[0].message.contains("never lapses"));
        agent.lease = Lease::Lapsed(Duration::from_secs(100));
        agent.contact = Some(Duration::from_secs(10_000));
        let codes: Vec<_> = warnings(&agent).into_iter().map(|warning| warning.code).collect();
        assert_eq!(codes, ["agent-dead", "lease-lapsed"], "a dead agent's contact says nothing more");
    }
}
