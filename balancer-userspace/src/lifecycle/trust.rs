//! What offers teach of a Service: whether its silence is idleness, and how long it must last. Pure.
//!
//! An offer is a connection that could have been moved at some instant, and was not. What comes next on it
//! says what a move would have done: if the client speaks, nothing; if the server speaks, it would have been
//! cut off. A silence that a server breaks teaches how long to wait.

use std::{collections::VecDeque, time::Duration};

use super::policy::PAUSE_NS;

/// How many offers in a row must have done no harm before the first connection is moved.
pub const CLEAN: u64 = 200;
/// How long a silence that a server broke is remembered, in nanoseconds.
const MEMORY_NS: u64 = PAUSE_NS;
/// A Service whose servers broke so many silences within that time ...
const OFTEN: usize = 3;
/// ... and more than one in so many of all that were broken, speaks first.
const ONE_IN: usize = 20;

/// Who spoke next on a connection that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The client did, or it was closed.
    Harmless,
    /// The server did, after so long a silence.
    Harmful(Duration),
}

/// What is known of a Service.
#[derive(Clone, Debug, Default)]
pub struct Lessons {
    clean: u64,
    silences: VecDeque<(u64, Next)>,
}

impl Lessons {
    /// Begins with what is on record: so many offers in a row did no harm.
    pub fn from_record(clean: u64) -> Self {
        Self { clean, silences: VecDeque::new() }
    }

    /// Notes what came of an offer.
    pub fn note(&mut self, now_ns: u64, next: Next) {
        match next {
            Next::Harmless => self.clean += 1,
            Next::Harmful(_) => self.clean = 0,
        }
        // Bounded, whatever the number of offers: the older half of what is beyond this says nothing new.
        if self.silences.len() == 2_000 {
            self.silences.drain(..1_000);
        }
        self.silences.push_back((now_ns, next));
    }

    /// Forgets what is too old.
    pub fn pass(&mut self, now_ns: u64) {
        while self.silences.front().is_some_and(|(then, _)| now_ns.saturating_sub(*then) > MEMORY_NS) {
            self.silences.pop_front();
        }
    }

    /// Offers in a row that did no harm.
    pub const fn clean(&self) -> u64 {
        self.clean
    }

    /// The longest silence of late that a server broke.
    pub fn longest_push(&self) -> Option<Duration> {
        self.silences
            .iter()
            .filter_map(|(_, next)| if let Next::Harmful(gap) = next { Some(*gap) } else { None })
            .max()
    }

    /// How long a connection must be quiet: what is asked for, or twice the longest silence that a server broke.
    pub fn quiet(&self, asked: Duration) -> Duration {
        self.longest_push().map_or(asked, |gap| asked.max(gap.saturating_mul(2)))
    }

    /// Whether servers often speak first: then no silence is long enough.
    pub fn speaks_first(&self) -> bool {
        let pushes = self.silences.iter().filter(|(_, next)| matches!(next, Next::Harmful(_))).count();
        pushes >= OFTEN && pushes * ONE_IN > self.silences.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn push(seconds: u64) -> Next {
        Next::Harmful(Duration::from_secs(seconds))
    }

    #[test]
    fn a_push_costs_the_record_and_lengthens_the_silence() {
        let asked = Duration::from_secs(2);
        let mut lessons = Lessons::from_record(150);
        (0..50).for_each(|_| lessons.note(SECOND, Next::Harmless));
        assert_eq!((lessons.clean(), lessons.quiet(asked)), (CLEAN, asked));
        lessons.note(SECOND, push(3));
        assert_eq!((lessons.clean(), lessons.quiet(asked)), (0, Duration::from_secs(6)));
        lessons.note(SECOND, Next::Harmful(Duration::from_millis(700)));
        assert_eq!(lessons.quiet(asked), Duration::from_secs(6), "the longest counts");
        lessons.pass(SECOND + MEMORY_NS);
        assert_eq!(lessons.quiet(asked), Duration::from_secs(6));
        lessons.pass(SECOND + MEMORY_NS + 1);
        assert_eq!(lessons.quiet(asked), asked);
    }

    #[test]
    fn servers_that_often_speak_first_are_told_from_one_that_was_slow_once() {
        let mut lessons = Lessons::default();
        (0..2).for_each(|_| lessons.note(0, push(1)));
        assert!(!lessons.speaks_first());
        lessons.note(0, push(1));
        assert!(lessons.speaks_first());
        (0..57).for_each(|_| lessons.note(0, Next::Harmless));
        assert!(!lessons.speaks_first(), "3 of 60");
        lessons.note(0, push(1));
        assert!(lessons.speaks_first(), "4 of 61");
    }

    #[test]
    fn memory_is_bounded() {
        let mut lessons = Lessons::default();
        (0..10_000).for_each(|_| lessons.note(0, Next::Harmless));
        assert!(lessons.silences.len() <= 2_000);
        assert_eq!(lessons.clean(), 10_000);
    }
}
