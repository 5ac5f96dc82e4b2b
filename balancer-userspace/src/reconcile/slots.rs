//! The slots of a Service port: finding room for them, and switching the Service to them.

use std::{net::SocketAddr, time::Instant};

use balancer_common::abi::{SERVICE_UNIFORM, Service, Slot, SlotRange};

use super::{
    apply::{Applied, Outcome, Reconciler, frontend_key},
    kernel::KernelTables,
    layout::{Member, layout, plain},
    runs::Runs,
    settings,
};
use crate::{datapath::DatapathError, model::DesiredPort};

/// Where slots may be written.
enum Room {
    /// They are there already.
    There,
    /// To a run of their own.
    New(SlotRange),
    /// To the run that the Service uses.
    InPlace(SlotRange),
}

impl<K: KernelTables> Reconciler<K> {
    /// Lays the slots out for the members of a port, and switches the Service to them, if they differ
    /// from those that it has.
    ///
    /// Where there is no room for a run beside the old one, the old one is rewritten slot by slot: each
    /// names a backend of the old set or of the new one at every moment. Where there is no room for the
    /// whole of a schedule, each backend gets one slot, or as many do as fit.
    pub(super) fn write_slots(
        &mut self,
        applied: &mut Applied,
        desired: &DesiredPort,
        now: Instant,
        outcome: &mut Outcome,
    ) {
        (applied.algorithm, applied.affinity) = (desired.algorithm, desired.affinity);
        applied.connections = desired.connections;
        let members = members(applied);
        let (slots, room) =
            self.fit(applied.slots, layout(applied.algorithm, &members), &members, now, outcome);
        let old = applied.slots;
        match room {
            Room::There => {}
            Room::New(range) | Room::InPlace(range) => {
                self.kernel.set_slots(range.base(), &slots);
                applied.slots = range;
                applied.revision = applied.revision.wrapping_add(1);
            }
        }
        let service = service_entry(applied, &members);
        if self.kernel.service(applied.id) != service {
            self.kernel.set_service(applied.id, &service);
            outcome.changed();
        }
        match room {
            Room::There => {}
            Room::New(_) => self.runs.give_back(old, now),
            Room::InPlace(range) => self.runs.shrink(old, range.len(), now),
        }
    }

    /// What of the slots in `whole` is to be written, and where.
    fn fit(
        &mut self,
        old: SlotRange,
        whole: Vec<Slot>,
        members: &[Member],
        now: Instant,
        outcome: &mut Outcome,
    ) -> (Vec<Slot>, Room) {
        if let Some(room) = self.room_for(&whole, old, now) {
            return (whole, room);
        }
        let full =
            DatapathError::Full { map: "SLOTS", capacity: self.kernel.capacities().2, flag: "max-slots" };
        let mut plain = plain(members);
        if plain != whole
            && let Some(room) = self.room_for(&plain, old, now)
        {
            outcome.lacks(format!("served without weights: {full}"));
            return (plain, room);
        }
        let longest = self.runs.longest(now).max(Runs::room(old)) as usize;
        outcome.lacks(if longest == 0 {
            format!("passed through: {full}")
        } else {
            format!("{} endpoints left out: {full}", plain.len().saturating_sub(longest))
        });
        plain.truncate(longest);
        let room = self.room_for(&plain, old, now).unwrap_or(Room::New(SlotRange::new(0, 0)));
        (plain, room)
    }

    fn room_for(&mut self, slots: &[Slot], old: SlotRange, now: Instant) -> Option<Room> {
        if self.holds(old, slots) {
            return Some(Room::There);
        }
        let len = slots.len() as u32;
        if let Some(range) = self.runs.take(len, now) {
            return Some(Room::New(range));
        }
        (len <= Runs::room(old)).then(|| Room::InPlace(SlotRange::new(old.base(), len)))
    }

    /// Whether a run in the kernel holds exactly these slots.
    pub(super) fn holds(&self, range: SlotRange, slots: &[Slot]) -> bool {
        range.len() as usize == slots.len()
            && (range.base()..).zip(slots).all(|(index, slot)| self.kernel.slot(index) == *slot)
    }
}

/// The entry of a port whose slots are written.
pub(super) fn service_entry(applied: &Applied, members: &[Member]) -> Service {
    let uniform = members.windows(2).all(|pair| pair[0].weight == pair[1].weight);
    let settings = settings::written(&applied.connections);
    Service {
        slots: applied.slots,
        frontend: frontend_key(&applied.frontend),
        algorithm: applied.algorithm as u32,
        affinity_seconds: applied.affinity.map_or(0, |timeout| timeout.as_secs() as u32),
        flags: settings.flags | if uniform { SERVICE_UNIFORM } else { 0 },
        backends: members.len().min(applied.slots.len() as usize) as u32,
        revision: applied.revision,
        ..settings
    }
}

/// The members of a port, sorted by address and port.
pub(super) fn members(applied: &Applied) -> Vec<Member> {
    applied
        .members
        .iter()
        .map(|((addr, port), held)| Member {
            id: held.id,
            weight: held.backend.weight,
            addr: SocketAddr::new(*addr, *port),
        })
        .collect()
}
