//! What happens in a scenario, and when.

use super::{
    outcome::Arm,
    process::{Protocol, Work},
};

/// A situation.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// As on the command line.
    pub name: &'static str,
    /// One line: the situation.
    pub title: &'static str,
    /// What it shows.
    pub story: &'static str,
    /// What makes connections uneven, in a few words; none if nothing does.
    pub change: Option<&'static str>,
    /// What the servers speak.
    pub protocol: Protocol,
    /// How many server pods there ever are.
    pub servers: usize,
    /// How long a request takes, in milliseconds.
    pub delay_ms: u64,
    /// A server that takes longer, and how long.
    pub slow: Option<(usize, u64)>,
    /// The clients of a run: on which node each is, and what it does.
    pub clients: Vec<(usize, Work)>,
    /// Which servers are ready at first.
    pub ready: Vec<usize>,
    /// What happens, in the order of time.
    pub steps: Vec<Step>,
    /// How long a run takes after its connections are open.
    pub seconds: u32,
    /// How many runs of each arm go on at a time.
    pub at_once: usize,
    /// Annotations of the Service where balancer moves connections, without their prefix.
    pub annotations: &'static [(&'static str, &'static str)],
    /// Arms that make no sense here, and why.
    pub without: &'static [(Arm, &'static str)],
}

/// Something that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// When, in seconds after connections are open.
    pub at: u32,
    /// What.
    pub change: Change,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// These servers are ready, and these are terminating.
    Endpoints {
        /// Those that are to be used.
        ready: Vec<usize>,
        /// Those that are on their way out.
        terminating: Vec<usize>,
    },
    /// From here on counts begin.
    Mark,
    /// A server's process ends in order.
    End(usize),
    /// A server refuses connections.
    Refuse(usize),
    /// Packets to a server are swallowed.
    Unplug(usize),
}

impl Scenario {
    /// Nodes that its clients are on.
    pub fn nodes(&self) -> usize {
        self.clients.iter().map(|(node, _)| node + 1).max().unwrap_or(1)
    }

    /// Connections that the pools of one run keep.
    pub fn connections(&self) -> u32 {
        let of = |work: &Work| match work {
            Work::Pool { connections, .. } | Work::Transactions { connections, .. } => *connections,
            Work::Multiplexed { .. } => 1,
            Work::Short { .. } => 0,
        };
        self.clients.iter().map(|(_, work)| of(work)).sum()
    }

    /// Which servers are ready at the end.
    pub fn ready_at_last(&self) -> &[usize] {
        let last = self.steps.iter().rev().find_map(|step| match &step.change {
            Change::Endpoints { ready, .. } => Some(ready),
            _ => None,
        });
        last.unwrap_or(&self.ready)
    }

    /// Why an arm is left out.
    pub fn leaves_out(&self, arm: Arm) -> Option<&'static str> {
        self.without.iter().find(|(without, _)| *without == arm).map(|(_, why)| *why)
    }
}

/// How a rolling restart goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surge {
    /// A pod goes before another comes (`maxSurge: 0`).
    None,
    /// A pod comes before another goes (`maxUnavailable: 0`).
    One,
}

/// The steps of a rolling restart of `count` servers, 0 to `count - 1`, by `count` others: each terminates for `grace`
/// seconds. Begins after `at` seconds; also says when it is over.
pub fn rolling(count: usize, surge: Surge, at: u32, grace: u32) -> (Vec<Step>, u32) {
    let mut steps = Vec::new();
    let mut now = at;
    for gone in 0..count {
        let stay = gone + 1..count;
        let come = count..count + gone;
        let with_next = count..=count + gone;
        let (before, after): (Vec<usize>, Vec<usize>) = (
            match surge {
                Surge::None => stay.clone().chain(come).collect(),
                Surge::One => stay.clone().chain(with_next.clone()).collect(),
            },
            stay.chain(with_next).collect(),
        );
        if surge == Surge::One {
            let ready = (gone..count).chain(count..=count + gone).collect();
            steps.push(Step { at: now, change: Change::Endpoints { ready, terminating: Vec::new() } });
            now += 1;
        }
        steps.push(Step { at: now, change: Change::Endpoints { ready: before, terminating: vec![gone] } });
        now += grace;
        steps.push(Step { at: now, change: Change::End(gone) });
        steps.push(Step { at: now, change: Change::Endpoints { ready: after, terminating: Vec::new() } });
        now += 1;
    }
    steps.push(Step { at: now, change: Change::Mark });
    (steps, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(surge: Surge) -> Vec<String> {
        let (steps, _) = rolling(2, surge, 5, 8);
        steps.iter().map(|step| format!("{} {:?}", step.at, step.change)).collect()
    }

    #[test]
    fn without_surge_a_pod_goes_first() {
        assert_eq!(
            story(Surge::None),
            [
                "5 Endpoints { ready: [1], terminating: [0] }",
                "13 End(0)",
                "13 Endpoints { ready: [1, 2], terminating: [] }",
                "14 Endpoints { ready: [2], terminating: [1] }",
                "22 End(1)",
                "22 Endpoints { ready: [2, 3], terminating: [] }",
                "23 Mark",
            ]
        );
    }

    #[test]
    fn with_surge_a_pod_comes_first() {
        assert_eq!(
            story(Surge::One),
            [
                "5 Endpoints { ready: [0, 1, 2], terminating: [] }",
                "6 Endpoints { ready: [1, 2], terminating: [0] }",
                "14 End(0)",
                "14 Endpoints { ready: [1, 2], terminating: [] }",
                "15 Endpoints { ready: [1, 2, 3], terminating: [] }",
                "16 Endpoints { ready: [2, 3], terminating: [1] }",
                "24 End(1)",
                "24 Endpoints { ready: [2, 3], terminating: [] }",
                "25 Mark",
            ]
        );
    }
}
