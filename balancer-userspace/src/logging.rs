//! The agent's log: lines of text for people, or of JSON for collectors.

use std::io::Write as _;

use clap::ValueEnum;
use env_logger::{Builder, fmt::Formatter};
use log::Record;

use crate::cli::term::safe;

/// Form of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `2026-01-02T03:04:05.678Z INFO  source: message`, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object on each line, with time, level, target and message.
    Json,
}

/// Variable with the filters that apply where `--log-level` is not given.
const VARIABLE: &str = "RUST_LOG";

/// What the Kubernetes client logs as.
const CLIENT: &str = "kube_client";

/// Sets up the log on standard error. `level` beats RUST_LOG, which beats `info`.
///
/// Fails where a log was set up before, or the filters make no sense.
pub fn init(format: LogFormat, level: Option<&str>) -> Result<(), LogError> {
    let mut builder = Builder::new();
    match level.map(str::to_owned).or_else(|| std::env::var(VARIABLE).ok().filter(|text| !text.is_empty())) {
        Some(filters) => {
            check(&filters)?;
            builder.parse_filters(&own(&filters));
        }
        None => {
            builder.parse_filters(&own("info"));
        }
    }
    match format {
        LogFormat::Text => builder.format(text),
        LogFormat::Json => builder.format(|out, record| {
            let time = out.timestamp_millis().to_string();
            writeln!(out, "{}", json(&time, record))
        }),
    };
    builder.try_init().map_err(|_| LogError::Twice)
}

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filters make no sense.
    #[error(
        "--log-level {filters:?}: {reason}; expected a level such as debug, or filters such as info,kube=warn"
    )]
    Filters {
        /// As given.
        filters: String,
        /// What is wrong.
        reason: String,
    },
    /// A log was set up before.
    #[error("the log was set up twice")]
    Twice,
}

/// `debug` and `trace` by themselves are meant for balancer: libraries would say a thousand lines for each
/// of its own. `debug,aya=debug` and the like ask for more. The kernel side logs as `balancer`.
///
/// The Kubernetes client warns of every connection that ends; what matters of that the source says itself, once. It
/// is heard only where the filters name it.
fn own(filters: &str) -> String {
    let (levels, pattern) = match filters.split_once('/') {
        Some((levels, pattern)) => (levels, format!("/{pattern}")),
        None => (filters, String::new()),
    };
    let levels = match levels.trim().to_ascii_lowercase().as_str() {
        level @ ("debug" | "trace") => format!("info,balancer={level},{}={level}", env!("CARGO_CRATE_NAME")),
        _ => levels.to_owned(),
    };
    let quiet = if levels.contains(CLIENT) { String::new() } else { format!(",{CLIENT}=off") };
    format!("{levels}{quiet}{pattern}")
}

/// env_logger ignores a wrong filter and logs errors alone then; a user should rather know.
pub(crate) fn check(filters: &str) -> Result<(), LogError> {
    for filter in filters.split('/').next().unwrap_or_default().split(',') {
        let level = filter.split_once('=').map_or(filter, |(_, level)| level).trim();
        let is_target = !filter.contains('=') && level.contains([':', '_']);
        if !is_target && !level.is_empty() && level.parse::<log::LevelFilter>().is_err() {
            let reason = format!("{level:?} is no level");
            return Err(LogError::Filters { filters: filters.to_owned(), reason });
        }
    }
    Ok(())
}

fn text(out: &mut Formatter, record: &Record<'_>) -> std::io::Result<()> {
    let level = record.level();
    let style = out.default_level_style(level);
    let time = out.timestamp_millis();
    // A message may quote what a manifest or a process name says: it must stay one line.
    let message = record.args().to_string();
    writeln!(out, "{time} {style}{level:<5}{style:#} {}: {}", short(record.target()), safe(&message))
}

/// `source::manifests` for `balancer_userspace::source::manifests`.
fn short(target: &str) -> &str {
    let own = env!("CARGO_CRATE_NAME");
    target.strip_prefix(own).map_or(target, |rest| rest.strip_prefix("::").unwrap_or("balancer"))
}

fn json(time: &str, record: &Record<'_>) -> serde_json::Value {
    serde_json::json!({
        "time": time,
        "level": record.level().as_str().to_ascii_lowercase(),
        "target": short(record.target()),
        "message": record.args().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_checked() {
        for right in ["info", "debug,kube=warn", "balancer_userspace::source=trace", "off", "warn,hyper_util"]
        {
            check(right).unwrap_or_else(|error| panic!("{right}: {error}"));
        }
        for wrong in ["loud", "info,kube=loud", "9"] {
            check(wrong).expect_err(wrong);
        }
    }

    #[test]
    fn a_bare_level_is_balancers_own() {
        assert_eq!(own("debug"), "info,balancer=debug,balancer_userspace=debug,kube_client=off");
        assert_eq!(own("Trace "), "info,balancer=trace,balancer_userspace=trace,kube_client=off");
        for other in ["info", "debug,kube=warn", "off"] {
            assert_eq!(own(other), format!("{other},kube_client=off"));
        }
    }

    #[test]
    fn the_client_is_heard_where_it_is_named() {
        assert_eq!(own("info,kube_client=debug"), "info,kube_client=debug");
        assert_eq!(own("info/services"), "info,kube_client=off/services");
    }

    #[test]
    fn a_json_line_holds_any_message() {
        let args = format_args!("a \"quoted\"\nline");
        let record = Record::builder().args(args).target("balancer_userspace::source").build();
        let line = json("2026-01-02T03:04:05.678Z", &record).to_string();
        assert_eq!(line.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a \"quoted\"\nline");
        assert_eq!(value["target"], "source");
        assert_eq!(value["level"], "info");
    }

    #[test]
    fn targets_of_this_crate_are_shortened() {
        assert_eq!(short("balancer_userspace"), "balancer");
        assert_eq!(short("kube::client"), "kube::client");
    }
}
