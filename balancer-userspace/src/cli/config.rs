//! Flags from a file, below those of the environment and of the command line.
//!
//! The file is a YAML mapping from long flag names to scalars. Its values become the flags' default values, so
//! that they go through the same parsers and their rank (flag, variable, file, built-in default) is clap's own.

use std::{collections::BTreeMap, ffi::OsString, path::Path};

use anyhow::Context as _;
use clap::{ArgAction, ArgMatches, Command};

use super::{exit::Failure, nearest::nearest};

/// Names of flags that make no sense in a file.
const NOT_IN_A_FILE: [&str; 3] = ["config", "help", "version"];

/// Parses `argv`; where subcommand `name` was called with a file in `--config`, parses again with the file's values
/// as defaults. Fails as clap does, or with a message that names the file.
pub fn parse(command: Command, name: &str, argv: &[OsString]) -> Result<ArgMatches, ConfigError> {
    let matches = command.clone().try_get_matches_from(argv).map_err(ConfigError::Arguments)?;
    let file =
        matches.subcommand_matches(name).and_then(|sub| sub.get_one::<std::path::PathBuf>("config")).cloned();
    let Some(file) = file else { return Ok(matches) };
    let text = read(&file).map_err(ConfigError::File)?;
    parse_text(command, name, &file, &text, argv).map_err(ConfigError::File)
}

/// Parses `argv`, which parsed before, with what stands in `text`, the text of `file`, as defaults.
pub(crate) fn parse_text(
    command: Command,
    name: &str,
    file: &Path,
    text: &str,
    argv: &[impl Clone + Into<OsString>],
) -> Result<ArgMatches, Failure> {
    let values = parse_file(text).with_context(|| format!("{}", file.display())).map_err(usage)?;
    let command = with_defaults(command, name, file, values)?;
    // The same arguments parsed before: what fails now is a value from the file.
    command.try_get_matches_from(argv.iter().cloned()).map_err(|error| {
        let text = error.render().to_string();
        // The message proper; usage and a pointer to --help follow after a blank line.
        let lines: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        let text = lines.join(" ");
        let text = text.trim_start_matches("error: ");
        Failure::usage(format!("{}: {text}", file.display()))
    })
}

/// Why [`parse`] failed.
#[derive(Debug)]
pub enum ConfigError {
    /// The arguments are wrong, or ask for help.
    Arguments(clap::Error),
    /// The file is.
    File(Failure),
}

fn read(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the configuration file {}", file.display()))
        .map_err(usage)
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(super::exit::Exit::Usage, error)
}

fn parse_file(text: &str) -> anyhow::Result<BTreeMap<String, String>> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(BTreeMap::new());
    }
    let values: BTreeMap<String, String> = serde_saphyr::from_str(text)
        .context("expected a mapping from flag names to values, such as `lease: 60s`")?;
    Ok(values)
}

fn with_defaults(
    mut command: Command,
    name: &str,
    file: &Path,
    values: BTreeMap<String, String>,
) -> Result<Command, Failure> {
    let own = command.find_subcommand(name).into_iter().flat_map(Command::get_arguments);
    let global = command.get_arguments().filter(|arg| arg.is_global_set());
    let known: BTreeMap<String, (String, ArgAction)> = own
        .chain(global)
        .filter_map(|arg| {
            Some((arg.get_long()?.to_owned(), (arg.get_id().to_string(), arg.get_action().clone())))
        })
        .filter(|(long, _)| !NOT_IN_A_FILE.contains(&long.as_str()))
        .collect();
    for (key, value) in values {
        let Some((id, _)) = known.get(&key) else {
            let hint = nearest(&key, known.keys().map(String::as_str))
                .map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            return Err(Failure::usage(format!("{}: unknown key {key:?}{hint}", file.display())));
        };
        let set = |arg: clap::Arg| arg.default_value(value.clone());
        let is_global = command.get_arguments().any(|arg| arg.get_id() == id.as_str());
        command = if is_global {
            command.mut_arg(id, set)
        } else {
            command.mut_subcommand(name, |sub| sub.mut_arg(id, set))
        };
    }
    Ok(command)
}

#[cfg(test)]
mod tests {
    use clap::{Arg, value_parser};

    use super::*;

    /// A variable that cargo sets for every test, so that none need be set here.
    const SET: &str = "CARGO_MANIFEST_DIR";

    fn app() -> Command {
        let number =
            || Arg::new("max-slots").long("max-slots").value_parser(value_parser!(u32).range(1..100));
        Command::new("app")
            .subcommand_required(true)
            .arg(Arg::new("pins").long("pins").global(true).default_value("built-in"))
            .subcommand(
                Command::new("agent")
                    .arg(Arg::new("config").long("config").value_parser(value_parser!(std::path::PathBuf)))
                    .arg(Arg::new("lease").long("lease").default_value("built-in"))
                    .arg(Arg::new("zone").long("zone").env(SET).default_value("built-in"))
                    .arg(number().default_value("7")),
            )
            .subcommand(Command::new("other"))
    }

    fn with_file(text: &str, args: &[&str]) -> Result<ArgMatches, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, text).unwrap();
        let mut argv: Vec<OsString> = vec!["app".into(), "agent".into(), "--config".into(), file.into()];
        argv.extend(args.iter().map(OsString::from));
        parse(app(), "agent", &argv)
    }

    #[track_caller]
    fn check(file: &str, args: &[&str], flag: &str, expect: &str) {
        let matches = with_file(file, args).unwrap_or_else(|error| panic!("{error:?}"));
        let agent = matches.subcommand_matches("agent").unwrap();
        assert_eq!(agent.get_raw(flag).unwrap().next().unwrap().to_str().unwrap(), expect);
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
        check("", &[], "lease", "built-in");
        check("# nothing\n\n", &[], "lease", "built-in");
        check("lease: 5s", &[], "lease", "5s");
        check("lease: 5s", &["--lease", "9s"], "lease", "9s");
        check("zone: from-file", &[], "zone", env!("CARGO_MANIFEST_DIR"));
        check("zone: from-file", &["--zone=flag"], "zone", "flag");
        check("pins: /elsewhere", &[], "pins", "/elsewhere");
        check("pins: /elsewhere", &["--pins", "/flag"], "pins", "/flag");
    }

    #[test]
    fn a_value_keeps_its_spelling() {
        check("lease: off", &[], "lease", "off");
        check("lease: 0", &[], "lease", "0");
        check("lease: 1_000", &[], "lease", "1_000");
        check("lease: \"007\"", &[], "lease", "007");
        check("{\"max-slots\": 12}", &[], "max-slots", "12");
    }

    #[track_caller]
    fn fails(file: &str, expect: &str) {
        let Err(ConfigError::File(failure)) = with_file(file, &[]) else { panic!("{file:?} passed") };
        assert_eq!(failure.exit, super::super::exit::Exit::Usage);
        let message = format!("{:#}", failure.error);
        assert!(message.contains("agent.yaml") && message.contains(expect), "{message}");
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        fails("max_slots: 5", "unknown key \"max_slots\"; did you mean \"max-slots\"?");
        fails("colour: 5", "unknown key \"colour\"");
        fails("config: other.yaml", "unknown key \"config\"");
        fails("max-slots: 500", "invalid value '500' for '--max-slots");
        fails("lease: [1, 2]", "lease");
        fails("- lease", "expected a mapping");
        fails("lease: 1\nlease: 2", "lease");
        fails("lease: {", "");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let argv = ["app", "agent", "--config", "/nowhere/agent.yaml"].map(OsString::from);
        let Err(ConfigError::File(failure)) = parse(app(), "agent", &argv) else { panic!("it passed") };
        assert!(format!("{:#}", failure.error).starts_with("cannot read the configuration file /nowhere"));
    }

    #[test]
    fn other_commands_read_no_file() {
        parse(app(), "agent", &["app", "other"].map(OsString::from)).unwrap();
        assert!(matches!(
            parse(app(), "agent", &["app", "other", "--config=x"].map(OsString::from)),
            Err(ConfigError::Arguments(_))
        ));
    }
}
