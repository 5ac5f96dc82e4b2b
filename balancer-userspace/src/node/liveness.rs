//! What `balancer check` says of the agent: whether it is there, renews its lease, and follows its source.

use std::time::Duration;

use super::check::item;
use crate::view::{AgentView, CheckItem, Lease, Liveness, Outcome};

/// A source that was not in touch for longer than this is worth a warning.
const STALE: Duration = Duration::from_secs(120);

/// Whether there is an agent.
pub(super) fn agent(agent: &AgentView) -> CheckItem {
    match agent.liveness {
        Liveness::Running => {
            let detail =
                format!("version {} runs as process {} on node {}", agent.version, agent.pid, agent.node);
            item("agent", Outcome::Ok, detail, "")
        }
        Liveness::Dead => item(
            "agent",
            Outcome::Failed,
            "no agent runs on this node",
            "start `balancer agent`, or remove what it left with `balancer detach`",
        ),
    }
}

/// Whether connects are balanced at all.
pub(super) fn lease(agent: &AgentView) -> CheckItem {
    let seconds = |duration: Duration| format!("{} s", duration.as_secs());
    let passed = "every connect is passed through to kube-proxy";
    match (agent.lease, agent.liveness) {
        (Lease::Endless, Liveness::Running) => item("lease", Outcome::Ok, "never lapses (--lease 0)", ""),
        (Lease::Endless, Liveness::Dead) => item(
            "lease",
            Outcome::Warning,
            "never lapses (--lease 0): connects go by the last tables, also to pods that are gone",
            "start the agent again, or remove what it left with `balancer detach`",
        ),
        (Lease::Valid(left), Liveness::Running) => {
            item("lease", Outcome::Ok, format!("valid for {}", seconds(left)), "")
        }
        (Lease::Valid(left), Liveness::Dead) => {
            let detail = format!("valid for another {}; then {passed}", seconds(left));
            item("lease", Outcome::Warning, detail, "start the agent again before it lapses")
        }
        (Lease::Lapsed(ago), liveness) => {
            let (why, remedy) = match (liveness, agent.synced) {
                (Liveness::Dead, _) => (String::new(), "start the agent again"),
                (Liveness::Running, None) => (
                    format!(" (the agent takes it again when it has read all of {})", agent.source),
                    "see the agent's log for what keeps it from its source",
                ),
                (Liveness::Running, Some(_)) => (
                    format!(" (process {} is there, but stands still)", agent.pid),
                    "see what stops the agent (SIGSTOP, a frozen cgroup, a CPU limit), or restart it",
                ),
            };
            item("lease", Outcome::Failed, format!("lapsed {} ago: {passed}{why}", seconds(ago)), remedy)
        }
        (Lease::Never, _) => item(
            "lease",
            Outcome::Failed,
            format!("was never taken: {passed}"),
            "the agent takes it when its source has listed everything; see its log",
        ),
    }
}

/// Whether the tables are what the source says. Those of an agent that is gone, or stands still, are as old
/// as its last word, whatever it said then.
pub(super) fn sync(agent: &AgentView) -> CheckItem {
    let remedy = "see the agent's log for what keeps it from its source";
    let age = |age: Option<Duration>| {
        age.map_or_else(|| "an unknown time".to_owned(), |age| format!("{} s", age.as_secs()))
    };
    if agent.liveness == Liveness::Dead {
        let detail =
            format!("nobody follows {}: the tables are as of {} ago", agent.source, age(agent.contact));
        return item("sync", Outcome::Failed, detail, "start the agent again");
    }
    match (agent.synced, agent.contact) {
        (None, _) => {
            item("sync", Outcome::Failed, format!("{} has not been listed whole", agent.source), remedy)
        }
        (Some(_), contact) if matches!(agent.lease, Lease::Lapsed(_)) => {
            let detail = format!(
                "the agent stands still: the tables are as {} was {} ago",
                agent.source,
                age(contact)
            );
            item("sync", Outcome::Failed, detail, "see the lease")
        }
        (Some(_), Some(contact)) if contact > STALE => item(
            "sync",
            Outcome::Warning,
            format!("no word from {} for {} s: the tables are as of then", agent.source, contact.as_secs()),
            remedy,
        ),
        (Some(since), contact) => {
            let contact = contact.map_or(String::new(), |age| format!(", last word {} s ago", age.as_secs()));
            item(
                "sync",
                Outcome::Ok,
                format!("in step with {} for {} s{contact}", agent.source, since.as_secs()),
                "",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::fixture;

    const SECOND: Duration = Duration::from_secs(1);

    /// Changes an agent with which all is well, and looks at the lease and at the sync: outcome, and what the
    /// line and its remedy say.
    #[track_caller]
    fn check(change: impl FnOnce(&mut AgentView), lease_is: (Outcome, &[&str]), sync_is: (Outcome, &[&str])) {
        let mut agent = fixture::agent();
        agent.source = "the API".to_owned();
        agent.contact = Some(3 * SECOND);
        change(&mut agent);
        for (item, (outcome, words)) in [(lease(&agent), lease_is), (sync(&agent), sync_is)] {
            assert_eq!(item.outcome, outcome, "{item:?}");
            let text = format!("{}; {}", item.detail, item.remedy);
            for word in words {
                assert!(text.contains(word), "{word:?} is not in {text:?}");
            }
            assert_eq!(item.remedy.is_empty(), outcome == Outcome::Ok, "{item:?}");
        }
    }

    #[test]
    fn an_agent_that_is_well() {
        check(|_| {}, (Outcome::Ok, &["valid"]), (Outcome::Ok, &["in step with the API", "3 s ago"]));
        check(
            |it| it.lease = Lease::Endless,
            (Outcome::Ok, &["never lapses"]),
            (Outcome::Ok, &["in step with the API"]),
        );
    }

    #[test]
    fn an_api_server_that_is_away_for_hours() {
        check(
            |it| it.contact = Some(6 * 3600 * SECOND),
            (Outcome::Ok, &["valid"]),
            (Outcome::Warning, &["no word from the API for 21600 s", "see the agent's log"]),
        );
    }

    #[test]
    fn an_agent_that_is_dead() {
        check(
            |it| (it.liveness, it.lease) = (Liveness::Dead, Lease::Valid(41 * SECOND)),
            (Outcome::Warning, &["another 41 s", "start the agent again"]),
            (Outcome::Failed, &["nobody follows the API", "as of 3 s ago"]),
        );
        check(
            |it| (it.liveness, it.lease) = (Liveness::Dead, Lease::Lapsed(9 * SECOND)),
            (Outcome::Failed, &["lapsed 9 s ago", "start the agent again"]),
            (Outcome::Failed, &["nobody follows the API"]),
        );
        check(
            |it| (it.liveness, it.lease) = (Liveness::Dead, Lease::Endless),
            (Outcome::Warning, &["pods that are gone", "balancer detach"]),
            (Outcome::Failed, &["nobody follows the API"]),
        );
    }

    #[test]
    fn an_agent_that_stands_still() {
        check(
            |it| it.lease = Lease::Lapsed(9 * SECOND),
            (Outcome::Failed, &["lapsed 9 s ago", "stands still", "SIGSTOP"]),
            (Outcome::Failed, &["stands still", "3 s ago"]),
        );
    }

    #[test]
    fn an_agent_that_came_back_late() {
        check(
            |it| (it.lease, it.synced) = (Lease::Lapsed(9 * SECOND), None),
            (Outcome::Failed, &["when it has read all of the API", "agent's log"]),
            (Outcome::Failed, &["the API has not been listed whole"]),
        );
        check(
            |it| (it.lease, it.synced, it.contact) = (Lease::Never, None, None),
            (Outcome::Failed, &["never taken"]),
            (Outcome::Failed, &["has not been listed whole"]),
        );
    }
}
