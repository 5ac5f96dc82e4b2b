//! Durations and shares as people write them, in annotations as in flags.

use std::{ops::RangeInclusive, time::Duration};

use balancer_common::abi::MAX_BUDGET;
use thiserror::Error;

/// How long new backends may ramp up, in milliseconds, and in words.
pub const SLOW_START: Span = Span { range: 0..=3_600_000, words: "from 0s to 1h" };
/// How long a connection may have to be quiet.
pub const QUIET: Span = Span { range: 50..=3_600_000, words: "from 50ms to 1h" };
/// How old it may have to be.
pub const MIN_AGE: Span = Span { range: 0..=86_400_000, words: "from 0s to 24h" };

/// Durations that are accepted somewhere.
#[derive(Clone, Debug)]
pub struct Span {
    /// In milliseconds.
    range: RangeInclusive<u32>,
    /// The same in words.
    pub words: &'static str,
}

impl Span {
    /// Reads a duration; what is below a millisecond is cut off. `None` if it is none, or not within.
    pub fn parse(&self, text: &str) -> Option<u32> {
        let ms = parse_duration(text).ok()?.as_millis();
        u32::try_from(ms).ok().filter(|ms| self.range.contains(ms))
    }
}

/// A duration that was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DurationError {
    /// It is none.
    #[error("expected a duration such as 60s, 1m30s or 2h")]
    Unreadable,
    /// It is below 0.
    #[error("a duration cannot be negative")]
    Negative,
}

/// Parses `500ms`, `90s`, `1m30s`, `2h`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let span: jiff::SignedDuration = text.trim().parse().map_err(|_| DurationError::Unreadable)?;
    Duration::try_from(span).map_err(|_| DurationError::Negative)
}

/// What [`parse_budget`] accepts, in words.
pub const BUDGET_WORDS: &str = "a percentage from 0% to 10000%";

/// Parses `5%`: digits and a percent sign, up to [`MAX_BUDGET`].
pub fn parse_budget(text: &str) -> Option<u16> {
    let digits = text.trim().strip_suffix('%')?;
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok().filter(|percent| *percent <= MAX_BUDGET) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_in_milliseconds_and_bounded() {
        for (text, ms) in [("50ms", 50), ("2s", 2_000), ("1m30s", 90_000), ("1h", 3_600_000), (" 1s ", 1_000)]
        {
            assert_eq!(QUIET.parse(text), Some(ms), "{text}");
        }
        for wrong in ["", "2", "49ms", "49999us", "61m", "-1s", "soon", "5%", "99999999999999h"] {
            assert_eq!(QUIET.parse(wrong), None, "{wrong}");
        }
        assert_eq!((SLOW_START.parse("0s"), MIN_AGE.parse("24h")), (Some(0), Some(86_400_000)));
        assert_eq!((SLOW_START.parse("3601s"), MIN_AGE.parse("25h")), (None, None));
        assert_eq!(parse_duration("-1s"), Err(DurationError::Negative));
    }

    #[test]
    fn a_budget_is_a_percentage() {
        assert_eq!(["0%", "5%", "10000%"].map(parse_budget), [Some(0), Some(5), Some(10_000)]);
        for wrong in ["", "%", "5", "10001%", "-1%", "+1%", "1.5%", "5 %", "99999999%", "٥%"] {
            assert_eq!(parse_budget(wrong), None, "{wrong}");
        }
    }
}
