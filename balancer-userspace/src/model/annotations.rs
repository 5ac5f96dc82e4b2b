//! The annotations that users write: `balancer.dev/…`.
//!
//! Nothing here is fatal: what cannot be understood is reported and the node's default holds. An
//! annotation never affects another Service than the one that carries it.

use balancer_common::abi::{Algorithm, MAX_WEIGHT};
use thiserror::Error;

use super::{Participation, quote::quote};

/// What every annotation of ours begins with.
pub const PREFIX: &str = "balancer.dev/";

/// On a Service: how to choose among its endpoints.
const ALGORITHM: &str = "algorithm";
/// On a Service or a Namespace: whether to balance it at all.
const ENABLED: &str = "enabled";
/// On an EndpointSlice: the weight of its endpoints.
const WEIGHT: &str = "weight";

/// What the annotations of a Service ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceSettings {
    /// `balancer.dev/algorithm`; `None` where absent or malformed: the node's default holds.
    pub algorithm: Option<Algorithm>,
    /// `balancer.dev/enabled`; `None` where absent or malformed: the Namespace's word holds, or `--select`.
    pub enabled: Option<Participation>,
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
    #[error("annotation {} is not known on a Service (known: {ALGORITHM}, {ENABLED})", quote_name(name))]
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
            _ => errors.push(AnnotationError::UnknownOnService { name: name.to_owned() }),
        }
    }
    (settings, errors)
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
        assert_eq!(settings, ServiceSettings { algorithm, enabled });
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
                "annotation \"balancer.dev/algoritm\" is not known on a Service (known: algorithm, enabled)",
            ],
        );
    }

    #[test]
    fn a_message_does_not_grow_with_what_the_user_wrote() {
        let long = "x".repeat(200_000);
        let (_, errors) = parse_service([("algorithm", long.as_str()), (long.as_str(), "")]);
        assert_eq!(errors.len(), 2);
        for error in errors {
            assert!(error.to_string().len() < 300, "{error}");
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
