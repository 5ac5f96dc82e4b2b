//! Values of flags that are more than a text or a number.

use std::{fmt, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use balancer_common::abi::{Algorithm, Mode, Rebalance};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::model::{
    Drain,
    values::{self, Span},
};

/// How long the programs trust the tables after the agent's last sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseTerm {
    /// For ever (`0`).
    Endless,
    /// For so long: 1 s to 1 day.
    Lasts(Duration),
}

impl LeaseTerm {
    /// The duration; `None` for an endless lease.
    pub const fn duration(self) -> Option<Duration> {
        match self {
            Self::Endless => None,
            Self::Lasts(duration) => Some(duration),
        }
    }
}

impl FromStr for LeaseTerm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "0" {
            return Ok(Self::Endless);
        }
        let duration = parse_duration(text)?;
        match duration.as_secs() {
            0 => Err("the shortest lease is 1s; 0 is a lease that never lapses".to_owned()),
            1..=86_400 => Ok(Self::Lasts(duration)),
            _ => Err("the longest lease is 24h; 0 is a lease that never lapses".to_owned()),
        }
    }
}

/// Parses `90s`, `1m30s`, `2h`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    values::parse_duration(text).map_err(|error| error.to_string())
}

/// Parses how long new backends ramp up, in milliseconds.
pub fn slow_start(text: &str) -> Result<u32, String> {
    milliseconds(text, &values::SLOW_START)
}

/// Parses how long a connection must have been quiet, in milliseconds.
pub fn quiet(text: &str) -> Result<u32, String> {
    milliseconds(text, &values::QUIET)
}

/// Parses how old a connection must be, in milliseconds.
pub fn min_age(text: &str) -> Result<u32, String> {
    milliseconds(text, &values::MIN_AGE)
}

fn milliseconds(text: &str, span: &Span) -> Result<u32, String> {
    parse_duration(text)?;
    span.parse(text).ok_or_else(|| format!("expected a duration {}", span.words))
}

/// Parses the share of connections that may be moved in ten seconds, in percent.
pub fn budget(text: &str) -> Result<u16, String> {
    values::parse_budget(text).ok_or_else(|| format!("expected {}", values::BUDGET_WORDS))
}

/// Parses how long the API server may take to answer: 1 s to 5 min.
pub fn api_timeout(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(1)..=Duration::from_secs(300), "from 1s to 5m")
}

/// Parses the time between two full lists: 10 s to 1 day.
pub fn relist(text: &str) -> Result<Duration, String> {
    within(text, Duration::from_secs(10)..=Duration::from_secs(86_400), "from 10s to 24h")
}

fn within(text: &str, range: RangeInclusive<Duration>, words: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if range.contains(&duration) { Ok(duration) } else { Err(format!("expected a duration {words}")) }
}

/// Where to serve HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen {
    /// Nowhere.
    Off,
    /// There.
    At(SocketAddr),
}

impl FromStr for HttpListen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().ok().or_else(|| bare_ipv6(text)).map(Self::At).ok_or_else(|| {
            "expected an address and port such as 127.0.0.1:9990 or [::1]:9990, or off".to_owned()
        })
    }
}

/// An IPv6 address without brackets, as `$(HOST_IP):9990` in a manifest becomes one: what follows the last colon is the
/// port, and what precedes it has to be a whole address.
fn bare_ipv6(text: &str) -> Option<SocketAddr> {
    let (addr, port) = text.rsplit_once(':')?;
    format!("[{addr}]:{port}").parse().ok()
}

impl fmt::Display for HttpListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(addr) => addr.fmt(f),
        }
    }
}

/// Parses the name of an [`Algorithm`].
pub fn algorithm() -> impl TypedValueParser<Value = Algorithm> {
    PossibleValuesParser::new(Algorithm::ALL.map(Algorithm::name))
        .map(|name| Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).unwrap_or_default())
}

/// Parses the name of a [`Rebalance`].
pub fn rebalance() -> impl TypedValueParser<Value = Rebalance> {
    PossibleValuesParser::new(Rebalance::ALL.map(Rebalance::name))
        .map(|name| Rebalance::ALL.into_iter().find(|choice| choice.name() == name).unwrap_or_default())
}

/// Parses the name of a [`Drain`].
pub fn drain() -> impl TypedValueParser<Value = Drain> {
    PossibleValuesParser::new(Drain::ALL.map(Drain::name))
        .map(|name| Drain::ALL.into_iter().find(|choice| choice.name() == name).unwrap_or_default())
}

/// Parses the name of a [`Mode`].
pub fn mode() -> impl TypedValueParser<Value = Mode> {
    PossibleValuesParser::new(Mode::ALL.map(Mode::name))
        .map(|name| Mode::ALL.into_iter().find(|mode| mode.name() == name).unwrap_or_default())
}

/// Parses the seconds between two refreshes: 0.1 to 86,400, decimals allowed.
pub fn interval(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .filter(|seconds| (0.1..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected seconds, from 0.1 to 86400".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_endless_or_of_sensible_length() {
        assert_eq!("0".parse(), Ok(LeaseTerm::Endless));
        assert_eq!("60s".parse(), Ok(LeaseTerm::Lasts(Duration::from_secs(60))));
        assert_eq!("1m30s".parse(), Ok(LeaseTerm::Lasts(Duration::from_secs(90))));
        assert_eq!("24h".parse(), Ok(LeaseTerm::Lasts(Duration::from_secs(86_400))));
        for wrong in ["60", "0s", "500ms", "25h", "-5s", "soon", ""] {
            wrong.parse::<LeaseTerm>().expect_err(wrong);
        }
    }

    #[test]
    fn times_towards_the_api_server_are_bounded() {
        assert_eq!(api_timeout("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(relist("10s"), Ok(Duration::from_secs(10)));
        for wrong in ["0s", "6m", "-1s", "3"] {
            api_timeout(wrong).expect_err(wrong);
        }
        for wrong in ["9s", "25h", ""] {
            relist(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn what_concerns_open_connections_is_bounded() {
        assert_eq!(
            (slow_start("1h"), quiet("50ms"), min_age("24h")),
            (Ok(3_600_000), Ok(50), Ok(86_400_000))
        );
        assert_eq!(quiet("49ms"), Err("expected a duration from 50ms to 1h".to_owned()));
        assert_eq!(quiet("2"), parse_duration("2").map(|_| 0));
        assert_eq!(budget("5%"), Ok(5));
        assert_eq!(budget("5"), Err("expected a percentage from 0% to 10000%".to_owned()));
    }

    #[test]
    fn http_listens_at_an_address_or_not_at_all() {
        assert_eq!("off".parse(), Ok(HttpListen::Off));
        assert_eq!("[::1]:80".parse(), Ok(HttpListen::At("[::1]:80".parse().unwrap())));
        for wrong in ["9990", "localhost:9990", "", "Off"] {
            wrong.parse::<HttpListen>().expect_err(wrong);
        }
    }

    #[test]
    fn ipv6_needs_no_brackets_where_the_address_is_whole() {
        for (bare, bracketed) in [
            ("fd00::1:9990", "[fd00::1]:9990"),
            (":::9990", "[::]:9990"),
            ("fd00:0:0:0:0:0:0:1:9990", "[fd00::1]:9990"),
        ] {
            assert_eq!(bare.parse(), Ok(HttpListen::At(bracketed.parse().unwrap())), "{bare}");
        }
        for wrong in ["::1", "fd00::9990", "fd00::1:ffff", "fd00::1:99990", "fd00::1:+80", "1:2:3:4:5:6:7:80"]
        {
            wrong.parse::<HttpListen>().expect_err(wrong);
        }
    }

    #[test]
    fn refreshes_are_neither_too_fast_nor_nonsense() {
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "nan", "inf", "1e9", "x"] {
            interval(wrong).expect_err(wrong);
        }
    }
}
