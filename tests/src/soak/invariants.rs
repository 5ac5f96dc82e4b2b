//! What must hold, as pure functions of what was read: each says in words how it does not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use balancer_common::abi::BackendStats;

use super::{watcher::BackendKey, world::View};

/// Counters of all backends at one instant.
pub type Counters = BTreeMap<BackendKey, BackendStats>;

/// What became of a comparison with something that takes time to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compared {
    /// Both say the same.
    Same,
    /// The counters changed meanwhile: look again.
    Moving,
    /// They differ, and the counters stood still.
    Differ(String),
}

/// The counters before and after a listing of the open sockets, and that listing: of each backend so many.
pub fn active_is_open(before: &Counters, listed: &HashMap<BackendKey, u64>, after: &Counters) -> Compared {
    let still = |counters: &Counters| -> BTreeMap<BackendKey, (u64, u64, u64)> {
        counters.iter().map(|(key, it)| (*key, (it.active, it.opened, it.closed))).collect()
    };
    if still(before) != still(after) {
        return Compared::Moving;
    }
    let counted = |key: &BackendKey| after.get(key).map_or(0, |stats| stats.active);
    let keys: BTreeSet<_> = after.keys().chain(listed.keys()).collect();
    let differ = |key: &&BackendKey| counted(key) != listed.get(*key).copied().unwrap_or(0);
    match keys.into_iter().find(differ) {
        None => Compared::Same,
        Some(key) => Compared::Differ(format!(
            "backend {} of generation {} counts {} active, and {} sockets are open to it",
            key.0,
            key.1,
            counted(key),
            listed.get(key).copied().unwrap_or(0)
        )),
    }
}

/// opened - closed == active, of counters that stood still.
pub fn opened_closed(counters: &Counters) -> Result<(), String> {
    let wrong = |stats: &BackendStats| stats.opened != stats.closed.wrapping_add(stats.active);
    match counters.iter().find(|(_, stats)| wrong(stats)) {
        None => Ok(()),
        Some(((id, generation), stats)) => Err(format!(
            "backend {id} of generation {generation}: {} opened - {} closed is not {} active",
            stats.opened, stats.closed, stats.active
        )),
    }
}

/// The tables are what the API objects say.
pub fn tables(wanted: &View, found: &View) -> Result<(), String> {
    let keys: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
    let wrong: Vec<String> = keys
        .into_iter()
        .filter(|key| wanted.get(*key) != found.get(*key))
        .map(|key| {
            let words =
                |view: &View| view.get(key).map_or("is not there".to_owned(), |set| format!("{set:?}"));
            format!("{} {}: wanted {}, found {}", key.0, key.1, words(wanted), words(found))
        })
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// As many ids are in use as there is something to use them for.
pub fn ids(what: &str, used: u64, wanted: u64) -> Result<(), String> {
    if used == wanted { Ok(()) } else { Err(format!("{used} {what} are in use, for {wanted}")) }
}

/// Names are the same as at the beginning: of pins, or of programs that are attached.
pub fn same(what: &str, first: &BTreeSet<String>, now: &BTreeSet<String>) -> Result<(), String> {
    let more: Vec<_> = now.difference(first).collect();
    let fewer: Vec<_> = first.difference(now).collect();
    if more.is_empty() && fewer.is_empty() {
        Ok(())
    } else {
        Err(format!("{what}: there are also {more:?}, and {fewer:?} are missing"))
    }
}

/// Something that may not grow for ever: what it may be at most is learned from its first few values.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    what: &'static str,
    /// Values to learn from.
    warm_up: u32,
    /// What is added to the largest of these, and by how much it is multiplied, in percent.
    slack: (u64, u64),
    largest: u64,
    seen: u32,
}

impl Bound {
    /// At most the largest of the first values, grown by so many percent, and so much more.
    pub const fn new(what: &'static str, warm_up: u32, percent: u64, more: u64) -> Self {
        Self { what, warm_up, slack: (percent, more), largest: 0, seen: 0 }
    }

    /// Takes a value in.
    pub fn see(&mut self, value: u64) -> Result<(), String> {
        self.seen += 1;
        if self.seen <= self.warm_up {
            self.largest = self.largest.max(value);
        }
        if self.allows(value) {
            return Ok(());
        }
        let (what, largest, limit) = (self.what, self.largest, self.limit());
        Err(format!("{what}: {value}, after at most {largest} at first: more than {limit}"))
    }

    /// Whether a value is within the bound, as far as that is known.
    pub const fn allows(&self, value: u64) -> bool {
        self.seen < self.warm_up || value <= self.limit()
    }

    const fn limit(&self) -> u64 {
        let (percent, more) = self.slack;
        self.largest * (100 + percent) / 100 + more
    }

    /// The largest of the first values.
    pub const fn learned(&self) -> u64 {
        self.largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(active: u64, opened: u64, closed: u64) -> Counters {
        [((7, 1), BackendStats { active, opened, closed, ..BackendStats::default() })].into()
    }

    #[test]
    fn a_count_without_a_socket_is_found_and_so_is_a_socket_without_a_count() {
        let two = counters(2, 5, 3);
        let listed = |count| [((7, 1), count)].into();
        assert_eq!(active_is_open(&two, &listed(2), &two), Compared::Same);
        assert_eq!(active_is_open(&two, &listed(2), &counters(2, 6, 4)), Compared::Moving);
        let one_less = "backend 7 of generation 1 counts 2 active, and 1 sockets are open to it";
        assert_eq!(active_is_open(&two, &listed(1), &two), Compared::Differ(one_less.into()));
        assert!(matches!(active_is_open(&two, &HashMap::new(), &two), Compared::Differ(_)));
        // Of an earlier generation: its backend has gone while a socket was open to it.
        let other = [((7, 1), 2), ((7, 0), 1)].into();
        assert!(matches!(active_is_open(&two, &other, &two), Compared::Differ(_)));
    }

    #[test]
    fn a_close_that_was_not_counted_is_found() {
        assert_eq!(opened_closed(&counters(2, 5, 3)), Ok(()));
        assert!(opened_closed(&counters(3, 5, 3)).is_err());
        assert!(opened_closed(&counters(2, 5, 2)).is_err());
    }

    #[test]
    fn a_stale_endpoint_is_found_and_so_is_a_service_too_many() {
        let view = |pods: &[&str]| -> View {
            let leads = pods.iter().map(|pod| pod.parse().unwrap()).collect();
            [(("TCP".to_owned(), "10.96.0.1:80".parse().unwrap()), leads)].into()
        };
        let (one, two) = (view(&["10.244.0.3:80"]), view(&["10.244.0.3:80", "10.244.0.4:80"]));
        assert_eq!(tables(&two, &two), Ok(()));
        assert!(tables(&one, &two).is_err() && tables(&two, &one).is_err());
        assert!(tables(&View::new(), &one).is_err() && tables(&one, &View::new()).is_err());
    }

    #[test]
    fn what_is_left_behind_is_found() {
        assert_eq!(ids("Services", 4, 4), Ok(()));
        assert_eq!(ids("Services", 5, 4), Err("5 Services are in use, for 4".to_owned()));
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(same("pins", &set(&["a", "b"]), &set(&["b", "a"])), Ok(()));
        assert!(same("pins", &set(&["a"]), &set(&["a", "b"])).is_err());
        assert!(same("pins", &set(&["a", "b"]), &set(&["a"])).is_err());
    }

    #[test]
    fn growth_is_found() {
        let mut bound = Bound::new("fds", 3, 50, 4);
        for value in [10, 12, 8] {
            assert_eq!(bound.see(value), Ok(()));
        }
        assert_eq!(bound.learned(), 12);
        assert!(bound.allows(22) && !bound.allows(23));
        assert_eq!(bound.see(22), Ok(()));
        assert_eq!(bound.see(23), Err("fds: 23, after at most 12 at first: more than 22".to_owned()));
    }
}
