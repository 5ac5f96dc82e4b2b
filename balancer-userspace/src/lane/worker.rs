//! The thread: what should be, as it is told, and what is, brought in step.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use balancer_common::abi::LaneState;

use super::{
    Command, Endpoint, LaneError, Status, kubeproxy,
    netlink::Channel,
    table::{self, Life, Structure},
    words,
    xtables::Legacy,
};
use crate::{datapath::boot_ns, model::Family};

/// How often it is looked what kube-proxy does, and whether the table is still there.
const LOOK: Duration = Duration::from_secs(5);
/// How many of those lie between two comparisons of everything that is in it.
const COMPARE_EVERY: u32 = 12;

/// Both families.
pub(super) struct Worker {
    name: String,
    status: Arc<Status>,
    channel: Option<Channel>,
    sides: [Side; 2],
    /// When the lease lapses, if that was said: nanoseconds of the boot time, `u64::MAX` for never.
    until: u64,
    next_look: Instant,
    /// Whether all of it is to go.
    removing: bool,
    /// Dropped in the end: whoever waits for that is told.
    _ended: Sender<()>,
}

/// One family.
struct Side {
    family: Family,
    legacy: Legacy,
    state: LaneState,
    /// What it should hold; `None` until the source has listed everything.
    wanted: Option<BTreeSet<Endpoint>>,
    /// What changed since it was in step: put in, or taken out.
    pending: BTreeMap<Endpoint, bool>,
    /// Whether it held what it should but for what is pending.
    in_step: bool,
    /// Whether the table is there; `None` if that is not known.
    present: Option<bool>,
    /// Until when it was last said to hold.
    renewed: Option<u64>,
    looks: u32,
    /// What was told last.
    told: Option<String>,
}

impl Worker {
    pub(super) fn new(name: String, status: Arc<Status>, ended: Sender<()>) -> Self {
        Self {
            name,
            status,
            channel: None,
            sides: [Family::V4, Family::V6].map(Side::new),
            until: 0,
            next_look: Instant::now(),
            removing: false,
            _ended: ended,
        }
    }

    /// Until nobody can tell it anything any more. The lane stays: it lapses by itself.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        loop {
            let wait = self.next_look.saturating_duration_since(Instant::now());
            match commands.recv_timeout(wait) {
                Ok(command) => {
                    self.take(command);
                    commands.try_iter().for_each(|command| self.take(command));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.turn();
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Whole(endpoints) => {
                for side in &mut self.sides {
                    let own = endpoints.iter().filter(|endpoint| endpoint.family() == side.family);
                    side.wanted = Some(own.copied().collect());
                    side.pending.clear();
                    side.in_step = false;
                }
            }
            Command::Change(delta) => {
                let changes = delta.removed.iter().map(|it| (it, false));
                for (endpoint, put) in changes.chain(delta.added.iter().map(|it| (it, true))) {
                    let index = usize::from(endpoint.family() == Family::V6);
                    self.sides[index].change(*endpoint, put);
                }
            }
            Command::Renew(until) => self.until = until,
            Command::Remove => self.removing = true,
            Command::Suspend => {
                self.until = 0;
                for side in &mut self.sides {
                    side.wanted = None;
                    if side.state == LaneState::Installed {
                        side.state = LaneState::Waiting;
                    }
                }
            }
        }
    }

    fn turn(&mut self) {
        if self.removing {
            return self.remove();
        }
        let looking = Instant::now() >= self.next_look;
        if looking {
            self.next_look = Instant::now() + LOOK;
        }
        for side in &mut self.sides {
            // After an error nothing is tried before the next look, but to let it lapse.
            if !looking && side.state == LaneState::Refused && self.until != 0 {
                continue;
            }
            let channel = match &mut self.channel {
                Some(channel) => Ok(channel),
                none => Channel::open().map(|channel| none.insert(channel)),
            };
            let result =
                channel.and_then(|channel| side.turn(channel, &self.name, looking, self.until, &self.status));
            if let Err(error) = result {
                // What it still answers would be taken for an answer to something else.
                self.channel = None;
                side.failed(&error);
            }
            self.status.set(side.family, side.state, side.entries());
        }
    }
}

impl Worker {
    fn remove(&mut self) {
        self.next_look = Instant::now() + LOOK;
        let name = &self.name;
        let result = Channel::open().and_then(|mut channel| {
            self.sides.iter().try_for_each(|side| table::remove(&mut channel, side.family, name).map(drop))
        });
        if let Err(error) = result {
            log::warn!("the express lane is left to lapse: {error}");
        }
    }
}

impl Side {
    fn new(family: Family) -> Self {
        Self {
            family,
            legacy: Legacy::default(),
            state: LaneState::Waiting,
            wanted: None,
            pending: BTreeMap::new(),
            in_step: false,
            present: None,
            renewed: None,
            looks: 0,
            told: None,
        }
    }

    fn change(&mut self, endpoint: Endpoint, put: bool) {
        let Some(wanted) = &mut self.wanted else { return };
        if put {
            wanted.insert(endpoint);
        } else {
            wanted.remove(&endpoint);
        }
        self.pending.insert(endpoint, put);
    }

    fn entries(&self) -> usize {
        match (&self.wanted, self.state) {
            (Some(wanted), LaneState::Installed) => wanted.len(),
            _ => 0,
        }
    }

    fn turn(
        &mut self,
        channel: &mut Channel,
        name: &str,
        looking: bool,
        until: u64,
        status: &Status,
    ) -> Result<(), LaneError> {
        if looking {
            let found = kubeproxy::look(channel, self.family, &mut self.legacy)?;
            if found != LaneState::Installed {
                if self.present != Some(false) {
                    table::remove(channel, self.family, name)?;
                    self.gone();
                }
                return Ok(self.enter(found, name));
            }
            self.inspect(channel, name, status)?;
            if self.state != LaneState::Installed {
                self.state = LaneState::Waiting;
            }
        }
        match self.state {
            LaneState::Waiting | LaneState::Installed => {}
            _ => return Ok(()),
        }
        if self.wanted.is_some() {
            self.bring_in_step(channel, name, looking, status)?;
            self.enter(LaneState::Installed, name);
        }
        self.renew(channel, name, looking, until)
    }

    /// Looks whether the table is what it should be; if not, it is made anew.
    fn inspect(&mut self, channel: &mut Channel, name: &str, status: &Status) -> Result<(), LaneError> {
        let found = table::inspect(channel, self.family, name)?;
        match (found, self.present) {
            (Structure::Whole, Some(true)) => {}
            // An earlier agent's: what is in it is compared.
            (Structure::Whole, _) => (self.present, self.in_step) = (Some(true), false),
            (Structure::Absent | Structure::Broken, before) => {
                if before == Some(true) {
                    status.repaired();
                    log::warn!(
                        "{} was taken away or changed by somebody else: it is put back",
                        table::describe(self.family, name)
                    );
                }
                self.gone();
            }
        }
        Ok(())
    }

    fn gone(&mut self) {
        self.present = Some(false);
        self.in_step = false;
        self.renewed = None;
    }

    fn bring_in_step(
        &mut self,
        channel: &mut Channel,
        name: &str,
        looking: bool,
        status: &Status,
    ) -> Result<(), LaneError> {
        let family = self.family;
        if self.present != Some(true) {
            table::create(channel, family, name)?;
            (self.present, self.in_step) = (Some(true), false);
        }
        self.looks += u32::from(looking);
        if self.in_step && !self.pending.is_empty() {
            let of = |put: bool| {
                self.pending.iter().filter(move |(_, is)| **is == put).map(|(endpoint, _)| *endpoint)
            };
            match table::change(channel, family, name, of(true), of(false)) {
                Ok(()) => self.pending.clear(),
                // It is not what it was thought to be.
                Err(error) if error.is_stale() => self.in_step = false,
                Err(error) => return Err(error),
            }
        }
        let compare = self.in_step && looking && self.looks.is_multiple_of(COMPARE_EVERY);
        if !self.in_step || compare {
            let (held, strange) = table::endpoints(channel, family, name)?;
            if strange > 0 {
                table::create(channel, family, name)?;
                self.renewed = None;
            }
            let held = if strange > 0 { BTreeSet::new() } else { held };
            let wanted = self.wanted.as_ref().map_or_else(BTreeSet::new, BTreeSet::clone);
            let (added, removed): (Vec<_>, Vec<_>) =
                (wanted.difference(&held).copied().collect(), held.difference(&wanted).copied().collect());
            if compare && !(added.is_empty() && removed.is_empty()) {
                status.repaired();
                log::warn!(
                    "{} was changed by somebody else: {} endpoints are put back, {} taken out",
                    table::describe(family, name),
                    added.len(),
                    removed.len()
                );
            }
            table::change(channel, family, name, added.into_iter(), removed.into_iter())?;
            self.pending.clear();
            self.in_step = true;
        }
        Ok(())
    }

    /// Says until when it holds, if that is not what was said.
    fn renew(
        &mut self,
        channel: &mut Channel,
        name: &str,
        looking: bool,
        until: u64,
    ) -> Result<(), LaneError> {
        if self.present != Some(true) {
            return Ok(());
        }
        // What is renewed all the time needs no look; what never lapses does.
        let lost = looking && until == u64::MAX && !table::is_alive(channel, self.family, name)?;
        if self.renewed == Some(until) && !lost {
            return Ok(());
        }
        let life = match until {
            // Nobody has said anything yet: an earlier agent's word holds.
            0 if self.renewed.is_none() => return Ok(()),
            u64::MAX => Life::Endless,
            until => match until.checked_sub(boot_ns()) {
                Some(left) if left > 0 => Life::For(Duration::from_nanos(left)),
                _ => Life::Over,
            },
        };
        table::renew(channel, self.family, name, life)?;
        self.renewed = Some(until);
        Ok(())
    }

    fn enter(&mut self, state: LaneState, name: &str) {
        let installed = state == LaneState::Installed;
        if self.state != state {
            let what = if installed {
                format!(
                    "{} endpoints in {}",
                    self.entries_when_installed(),
                    table::describe(self.family, name)
                )
            } else {
                words(state).to_owned()
            };
            log::info!("express lane for {}: {what}", self.family);
        }
        self.state = state;
        self.told = None;
    }

    fn entries_when_installed(&self) -> usize {
        self.wanted.as_ref().map_or(0, BTreeSet::len)
    }

    fn failed(&mut self, error: &LaneError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            log::warn!("express lane for {}: {text}", self.family);
        }
        self.told = Some(text);
        self.state = LaneState::Refused;
        self.present = None;
        self.in_step = false;
        self.renewed = None;
    }
}
