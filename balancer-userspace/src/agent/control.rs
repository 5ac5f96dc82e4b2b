//! What the agent says of itself in the maps: its lease, its identity, its freshness.

use std::{mem::offset_of, path::Path, sync::atomic::Ordering, time::Duration};

use balancer_common::abi::{Control, LAYOUT_VERSION, Mode};

use super::offset::node_offset;
use crate::{
    cli::agent::AgentArgs,
    datapath::{Access, Maps, Pins, boot_ns, from_text, thread_time, to_text},
    source::SourceHealth,
};

/// What became of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Renewal {
    /// The lease was valid, and is for longer now.
    Done,
    /// It has lapsed, or was never taken: it takes a complete view to take it.
    TooLate,
}

/// Whether this process goes on in time. It may be stopped, or its machine suspended, at any point; what it was
/// told before is then worth nothing, even what still waits to be read.
pub(super) struct Pace {
    lease: Option<Duration>,
    turned_ns: u64,
}

impl Pace {
    pub(super) fn new(lease: Option<Duration>) -> Self {
        Self { lease, turned_ns: boot_ns() }
    }

    /// Whether it stood still for longer than the lease since it was asked last.
    pub(super) fn stood_still(&mut self, now_ns: u64) -> bool {
        let still = now_ns.saturating_sub(self.turned_ns);
        self.turned_ns = now_ns;
        self.lease.is_some_and(|lease| u128::from(still) > lease.as_nanos())
    }

    /// Does some work, and says as of when it is done: what it took the processor for is no standing still, so
    /// that a lease may be shorter than the work on a large first list.
    pub(super) fn work<T>(&mut self, work: impl FnOnce() -> T) -> (T, u64) {
        let before = thread_time();
        let result = work();
        self.turned_ns += thread_time().saturating_sub(before).as_nanos() as u64;
        (result, self.turned_ns)
    }
}

/// Writes the CONTROL map.
pub(super) struct ControlWriter {
    lease: Option<Duration>,
    mode: Mode,
    node_offset: u32,
    node: [u8; 64],
    source: [u8; 128],
    cgroup: [u8; 128],
    synced: bool,
}

impl ControlWriter {
    pub(super) fn new(args: &AgentArgs, cgroup: &Path, source: &str) -> Self {
        let node = args.node_name();
        Self {
            lease: args.lease.duration(),
            mode: args.mode,
            node_offset: node_offset(&node),
            node: to_text(&node),
            source: to_text(source),
            cgroup: to_text(&cgroup.to_string_lossy()),
            synced: false,
        }
    }

    /// Introduces the agent. Keeps the lease and the freshness that an earlier agent left: its tables are
    /// used until this one knows better. Where that agent was in another mode nothing is translated until
    /// this one's view is complete.
    pub(super) fn start(&mut self, maps: &Maps) {
        let earlier = maps.control();
        let lease_expires_ns = if self.changes_mode(maps) { 0 } else { earlier.lease_expires_ns };
        maps.control.set(
            0,
            &Control {
                layout_version: LAYOUT_VERSION,
                node_offset: self.node_offset,
                mode: self.mode as u32,
                excluded: earlier.excluded,
                lease_expires_ns,
                lease_ns: self.lease.map_or(0, |lease| lease.as_nanos() as u64),
                agent_started_ns: boot_ns(),
                synced_ns: 0,
                contact_ns: earlier.contact_ns,
                changed_ns: earlier.changed_ns,
                agent_pid: std::process::id(),
                skipped: 0,
                lane: [0; 2],
                lane_entries: [0; 2],
                agent_version: to_text(env!("CARGO_PKG_VERSION")),
                node: self.node,
                source: self.source,
                cgroup: self.cgroup,
            },
        );
    }

    /// Whether an earlier agent was in another mode.
    pub(super) fn changes_mode(&self, maps: &Maps) -> bool {
        let earlier = maps.control();
        earlier.agent_started_ns != 0 && Mode::from_u32(earlier.mode) != self.mode
    }

    /// Lets the lease lapse at once.
    pub(super) fn suspend(&self, maps: &Maps) {
        store(maps, offset_of!(Control, lease_expires_ns), 0);
    }

    /// Notes how many cgroups are left alone. Those who look for them see the map that holds them already.
    pub(super) fn excluded(&self, maps: &Maps, count: u32) {
        // Two words of 32 bits, as they lie in memory.
        store(maps, offset_of!(Control, mode), bytemuck::cast([self.mode as u32, count]));
    }

    /// Renews the lease, unless it has lapsed: while nobody watched, pods may have gone whose addresses
    /// others have now. One that has not lapsed is renewed even while the view is not complete, for then
    /// the tables are as fresh as those of an agent whose source is out of reach.
    ///
    /// `now_ns` is when the caller last knew that it runs: one that is stopped between a look at the clock and
    /// the renewal takes a lease that has lapsed by then.
    pub(super) fn renew(&self, maps: &Maps, now_ns: u64) -> Renewal {
        if maps.control().lease_expires_ns < now_ns {
            return Renewal::TooLate;
        }
        self.take(maps, now_ns);
        Renewal::Done
    }

    fn take(&self, maps: &Maps, now_ns: u64) {
        let until = self.lease.map_or(u64::MAX, |lease| now_ns.saturating_add(lease.as_nanos() as u64));
        store(maps, offset_of!(Control, lease_expires_ns), until);
    }

    /// The source will list everything again: only then is the view complete.
    pub(super) fn start_over(&mut self, maps: &Maps) {
        self.synced = false;
        store(maps, offset_of!(Control, synced_ns), 0);
    }

    /// The tables changed.
    pub(super) fn changed(&self, maps: &Maps) {
        store(maps, offset_of!(Control, changed_ns), boot_ns());
    }

    /// The agent's view is complete, as of `now_ns`: takes the lease. Whether it was not complete before.
    pub(super) fn synced(&mut self, maps: &Maps, now_ns: u64) -> bool {
        let first = !self.synced;
        if first {
            self.synced = true;
            store(maps, offset_of!(Control, synced_ns), now_ns);
            self.take(maps, now_ns);
        }
        first
    }

    /// Notes how the express lane is: its states and its entries, of IPv4 and IPv6.
    pub(super) fn lane(&self, maps: &Maps, states: [u32; 2], entries: [u32; 2]) {
        // Two words of 32 bits each, as they lie in memory.
        store(maps, offset_of!(Control, lane), bytemuck::cast(states));
        store(maps, offset_of!(Control, lane_entries), bytemuck::cast(entries));
    }

    /// Notes how long ago the source was in touch with what it watches, and how much of it was skipped.
    pub(super) fn source(&self, maps: &Maps, health: &SourceHealth) {
        if let Some(age) = health.contact() {
            let then = boot_ns().saturating_sub(age.as_nanos() as u64);
            store(maps, offset_of!(Control, contact_ns), then);
        }
        let skipped = health.snapshot().problem_count as u32;
        let control = maps.control();
        if control.skipped != skipped {
            // Two words of 32 bits, as they lie in memory.
            let pair = [control.agent_pid, skipped];
            store(maps, offset_of!(Control, agent_pid), bytemuck::cast(pair));
        }
    }
}

/// Stores one word of the only value.
fn store(maps: &Maps, offset: usize, value: u64) {
    if let Some(place) = maps.control.word(0, offset / 8) {
        place.store(value, Ordering::Release);
    }
}

/// Who holds the lock on the pins, as far as the maps tell.
pub(super) fn describe_holder(pins: &Pins) -> String {
    match Maps::open(pins, Access::Read) {
        Ok(maps) => {
            let control = maps.control();
            format!(
                "process {} ({}, version {}, node {})",
                control.agent_pid,
                from_text(&control.source),
                from_text(&control.agent_version),
                from_text(&control.node)
            )
        }
        Err(_) => "it is still starting".to_owned(),
    }
}

const _: () = {
    // Words that are stored by themselves are aligned ones.
    assert!(offset_of!(Control, lease_expires_ns).is_multiple_of(8));
    assert!(offset_of!(Control, mode).is_multiple_of(8));
    assert!(offset_of!(Control, excluded) == offset_of!(Control, mode) + 4);
    assert!(offset_of!(Control, synced_ns).is_multiple_of(8));
    assert!(offset_of!(Control, contact_ns).is_multiple_of(8));
    assert!(offset_of!(Control, changed_ns).is_multiple_of(8));
    assert!(offset_of!(Control, agent_pid).is_multiple_of(8));
    assert!(offset_of!(Control, skipped) == offset_of!(Control, agent_pid) + 4);
    assert!(offset_of!(Control, lane).is_multiple_of(8));
    assert!(offset_of!(Control, lane_entries).is_multiple_of(8));
};

#[cfg(test)]
mod tests {
    use super::{Duration, Pace, boot_ns};

    #[test]
    fn standing_still_is_noticed_once() {
        const SECOND: u64 = 1_000_000_000;
        let start = boot_ns();
        let mut pace = Pace::new(Some(Duration::from_secs(2)));
        assert!(!pace.stood_still(start + SECOND));
        assert!(!pace.stood_still(start + 3 * SECOND));
        assert!(pace.stood_still(start + 6 * SECOND));
        assert!(!pace.stood_still(start + 7 * SECOND));
        let (_, as_of) = pace.work(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(as_of < start + 7 * SECOND + 20_000_000, "to sleep is not to work");
        assert!(!Pace::new(None).stood_still(u64::MAX), "a lease for ever asks for no sign of life");
    }
}
