//! The lane of one family: what it should hold, and what is known of what it holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use balancer_common::abi::LaneState;

use super::{
    Endpoint, LaneError, Status,
    kubeproxy::{self, Rules},
    netlink::Channel,
    table::{self, Life, Structure},
    words,
    worker::LeaseTime,
    xtables::Legacy,
};
use crate::{datapath::boot_ns, model::Family};

/// How many looks lie between two comparisons of everything that is in it: a minute.
const COMPARE_EVERY: u32 = 12;

/// The kernel counts a time-out from when it is the transaction's turn, which others may delay. One that took longer
/// than this would hold beyond the lease by as much, and is said again.
const LATE_NS: u64 = 100_000_000;
/// How often it is said, all told.
const SAYINGS: u32 = 2;

/// One family.
#[derive(Debug)]
pub(super) struct Side {
    family: Family,
    legacy: Legacy,
    state: LaneState,
    /// Whether iptables works on nf_tables too.
    shares_tables: bool,
    /// What it should hold; `None` until the source has listed everything.
    wanted: Option<BTreeSet<Endpoint>>,
    /// What changed since it was in step: put in, or taken out. Empty while it is not.
    pending: BTreeMap<Endpoint, bool>,
    /// Whether what is pending cannot wait.
    urgent: bool,
    /// Whether it held what it should but for what is pending.
    in_step: bool,
    /// How many endpoints it held when it was in step.
    held: usize,
    /// Whether the table is there; `None` if that is not known.
    present: Option<bool>,
    /// Until when it was last said to hold.
    renewed: Option<u64>,
    /// Whether it is to be over, and the kernel has not confirmed that yet.
    ending: bool,
    /// Since everything was compared.
    looks: u32,
    /// What was told last.
    told: Option<String>,
}

/// What holds for a turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn<'a> {
    /// Of the table.
    pub(super) name: &'a str,
    /// Whether it is time to look at everything.
    pub(super) looking: bool,
    /// Whether the last transaction is long enough ago.
    pub(super) free: bool,
    /// The lease.
    pub(super) lease: LeaseTime,
    /// Where repairs are counted.
    pub(super) status: &'a Status,
}

impl Side {
    pub(super) const fn new(family: Family) -> Self {
        Self {
            family,
            legacy: Legacy::new(),
            state: LaneState::Waiting,
            shares_tables: false,
            wanted: None,
            pending: BTreeMap::new(),
            urgent: false,
            in_step: false,
            held: 0,
            present: None,
            renewed: None,
            ending: false,
            looks: 0,
            told: None,
        }
    }

    pub(super) const fn family(&self) -> Family {
        self.family
    }

    pub(super) const fn state(&self) -> LaneState {
        self.state
    }

    pub(super) const fn shares_tables(&self) -> bool {
        self.shares_tables
    }

    /// Whether something is to be done, which may wait.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Whether something of that must not wait.
    pub(super) const fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether it is to be over, whatever is known of it.
    pub(super) const fn is_ending(&self) -> bool {
        self.ending
    }

    /// How many endpoints it holds, for people.
    pub(super) const fn entries(&self) -> usize {
        match self.state {
            LaneState::Installed => self.held,
            _ => 0,
        }
    }

    /// One beside an iptables on nf_tables, in step with these endpoints, as if the kernel had said so.
    #[cfg(test)]
    pub(super) fn settled(family: Family, endpoints: &[Endpoint]) -> Self {
        let mut side = Self { shares_tables: true, state: LaneState::Installed, ..Self::new(family) };
        side.whole(endpoints);
        side.present = Some(true);
        side.stepped();
        side
    }

    /// Takes in what it should hold.
    pub(super) fn whole(&mut self, endpoints: &[Endpoint]) {
        let own = endpoints.iter().filter(|endpoint| endpoint.family() == self.family);
        self.wanted = Some(own.copied().collect());
        self.lose_step();
    }

    /// Takes in a change of that.
    pub(super) fn change(&mut self, endpoint: Endpoint, put: bool) {
        let Some(wanted) = &mut self.wanted else { return };
        let differs = if put { wanted.insert(endpoint) } else { wanted.remove(&endpoint) };
        // What is taken back before the kernel was told is not told at all: to take out what was never put in would
        // fail the transaction, and have everything listed and compared.
        if self.in_step && differs && self.pending.remove(&endpoint).is_none() {
            self.pending.insert(endpoint, put);
        }
    }

    /// A Service has this address now: what is to be taken out there is taken out at once, whenever and for whatever
    /// reason it was to go. Comes after the changes that it makes.
    pub(super) fn claim(&mut self, addr: IpAddr) {
        self.urgent |= self.pending.iter().any(|(endpoint, put)| !put && endpoint.addr == addr);
    }

    /// What it should hold is not certain any more. It ends at once, also where nobody knows what is there.
    pub(super) fn suspend(&mut self) {
        self.wanted = None;
        self.ending = self.present != Some(false);
        self.lose_step();
        if self.state == LaneState::Installed {
            self.state = LaneState::Waiting;
        }
    }

    /// Something was refused: nothing is believed any more.
    pub(super) fn failed(&mut self, error: &LaneError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            log::warn!("express lane for {}: {text}", self.family);
        }
        self.told = Some(text);
        self.state = LaneState::Refused;
        self.gone();
        self.present = None;
    }

    /// Brings the kernel in step. Whether anything was changed there.
    pub(super) fn turn(&mut self, channel: &mut Channel, turn: &Turn<'_>) -> Result<bool, LaneError> {
        let ended = self.ending;
        if ended {
            self.end(channel, turn)?;
        }
        Ok(self.follow(channel, turn)? || ended)
    }

    /// Ends it, so that nothing passes by before it is renewed.
    fn end(&mut self, channel: &mut Channel, turn: &Turn<'_>) -> Result<(), LaneError> {
        match table::renew(channel, self.family, turn.name, Life::Over) {
            // What is not there does not hold.
            Err(error) if error.errno() != Some(libc::ENOENT) => return Err(error),
            _ => {}
        }
        self.ending = false;
        self.renewed = Some(0);
        Ok(())
    }

    fn follow(&mut self, channel: &mut Channel, turn: &Turn<'_>) -> Result<bool, LaneError> {
        if turn.looking {
            let rules = kubeproxy::look(channel, self.family, &mut self.legacy)?;
            self.shares_tables = rules == Rules::IptablesNft;
            if let Some(state) = rules.of_no_use() {
                let removed = self.present != Some(false) && table::remove(channel, self.family, turn.name)?;
                self.gone();
                self.enter(state, turn.name);
                return Ok(removed);
            }
            self.inspect(channel, turn)?;
            if self.state != LaneState::Installed {
                self.state = LaneState::Waiting;
            }
        }
        if !matches!(self.state, LaneState::Waiting | LaneState::Installed) {
            return Ok(false);
        }
        let mut changed = false;
        if self.wanted.is_some() {
            changed = self.bring_in_step(channel, turn)?;
            self.enter(LaneState::Installed, turn.name);
        }
        Ok(self.renew(channel, turn, changed)? || changed)
    }

    /// Looks whether the table is what it should be; if not, it is made anew.
    fn inspect(&mut self, channel: &mut Channel, turn: &Turn<'_>) -> Result<(), LaneError> {
        match (table::inspect(channel, self.family, turn.name)?, self.present) {
            (Structure::Whole, Some(true)) => {}
            (Structure::Whole, _) => {
                // An earlier agent's: what is in it is compared.
                self.lose_step();
                self.present = Some(true);
            }
            (Structure::Absent | Structure::Broken, _) => {
                self.lost(turn);
                self.gone();
            }
        }
        Ok(())
    }

    /// Notes that the table is not what it was made to be. Whether it was thought to be there.
    pub(super) fn lost(&mut self, turn: &Turn<'_>) -> bool {
        let was_there = self.present == Some(true);
        if was_there {
            turn.status.repaired();
            log::warn!(
                "{} was taken away or changed by somebody else: it is put back",
                table::describe(self.family, turn.name)
            );
            self.gone();
        }
        was_there
    }

    fn lose_step(&mut self) {
        self.in_step = false;
        self.urgent = false;
        self.pending.clear();
    }

    fn gone(&mut self) {
        self.lose_step();
        self.present = Some(false);
        self.renewed = None;
    }

    fn bring_in_step(&mut self, channel: &mut Channel, turn: &Turn<'_>) -> Result<bool, LaneError> {
        let (family, name) = (self.family, turn.name);
        let mut changed = false;
        if self.present != Some(true) {
            table::create(channel, family, name)?;
            self.gone();
            self.present = Some(true);
            changed = true;
        }
        self.looks += u32::from(turn.looking);
        if self.in_step && (turn.free || self.urgent) && !self.pending.is_empty() {
            let of = |put: bool| {
                self.pending.iter().filter(move |(_, is)| **is == put).map(|(endpoint, _)| *endpoint)
            };
            match table::change(channel, family, name, of(true), of(false)) {
                Ok(()) => self.stepped(),
                // It is not what it was thought to be.
                Err(error) if error.is_stale() => self.lose_step(),
                Err(error) => return Err(error),
            }
            changed = true;
        }
        let compare = self.in_step && self.pending.is_empty() && turn.looking;
        if !self.in_step {
            self.compare(channel, turn)?;
            changed = true;
        } else if compare && self.looks >= COMPARE_EVERY {
            let (put, taken) = self.compare(channel, turn)?;
            if put + taken > 0 {
                turn.status.repaired();
                log::warn!(
                    "{} was changed by somebody else: {put} endpoints are put back, {taken} taken out",
                    table::describe(family, name)
                );
                changed = true;
            }
        }
        Ok(changed)
    }

    /// Compares all that it holds with what it should hold, and puts it right. How many endpoints were put in and
    /// taken out.
    fn compare(&mut self, channel: &mut Channel, turn: &Turn<'_>) -> Result<(usize, usize), LaneError> {
        let (family, name) = (self.family, turn.name);
        self.looks = 0;
        let (mut held, strange) = table::endpoints(channel, family, name)?;
        if strange > 0 {
            table::create(channel, family, name)?;
            self.gone();
            self.present = Some(true);
            held = BTreeSet::new();
        }
        let none = BTreeSet::new();
        let wanted = self.wanted.as_ref().unwrap_or(&none);
        let added = || wanted.difference(&held).copied();
        let removed = || held.difference(wanted).copied();
        table::change(channel, family, name, added(), removed())?;
        let counts = (added().count(), removed().count() + strange);
        self.stepped();
        Ok(counts)
    }

    fn stepped(&mut self) {
        self.urgent = false;
        self.pending.clear();
        self.in_step = true;
        self.held = self.wanted.as_ref().map_or(0, BTreeSet::len);
    }

    /// Says until when it holds, if it is time to. Whether anything was said.
    ///
    /// It is time when about a quarter of the term has gone by, and when something is changed anyway.
    fn renew(&mut self, channel: &mut Channel, turn: &Turn<'_>, changing: bool) -> Result<bool, LaneError> {
        if self.present != Some(true) {
            return Ok(false);
        }
        let LeaseTime { until, term } = turn.lease.finite(boot_ns());
        let due = match (self.renewed, until) {
            // Nobody has said anything yet: an earlier agent's word holds.
            (None, 0) => false,
            (None, _) => true,
            (Some(renewed), 0) => renewed != 0,
            (Some(renewed), until) => {
                let gained = until.abs_diff(renewed);
                let worth = gained >= LeaseTime { until, term }.step();
                gained > 0 && (changing || (worth && turn.free))
                    // What is renewed all the time needs no look; what is renewed every quarter of an hour does.
                    || turn.lease.is_endless() && turn.looking && !table::is_alive(channel, self.family, turn.name)?
            }
        };
        if !due {
            return Ok(false);
        }
        for _ in 0..SAYINGS {
            let asked = boot_ns();
            let life = match until.checked_sub(asked) {
                Some(left) if left > 0 => Life::For(Duration::from_nanos(left)),
                _ => Life::Over,
            };
            table::renew(channel, self.family, turn.name, life)?;
            if !matches!(life, Life::For(_)) || boot_ns().saturating_sub(asked) < LATE_NS {
                break;
            }
        }
        self.renewed = Some(until);
        Ok(true)
    }

    fn enter(&mut self, state: LaneState, name: &str) {
        if self.state != state {
            self.state = state;
            let what = if state == LaneState::Installed {
                format!("{} endpoints in {}", self.entries(), table::describe(self.family, name))
            } else {
                words(state).to_owned()
            };
            log::info!("express lane for {}: {what}", self.family);
        }
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    #[test]
    fn what_is_taken_back_before_it_was_told_is_not_told() {
        let endpoint = |port: u16| Endpoint { addr: [10u8, 0, 0, 1].into(), protocol: Protocol::Tcp, port };
        let mut side = Side::settled(Family::V4, &[endpoint(1)]);
        for (port, put) in [(2, true), (2, false), (1, false), (1, true)] {
            side.change(endpoint(port), put);
        }
        assert!(!side.is_behind(), "{:?}", side.pending);
        // Nor is what is said twice.
        side.change(endpoint(1), true);
        assert!(!side.is_behind(), "{:?}", side.pending);
        for (port, put) in [(1, false), (2, true), (3, true), (3, false), (3, true)] {
            side.change(endpoint(port), put);
        }
        let expect = BTreeMap::from([(endpoint(1), false), (endpoint(2), true), (endpoint(3), true)]);
        assert_eq!(side.pending, expect);
    }

    #[test]
    fn it_is_ended_although_nobody_knows_what_is_there() {
        let mut side = Side::settled(Family::V4, &[]);
        side.failed(&LaneError::Unstable { attempts: 5 });
        assert!(!side.is_ending(), "an error alone does not end it: the lease does");
        side.suspend();
        assert!(side.is_ending());
        // It fails again: it is still to be tried.
        side.failed(&LaneError::Unstable { attempts: 5 });
        assert!(side.is_ending());
        // What is known to be gone need not be ended.
        let mut side = Side::new(Family::V4);
        side.present = Some(false);
        side.suspend();
        assert!(!side.is_ending());
    }

    #[test]
    fn what_is_at_an_address_that_a_service_takes_does_not_wait() {
        let endpoint =
            |last: u8, port| Endpoint { addr: [10, 0, 0, last].into(), protocol: Protocol::Tcp, port };
        let mut side = Side::settled(Family::V4, &[endpoint(1, 80), endpoint(2, 80), endpoint(2, 81)]);
        side.claim(endpoint(2, 80).addr);
        assert!(!side.is_urgent(), "nothing is to go");
        side.change(endpoint(1, 80), false);
        side.change(endpoint(3, 80), true);
        side.claim(endpoint(3, 80).addr);
        assert!(!side.is_urgent(), "it was not put in yet");
        // It goes with its Service first, and while it waits, another Service takes its address.
        side.change(endpoint(2, 81), false);
        side.claim([10, 0, 0, 9].into());
        assert!(!side.is_urgent());
        side.claim(endpoint(2, 81).addr);
        assert!(side.is_urgent());
        side.stepped();
        assert!(!side.is_urgent());
    }
}
