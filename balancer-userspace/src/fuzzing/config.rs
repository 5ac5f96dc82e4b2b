//! Configuration: flags, the environment's values, files of flags, kubeconfigs.

use std::{ffi::OsString, path::Path};

use clap::FromArgMatches as _;
use kube::config::Kubeconfig;

use crate::{
    cli::{self, Cli, config as file, exit::Exit, select::ServiceQuery, values},
    logging,
    sockets::pod_of_path,
};

/// Text in every place where the agent and the commands take some. Its first byte says in which.
///
/// # Panics
///
/// If it is neither understood nor refused with words, or if what is understood is out of its bounds.
pub fn config(data: &[u8]) {
    let Some((way, rest)) = data.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match way % 4 {
        0 => arguments(&text),
        1 => of_a_file(&text),
        2 => kubeconfig(&text),
        _ => text.split('\n').take(16).for_each(value),
    }
}

/// A command line: words between spaces.
fn arguments(text: &str) {
    let words = text.split_whitespace().take(24).map(OsString::from);
    let argv: Vec<OsString> = [OsString::from("balancer")].into_iter().chain(words).collect();
    // A file that is named is the machine's, which says nothing here.
    if text.contains("config") {
        return;
    }
    match cli::command().try_get_matches_from(argv) {
        Ok(matches) => check(&matches),
        Err(error) => assert!(!error.render().to_string().is_empty()),
    }
}

/// The text of `--config`.
fn of_a_file(text: &str) {
    match file::parse_text(cli::command(), "agent", Path::new("agent.yaml"), text, &["balancer", "agent"]) {
        Ok(matches) => check(&matches),
        Err(failure) => {
            assert_eq!(failure.exit, Exit::Usage);
            let words = format!("{:#}", failure.error);
            assert!(words.contains("agent.yaml"), "{words}");
        }
    }
}

fn check(matches: &clap::ArgMatches) {
    let Ok(cli) = Cli::from_arg_matches(matches) else { return };
    if let cli::Command::Agent(args) = cli.command {
        let settings = args.connections();
        assert!(settings.slow_start_ms <= 3_600_000 && settings.min_age_ms <= 86_400_000);
        assert!((50..=3_600_000).contains(&settings.quiet_ms) && settings.budget_percent <= 10_000);
        assert!(
            (16..=1_048_576).contains(&args.max_services) && (16..=1_048_576).contains(&args.max_backends)
        );
        assert!((64..=16_777_216).contains(&args.max_slots) && (64..=4_194_304).contains(&args.max_clients));
        assert!(args.lease.duration().is_none_or(|lease| (1..=86_400).contains(&lease.as_secs())));
        let _ = args.source();
    }
}

/// What a kubeconfig says. Who writes it decides whom the agent believes: this is about accidents.
fn kubeconfig(text: &str) {
    if let Ok(config) = Kubeconfig::from_yaml(text) {
        let _ = (config.current_context, config.contexts.len());
    }
}

/// One value, by every parser of values.
fn value(text: &str) {
    let words = |result: Result<(), String>| {
        if let Err(words) = result {
            assert!(!words.is_empty());
        }
    };
    if let Ok(lease) = text.parse::<values::LeaseTerm>() {
        assert!(lease.duration().is_none_or(|lease| (1..=86_400).contains(&lease.as_secs())));
    }
    if let Ok(duration) = values::parse_duration(text) {
        let again = values::parse_duration(&format!("{}ms", duration.as_millis()));
        assert!(again.is_ok_and(|again| again.as_millis() == duration.as_millis()), "{text:?}");
    }
    for parse in [values::slow_start, values::quiet, values::min_age] {
        assert!(parse(text).is_ok_and(|ms| ms <= 86_400_000) || parse(text).is_err());
    }
    assert!(values::budget(text).is_ok_and(|percent| percent <= 10_000) || values::budget(text).is_err());
    words(values::api_timeout(text).map(|time| assert!((1..=300).contains(&time.as_secs()))));
    words(values::relist(text).map(|time| assert!((10..=86_400).contains(&time.as_secs()))));
    words(values::interval(text).map(|time| assert!((100..=86_400_000).contains(&time.as_millis()))));
    if let Ok(listen) = text.parse::<values::HttpListen>() {
        assert_eq!(listen.to_string().parse(), Ok(listen), "{text:?}");
    }
    if let Ok(query) = text.parse::<ServiceQuery>() {
        assert_eq!(query.to_string().parse(), Ok(query), "{text:?}");
    }
    let _ = logging::check(text);
    // Names of cgroups are whoever made them.
    if let Some(pod) = pod_of_path(text) {
        assert!(pod.uid.len() <= 36 && pod.uid.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()));
        assert!(pod.container.is_none_or(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
