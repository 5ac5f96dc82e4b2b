//! What happens to the world, at random, and how it is undone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::{
    faults::FAULTS,
    ledger::Whom,
    pressure,
    run::Soak,
    services::{Condition, SPECS, fronts},
    tally::Invariant,
    undo::Undo,
    world::BACKENDS,
};
use crate::peer::protocol::{Close, Kind, Setting};

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Scale,
    ScaleToZero,
    Terminate,
    Unready,
    Algorithm,
    Remove,
    KillServer,
    Refuse,
    StopServer,
    ResetConnections,
    Unplug,
    KillClient,
    Fork,
    KillAgent,
    Upgrade,
    StopAgent,
    SecondAgent,
    ApiFault,
    Restore,
    Token,
    Pressure,
}

/// How often each happens, among all of these together.
const WEIGHTS: [(Event, u32); 21] = [
    (Event::Scale, 30),
    (Event::ScaleToZero, 2),
    (Event::Terminate, 8),
    (Event::Unready, 6),
    (Event::Algorithm, 4),
    (Event::Remove, 3),
    (Event::KillServer, 9),
    (Event::Refuse, 4),
    (Event::StopServer, 4),
    (Event::ResetConnections, 5),
    (Event::Unplug, 4),
    (Event::KillClient, 5),
    (Event::Fork, 4),
    (Event::KillAgent, 5),
    (Event::Upgrade, 4),
    (Event::StopAgent, 2),
    (Event::SecondAgent, 1),
    (Event::ApiFault, 10),
    (Event::Restore, 2),
    (Event::Token, 2),
    (Event::Pressure, 2),
];

impl Event {
    /// One of them, by weight.
    pub(super) fn roll(dice: &mut fastrand::Rng) -> Self {
        let mut roll = dice.u32(0..WEIGHTS.iter().map(|(_, weight)| weight).sum());
        for (event, weight) in WEIGHTS {
            match roll.checked_sub(weight) {
                Some(rest) => roll = rest,
                None => return event,
            }
        }
        Self::Scale
    }
}

impl Soak<'_> {
    /// Makes something happen. The dice fall alike whatever the world is like, so that a seed means the same events.
    pub(super) fn happen(&mut self, event: Event) -> Result<()> {
        let (service, pod) = (self.dice.usize(0..SPECS.len()), self.dice.usize(0..BACKENDS));
        let (choice, millis) = (self.dice.usize(0..1000), self.dice.u64(200..4000));
        let later = Duration::from_millis(millis);
        let mut inner = fastrand::Rng::with_seed(self.dice.u64(..));
        let kind = format!("{event:?}");
        let told = match event {
            Event::Scale | Event::ScaleToZero => Some(self.scale(event, service, later, &mut inner)?),
            Event::Terminate | Event::Unready => self.condition(event, service, choice, later)?,
            Event::Algorithm => {
                let names =
                    ["least-connections", "round-robin", "client-round-robin", "random", "source-hash"];
                self.world.wanted[service].algorithm = Some(names[choice % names.len()]);
                self.world.publish(service)?;
                Some(format!("{} chooses by {}", SPECS[service].name, names[choice % names.len()]))
            }
            Event::Remove => self.remove(service, later)?,
            Event::KillServer
            | Event::Refuse
            | Event::StopServer
            | Event::ResetConnections
            | Event::Unplug => self.trouble(event, pod, later)?,
            Event::KillClient => {
                let worker = choice % self.crew.len();
                let (at, plan) = self.plan(worker);
                let pod = self.world.clients.get(at).unwrap_or_else(|| self.world.topology.host());
                self.crew.replace(worker, pod, &plan)?;
                Some(format!("worker {worker} is killed, another takes its place"))
            }
            Event::Fork => Some(self.fork(choice, &mut inner)?),
            Event::KillAgent | Event::Upgrade | Event::StopAgent | Event::SecondAgent => {
                self.agent(event, choice, later)?
            }
            Event::ApiFault => self.api_fault(choice, later)?,
            Event::Restore => self.restore(later)?,
            Event::Token => {
                self.world.rotate_token()?;
                Some("the agent's token is another".to_owned())
            }
            Event::Pressure => self.press()?,
        };
        if let Some(told) = told {
            self.tally.event(&kind);
            self.ledger.note(format!("{kind}: {told}"));
        }
        Ok(())
    }

    fn later(&mut self, after: Duration, undo: Undo) {
        self.undos.push((Instant::now() + after, undo));
    }

    fn is_due(&self, undo: impl Fn(&Undo) -> bool) -> bool {
        self.undos.iter().any(|(_, due)| undo(due))
    }

    fn scale(
        &mut self,
        event: Event,
        service: usize,
        later: Duration,
        dice: &mut fastrand::Rng,
    ) -> Result<String> {
        let wanted = &mut self.world.wanted[service].endpoints;
        if event == Event::ScaleToZero {
            wanted.clear();
            self.undos.push((Instant::now() + later, Undo::Fill(service, dice.usize(0..BACKENDS))));
        } else {
            for _ in 0..dice.usize(1..=4) {
                let pod = dice.usize(0..BACKENDS);
                if wanted.remove(&pod).is_none() || wanted.is_empty() {
                    wanted.insert(pod, Condition::Ready);
                }
            }
        }
        let told = format!("{} has pods {:?}", SPECS[service].name, wanted.keys());
        self.world.publish(service)?;
        Ok(told)
    }

    fn condition(
        &mut self,
        event: Event,
        service: usize,
        choice: usize,
        later: Duration,
    ) -> Result<Option<String>> {
        let endpoints = &mut self.world.wanted[service].endpoints;
        let ready: Vec<usize> =
            endpoints.iter().filter(|(_, it)| **it == Condition::Ready).map(|(pod, _)| *pod).collect();
        let Some(&pod) = ready.get(choice % ready.len().max(1)) else { return Ok(None) };
        let (condition, undo) = match event {
            Event::Terminate => (Condition::Terminating, Undo::Finish(service, pod)),
            _ => (Condition::NotReady, Undo::Ready(service, pod)),
        };
        endpoints.insert(pod, condition);
        self.world.publish(service)?;
        self.later(later, undo);
        Ok(Some(format!("pod {pod} of {} is {condition:?}", SPECS[service].name)))
    }

    fn remove(&mut self, service: usize, later: Duration) -> Result<Option<String>> {
        if !self.world.wanted[service].exists {
            return Ok(None);
        }
        let open = self.ledger.begin(Whom::Service(service), "removed");
        self.absent.push(open);
        self.world.wanted[service].exists = false;
        self.world.publish(service)?;
        self.later(later, Undo::Bring(service));
        Ok(Some(format!("{} does not exist", SPECS[service].name)))
    }

    fn trouble(&mut self, event: Event, pod: usize, later: Duration) -> Result<Option<String>> {
        let (what, undo) = match event {
            Event::KillServer => ("killed", Undo::Serve(pod)),
            Event::Refuse => ("refusing", Undo::Serve(pod)),
            Event::StopServer => ("stopped", Undo::ResumeServer(pod)),
            Event::Unplug => ("unplugged", Undo::Plug(pod)),
            _ => ("resetting", Undo::Serve(pod)),
        };
        if !self.world.trouble(pod, what) {
            return Ok(None);
        }
        let target = &mut self.world.targets[pod];
        let server = target.server.as_mut().context("a pod without trouble has a server")?;
        match event {
            Event::KillServer => server.process().kill().map(drop)?,
            Event::Refuse => server.refuse().map(drop)?,
            Event::StopServer => server.process().signal(Signal::STOP)?,
            Event::Unplug => target.pod.unplug()?,
            _ => {
                server.close_all(Close::Reset)?;
                self.world.trouble_ends(pod);
                return Ok(Some(format!("pod {pod} resets all its connections")));
            }
        }
        self.later(later, undo);
        Ok(Some(format!("pod {pod} is {what} for {later:?}")))
    }

    /// A process that forks with open connections, duplicates them, and ends in one of several ways.
    fn fork(&self, choice: usize, dice: &mut fastrand::Rng) -> Result<String> {
        let client = self.world.clients[choice % self.world.clients.len()].client()?;
        let all = fronts();
        let mut open = Vec::new();
        for _ in 0..3 {
            let front = all[dice.usize(0..all.len())];
            let kind = match front.protocol {
                balancer_userspace::model::Protocol::Tcp => Kind::tcp(front.addr),
                balancer_userspace::model::Protocol::Udp => Kind::udp(front.addr),
            };
            let socket = client.socket(kind)?;
            socket.set(Setting::Nonblocking)?;
            // Failures are the workers' concern: these are here for their ends.
            _ = socket.connect(front.addr);
            _ = socket.finish(Duration::from_millis(200));
            open.push(socket);
        }
        let copy = open[0].duplicate()?;
        let holder = client.fork()?;
        let end = match dice.u8(0..3) {
            0 => {
                client.kill()?;
                "is killed"
            }
            1 => {
                drop(open);
                holder.end()?;
                "closes before its child"
            }
            _ => {
                holder.end()?;
                drop(copy);
                "outlives its child"
            }
        };
        Ok(format!("a process with 3 connections forks, duplicates and {end}"))
    }

    fn agent(&mut self, event: Event, choice: usize, later: Duration) -> Result<Option<String>> {
        if event == Event::SecondAgent {
            self.agents.second()?;
            return Ok(Some("a second agent is refused".to_owned()));
        }
        if self.is_due(|undo| matches!(undo, Undo::Agent | Undo::ResumeAgent)) {
            return Ok(None);
        }
        // Sometimes for longer than the lease, mostly not.
        let later = if choice.is_multiple_of(6) { 2 * later } else { later / 4 };
        let (told, undo) = match event {
            Event::KillAgent => {
                self.agents.kill()?;
                ("killed", Undo::Agent)
            }
            Event::StopAgent => {
                self.agents.stop()?;
                ("stopped", Undo::ResumeAgent)
            }
            _ => {
                self.agents.end()?;
                ("told to end; the other build takes its place", Undo::Agent)
            }
        };
        self.later(later, undo);
        Ok(Some(format!("the agent is {told}, after {later:?}")))
    }

    fn api_fault(&mut self, choice: usize, later: Duration) -> Result<Option<String>> {
        if self.is_due(|undo| matches!(undo, Undo::Heal | Undo::Rewrite)) {
            return Ok(None);
        }
        let (name, begin) = FAULTS[choice % FAULTS.len()];
        let later = if choice.is_multiple_of(8) { 3 * later } else { later };
        begin(&mut self.world)?;
        self.later(later, Undo::Heal);
        Ok(Some(format!("{name} for {later:?}")))
    }

    /// etcd is restored from the backup of the last quiet point.
    fn restore(&mut self, later: Duration) -> Result<Option<String>> {
        let due = self.is_due(|undo| matches!(undo, Undo::Heal | Undo::Rewrite));
        let Some(backup) = self.world.backup.clone().filter(|_| !due) else { return Ok(None) };
        self.world.api.refuse();
        self.world.api.restore(&backup);
        self.world.api.listen()?;
        self.later(later, Undo::Rewrite);
        Ok(Some("the API server is as it was at the last quiet point".to_owned()))
    }

    /// Far more Services than there is room for come and go, while the others do not change.
    fn press(&mut self) -> Result<Option<String>> {
        // Whoever is served keeps the place; so all of them are to be served first.
        self.undo_all()?;
        self.agents.spawn()?;
        self.agents.current().wait_ready()?;
        let unhurt = super::quiet::eventually(Duration::from_secs(40), || self.unhurt())?;
        self.tally.judge(Invariant::Pressure, unhurt);
        let begun = self.agents.logs().map(|log| log.len());
        pressure::apply(&self.world);
        let reported = pressure::wait_for(Duration::from_secs(20), || {
            let logs = self.agents.logs();
            Ok(logs.iter().zip(begun).any(|(log, from)| {
                log.get(from..).is_some_and(|new| new.contains("is full") && new.contains("--max-"))
            }))
        })?;
        let outcome =
            if reported { Ok(()) } else { Err("a map is full, and the log does not say so".to_owned()) };
        self.tally.judge(Invariant::Pressure, outcome);
        let unhurt = self.unhurt()?;
        self.tally.judge(Invariant::Pressure, unhurt);
        if self.dice.bool() {
            // Who is served is then found out anew.
            self.agents.kill()?;
            self.agents.spawn()?;
            self.agents.current().wait_ready()?;
            let unhurt = self.unhurt()?;
            self.tally.judge(Invariant::Pressure, unhurt);
        }
        pressure::relieve(&self.world)?;
        Ok(Some("60 Services too many came and went".to_owned()))
    }
}
