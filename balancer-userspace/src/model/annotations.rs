//! The annotations that users write: `balancer.dev/…`.
//!
//! Nothing here is fatal: what cannot be understood is reported and the node's default holds. An
//! annotation never affects another Service than the one that carries it.

use balancer_common::abi::{Algorithm, MAX_WEIGHT, Rebalance};
use thiserror::Error;

use super::{
    ConnectionWishes, Drain, Participation, RemovedSockets, Trust,
    quote::quote,
    values::{self, Span},
};

/// What every annotation of ours begins with.
pub const PREFIX: &str = "balancer.dev/";

/// On a Service: how to choose among its endpoints.
const ALGORITHM: &str = "algorithm";
/// On a Service or a Namespace: whether to balance it at all.
const ENABLED: &str = "enabled";
/// On a Service: how long new backends ramp up.
const SLOW_START: &str = "slow-start";
/// On a Service: whether open connections are moved to even out, and when, and how many.
const REBALANCE: &str = "rebalance";
const QUIET: &str = "rebalance-quiet";
const MIN_AGE: &str = "rebalance-min-age";
const BUDGET: &str = "rebalance-budget";
const TRUST: &str = "rebalance-trust";
/// On a Service: whether connections to terminating backends are moved.
const DRAIN: &str = "drain";
/// On a Service: whether sockets to backends that are gone are closed.
const CLOSE_REMOVED: &str = "close-removed";
/// On an EndpointSlice: the weight of its endpoints.
const WEIGHT: &str = "weight";

/// All that are known on a Service.
pub const ON_SERVICE: [&str; 10] =
    [ALGORITHM, ENABLED, SLOW_START, REBALANCE, QUIET, MIN_AGE, BUDGET, TRUST, DRAIN, CLOSE_REMOVED];

/// What the annotations of a Service ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// `balancer.dev/algorithm`; `None` where absent or malformed: the node's default holds.
    pub algorithm: Option<Algorithm>,
    /// `balancer.dev/enabled`; `None` where absent or malformed: the Namespace's word holds, or `--select`.
    pub enabled: Option<Participation>,
    /// What is to be done with connections that are open.
    pub connections: ConnectionWishes,
}

/// An annotation that was not understood. The message names the annotation, the value and what holds instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AnnotationError {
    /// `balancer.dev/algorithm` with a value that names none.
    #[error(
        "annotation {PREFIX}{ALGORITHM}: {} is not an algorithm ({}); the node's default is used",
        quote(value),
        algorithm_names()
    )]
    Algorithm {
        /// As written.
        value: String,
    },
    /// `balancer.dev/enabled` with another value than true or false.
    #[error(
        "annotation {PREFIX}{ENABLED}: {} is neither \"true\" nor \"false\"; it is ignored",
        quote(value)
    )]
    Enabled {
        /// As written.
        value: String,
    },
    /// One of the settings of open connections with a value that it does not take.
    #[error("annotation {PREFIX}{name}: {} is not {expected}; {instead} is used", quote(value))]
    Setting {
        /// Without the prefix.
        name: &'static str,
        /// As written.
        value: String,
        /// What it takes, in words.
        expected: String,
        /// What holds instead, in words.
        instead: &'static str,
    },
    /// `balancer.dev/weight` that is not a weight.
    #[error(
        "annotation {PREFIX}{WEIGHT}: {} is not a whole number from 1 to {MAX_WEIGHT}; 1 is used",
        quote(value)
    )]
    Weight {
        /// As written.
        value: String,
    },
    /// `balancer.dev/weight` on a Service.
    #[error("annotation {PREFIX}{WEIGHT} has no effect on a Service: set it on its EndpointSlices")]
    WeightOnService,
    /// An annotation that is not known on a Service.
    #[error("annotation {} is not known on a Service (known: {})", quote_name(name), ON_SERVICE.join(", "))]
    UnknownOnService {
        /// Without the prefix.
        name: String,
    },
    /// An annotation that is not known on a Namespace.
    #[error("annotation {} is not known on a Namespace (known: {ENABLED})", quote_name(name))]
    UnknownOnNamespace {
        /// Without the prefix.
        name: String,
    },
    /// An annotation that is not known on a Pod.
    #[error("annotation {} is not known on a Pod (known: {ENABLED})", quote_name(name))]
    UnknownOnPod {
        /// Without the prefix.
        name: String,
    },
    /// An annotation that is not known on an EndpointSlice.
    #[error("annotation {} is not known on an EndpointSlice (known: {WEIGHT})", quote_name(name))]
    UnknownOnSlice {
        /// Without the prefix.
        name: String,
    },
}

fn algorithm_names() -> String {
    Algorithm::ALL.map(Algorithm::name).join(", ")
}

fn quote_name(name: &str) -> String {
    quote(&format!("{PREFIX}{name}")).to_string()
}

/// Reads the annotations of a Service: pairs of name without [`PREFIX`], and value.
pub fn parse_service<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (ServiceSettings, Vec<AnnotationError>) {
    let mut settings = ServiceSettings::default();
    let mut errors = Vec::new();
    for (name, value) in annotations {
        match name {
            ALGORITHM => match Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == value) {
                Some(algorithm) => settings.algorithm = Some(algorithm),
                None => errors.push(AnnotationError::Algorithm { value: value.to_owned() }),
            },
            ENABLED => match parse_enabled(value) {
                Ok(enabled) => settings.enabled = Some(enabled),
                Err(error) => errors.push(error),
            },
            WEIGHT => errors.push(AnnotationError::WeightOnService),
            _ => match parse_connections(&mut settings.connections, name, value) {
                Some(Ok(())) => {}
                Some(Err(error)) => errors.push(error),
                None => errors.push(AnnotationError::UnknownOnService { name: name.to_owned() }),
            },
        }
    }
    (settings, errors)
}

/// What holds where an annotation was not understood.
const DEFAULT: &str = "the node's default";

/// Reads one of the annotations that concern open connections. `None`: it is none of them.
fn parse_connections(
    wishes: &mut ConnectionWishes,
    name: &str,
    value: &str,
) -> Option<Result<(), AnnotationError>> {
    let error = |name, expected, instead| {
        Err(AnnotationError::Setting { name, value: value.to_owned(), expected, instead })
    };
    let duration = |slot: &mut Option<u32>, name, span: &Span| {
        *slot = span.parse(value);
        let expected = || format!("a duration {}, such as 500ms, 2s or 1m", span.words);
        if slot.is_some() { Ok(()) } else { error(name, expected(), DEFAULT) }
    };
    let one_of = |names: &[&str]| format!("one of {}", names.join(", "));
    Some(match name {
        SLOW_START => duration(&mut wishes.slow_start_ms, SLOW_START, &values::SLOW_START),
        QUIET => duration(&mut wishes.quiet_ms, QUIET, &values::QUIET),
        MIN_AGE => duration(&mut wishes.min_age_ms, MIN_AGE, &values::MIN_AGE),
        BUDGET => {
            wishes.budget_percent = values::parse_budget(value);
            match wishes.budget_percent {
                Some(_) => Ok(()),
                None => error(BUDGET, values::BUDGET_WORDS.to_owned(), DEFAULT),
            }
        }
        REBALANCE => {
            wishes.rebalance = Rebalance::ALL.into_iter().find(|rebalance| rebalance.name() == value);
            match wishes.rebalance {
                Some(_) => Ok(()),
                None => error(REBALANCE, one_of(&Rebalance::ALL.map(Rebalance::name)), DEFAULT),
            }
        }
        TRUST => {
            wishes.trust = Trust::ALL.into_iter().find(|trust| trust.name() == value);
            match wishes.trust {
                Some(_) => Ok(()),
                None => error(TRUST, one_of(&Trust::ALL.map(Trust::name)), "earned"),
            }
        }
        DRAIN => {
            wishes.drain = Drain::ALL.into_iter().find(|drain| drain.name() == value);
            match wishes.drain {
                Some(_) => Ok(()),
                None => error(DRAIN, one_of(&Drain::ALL.map(Drain::name)), "the default"),
            }
        }
        CLOSE_REMOVED => {
            wishes.removed = match value {
                "true" => Some(RemovedSockets::Close),
                "false" => Some(RemovedSockets::Keep),
                _ => None,
            };
            match wishes.removed {
                Some(_) => Ok(()),
                None => error(CLOSE_REMOVED, one_of(&["true", "false"]), DEFAULT),
            }
        }
        _ => return None,
    })
}

/// Reads the annotations of a Namespace, as [`parse_service`]: what it asks for on behalf of its Services.
pub fn parse_namespace<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Option<Participation>, Vec<AnnotationError>) {
    parse_participation(annotations, |name| AnnotationError::UnknownOnNamespace { name })
}

/// Reads the annotations of a Pod, as [`parse_service`]: what it asks for on behalf of its own connects.
pub fn parse_pod<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (Option<Participation>, Vec<AnnotationError>) {
    parse_participation(annotations, |name| AnnotationError::UnknownOnPod { name })
}

/// Of an object on which nothing else is known.
fn parse_participation<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    unknown: impl Fn(String) -> AnnotationError,
) -> (Option<Participation>, Vec<AnnotationError>) {
    let mut enabled = None;
    let mut errors = Vec::new();
    for (name, value) in annotations {
        match name {
            ENABLED => match parse_enabled(value) {
                Ok(parsed) => enabled = Some(parsed),
                Err(error) => errors.push(error),
            },
            _ => errors.push(unknown(name.to_owned())),
        }
    }
    (enabled, errors)
}

fn parse_enabled(value: &str) -> Result<Participation, AnnotationError> {
    match value {
        "true" => Ok(Participation::OptedIn),
        "false" => Ok(Participation::OptedOut),
        _ => Err(AnnotationError::Enabled { value: value.to_owned() }),
    }
}

/// Reads the annotations of an EndpointSlice, as [`parse_service`]: the weight of its endpoints.
pub fn parse_slice<'a>(
    annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> (u32, Vec<AnnotationError>) {
    let mut weight = 1;
    let mut errors = Vec::new();
    for (name, value) in annotations {
        match name {
            WEIGHT => match parse_weight(value) {
                Ok(parsed) => weight = parsed,
                Err(error) => errors.push(error),
            },
            _ => errors.push(AnnotationError::UnknownOnSlice { name: name.to_owned() }),
        }
    }
    (weight, errors)
}

/// Reads a value of `balancer.dev/weight`: digits alone, 1 to [`MAX_WEIGHT`].
///
/// # Errors
/// [`AnnotationError::Weight`] for anything else; 1 should then be used.
pub fn parse_weight(value: &str) -> Result<u32, AnnotationError> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let weight = if digits { value.parse().ok() } else { None };
    weight
        .filter(|weight| (1..=MAX_WEIGHT).contains(weight))
        .ok_or_else(|| AnnotationError::Weight { value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        annotations: &[(&str, &str)],
        algorithm: Option<Algorithm>,
        enabled: Option<Participation>,
        errors: &[&str],
    ) {
        let (settings, found) = parse_service(annotations.iter().copied());
        assert_eq!((settings.algorithm, settings.enabled), (algorithm, enabled));
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, errors);
    }

    #[test]
    fn every_algorithm_is_known_by_its_name() {
        check(&[], None, None, &[]);
        for algorithm in Algorithm::ALL {
            check(&[("algorithm", algorithm.name())], Some(algorithm), None, &[]);
        }
    }

    #[test]
    fn a_service_may_opt_out() {
        check(&[("enabled", "false")], None, Some(Participation::OptedOut), &[]);
        check(&[("enabled", "true")], None, Some(Participation::OptedIn), &[]);
    }

    #[test]
    fn a_namespace_speaks_for_its_services_and_of_nothing_else() {
        assert_eq!(parse_namespace([]), (None, vec![]));
        assert_eq!(parse_namespace([("enabled", "true")]), (Some(Participation::OptedIn), vec![]));
        assert_eq!(parse_namespace([("enabled", "false")]), (Some(Participation::OptedOut), vec![]));
        let (enabled, errors) = parse_namespace([("enabled", "False"), ("algorithm", "random")]);
        assert_eq!(enabled, None);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "annotation balancer.dev/enabled: \"False\" is neither \"true\" nor \"false\"; it is ignored",
                "annotation \"balancer.dev/algorithm\" is not known on a Namespace (known: enabled)",
            ]
        );
    }

    #[test]
    fn what_is_not_understood_is_reported_and_the_default_holds() {
        check(
            &[("algorithm", "Random"), ("enabled", "no\n"), ("weight", "3"), ("algoritm", "random")],
            None,
            None,
            &[
                "annotation balancer.dev/algorithm: \"Random\" is not an algorithm (least-connections, \
                 round-robin, client-round-robin, random, source-hash); the node's default is used",
                "annotation balancer.dev/enabled: \"no\\n\" is neither \"true\" nor \"false\"; it is ignored",
                "annotation balancer.dev/weight has no effect on a Service: set it on its EndpointSlices",
                "annotation \"balancer.dev/algoritm\" is not known on a Service (known: algorithm, enabled, \
                 slow-start, rebalance, rebalance-quiet, rebalance-min-age, rebalance-budget, \
                 rebalance-trust, drain, close-removed)",
            ],
        );
    }

    fn check_connections(annotations: &[(&str, &str)], expect: ConnectionWishes, errors: &[&str]) {
        let (settings, found) = parse_service(annotations.iter().copied());
        assert_eq!(settings, ServiceSettings { connections: expect, ..ServiceSettings::default() });
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, errors);
    }

    #[test]
    fn a_service_says_what_becomes_of_its_connections() {
        let none = ConnectionWishes::default();
        check_connections(
            &[
                ("close-removed", "false"),
                ("drain", "off"),
                ("rebalance", "dry-run"),
                ("rebalance-budget", "250%"),
                ("rebalance-min-age", "1m30s"),
                ("rebalance-quiet", "500ms"),
                ("rebalance-trust", "immediate"),
                ("slow-start", "0s"),
            ],
            ConnectionWishes {
                slow_start_ms: Some(0),
                rebalance: Some(Rebalance::DryRun),
                quiet_ms: Some(500),
                min_age_ms: Some(90_000),
                budget_percent: Some(250),
                trust: Some(Trust::Immediate),
                drain: Some(Drain::Off),
                removed: Some(RemovedSockets::Keep),
            },
            &[],
        );
        for rebalance in Rebalance::ALL {
            let expect = ConnectionWishes { rebalance: Some(rebalance), ..none };
            check_connections(&[("rebalance", rebalance.name())], expect, &[]);
        }
        for trust in Trust::ALL {
            let expect = ConnectionWishes { trust: Some(trust), ..none };
            check_connections(&[("rebalance-trust", trust.name())], expect, &[]);
        }
        check_connections(
            &[
                ("close-removed", "no"),
                ("drain", "all"),
                ("rebalance", "on"),
                ("rebalance-budget", "5"),
                ("rebalance-min-age", "25h"),
                ("rebalance-quiet", "10ms"),
                ("rebalance-trust", "blind"),
                ("slow-start", "30"),
            ],
            none,
            &[
                "annotation balancer.dev/close-removed: \"no\" is not one of true, false; the node's default is used",
                "annotation balancer.dev/drain: \"all\" is not one of off, idle; the default is used",
                "annotation balancer.dev/rebalance: \"on\" is not one of off, dry-run, idle; the node's default is used",
                "annotation balancer.dev/rebalance-budget: \"5\" is not a percentage from 0% to 10000%; \
                 the node's default is used",
                "annotation balancer.dev/rebalance-min-age: \"25h\" is not a duration from 0s to 24h, such as \
                 500ms, 2s or 1m; the node's default is used",
                "annotation balancer.dev/rebalance-quiet: \"10ms\" is not a duration from 50ms to 1h, such as \
                 500ms, 2s or 1m; the node's default is used",
                "annotation balancer.dev/rebalance-trust: \"blind\" is not one of earned, immediate, forced; \
                 earned is used",
                "annotation balancer.dev/slow-start: \"30\" is not a duration from 0s to 1h, such as 500ms, 2s \
                 or 1m; the node's default is used",
            ],
        );
    }

    #[test]
    fn a_message_does_not_grow_with_what_the_user_wrote() {
        let long = "x".repeat(200_000);
        let (_, errors) = parse_service([("algorithm", long.as_str()), (long.as_str(), "")]);
        assert_eq!(errors.len(), 2);
        for error in errors {
            assert!(error.to_string().len() < 400, "{error}");
        }
    }

    #[test]
    fn a_weight_is_a_whole_number_within_bounds() {
        assert_eq!(parse_weight("1"), Ok(1));
        assert_eq!(parse_weight("65535"), Ok(65_535));
        for bad in ["", "0", "65536", "-1", "+1", " 1", "1.5", "0x10", "99999999999999999999", "١"] {
            let error = parse_weight(bad).unwrap_err();
            assert_eq!(error, AnnotationError::Weight { value: bad.to_owned() });
        }
    }

    #[test]
    fn a_slice_knows_its_weight_alone() {
        assert_eq!(parse_slice([("weight", "7")]), (7, vec![]));
        let (weight, errors) = parse_slice([("weight", "heavy"), ("algorithm", "random")]);
        assert_eq!(weight, 1);
        let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "annotation balancer.dev/weight: \"heavy\" is not a whole number from 1 to 65535; 1 is used",
                "annotation \"balancer.dev/algorithm\" is not known on an EndpointSlice (known: weight)",
            ]
        );
    }
}
