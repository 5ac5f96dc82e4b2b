//! Annotations: whatever anybody writes is a value or a problem in words, and a value means what it says.

use std::fmt::Display;

use balancer_common::abi::{MAX_BUDGET, MAX_WEIGHT};

use crate::model::{
    Drain, Participation, RemovedSockets,
    annotations::{
        AnnotationError, ON_SERVICE, ServiceSettings, parse_namespace, parse_pod, parse_service, parse_slice,
        parse_weight,
    },
};

/// Lines of `name=value`, as the annotations of every kind of object. Each is also read by every parser as a value alone.
///
/// # Panics
///
/// If one is neither understood nor reported, if a report is long or could forge a line, or if what was understood
/// does not come back when it is written down.
pub fn annotations(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let pairs: Vec<(&str, &str)> =
        text.split('\n').take(32).map(|line| line.split_once('=').unwrap_or((line, ""))).collect();
    let (settings, errors) = parse_service(pairs.iter().copied());
    check_errors(&errors, pairs.len());
    check_service(&settings);
    let (_, errors) = parse_namespace(pairs.iter().copied());
    check_errors(&errors, pairs.len());
    let (_, errors) = parse_pod(pairs.iter().copied());
    check_errors(&errors, pairs.len());
    let (weight, errors) = parse_slice(pairs.iter().copied());
    assert!((1..=MAX_WEIGHT).contains(&weight));
    check_errors(&errors, pairs.len());
    // The name says which parser: each value meets all of them.
    for (_, value) in &pairs {
        for name in ON_SERVICE {
            let (settings, errors) = parse_service([(name, *value)]);
            check_errors(&errors, 1);
            let understood = settings != ServiceSettings::default();
            assert!(
                understood != (errors.len() == 1),
                "{name}={value:?} is understood and reported, or neither"
            );
            check_service(&settings);
        }
        match parse_weight(value) {
            Ok(weight) => assert_eq!(parse_weight(&weight.to_string()), Ok(weight)),
            Err(error) => check_errors(&[error], 1),
        }
    }
}

/// At most one for each, each a short line.
fn check_errors(errors: &[AnnotationError], most: usize) {
    assert!(errors.len() <= most);
    for error in errors {
        let text = error.to_string();
        assert!(text.len() <= 900 && !text.chars().any(char::is_control), "{text:?}");
    }
}

/// What was understood is within bounds, and is the same when it is written down and read again.
fn check_service(settings: &ServiceSettings) {
    let wishes = &settings.connections;
    assert!(wishes.slow_start_ms.is_none_or(|ms| ms <= 3_600_000));
    assert!(wishes.quiet_ms.is_none_or(|ms| (50..=3_600_000).contains(&ms)));
    assert!(wishes.min_age_ms.is_none_or(|ms| ms <= 86_400_000));
    assert!(wishes.budget_percent.is_none_or(|percent| percent <= MAX_BUDGET));
    let ms = |ms: Option<u32>| written(ms.map(|ms| format!("{ms}ms")));
    let pairs = [
        ("algorithm", written(settings.algorithm.map(|algorithm| algorithm.name()))),
        ("enabled", written(settings.enabled.map(|enabled| enabled == Participation::OptedIn))),
        ("slow-start", ms(wishes.slow_start_ms)),
        ("rebalance", written(wishes.rebalance.map(|rebalance| rebalance.name()))),
        ("rebalance-quiet", ms(wishes.quiet_ms)),
        ("rebalance-min-age", ms(wishes.min_age_ms)),
        ("rebalance-budget", written(wishes.budget_percent.map(|percent| format!("{percent}%")))),
        ("rebalance-trust", written(wishes.trust.map(|trust| trust.name()))),
        ("drain", written(wishes.drain.map(Drain::name))),
        ("close-removed", written(wishes.removed.map(|removed| removed == RemovedSockets::Close))),
    ];
    let given = pairs.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    assert_eq!(parse_service(given), (*settings, Vec::new()));
}

fn written(value: Option<impl Display>) -> Option<String> {
    value.map(|value| value.to_string())
}
